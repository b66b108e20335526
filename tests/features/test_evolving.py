"""Data that change: what was added is extracted and nothing else is read, and what was removed can be found in the
store and taken out of it, without a row of any other image ever being in danger."""

from __future__ import annotations

import io
import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignment import CUTS, Known, known, model, stand_in
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import DamagedShardError
from headstart.data import Dataset, file_system, id_index
from headstart.data.dataset import sample_id
from headstart.features.orphans import drop_orphans, find_orphans
from headstart.store import FeatureStore, array_to_ids, open_shard
from headstart.store import writer as shard_writer

pytestmark = pytest.mark.neutral

COUNT = 300
ROW_NBYTES = 7 * 4 + 8 + 16  # of cut "b" in float32, with checksum and id


@cache
def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "bmp")
    return stream.getvalue()


def add(root: Path, numbers: range) -> None:
    for k in range(2):
        (root / "ab"[k]).mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (root / "ab"[i % 2] / f"{i:05}.bmp").write_bytes(encoded(i))


@pytest.fixture
def trunk(monkeypatch: pytest.MonkeyPatch) -> Known:
    made = stand_in(monkeypatch)
    monkeypatch.setattr(id_index, "RACY_NS", 20_000_000)
    monkeypatch.setattr(shard_writer, "SHARD_NBYTES", 50 * 7 * 4)  # 50 rows
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    add(tmp_path / "photos", range(COUNT))
    return tmp_path / "photos"


def extract(data: Path | Dataset, cuts: Any = "b") -> Any:
    opened = hs.data.folder(data) if isinstance(data, Path) else data
    return hs.extract(model(), opened, cuts, backend="torch", dtype="float32")


def assert_right(data: Dataset, features: Any) -> None:
    images = np.stack([model().preprocess.apply(data.load(i)[0]) for i in range(len(data))])  # type: ignore[union-attr]
    for cut in features.cuts:
        assert np.array_equal(features.numpy(cut), known(images, cut))


def shards() -> list[Path]:
    return sorted((FeatureStore().root / "features").rglob("*.safetensors"))


def ids_of(shard: Path) -> list[str]:
    return array_to_ids(open_shard(shard).ids)


def disk() -> int:
    return sum(path.stat().st_size for path in shards())


def test_of_one_percent_more_that_is_all_that_is_touched(
    photos: Path, trunk: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    time.sleep(0.05)
    extract(photos, list(CUTS))
    add(photos, range(COUNT, COUNT + 3))
    shutil.copy(photos / "a" / "00000.bmp", photos / "b" / "a copy.bmp")
    reads: list[str] = []
    real = file_system.read_file
    monkeypatch.setattr(file_system, "read_file", lambda path: (reads.append(Path(path).name), real(path))[1])
    before, start = shards(), trunk.images
    features = extract(photos, list(CUTS))
    assert (features.stats.extracted, features.stats.reused) == (3, COUNT)
    assert trunk.images - start == 3
    new = [f"{i:05}.bmp" for i in range(COUNT, COUNT + 3)]
    assert sorted(reads) == sorted([*new, *new, "a copy.bmp"]), "hashed; and those that are new, decoded"
    assert set(before) < set(shards())
    assert [info.rows for info in FeatureStore().infos()] == [COUNT + 3] * 3, "the copy is stored once"
    assert_right(hs.data.folder(photos), features)


def remove(photos: Path, numbers: range) -> None:
    for i in numbers:
        (photos / "ab"[i % 2] / f"{i:05}.bmp").unlink()


@pytest.fixture
def shrunk(photos: Path, trunk: Known) -> Path:
    """Forty images that have features were removed, and one was edited."""
    extract(photos)
    remove(photos, range(40))
    Image.new("RGB", (5, 5), (1, 2, 3)).save(photos / "a" / "00040.bmp")
    extract(photos)
    return photos


def test_removed_and_edited_images_are_orphans(shrunk: Path) -> None:
    before = {path: path.read_bytes() for path in shards()}
    data = hs.data.folder(shrunk)
    (found,) = find_orphans(FeatureStore(), [data])
    assert (found.rows, found.kept, found.nbytes) == (41, COUNT - 40, 41 * ROW_NBYTES)
    assert found.as_dict()["cut"] == "b"
    assert {path: path.read_bytes() for path in shards()} == before
    # With one more image of each class gone; and with all that there were, but the edited one as it was.
    (found,) = find_orphans(FeatureStore(), [data.subset(range(len(data) - 2))])
    assert found.rows == 43
    add(shrunk.with_name("others"), range(41))
    assert find_orphans(FeatureStore(), [data, hs.data.folder(shrunk.with_name("others"))]) == []


def test_orphans_are_taken_out_and_nothing_else(shrunk: Path) -> None:
    data, store, before = hs.data.folder(shrunk), FeatureStore(), disk()
    untouched = [path for path in shards() if set(ids_of(path)) <= set(data.ids)]
    freed = drop_orphans(store, find_orphans(store, [data]), [data])
    assert freed == before - disk()
    assert freed >= 41 * ROW_NBYTES - 4096 * 7, "a shard that shrinks keeps a header"
    assert untouched
    assert set(untouched) < set(shards())
    assert find_orphans(store, [data]) == []
    assert [info.rows for info in store.infos()] == [COUNT - 40]
    assert store.verify().damaged == []
    features = extract(data)
    assert features.stats.extracted == 0
    assert_right(data, features)
    again = extract(data.subset([0, 1, 2]))
    assert again.stats.extracted == 0


def test_a_shard_of_orphans_alone_goes(photos: Path, trunk: Known) -> None:
    data = hs.data.folder(photos)
    extract(data.subset(range(50)))
    (gone,) = shards()
    extract(data)
    rest = data.subset(range(50, COUNT))
    store = FeatureStore()
    assert drop_orphans(store, find_orphans(store, [rest]), [rest]) > 50 * ROW_NBYTES
    assert not gone.exists()
    assert_right(rest, extract(rest))


@pytest.mark.parametrize("moment", range(14))
def test_broken_off_at_any_moment_no_row_is_lost(
    shrunk: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it ends, all rows that are to stay are there; done again, it comes to the same end."""
    data, store = hs.data.folder(shrunk), FeatureStore()
    calls = 0

    def interrupted(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **settings: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise KeyboardInterrupt
            return real(*arguments, **settings)

        return call

    found = find_orphans(store, [data])
    with monkeypatch.context() as patch:
        for name in ("write", "replace", "unlink"):  # of two shards, and a bit
            patch.setattr(os, name, interrupted(name))
        with pytest.raises(KeyboardInterrupt):
            drop_orphans(store, found, [data])
    assert extract(data).stats.extracted == 0
    drop_orphans(store, find_orphans(store, [data]), [data])
    assert find_orphans(store, [data]) == []
    assert [info.rows for info in store.infos()] == [COUNT - 40]
    assert_right(data, extract(data))


def test_a_damaged_row_that_is_to_stay_keeps_its_shard(shrunk: Path) -> None:
    data, store = hs.data.folder(shrunk), FeatureStore()
    shard = next(
        path for path in shards() if set(ids_of(path)) - set(data.ids) and set(ids_of(path)) & set(data.ids)
    )
    rows = [i for i, id in enumerate(ids_of(shard)) if id in data.ids]
    content = bytearray(shard.read_bytes())
    content[4096 + 28 * rows[0]] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedShardError) as caught:
        drop_orphans(store, find_orphans(store, [data]), [data])
    assert caught.value.path == shard
    assert shard.read_bytes() == content


def test_a_damaged_shard_is_left_to_verify(shrunk: Path) -> None:
    data, store = hs.data.folder(shrunk), FeatureStore()
    shard = next(path for path in shards() if set(ids_of(path)) - set(data.ids))
    os.truncate(shard, 5000)
    content = shard.read_bytes()
    drop_orphans(store, find_orphans(store, [data]), [data])
    assert shard.read_bytes() == content
    assert [path for path, _ in store.verify().damaged] == [shard]


def test_what_was_used_since_stays(shrunk: Path) -> None:
    data, store, before = hs.data.folder(shrunk), FeatureStore(), shards()
    found = find_orphans(store, [data])
    later = time.time() + 5
    for info in store.infos():
        os.utime(info.path / "last_used", (later, later))
    assert drop_orphans(store, found, [data]) == 0
    assert shards() == before


def test_who_reads_meanwhile_goes_on(shrunk: Path) -> None:
    data, store = hs.data.folder(shrunk), FeatureStore()
    features = extract(data)
    features.numpy()  # has looked at the shards that will be rewritten
    assert drop_orphans(store, find_orphans(store, [data]), [data]) > 0
    assert_right(data, features)


def test_shared_caches_and_links_are_left_alone(shrunk: Path, tmp_path: Path) -> None:
    data = hs.data.folder(shrunk)
    shared = FeatureStore().root.rename(tmp_path / "shared")
    before = {path: path.read_bytes() for path in shared.rglob("*.safetensors")}
    assert find_orphans(FeatureStore(shared=[shared]), [data]) == []
    (trunk,) = (shared / "features").iterdir()
    (tmp_path / "cache" / "features").mkdir(parents=True)
    (tmp_path / "cache" / "features" / trunk.name).symlink_to(trunk)
    assert FeatureStore().infos()[0].rows > 0
    assert find_orphans(FeatureStore(), [data]) == []
    assert {path: path.read_bytes() for path in shared.rglob("*.safetensors")} == before


def test_the_command_lists_orphans_and_deletes_them_when_told(shrunk: Path) -> None:
    def run(*options: str) -> str:
        done = headstart("cache", "gc", *options)
        assert done.code == 0
        return done.out

    before = disk()
    said = run("--data", str(shrunk))
    assert f"would delete 41 orphans ({41 * ROW_NBYTES / 1000:.1f} kB) of " in said
    assert "toy at b; 260 rows stay\nnothing was deleted; add --yes" in said
    assert disk() == before
    assert run("--data", str(shrunk), "--yes").splitlines()[-1].endswith(" freed")
    assert disk() < before
    assert run("--data", str(shrunk)) == "there are no orphans\n"
    both = headstart("cache", "gc", "--data", shrunk, "--max-size", "5GB")
    assert both.code == 2 and "--data deletes orphans and --max-size whole trunks" in both.err
    ids = {sample_id(path.read_bytes()) for path in shrunk.rglob("*.bmp")}
    assert set().union(*(set(ids_of(path)) for path in shards())) == ids
