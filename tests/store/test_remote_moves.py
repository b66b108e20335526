"""What moves between a local store and one behind a URL: shards, each verified on its way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.damage import Stored, flip, regions, several, store

from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    RemoteDamagedError,
    RemoteError,
    RemoteNotFoundError,
)
from headstart.common.objects import Objects, open_objects
from headstart.store import FeatureFolder
from headstart.store.remote.transfer import download_shard, upload_shard
from headstart.store.shard import row_checksums, write_shard

pytestmark = pytest.mark.neutral


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("moto")
    from object_server import served

    with served() as server:
        yield server.url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "team").as_uri()


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return store(tmp_path / "cache", "float16", (5, 4), [30, 7], 0)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def named(path: Path) -> str:
    return f"features/{path.parent.name}/{path.name}"


def folder_of(root: Path, stored: Stored) -> Path:
    folder = root / "features" / stored.folder.key.digest
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_shard_goes_there_and_comes_back_whole(kind, request, url, tmp_path, stored) -> None:
    objects = open_objects(url if kind == "file" else f"{request.getfixturevalue('bucket')}/there")
    folder = folder_of(tmp_path / "elsewhere", stored)
    moved: list[int] = []
    for path in shards(stored.folder.path):
        nbytes = path.stat().st_size
        upload_shard(objects, path, named(path), advance=moved.append)
        upload_shard(objects, path, named(path))  # already there
        came = download_shard(objects, named(path), nbytes, folder, advance=moved.append)
        assert came == folder / path.name and came.read_bytes() == path.read_bytes()
        assert sum(moved) == 2 * nbytes
        moved.clear()
    stored.assert_sound(FeatureFolder(folder, stored.folder.key))


def test_shards_of_every_dtype_and_shape_come_whatever_the_pieces_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("headstart.store.remote.transfer.PIECE_NBYTES", 40)
    for trunk in several(tmp_path / "cache"):
        folder = folder_of(tmp_path / "elsewhere", trunk)
        for path in shards(trunk.folder.path):
            for size in (1, 7, 4096, 1 << 20):
                objects = InPieces(path.read_bytes(), size)
                download_shard(objects, named(path), path.stat().st_size, folder)
                assert (folder / path.name).read_bytes() == path.read_bytes()


class InPieces(Objects):
    """One object, of this content."""

    def __init__(self, content: bytes, size: int) -> None:
        self.url, self.content, self.size = "s3://bucket", content, size

    def pieces(self, name: str, nbytes: int) -> Iterator[memoryview]:
        for start in range(0, len(self.content), self.size):
            yield memoryview(self.content[start : start + self.size])


@pytest.mark.parametrize("part", ["header's length", "header", "header's padding", "features", "checksums", "ids"])
def test_a_flipped_bit_is_noticed_on_both_ways_and_nothing_is_left(part, tmp_path, url, stored) -> None:
    objects = open_objects(url)
    folder = folder_of(tmp_path / "elsewhere", stored)
    for path in shards(stored.folder.path):
        begin, end = regions(path)[part]
        upload_shard(objects, path, named(path))
        there = tmp_path / "team" / named(path)
        for bit in np.linspace(8 * begin, 8 * end - 1, 5).astype(int).tolist():
            flip(there, bit)
            with pytest.raises(RemoteDamagedError) as refused:
                download_shard(objects, named(path), there.stat().st_size, folder)
            assert refused.value.url == f"{url}/{named(path)}"
            assert str(refused.value).startswith(f"{url}/{named(path)}: ") and "\n" not in str(refused.value)
            assert list(folder.iterdir()) == []
            flip(there, bit)

            flip(path, bit)
            with pytest.raises(DamagedShardError, match=path.name):
                upload_shard(objects, path, f"damaged/{named(path)}")
            flip(path, bit)
    assert list(objects.entries("damaged")) == []


def test_an_object_of_another_length_is_refused(tmp_path, url, stored) -> None:
    objects = open_objects(url)
    folder = folder_of(tmp_path / "elsewhere", stored)
    path = shards(stored.folder.path)[0]
    content = path.read_bytes()
    for wrong in (b"", content[:7], content[:9], content[:5000], content[:-1], content + b"0"):
        objects.put(named(path), wrong)
        with pytest.raises(RemoteDamagedError):
            download_shard(objects, named(path), len(wrong), folder)
        with pytest.raises(RemoteError, match=f"expected {len(content)}"):  # another one than a listing has said
            download_shard(objects, named(path), len(content), folder)
    with pytest.raises(RemoteDamagedError, match="a shard at most"):
        download_shard(objects, named(path), 1 << 40, folder)
    with pytest.raises(RemoteDamagedError, match="has 0 bytes"):
        download_shard(InPieces(b"", 1), named(path), 0, folder)
    for more in (content[:-1], content + b"0", content + b"0" * 5000):
        with pytest.raises(RemoteDamagedError, match=r"than its header says"):
            download_shard(InPieces(more, 4096), named(path), len(content), folder)
    with pytest.raises(RemoteNotFoundError):
        download_shard(objects, "features/none.safetensors", len(content), folder)
    assert list(folder.iterdir()) == []


def test_a_sound_shard_in_the_wrong_place_is_refused(tmp_path, url) -> None:
    objects = open_objects(url)
    one, other = several(tmp_path / "cache")[:2]
    folder = folder_of(tmp_path / "elsewhere", other)
    path = shards(one.folder.path)[0]
    nbytes = path.stat().st_size
    misplaced = other.folder.path / path.name
    shutil.copyfile(path, misplaced)
    with pytest.raises(DamagedShardError, match="belongs to the trunk key"):
        upload_shard(objects, misplaced, named(misplaced))
    assert list(objects.entries()) == []
    upload_shard(objects, path, named(path))
    with pytest.raises(RemoteDamagedError, match="belongs to the trunk key"):
        download_shard(objects, named(path), nbytes, folder)
    fitting = folder_of(tmp_path / "elsewhere", one)
    with pytest.raises(RemoteDamagedError, match=r"its rows are \(5, 4\), those of this trunk key \(4,\)"):
        download_shard(objects, named(path), nbytes, fitting, row_shape=(4,))
    with pytest.raises(RemoteDamagedError, match="it holds float16, its trunk key says float32"):
        download_shard(objects, named(path), nbytes, fitting, dtype_name="float32")
    assert list(fitting.iterdir()) == [] == list(folder.iterdir())
    download_shard(objects, named(path), nbytes, fitting, dtype_name="float16", row_shape=(5, 4))


def test_rows_that_no_writer_stores_are_refused_however_right_their_checksums(tmp_path, url) -> None:
    objects = open_objects(url)
    folder = tmp_path / "cache" / "features" / ("0" * 32)
    folder.mkdir(parents=True)
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    path = write_shard(
        folder,
        key_digest=folder.name,
        ids=np.zeros((3, 16), np.uint8),
        checksums=row_checksums(rows.view(np.uint8)),
        blocks=[rows],
        provenance={},
    )
    reason = "1 of 3 rows hold NaN or infinity"
    with pytest.raises(DamagedShardError, match=reason):
        upload_shard(objects, path, named(path))
    objects.put(named(path), path)
    nbytes = path.stat().st_size
    path.unlink()
    with pytest.raises(RemoteDamagedError, match=reason):
        download_shard(objects, named(path), nbytes, folder)
    assert list(folder.iterdir()) == []


def test_a_shard_that_has_gone_and_a_folder_that_cannot_be_written(tmp_path, url, stored) -> None:
    objects = open_objects(url)
    path = shards(stored.folder.path)[0]
    with pytest.raises(FileNotFoundError):
        upload_shard(objects, path.with_name("0" * 32 + ".safetensors"), "none")
    upload_shard(objects, path, named(path))
    file = tmp_path / stored.folder.key.digest
    file.write_bytes(b"")
    with pytest.raises(CacheNotWritableError):
        download_shard(objects, named(path), path.stat().st_size, file)
