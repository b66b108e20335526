"""What moves between a local store and one behind a URL: shards, each verified on its way."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.damage import Stored, flip, regions, several, store

import headstart as hs
from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    DiskSpaceError,
    RemoteDamagedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRefusedError,
    SettingError,
    StoreWarning,
    TransferInterrupted,
    UnknownNameError,
)
from headstart.common.objects import Objects, open_objects
from headstart.store import FeatureFolder, FeatureStore
from headstart.store.moving import moves, pull, push
from headstart.store.remote import remote_store, requests
from headstart.store.remote.catalogue import Catalogue
from headstart.store.remote.transfer import download_shard, upload_shard
from headstart.store.shard import row_checksums, write_shard

pytestmark = pytest.mark.neutral


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
    monkeypatch.setattr("headstart.store.remote.transfer.VERIFIED_NBYTES", 40)
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


# ---- many shards


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Four trunks, of eight shards."""
    several(tmp_path / "cache")
    return tmp_path / "cache"


def files(root: Path) -> dict[str, bytes]:
    """Of a store: name -> content."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.parent.parent.name == "features"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_what_the_other_side_lacks_is_pushed_and_pulled(kind, request, url, cache, tmp_path) -> None:
    url = url if kind == "file" else f"{request.getfixturevalue('bucket')}/moved/team"
    planned = hs.cache.push(url, dry_run=True, cache=cache)
    assert (len(planned), planned.lacking, planned.moved) == (4, 8, 0) and list(open_objects(url).entries()) == []
    first = hs.cache.push(url, cache=cache)
    assert (first.moved, first.nbytes, first.complete) == (8, planned.nbytes, True)
    assert {trunk.label["model"] for trunk in first} == {"tiny \u00e9"}
    again = hs.cache.push(url, cache=cache)
    assert (again.moved, again.lacking, sum(trunk.there for trunk in again)) == (0, 0, 8)
    there = {entry.name: entry.nbytes for entry in open_objects(url).entries("features")}
    assert there == {name: len(content) for name, content in files(cache).items()}

    elsewhere = tmp_path / "elsewhere"
    planned = hs.cache.pull(url, dry_run=True, cache=elsewhere)
    assert planned.lacking == 8 and not elsewhere.exists()
    beginning = planned.trunks[1].key[:6]
    one = hs.cache.pull(url, beginning, cache=elsewhere)
    assert [trunk.key[:6] for trunk in one] == [beginning] and one.complete
    rest = hs.cache.pull(url, cache=elsewhere)
    assert (rest.moved, sum(trunk.there for trunk in rest)) == (8 - one.moved, one.moved)
    assert files(elsewhere) == files(cache)
    assert rest.as_dict()["trunks"][0]["failures"] == []
    assert rest.as_table().columns[3:5] == ("here", "pull")


def test_two_stores_that_both_hold_something_are_made_equal(url, tmp_path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    both = store(one, "float16", (3,), [4, 5], 1)
    shutil.copytree(one, other)
    store(one, "uint8", (2,), [6], 2)
    store(other, "uint8", (2,), [7], 3)
    shards(other / "features" / both.folder.key.digest)[0].unlink()
    for root in (one, other, one):
        assert hs.cache.push(url, cache=root).complete and hs.cache.pull(url, cache=root).complete
    assert files(one) == files(other) == files(tmp_path / "team")


def test_a_damaged_file_stops_no_other_and_is_named(url, cache, tmp_path) -> None:
    damaged = min(cache.rglob("*.safetensors"))
    flip(damaged, 8 * (damaged.stat().st_size - 1))
    pushed = hs.cache.push(url, cache=cache)
    assert (pushed.moved, pushed.complete, pushed.untried) == (7, False, 0)
    (failure,) = pushed.failures
    assert failure[0] == str(damaged) and "do not give its name" in failure[1]
    assert named(damaged) not in files(tmp_path / "team")

    flip(damaged, 8 * (damaged.stat().st_size - 1))
    assert hs.cache.push(url, cache=cache).moved == 1
    there = tmp_path / "team" / named(damaged)
    flip(there, 8 * (there.stat().st_size - 1))
    pulled = hs.cache.pull(url, cache=tmp_path / "elsewhere")
    (failure,) = pulled.failures
    assert (pulled.moved, failure[0]) == (7, f"{url}/{named(damaged)}")
    # What is cut short, on either side, is what the other lacks.
    os.truncate(there, 5000)
    assert hs.cache.push(url, cache=cache).moved == 1
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").moved == 1
    assert files(tmp_path / "elsewhere") == files(cache) == files(tmp_path / "team")


def test_shards_without_a_description_are_not_moved(url, tmp_path) -> None:
    stored = store(tmp_path / "cache", "float16", (3,), [4, 5], 1)
    other = store(tmp_path / "cache", "uint8", (3,), [4], 2)
    description = stored.folder.path / "trunk.json"
    content = description.read_bytes()
    for wrong in (None, content + b" "):
        description.unlink() if wrong is None else description.write_bytes(wrong)
        pushed = hs.cache.push(url, cache=tmp_path / "cache", dry_run=wrong is None)
        assert [where for where, _ in pushed.failures] == [str(description)]
        assert (pushed.untried, pushed.complete) == (2, False)
        assert files(tmp_path / "team").keys() == (
            files(other.folder.path.parent.parent) if wrong else {}
        ).keys() - {name for name in files(tmp_path / "cache") if stored.folder.key.digest in name}
    description.write_bytes(content)
    assert hs.cache.push(url, cache=tmp_path / "cache").moved == 2
    there = tmp_path / "team" / "features" / stored.folder.key.digest
    for wrong in (None, content[:-1]):
        (there / "trunk.json").unlink() if wrong is None else (there / "trunk.json").write_bytes(wrong)
        pulled = hs.cache.pull(url, stored.folder.key.digest, cache=tmp_path / "elsewhere")
        assert len(pulled.failures) == 1 and pulled.failures[0][0].startswith(url) and pulled.untried == 2
        assert "trunk.json" in " ".join(pulled.failures[0])
    # A push mends it.
    assert hs.cache.push(url, cache=tmp_path / "cache").moved == 0
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").moved == 3


def test_the_rows_that_come_have_the_shape_of_those_that_are_there(url, tmp_path) -> None:
    stored = store(tmp_path / "cache", "float16", (3,), [4, 5], 1)
    hs.cache.push(url, cache=tmp_path / "cache")
    folder = folder_of(tmp_path / "elsewhere", stored)
    rows = np.ones((2, 7), np.float16)
    write_shard(
        folder,
        key_digest=folder.name,
        ids=np.zeros((2, 16), np.uint8),
        checksums=row_checksums(rows.view(np.uint8)),
        blocks=[rows],
        provenance={},
    )
    pulled = hs.cache.pull(url, cache=tmp_path / "elsewhere")
    assert pulled.moved == 0 and len(pulled.failures) == 2
    assert {reason for _, reason in pulled.failures} == {"its rows are (3,), those of this trunk key (7,)"}


def test_a_pull_makes_room_or_says_that_there_is_none(url, cache, tmp_path, monkeypatch) -> None:
    hs.cache.push(url, cache=cache)
    nbytes = hs.cache.pull(url, dry_run=True, cache=tmp_path / "elsewhere").nbytes
    monkeypatch.setenv("HEADSTART_CACHE_MAX", str(nbytes - 1))
    with pytest.raises(DiskSpaceError, match="HEADSTART_CACHE_MAX allows"):
        hs.cache.pull(url, cache=tmp_path / "elsewhere")
    monkeypatch.delenv("HEADSTART_CACHE_MAX")
    with monkeypatch.context() as patch:
        patch.setattr("headstart.store.files.free_space", lambda path: nbytes - 1)
        with pytest.raises(DiskSpaceError, match="are free at"):
            hs.cache.pull(url, cache=tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == {}
    old = store(tmp_path / "elsewhere", "float32", (4,), [9], 77)
    for path in old.folder.path.iterdir():
        os.utime(path, (1e9, 1e9))
    digest = old.folder.key.digest
    del old  # an open folder is not deleted
    monkeypatch.setenv("HEADSTART_CACHE_MAX", str(nbytes + 2_000))
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").complete
    assert not (tmp_path / "elsewhere" / "features" / digest).exists()


def test_keys_and_urls_that_are_none(url, cache) -> None:
    with pytest.raises(UnknownNameError, match="'zz'"):
        hs.cache.push(url, ["zz"], cache=cache)
    with pytest.raises(UnknownNameError, match="'zz'"):
        hs.cache.pull(url, "zz", cache=cache)
    with pytest.raises(SettingError, match="begins with s3"):
        hs.cache.push("ftp://host/x", cache=cache)
    assert len(hs.cache.pull(url, cache=cache)) == 0  # nothing is there


class Failing(Objects):
    """Fails by this rule, of a method's name and an object's."""

    def __init__(self, url: str, rule) -> None:
        real = open_objects(url)
        super().__init__(url, real._client)
        self.rule, self.asked, self._lock = rule, [], threading.Lock()

    def put(self, name, content) -> None:
        self._ask("put", name)
        super().put(name, content)

    def pieces(self, name, nbytes):
        self._ask("pieces", name)
        yield from super().pieces(name, nbytes)

    def _ask(self, method: str, name: str) -> None:
        with self._lock:
            self.asked.append((method, name))
        if (error := self.rule(method, name)) is not None:
            raise error if isinstance(error, BaseException) else error(self.url_of(name), "planted")


def test_no_permission_is_noticed_once(url, cache) -> None:
    objects = Failing(url, lambda method, name: RemoteRefusedError)
    with pytest.raises(RemoteRefusedError, match=rf"{url}/features/.*: planted"):
        push.push(FeatureStore(cache), objects)
    assert len(objects.asked) <= requests.REQUESTS
    objects = Failing(url, lambda method, name: RemoteRefusedError if "safetensors" in name else None)
    with pytest.raises(RemoteRefusedError):
        push.push(FeatureStore(cache), objects)
    assert sum("safetensors" in name for _, name in objects.asked) <= push.UPLOADS


def test_an_object_that_alone_may_not_be_read_stops_no_other(url, cache, tmp_path) -> None:
    """As of an archived one."""
    push.push(FeatureStore(cache), open_objects(url))
    bad = shards(next((cache / "features").iterdir()))[0].name
    objects = Failing(url, lambda method, name: RemoteRefusedError if name.endswith(bad) else None)
    pulled = pull.pull(FeatureStore(tmp_path / "own"), objects)
    assert [where.rpartition("/")[2] for where, _ in pulled.failures] == [bad] and pulled.untried == 0
    assert pulled.moved == pulled.lacking - 1 > 0
    objects = Failing(url, lambda method, name: RemoteRefusedError if "safetensors" in name else None)
    refused = pull.pull(FeatureStore(tmp_path / "other"), objects)
    assert refused.moved == 0 and not refused.complete
    assert sum("safetensors" in name for _, name in objects.asked) < moves.GIVE_UP_AFTER + pull.DOWNLOADS


def test_a_failure_is_named_and_a_server_that_is_away_is_given_up(url, tmp_path, monkeypatch) -> None:
    store(tmp_path / "cache", "float16", (3,), [2] * 40, 1)
    bad = [path.name for path in shards(next((tmp_path / "cache/features").iterdir()))][::13]
    objects = Failing(url, lambda method, name: RemoteError if name.rpartition("/")[2] in bad else None)
    pushed = push.push(FeatureStore(tmp_path / "cache"), objects)
    assert (pushed.moved, pushed.untried) == (36, 0)
    assert sorted(pushed.failures) == sorted(
        (f"{url}/features/{pushed.trunks[0].key}/{name}", "planted") for name in bad
    )
    assert push.push(FeatureStore(tmp_path / "cache"), open_objects(url)).moved == 4

    away = Failing(url, lambda method, name: RemoteError)
    pulled = pull.pull(FeatureStore(tmp_path / "elsewhere"), away)
    assert pulled.moved == 0 and moves.GIVE_UP_AFTER <= len(pulled.failures) < moves.GIVE_UP_AFTER + pull.DOWNLOADS
    assert len(pulled.failures) + pulled.untried == 40
    assert pull.pull(FeatureStore(tmp_path / "elsewhere"), open_objects(url)).moved == 40


def test_an_index_is_written_behind_the_shards(url, tmp_path) -> None:
    stored = store(tmp_path / "cache", "float16", (3,), [2] * 5, 1)
    hs.cache.push(url, cache=tmp_path / "cache")
    folder = remote_store.RemoteStore(open_objects(url)).folder(stored.folder.key.digest)
    (entry,) = folder.indexes()
    catalogue = Catalogue(folder, None, pytest.fail)
    catalogue.fetch_indexes()
    assert sorted(catalogue.indexes()[0].digests) == [path.stem for path in shards(stored.folder.path)]
    hs.cache.push(url, cache=tmp_path / "cache")
    assert folder.indexes() == [entry]
    (tmp_path / "team" / entry.name).unlink()  # as a push leaves it that was killed before its end
    hs.cache.push(url, cache=tmp_path / "cache")
    assert [index.name for index in folder.indexes()] == [entry.name]


def test_an_index_that_cannot_be_written_is_a_warning(url, tmp_path) -> None:
    store(tmp_path / "cache", "float16", (3,), [2] * 5, 1)
    objects = Failing(url, lambda method, name: RemoteError if name.startswith("indexes/") else None)
    with pytest.warns(StoreWarning, match=rf"no index object was written.*{url}/indexes/.*: planted"):
        assert push.push(FeatureStore(tmp_path / "cache"), objects).complete


def test_what_is_pulled_is_trusted_as_a_shared_cache_is(url, tmp_path) -> None:
    stored = store(tmp_path / "cache", "float16", (3,), [4, 5], 1)
    hs.cache.push(url, cache=tmp_path / "cache")
    hs.cache.pull(url, cache=tmp_path / "elsewhere")
    folder = FeatureStore(tmp_path / "elsewhere").folder(stored.folder.key)
    assert [shared for _, shared, _ in folder.sources(stored.ids)] == [True, True]
    (wrong, _, _), _ = folder.sources(stored.ids)
    with pytest.warns(StoreWarning, match="It is set aside"):
        folder.refuse_shared([wrong.path.stem], "planted")
    again = hs.cache.pull(url, cache=tmp_path / "elsewhere")
    assert again.moved == 0 and again.failures[0][0] == f"{url}/{named(wrong.path)}"
    assert "not fetched again" in again.failures[0][1] and again.untried == 0


def test_what_vanishes_on_the_way_is_no_failure(url, cache, tmp_path) -> None:
    gone = min(cache.rglob("*.safetensors"))

    def vanish(method: str, name: str) -> None:
        gone.unlink(missing_ok=True)

    pushed = push.push(FeatureStore(cache), Failing(url, vanish))
    assert (pushed.moved, pushed.gone, pushed.complete) == (7, 1, True)
    objects = Failing(url, lambda method, name: RemoteNotFoundError if method == "pieces" else None)
    pulled = pull.pull(FeatureStore(tmp_path / "elsewhere"), objects)
    assert (pulled.moved, pulled.gone, pulled.complete) == (0, 7, True)


def test_what_is_deleted_under_a_push_is_described_again(url, cache, tmp_path) -> None:
    def sweep(method: str, name: str) -> None:
        if "safetensors" in name:
            (tmp_path / "team" / name).with_name("trunk.json").unlink(missing_ok=True)

    push.push(FeatureStore(cache), Failing(url, sweep))
    assert files(tmp_path / "team") == files(cache)


def test_an_interrupt_keeps_what_has_moved(url, cache, tmp_path) -> None:
    hs.cache.push(url, cache=cache)
    count = iter(range(100))
    objects = Failing(url, lambda method, name: KeyboardInterrupt() if next(count) == 3 else None)
    with pytest.raises(TransferInterrupted, match=r"interrupted: \d of 8 shards have moved"):
        pull.pull(FeatureStore(tmp_path / "elsewhere"), objects)
    assert not list((tmp_path / "elsewhere").rglob(".partial-*"))
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").complete
    assert files(tmp_path / "elsewhere") == files(cache)


def test_an_eviction_under_a_pull_costs_nothing(url, tmp_path) -> None:
    stored = store(tmp_path / "cache", "float16", (3,), [4, 5], 1)
    hs.cache.push(url, cache=tmp_path / "cache")
    folder = tmp_path / "elsewhere" / "features" / stored.folder.key.digest
    swept: list[str] = []

    def sweep(method: str, name: str) -> None:
        if not swept and method == "pieces":
            swept.append(name)
            shutil.rmtree(folder, ignore_errors=True)

    pulled = pull.pull(FeatureStore(tmp_path / "elsewhere"), Failing(url, sweep))
    assert pulled.complete and swept
    assert (folder / "trunk.json").exists()
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").complete
    stored.assert_sound(FeatureFolder(folder, stored.folder.key))
