"""What the store deletes and moves: only what was read and found damaged, what nobody uses, and never anything
behind a link; whatever times files have, and whatever lies beside them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.damage import Stored, flip, store
from feature_sets import made

from headstart.cli import main as cli
from headstart.common.errors import DiskSpaceError, SettingError, StoreError, StoreWarning
from headstart.features.orphans import Orphans, drop_orphans
from headstart.store import FeatureStore, array_to_ids, description, feature_folder, open_shard, shard, upkeep

pytestmark = pytest.mark.neutral


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "root"))
    return store(tmp_path / "root", "float16", (5,), [6, 4], 0)


def shards(stored: Stored) -> list[Path]:
    return sorted(stored.folder.path.glob("*.safetensors"))


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# ----------------------------------------------------------------------------------------------- strangers


def test_another_users_folder_stops_nothing(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a cache of several users one may be closed to the others: it is named, and the rest listed and tidied."""
    closed = stored.folder.path.with_name("0" * 32)
    shutil.copytree(stored.folder.path, closed)

    def denying(call: Callable[..., Any]) -> Callable[..., Any]:
        def denied(path: Any = ".", *rest: Any, **options: Any) -> Any:
            inside = str(path).startswith(str(closed) + os.sep) or (call is scandir and str(path) == str(closed))
            if inside:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *rest, **options)

        return denied

    scandir = os.scandir
    for name in ("scandir", "stat", "lstat", "open"):
        monkeypatch.setattr(os, name, denying(getattr(os, name)))
    opened = FeatureStore(stored.folder.path.parents[1])
    with pytest.warns(StoreWarning, match=r"cannot read .*0000.*Permission denied; have its .*\. It is passed"):
        assert [info.key for info in opened.infos()] == [stored.folder.path.name]
    with pytest.warns(StoreWarning, match="passed over"):
        assert [info.key for info in opened.gc_plan(0)] == [stored.folder.path.name]


# ----------------------------------------------------------------------------------------------- repair


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ETIMEDOUT, errno.EACCES, errno.EIO, errno.ENOMEM], ids=errno.errorcode.get
)
@pytest.mark.parametrize("what", ["trunk.json", ".safetensors"])
def test_what_cannot_be_read_is_not_moved(
    code: int, what: str, stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(stored.folder.path)
    opened, read_whole = shard.opened, description.read_whole

    def fail(path: Path) -> None:
        if path.name.endswith(what):
            raise OSError(code, os.strerror(code), str(path))

    @contextmanager
    def failing(path: Path) -> Iterator[int]:
        fail(path)
        with opened(path) as handle:
            yield handle

    def reading(path: Path, limit: int) -> bytes:
        fail(path)
        return read_whole(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "opened", failing)
        patch.setattr(description, "read_whole", reading)
        report = FeatureStore().verify(repair=True)
        assert not report.damaged and not report.set_aside and report.unreadable
        patch.setattr("sys.argv", ["headstart", "cache", "verify", "--repair"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 1 and "cannot be read, and left as it is" in capsys.readouterr().out
    assert snapshot(stored.folder.path) == before
    assert FeatureStore().verify().rows == 10


def test_it_is_damaged_when_it_is_read_twice(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is sound again by the time it is to be moved stays."""
    path = shards(stored)[0]
    bit = 8 * open_shard(path).data_start
    flip(path, bit)
    with monkeypatch.context() as patch:
        real = FeatureStore._is_still_damaged
        patch.setattr(FeatureStore, "_is_still_damaged", lambda self, path: flip(path, bit) or real(path))
        report = FeatureStore().verify(repair=True)
        assert [damaged for damaged, _ in report.damaged] == [path] and not report.set_aside
    flip(path, bit)
    assert [moved.name for moved in FeatureStore().verify(repair=True).set_aside] == [path.name]
    assert FeatureStore().verify().rows in (4, 6)


def test_a_shard_of_other_rows_is_moved(stored: Stored) -> None:
    """Sound by itself, and not what its neighbours are."""
    alien = store(stored.folder.path.parent.parent.parent / "alien", "float16", (5,), [3], 7)
    path = shards(alien)[0]
    target = stored.folder.path / path.name
    target.write_bytes(path.read_bytes())
    (moved,) = FeatureStore().verify(repair=True).set_aside
    assert moved.name == target.name and FeatureStore().verify().rows == 10


# ------------------------------------------------------------------------------------------------ links


def linked(stored: Stored, level: str, tmp_path: Path) -> FeatureStore:
    """Another cache, of which a folder leads to the stored one."""
    root = tmp_path / "linked"
    root.mkdir()
    if level == "features":
        (root / "features").symlink_to(stored.folder.path.parent)
    else:
        (root / "features").mkdir()
        (root / "features" / stored.folder.path.name).symlink_to(stored.folder.path)
    return FeatureStore(root)


@pytest.mark.parametrize("level", ["features", "trunk"])
def test_nothing_behind_a_link_is_moved_or_deleted(
    level: str, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stored.folder.path / "trunk.json").write_text("damaged")
    flip(shards(stored)[0], 8 * open_shard(shards(stored)[0]).data_start)
    old = stored.folder.path / ".partial-0"
    old.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    before = snapshot(stored.folder.path)
    cache = linked(stored, level, tmp_path)
    folder = cache.path / stored.folder.path.name
    report = cache.verify(repair=True)
    assert len(report.not_moved) == 2 and not report.set_aside
    assert all("is a link" in reason for _, reason in report.not_moved)
    with pytest.raises((StoreError, SettingError), match=r"is a link|no features of the store"):
        cache.gc(cache.infos())
    if level == "features":
        with pytest.raises(StoreError, match="is a link"):
            cache.gc(cache.gc_plan(0))
        monkeypatch.setenv("HEADSTART_CACHE_MAX", "1")
        with pytest.raises((StoreError, DiskSpaceError)):
            cache.make_room(10)
    with pytest.raises(StoreError, match="is a link"):
        drop_orphans(cache, [Orphans(folder.name, {}, 10, 10, 0, folder, time.time() + 9)], [])
    upkeep.clear_leftovers(folder)
    assert snapshot(stored.folder.path) == before


def test_a_link_that_comes_at_the_last_moment(stored: Stored, tmp_path: Path) -> None:
    """Between the plan and the deletion, a folder gives way to a link."""
    cache = FeatureStore()
    plan = cache.gc_plan(0)
    other = store(tmp_path / "other", "float16", (5,), [2], 0)
    before = snapshot(other.folder.path)
    stored.folder.path.rename(tmp_path / "away")
    stored.folder.path.symlink_to(other.folder.path)
    with pytest.raises((StoreError, SettingError)):
        cache.gc(plan)
    with pytest.raises(StoreError, match="is a link"):
        upkeep.evict(stored.folder.path)
    assert snapshot(other.folder.path) == before


@pytest.mark.parametrize("level", ["features", "trunk"])
def test_saved_sets_are_not_replaced_behind_links(level: str, tmp_path: Path) -> None:
    features = made(tmp_path / "cache")
    target = tmp_path / "saved"
    features.save(target)
    place = target / "features"
    if level == "trunk":
        place = next(place.iterdir())
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    before = snapshot(elsewhere)
    with pytest.raises(SettingError, match="is a link"):
        features.save(target, replace=True)
    assert snapshot(elsewhere) == before


# ------------------------------------------------------------------------------------------ times and leftovers


def date(folder: Path, when: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (when, when))


def test_files_dated_ahead_block_nothing(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    second = store(root, "float16", (5,), [4], 1)
    ahead = time.time() + 10 * 365 * 86400
    left = stored.folder.path / ".partial-1"
    left.write_bytes(b"x" * 100)
    date(stored.folder.path, ahead)
    date(second.folder.path, time.time() - 5000)
    real = upkeep.time.time
    monkeypatch.setattr(
        upkeep.time, "time", lambda: real() + 3 * 86400
    )  # what was changed just now was so long ago
    cache = FeatureStore(root)
    infos = {info.key: info for info in cache.infos()}
    assert infos[stored.folder.key.digest].last_used < real() + 60
    assert [one for info in infos.values() for one, _ in upkeep.leftovers_of(info.path)] == [left]
    monkeypatch.setenv("HEADSTART_CACHE_MAX", str(sum(info.nbytes for info in infos.values())))
    feature_folder._used_here.clear()
    monkeypatch.setattr(feature_folder, "_open_folders", set())
    monkeypatch.setattr("headstart.store.feature_store.is_open", lambda path: False)
    plan = cache.make_room(infos[stored.folder.key.digest].nbytes)
    assert plan is not None and len(plan.folders) >= 1
    assert not left.exists()


def test_a_clock_that_is_a_little_ahead_counts_as_now(stored: Stored) -> None:
    date(stored.folder.path, time.time() + 600)
    (info,) = FeatureStore().infos()
    assert abs(info.last_used - time.time()) < 5


def test_a_clock_that_is_hours_behind(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine writes at this moment, by a clock that is right: its unfinished file is no leftover, and its
    features are not those that were not used for longest."""
    half = stored.folder.path / f".partial-{'0' * 32}"
    half.write_bytes(b"half a shard")
    real = upkeep.time.time
    monkeypatch.setattr(upkeep.time, "time", lambda: real() - 13 * 3600)
    assert upkeep.leftovers_of(stored.folder.path) == []
    (info,) = FeatureStore().infos()
    assert abs(info.last_used - upkeep.time.time()) < 5
    upkeep.evict(stored.folder.path)
    assert half.exists()


def test_a_writer_removes_what_killed_ones_left(stored: Stored) -> None:
    old, young = stored.folder.path / f".partial-{'0' * 32}", stored.folder.path / f".partial-{'1' * 32}"
    for path in (old, young):
        path.write_bytes(b"half a shard")
    date_old = time.time() - 2 * 86400
    os.utime(old, (date_old, date_old))
    new = array_to_ids(np.full((1, 16), 7, np.uint8))
    with stored.folder.writer((5,), "float16", {}) as out:
        out.add(new, np.ones((1, 5), np.float32))
    assert not old.exists() and young.exists()


# ----------------------------------------------------------------------------------------- whatever lies beside


def sockets(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # their names may be a hundred bytes long
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


ENTRIES: dict[str, Callable[[Path], Any]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "socket": sockets,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a folder": lambda path: path.symlink_to(path.parent),
    "link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "a hole": lambda path: (path.write_bytes(b""), os.truncate(path, 1 << 42)),
}


@pytest.mark.parametrize(
    "name", [f"{'a' * 32}.safetensors", ".partial-" + "b" * 32, "last_used", "damaged", "checked"]
)
@pytest.mark.parametrize("kind", ENTRIES)
def test_whatever_lies_in_a_trunks_folder(kind: str, name: str, stored: Stored) -> None:
    path = stored.folder.path / name
    if path.is_file():
        path.unlink()
    ENTRIES[kind](path)
    start = time.process_time()
    cache = FeatureStore()
    folder = cache.folder(stored.folder.key)
    assert np.array_equal(folder.read(stored.ids), stored.rows)
    folder.touch()
    folder.mark_checked("a", "b")
    assert cache.info(stored.folder.key.digest[:8]).rows == 10
    report = cache.verify(repair=True)
    assert report.rows == 10 and {damaged for damaged, _ in report.damaged} <= {path}
    cache.gc(cache.gc_plan(0))
    assert time.process_time() - start < 5
    assert not shards(stored) or shards(stored) == [path]


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.parametrize("name", ["features", "0" * 32])
def test_whatever_stands_for_a_folder(kind: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = root / "features" if name == "features" else root / "features" / name
    place.parent.mkdir(parents=True)
    ENTRIES[kind](place)
    cache = FeatureStore(root, shared=[])
    assert [info.rows for info in cache.infos() if info.rows] == []
    assert cache.verify(repair=True).rows == 0
    other = FeatureStore(tmp_path / "other", shared=[root])
    assert other.verify(repair=True).rows == 0 and other.infos() == []


def test_a_hundred_thousand_leftovers_would_do(stored: Stored) -> None:
    """A tenth of a hundredth of it here: what it takes is one look at each."""
    for i in range(1000):
        (stored.folder.path / f".partial-{i:032x}").touch()
    date(stored.folder.path, time.time() - 3 * 86400)
    start = time.process_time()
    upkeep.clear_leftovers(stored.folder.path)
    assert time.process_time() - start < 2 and not list(stored.folder.path.glob(".partial-*"))
    assert len(shards(stored)) == 2
