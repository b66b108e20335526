"""Shared caches: their rows are used, nothing is ever written into them, and nothing that is wrong with them stops
anybody. What is wrong with the own cache still does."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.campaigns import campaign, namespace
from faults.damage import Stored, flip, store
from faults.users import as_nobody

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import DamagedShardError, FeatureDriftError, SettingError, StoreError, StoreWarning
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard

pytestmark = pytest.mark.neutral


@pytest.fixture
def shared(tmp_path: Path) -> Stored:
    """A shared cache with two shards, of 6 and of 4 rows, and a fence around it."""
    return store(tmp_path / "shared", "float16", (5,), [6, 4], 0)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own"


def reader(stored: Stored, own: Path) -> FeatureFolder:
    """As a new process would open it."""
    return FeatureStore(own, shared=[root_of(stored)]).folder(stored.folder.key)


def root_of(stored: Stored) -> Path:
    return stored.folder.path.parent.parent


def shard_of(stored: Stored, rows: int) -> Path:
    return next(path for path in stored.folder.path.glob("*.safetensors") if len(open_shard(path)) == rows)


def contents(root: Path) -> dict[str, Any]:
    """All that is there, with times: also of folders, which change when an entry comes or goes."""
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, data)
    return found


def fill(folder: FeatureFolder, stored: Stored, ids: list[str]) -> None:
    places = [stored.ids.index(id) for id in ids]
    with folder.writer((5,), "float16", {"backend": "numpy"}) as out:
        out.add(ids, stored.rows[places])


# ----------------------------------------------------------------------------------- reading, and never writing


def test_rows_of_a_shared_cache_count_as_present(shared: Stored, own: Path) -> None:
    before = contents(root_of(shared))
    new = array_to_ids(np.full((2, 16), 7, np.uint8))
    folder = reader(shared, own)
    assert folder.missing([*shared.ids, *new]) == [new[0]]
    assert folder.row_shape == (5,) and folder.ids() == sorted(shared.ids)
    assert folder.provenances() == [{"backend": "numpy", "device": "cpu"}]
    assert np.array_equal(folder.read(shared.ids), shared.rows)
    assert FeatureStore(own).infos() == [], "marks are no features"
    with folder.writer((5,), "float16", {}) as out:
        out.add(new[:1], np.ones((1, 5), np.float32))
    assert folder.missing([*shared.ids, *new]) == []
    assert np.array_equal(folder.read([new[0], shared.ids[3]])[1], shared.rows[3])
    (info,) = FeatureStore(own).infos()
    assert (info.rows, info.shared) == (1, False)
    for shard, _, _ in folder.sources(shared.ids):
        folder.mark_checked(shard.path.stem, "somebody")
        assert reader(shared, own).is_checked(shard.path.stem, "somebody")
    folder.touch()
    folder.require_writable()
    assert contents(root_of(shared)) == before


def test_the_own_cache_is_read_first(shared: Stored, own: Path) -> None:
    fill(FeatureStore(own).folder(shared.folder.key), shared, shared.ids)
    shutil.rmtree(shared.folder.path / "nothing", ignore_errors=True)
    for path in shared.folder.path.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    folder = reader(shared, own)  # warnings are errors here: what is not needed is not complained about
    assert folder.missing(shared.ids) == []
    assert np.array_equal(folder.read(shared.ids), shared.rows)


def test_a_writer_beside_is_seen_at_once(shared: Stored, own: Path) -> None:
    folder = reader(shared, own)
    new = array_to_ids(np.full((1, 16), 9, np.uint8))
    assert folder.missing(new) == new
    (shared.folder.path / ".partial-of-a-killed-writer").write_bytes(b"half a shard")
    with shared.folder.writer((5,), "float16", {}) as out:
        out.add(new, np.full((1, 5), 9, np.float32))
    assert folder.missing(new) == []
    assert np.array_equal(folder.read(new), np.full((1, 5), 9, np.float16))


def test_the_variable_lists_folders(
    shared: Stored, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = store(tmp_path / "second", "float16", (5,), [3], 1)
    listed = [root_of(shared), "", own, root_of(second), root_of(shared)]
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", os.pathsep.join(map(str, listed)))
    monkeypatch.setenv("HEADSTART_CACHE", str(own))
    own.mkdir()
    cache = FeatureStore()
    assert cache.shared == (root_of(shared), root_of(second))
    assert [(info.key, info.shared, info.rows) for info in cache.infos()] == sorted(
        [(shared.folder.key.digest, True, 10), (second.folder.key.digest, True, 3)]
    )
    assert FeatureStore(shared=[]).shared == ()
    assert np.array_equal(cache.folder(second.folder.key).read(second.ids), second.rows)


def test_a_share_that_is_away_stops_nobody(shared: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = root_of(shared).with_name("away")
    root_of(shared).rename(away)
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(root_of(shared)))
    with pytest.warns(
        StoreWarning, match=rf"{root_of(shared)} \(from HEADSTART_CACHE_SHARED\) is no folder .* left"
    ):
        cache = FeatureStore(own)
    folder = cache.folder(shared.folder.key)
    assert folder.missing(shared.ids) == shared.ids
    assert cache.infos() == [] and cache.verify().shards == 0
    away.rename(root_of(shared))  # and when it is there again, it is used
    assert folder.missing(shared.ids) == []
    assert np.array_equal(folder.read(shared.ids), shared.rows)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Stored]:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        stored = store(Path(place) / "shared", "float16", (5,), [6, 4], 0)
        root = root_of(stored)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield stored
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_permission_to_write_is_never_needed(read_only: Stored) -> None:
    before = contents(root_of(read_only))
    own = root_of(read_only).with_name("own")
    own.mkdir()
    own.chmod(0o777)
    with as_nobody():
        folder = reader(read_only, own)
        assert folder.missing(read_only.ids) == []
        assert np.array_equal(folder.read(read_only.ids), read_only.rows)
        folder.require_writable()
        fill(folder, read_only, read_only.ids[:2])
        cache = FeatureStore(own, shared=[root_of(read_only)])
        assert cache.verify(repair=True).rows == 12
        assert cache.gc(cache.gc_plan(0)) > 0
    assert contents(root_of(read_only)) == before


def test_a_cache_on_a_read_only_file_system(tmp_path: Path) -> None:
    prefix = namespace()
    if prefix is None:
        pytest.skip("no file system may be mounted here; permissions stand in for it")
    assert campaign("share_read_only", tmp_path, prefix=prefix) == {"refused": 2, "read": 10, "written": 2}


def test_neither_cache_need_be_writable(read_only: Stored) -> None:
    own = root_of(read_only).with_name("own")
    path = shard_of(read_only, 6)
    path.chmod(0o644)
    flip(path, 8 * open_shard(path).data_start)
    own.mkdir(mode=0o555)
    with as_nobody():
        folder = reader(read_only, own)
        with pytest.warns(StoreWarning, match="1 of 6 rows differ"):
            assert len(folder.missing(read_only.ids)) == 6
        assert len(folder.missing(read_only.ids)) == 6  # known, and said before
        present = [id for id in read_only.ids if id not in set(folder.missing(read_only.ids))]
        assert folder.read(present).shape == (4, 5)
    assert list(own.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- damage

TRUNK = "trunk.json"
DAMAGE: dict[str, tuple[Callable[[Path], Any], int]] = {
    "a bit of a row": (lambda path: flip(path, 8 * open_shard(path).data_start + 3), 6),
    "a bit of the header": (lambda path: flip(path, 8 * 100), 6),
    "a bit of the ids": (lambda path: flip(path, 8 * path.stat().st_size - 5), 6),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), 6),
    "empty": (lambda path: os.truncate(path, 0), 6),
    "a link to itself": (lambda path: (path.unlink(), path.symlink_to(path)), 6),
    "gone": (lambda path: path.unlink(), 6),
    "a bit of trunk.json": (lambda path: flip(path.with_name(TRUNK), 8 * 40), 10),
    "trunk.json of another": (lambda path: path.with_name(TRUNK).write_text("{}"), 10),
    "no folder": (lambda path: (shutil.rmtree(path.parent), path.parent.write_text("a file")), 10),
}
SILENT = {"gone", "no folder"}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_in_a_shared_cache_is_computed_anew(shared: Stored, own: Path, kind: str) -> None:
    action, count = DAMAGE[kind]
    action(shard_of(shared, 6))
    before = contents(root_of(shared))
    folder = reader(shared, own)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        missing = folder.missing(shared.ids)
        assert folder.missing(shared.ids) == missing
    assert len(missing) == count
    assert [warning.category for warning in said] == ([] if kind in SILENT else [StoreWarning])
    assert all(str(shared.folder.path) in str(warning.message) for warning in said)
    assert all("verify --repair` there" in str(warning.message) for warning in said)
    fill(folder, shared, missing)
    for one in (folder, reader(shared, own)):
        assert one.missing(shared.ids) == []  # and without a warning, which would be an error here
        assert np.array_equal(one.read(shared.ids), shared.rows)
    assert contents(root_of(shared)) == before


def test_many_damaged_shards_are_one_warning(shared: Stored, own: Path) -> None:
    for path in shared.folder.path.glob("*.safetensors"):
        os.truncate(path, 100)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert reader(shared, own).missing(shared.ids) == shared.ids
    assert len(said) == 1 and "(and 1 more like it)" in str(said[0].message)


def test_a_damaged_shard_stays_refused_until_it_is_another_file(shared: Stored, own: Path) -> None:
    path = shard_of(shared, 6)
    whole = path.read_bytes()
    flip(path, 8 * open_shard(path).data_start)
    with pytest.warns(StoreWarning, match="1 of 6 rows differ from their checksums"):
        assert len(reader(shared, own).missing(shared.ids)) == 6
    assert len(reader(shared, own).missing(shared.ids)) == 6  # noted: not read again, not told again
    path.unlink()
    path.write_bytes(whole)
    assert reader(shared, own).missing(shared.ids) == []


def test_rot_after_the_first_look_is_found_on_reading(shared: Stored, own: Path) -> None:
    folder = reader(shared, own)
    assert folder.missing(shared.ids) == []
    path = shard_of(shared, 6)
    flip(path, 8 * open_shard(path).data_start)  # the file's times are as before
    with (
        pytest.warns(StoreWarning, match=rf"{path}: 1 of 6 rows read differ"),
        pytest.raises(StoreError, match=r"samples have no features in .*; extract them first"),
    ):
        folder.read(shared.ids)
    missing = reader(shared, own).missing(shared.ids)
    assert len(missing) == 6
    fill(folder, shared, missing)
    assert np.array_equal(folder.read(shared.ids), shared.rows)


def test_an_unreadable_shard_is_passed_over(read_only: Stored) -> None:
    own = root_of(read_only).with_name("own")
    own.mkdir()
    own.chmod(0o777)
    shard_of(read_only, 6).chmod(0)
    with as_nobody(), pytest.warns(StoreWarning, match="Permission denied"):
        assert len(reader(read_only, own).missing(read_only.ids)) == 6
    read_only.folder.path.chmod(0)
    with as_nobody(), pytest.warns(StoreWarning, match="Permission denied"):
        assert len(reader(read_only, own).missing(read_only.ids)) == 10
    root_of(read_only).chmod(0)
    with as_nobody(), pytest.warns(StoreWarning, match="left out"):
        assert FeatureStore(own, shared=[root_of(read_only)]).infos() == []
    root_of(read_only).chmod(0o755)
    read_only.folder.path.chmod(0o755)


def test_the_own_cache_is_as_strict_as_ever(shared: Stored, own: Path) -> None:
    folder = FeatureStore(own).folder(shared.folder.key)
    fill(folder, shared, shared.ids[:3])
    (path,) = folder.path.glob("*.safetensors")
    flip(path, 8 * open_shard(path).data_start)
    both = reader(shared, own)
    assert np.array_equal(both.read(shared.ids), shared.rows)  # a shared copy serves for the damaged row
    os.truncate(path, 100)
    unknown = array_to_ids(np.full((1, 16), 1, np.uint8))
    with pytest.raises(DamagedShardError, match=str(path)):
        reader(shared, own).missing(unknown)
    (folder.path / TRUNK).write_text("{}")
    with pytest.raises(StoreError, match="not as it was written"):
        reader(shared, own).missing(shared.ids)


@pytest.mark.parametrize("shape", [(4,), (5, 1), (), (2, 3)])
def test_rows_of_another_than_the_known_shape_are_missing(
    shared: Stored, own: Path, shape: tuple[int, ...]
) -> None:
    cache = FeatureStore(own, shared=[root_of(shared)])
    folder = cache.folder(shared.folder.key, shape)
    assert folder.row_shape == shape
    with pytest.warns(StoreWarning, match=r"its rows are \(5,\), those of this trunk key"):
        assert folder.missing(shared.ids) == shared.ids
    assert cache.folder(shared.folder.key, (5,)).missing(shared.ids) == []
    fill(cache.folder(shared.folder.key), shared, shared.ids)  # and in the own cache that is an error
    with pytest.raises(FeatureDriftError, match="this trunk gives"):
        cache.folder(shared.folder.key, shape).missing(shared.ids)


def test_a_shard_of_another_shape_does_not_decide(shared: Stored, own: Path) -> None:
    """As only a forger makes it: the writer goes by what it is given."""
    folder = reader(shared, own)
    new = array_to_ids(np.full((1, 16), 1, np.uint8))
    with folder.writer((2, 3), "float16", {}) as out:
        out.add(new, np.ones((1, 2, 3), np.float32))
    with pytest.warns(StoreWarning, match=r"its rows are \(5,\), those of"):
        assert reader(shared, own).missing([*shared.ids, *new]) == shared.ids


# ---------------------------------------------------------------------------------------- what the owner is told


def test_verify_names_and_never_moves(
    shared: Stored, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(own, "float16", (5,), [3], 1)
    path, my_path = shard_of(shared, 6), shard_of(mine, 3)
    for one in (path, my_path):
        flip(one, 8 * open_shard(one).data_start)
    before = contents(root_of(shared))
    cache = FeatureStore(own, shared=[root_of(shared)])
    report = cache.verify()
    assert sorted(one for one, _ in report.damaged) == sorted([path, my_path])
    assert (report.shared, report.rows) == ([path], 4)
    monkeypatch.setenv("HEADSTART_CACHE", str(own))
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(root_of(shared)))
    for code, text in ((1, f"damaged: {path}"), (1, f"damaged: {path}")):  # the second time, it is the only one
        monkeypatch.setattr("sys.argv", ["headstart", "cache", "verify", "--repair"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr()
        assert left.value.code == code and text in told.out
        assert "1 of the damaged files are in a shared cache and cannot be mended from here" in told.err
    assert not my_path.exists() and len(cache.verify(repair=True).damaged) == 1
    assert contents(root_of(shared)) == before


def test_listing_says_where(
    shared: Stored, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(reader(shared, own), shared, shared.ids[:2])
    cache = FeatureStore(own, shared=[root_of(shared)])
    key = shared.folder.key.digest
    assert [(info.shared, info.rows) for info in cache.copies(key[:9])] == [(False, 2), (True, 10)]
    assert cache.info(key[:9]).rows == 2
    monkeypatch.setenv("HEADSTART_CACHE", str(own))
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(root_of(shared)))
    for command in (["ls"], ["info", key]):
        monkeypatch.setattr("sys.argv", ["headstart", "cache", *command])
        cli.main()
    told = capsys.readouterr().out
    assert f"in {root_of(shared)}, shared" in told.replace("\n", "")
    assert told.count(" own ") == 1 and told.count(" shared ") == 3  # a row of `ls`, two fields of `info`


def test_gc_ignores_shared_caches(shared: Stored, own: Path) -> None:
    fill(reader(shared, own), shared, shared.ids[:2])
    before = contents(root_of(shared))
    cache = FeatureStore(own, shared=[root_of(shared)])
    plan = cache.gc_plan(0)
    assert [info.path.parent.parent for info in plan] == [own]
    with pytest.raises(SettingError, match="no features of the store"):
        cache.gc([info for info in cache.infos() if info.shared])
    assert cache.gc(plan) == plan.nbytes
    assert contents(root_of(shared)) == before
    assert reader(shared, own).missing(shared.ids) == []


@pytest.mark.each
def test_an_extraction_uses_a_shared_cache(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    data = hs.data.arrays(images, np.arange(12) % 2)
    model = hs.model("lenet", classes=2)
    settings: dict[str, Any] = {"cuts": "relu4", "backend": backend, "device": "cpu", "dtype": "float32"}
    team = hs.extract(model, data.subset(np.arange(8)), **settings, cache=tmp_path / "team").numpy()
    before = contents(tmp_path / "team")
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(tmp_path / "team"))
    features = hs.extract(model, data, **settings, cache=tmp_path / "own")
    assert (features.stats.extracted, features.stats.reused) == (4, 8)
    assert np.array_equal(features.numpy()[:8], team)
    assert FeatureStore(tmp_path / "own").info(features.key().digest).rows == 4
    assert contents(tmp_path / "team") == before
