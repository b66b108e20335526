"""The index of ids: files that have not changed are not read again, those that may have are, and whatever befalls
the index itself costs hashing and nothing else."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, ImageError
from headstart.data import dataset, file_system, id_index, workers
from headstart.data import index_file as index_door
from headstart.data.dataset import sample_id
from headstart.data.id_index import FILE, Hashed, IdIndex, stamp_of

pytestmark = [
    pytest.mark.neutral,
    pytest.mark.skipif(os.name == "nt", reason="without a ctime there is no index"),
]

COUNT = 6  # images


def content(path: Path, seed: int) -> bytes:
    """An image of the same size in bytes whatever its seed."""
    Image.new("RGB", (3, 3), (seed, 9, 9)).save(path, "bmp")
    return path.read_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(COUNT):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        content(path, i)
    return tmp_path / "photos"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be trusted a little after they were written, not two seconds: the clocks of the file systems that
    tests run on tick every hundredth of a second or oftener."""
    monkeypatch.setattr(id_index, "RACY_NS", 30_000_000)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, as they are read."""
    names: list[str] = []
    real = file_system.read_file

    def counted(path: Any) -> bytes:
        names.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(file_system, "read_file", counted)
    return names


def settle() -> None:
    time.sleep(0.05)


def index_file() -> Path:
    return Path(os.environ["HEADSTART_CACHE"]) / FILE


def truth(photos: Path) -> list[str]:
    """The ids, in the data set's order, from the files alone."""
    return [sample_id(path.read_bytes()) for path in sorted(photos.rglob("*.*"))]


def ids(photos: Path) -> list[str]:
    return list(hs.data.folder(photos).ids)


@pytest.fixture
def indexed(photos: Path, quick: None, reads: list[str]) -> Path:
    """The folder, all of it in the index."""
    settle()
    assert ids(photos) == truth(photos)
    assert len(reads) == COUNT
    reads.clear()
    return photos


# --- hits


def test_unchanged_files_are_not_read(indexed: Path, reads: list[str]) -> None:
    assert ids(indexed) == truth(indexed)
    os.utime(indexed)  # the folder's own times say nothing of the files
    assert ids(indexed) == truth(indexed)
    assert reads == []


def test_a_relative_path_is_the_same_file(indexed: Path, reads: list[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(indexed.parent)
    assert ids(Path("photos")) == truth(indexed)
    assert reads == []


def test_new_and_touched_files_alone_are_read(indexed: Path, reads: list[str]) -> None:
    content(indexed / "a" / "new.bmp", 77)
    os.utime(indexed / "b" / "1.bmp")
    assert ids(indexed) == truth(indexed)
    assert sorted(reads) == ["1.bmp", "new.bmp"]
    settle()
    ids(indexed)
    reads.clear()
    assert ids(indexed) == truth(indexed)
    assert reads == []


def test_a_moved_folder_is_hashed_anew(indexed: Path, reads: list[str]) -> None:
    before = ids(indexed)
    moved = indexed.rename(indexed.with_name("elsewhere"))
    assert ids(moved) == before
    assert len(reads) == COUNT


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.bmp", "\N{SNOWMAN} '\"%?#\n;--.bmp".encode()], ids=["no-utf-8", "signs"]
)
def test_odd_names(indexed: Path, reads: list[str], name: bytes) -> None:
    try:
        (indexed / "a" / "0.bmp").rename(indexed / "a" / os.fsdecode(name))
    except OSError:
        pytest.skip("the file system takes no such name")
    settle()
    for _ in range(2):
        assert ids(indexed) == truth(indexed)
    assert len(reads) == 1


def test_an_odd_cache_folder(
    photos: Path, quick: None, reads: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "a b?mode=memory#%41&'"))
    settle()
    assert ids(photos) == ids(photos) == truth(photos)
    assert len(reads) == COUNT
    assert index_file().exists()


# --- changes


def test_edited_in_place_with_its_time_put_back(indexed: Path, reads: list[str]) -> None:
    path = indexed / "a" / "2.bmp"
    before, status = ids(indexed), path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert ids(indexed) == truth(indexed) != before
    assert reads == ["2.bmp"]


def test_replaced_by_a_file_of_the_same_size_and_time(indexed: Path, reads: list[str]) -> None:
    path, other = indexed / "a" / "2.bmp", indexed / "other"
    before, status = ids(indexed), path.stat()
    content(other, 99)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert ids(indexed) == truth(indexed) != before
    assert reads == ["2.bmp"]


def fake_stat(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    real = os.stat

    def changed(path: Any, **settings: Any) -> Any:
        found = real(path, **settings)
        names = ("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
        return SimpleNamespace(**{name: getattr(found, name) for name in names} | changes)

    monkeypatch.setattr(id_index.os, "stat", changed)


@pytest.mark.parametrize("field", ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"])
@pytest.mark.parametrize("largest", [False, True])
def test_a_change_of_any_field_is_another_stamp(photos: Path, field: str, largest: bool, monkeypatch: Any) -> None:
    path = photos / "a" / "0.bmp"
    before = stamp_of(str(path))
    limit = (1 << 63) - 1 if field.endswith("_ns") else (1 << 64) - 1
    with monkeypatch.context() as patch:
        fake_stat(patch, **{field: limit if largest else getattr(path.stat(), field) + 1})
        assert stamp_of(str(path)) not in (None, before)
    assert stamp_of(str(path)) == before is not None


def test_another_number_of_the_device_is_no_change(photos: Path, monkeypatch: Any) -> None:
    path = str(photos / "a" / "0.bmp")
    before = stamp_of(path)
    fake_stat(monkeypatch, st_dev=12345)
    assert stamp_of(path) == before is not None


@pytest.mark.parametrize("coarse", [0, 10_000_000, 1_700_000_000_000_000_000, 1_700_000_000_120_000_000])
def test_times_of_change_that_were_made_up_are_not_believed(photos: Path, coarse: int, monkeypatch: Any) -> None:
    fake_stat(monkeypatch, st_ctime_ns=coarse)
    assert stamp_of(str(photos / "a" / "0.bmp")) is None


def test_without_a_time_of_change_there_is_no_index(photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(id_index.os, "name", "nt")
    assert stamp_of(str(photos / "a" / "0.bmp")) is None


def test_what_is_no_regular_file_has_no_stamp(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [stamp_of(str(tmp_path / name)) for name in ("pipe", "", "missing", "a\0b")] == [None] * 4


@pytest.mark.parametrize("age", [0.0, 1.0])
def test_written_twice_within_one_tick_of_the_clock(
    photos: Path, reads: list[str], age: float, monkeypatch: Any
) -> None:
    """On a file system whose clock ticks every two seconds, the second writing leaves all that stat tells as it
    was: what was read so soon after it was written must be read again."""
    path = photos / "a" / "2.bmp"
    tick = time.time_ns() - int(age * 1e9) | 1
    fake_stat(monkeypatch, st_mtime_ns=tick, st_ctime_ns=tick)
    before = ids(photos)
    content(path, 200)
    assert ids(photos) == truth(photos) != before
    assert len(reads) == 2 * COUNT


@pytest.mark.parametrize("field", ["st_mtime_ns", "st_ctime_ns"])
def test_a_time_that_is_yet_to_come_is_not_trusted(
    photos: Path, quick: None, reads: list[str], field: str, monkeypatch: Any
) -> None:
    fake_stat(monkeypatch, **{field: time.time_ns() + 10**12 | 1})
    settle()
    assert ids(photos) == ids(photos) == truth(photos)
    assert len(reads) == 2 * COUNT


def test_another_file_stood_there_while_it_was_read(photos: Path, quick: None, monkeypatch: Any) -> None:
    """A link led elsewhere for a moment: the id of what was read is not that of what stat saw before."""
    link, target = photos / "a" / "2.bmp", photos.parent / "real.bmp"
    other = photos.parent / "other.bmp"
    link.rename(target)
    content(other, 99)
    link.symlink_to(target)
    settle()
    real = file_system.read_file

    def elsewhere(path: Any) -> bytes:
        if Path(path) == link:
            link.unlink()
            link.symlink_to(other)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(file_system, "read_file", elsewhere)
        assert sample_id(other.read_bytes()) in ids(photos)
    link.unlink()
    link.symlink_to(target)
    assert ids(photos) == truth(photos)


def test_a_wrong_index_is_found_out_when_the_image_is_loaded(indexed: Path, monkeypatch: Any) -> None:
    """A file system that hides a change: loading finds it, and opening the data set again, as the error says, then
    works."""
    path = indexed / "b" / "3.bmp"
    monkeypatch.setattr(file_system, "stamp_of", {str(p): stamp_of(str(p)) for p in indexed.rglob("*.bmp")}.get)
    content(path, 123)
    data = hs.data.folder(indexed)
    stale = list(data.ids)
    assert stale != truth(indexed)
    with pytest.raises(DataError, match=r"b.3\.bmp was changed since .*open the data set again"):
        data.load(stale.index(next(id for id in stale if id not in truth(indexed))))
    assert ids(indexed) == truth(indexed)


# --- which files decode


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = dataset.decoded

    def counted(encoded: bytes, source: Any, *settings: Any) -> Any:
        names.append(Path(source).name)
        return real(encoded, source, *settings)

    monkeypatch.setattr(dataset, "decoded", counted)
    return names


def skipping(photos: Path) -> list[str]:
    """The ids with on_error="skip", and what was left out."""
    data = hs.data.folder(photos, on_error="skip")
    return [*data.ids, *(Path(line.path).name for line in data.skipped)]


def test_files_known_to_decode_are_not_decoded_again(
    photos: Path, quick: None, decodes: list[str], reads: list[str]
) -> None:
    good = truth(photos)
    (photos / "b" / "broken.jpg").write_bytes(b"no image")
    settle()
    assert skipping(photos) == [*good, "broken.jpg"]
    assert len(decodes) == len(reads) == COUNT + 1
    assert skipping(photos) == [*good, "broken.jpg"]
    assert decodes[COUNT + 1 :] == reads[COUNT + 1 :] == ["broken.jpg"], "to say what is wrong with it"
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        list(hs.data.folder(photos))


def test_that_half_a_picture_was_kept_once_is_not_known_the_next_time(photos: Path, quick: None) -> None:
    for k, folder in enumerate("ab"):
        Image.effect_noise((64, 64), 50 + k).save(photos / folder / "half.jpg")
        whole = (photos / folder / "half.jpg").read_bytes()
        (photos / folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    settle()
    for _ in range(2):
        kept = hs.data.folder(photos, on_error="skip", truncated="keep")
        assert len(kept) == COUNT + 2 and len(kept.remark_lines()) == 1
        assert len(hs.data.folder(photos, on_error="skip")) == COUNT


def test_being_hashed_is_not_being_decoded(indexed: Path, decodes: list[str]) -> None:
    assert skipping(indexed) == truth(indexed)
    assert len(decodes) == COUNT


def test_another_limit_of_pixels_decodes_anew(
    photos: Path, quick: None, decodes: list[str], monkeypatch: Any
) -> None:
    settle()
    skipping(photos)
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "9")
    assert skipping(photos) == skipping(photos) == truth(photos)
    assert len(decodes) == 2 * COUNT
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "8")
    with pytest.raises(DataError, match="no usable image"):
        skipping(photos)


def test_another_pillow_decodes_anew(photos: Path, quick: None, decodes: list[str], monkeypatch: Any) -> None:
    settle()
    skipping(photos)
    monkeypatch.setattr(id_index.PIL, "__version__", "99.0")
    assert skipping(photos) == skipping(photos) == truth(photos)
    assert len(decodes) == 2 * COUNT


# --- what may befall the index


def answers(photos: Path) -> list[str | None]:
    """What the index says of each file."""
    paths = sorted(map(str, photos.rglob("*.*")))
    return [known and known.id for known in IdIndex().look_up(paths, [stamp_of(path) for path in paths])]


def assert_mended(photos: Path, reads: list[str]) -> None:
    """The ids are right in spite of all, and are known again afterwards."""
    assert ids(photos) == truth(photos)
    assert answers(photos) == truth(photos)
    reads.clear()
    assert ids(photos) == truth(photos)
    assert reads == []


def test_deleting_it_does_no_harm(indexed: Path, reads: list[str]) -> None:
    index_file().unlink()
    assert_mended(indexed, reads)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 99, 100, 512, 4095, 4096, 4097, 6000, 8191])
def test_truncated(indexed: Path, reads: list[str], size: int) -> None:
    os.truncate(index_file(), size)
    assert_mended(indexed, reads)


@pytest.mark.parametrize(
    "other",
    [b"", b"garbage", b"SQLite format 3\0", b"\0" * 8192, random.Random(0).randbytes(10_000)],
    ids=["nothing", "garbage", "magic", "zeros", "random"],
)
def test_something_else(indexed: Path, reads: list[str], other: bytes) -> None:
    index_file().write_bytes(other)
    assert_mended(indexed, reads)


@pytest.mark.parametrize(
    "table",
    ["files (name TEXT)", "files (path TEXT, entry TEXT, seen TEXT)", "other (a)"],
)
@pytest.mark.filterwarnings("ignore::headstart.common.errors.StoreWarning")
def test_another_database(indexed: Path, reads: list[str], table: str) -> None:
    index_file().unlink()
    with closing(sqlite3.connect(index_file())) as connection:
        connection.execute(f"CREATE TABLE {table}")
        connection.commit()
    assert_mended(indexed, reads)


def test_values_of_other_types(indexed: Path, reads: list[str]) -> None:
    with closing(sqlite3.connect(index_file())) as connection:
        for value in (7, "text", b"short", 1.5, "x" * 64):
            connection.execute("UPDATE files SET entry = ?, seen = 'x'", (value,))
            connection.commit()
            assert answers(indexed) == [None] * COUNT
    assert_mended(indexed, reads)


@pytest.mark.filterwarnings("ignore::headstart.common.errors.StoreWarning")
def test_no_flipped_bit_makes_a_wrong_id(indexed: Path, reads: list[str]) -> None:
    right, whole = truth(indexed), index_file().read_bytes()
    rng, lost = random.Random(0), 0
    used = [place for place, byte in enumerate(whole) if byte]  # zeros are mostly free space
    for place in rng.sample(used, 200) + rng.sample(range(len(whole)), 50):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        index_file().write_bytes(damaged)
        found = answers(indexed)
        assert all(one in (None, id) for one, id in zip(found, right, strict=True)), place
        lost += found != right
        if place % 5 == 0:
            assert ids(indexed) == right
    assert lost > 100, "flips that nobody could notice prove nothing"
    index_file().write_bytes(whole)
    assert_mended(indexed, reads)


def test_an_entry_serves_its_own_path_only(indexed: Path) -> None:
    """As a damaged page might have it: the entry of one file under another's name, though stat says the same."""
    paths = sorted(map(str, indexed.rglob("*.bmp")))
    with closing(sqlite3.connect(index_file())) as connection:
        (entry,) = connection.execute(
            "SELECT entry FROM files WHERE path = ?", (os.fsencode(paths[0]),)
        ).fetchone()
        connection.execute("UPDATE files SET entry = ? WHERE path = ?", (entry, os.fsencode(paths[1])))
        connection.commit()
    stamp = stamp_of(paths[0])
    known = IdIndex().look_up(paths[:2], [stamp, stamp])
    assert known[0] is not None
    assert known[1] is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_door, "BUSY_SECONDS", 0.02)


def test_locked(indexed: Path, reads: list[str], impatient: None) -> None:
    with closing(sqlite3.connect(index_file())) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert ids(indexed) == truth(indexed)
        assert len(reads) == COUNT
    assert_mended(indexed, reads)


def test_locked_for_writing(indexed: Path, reads: list[str], impatient: None) -> None:
    content(indexed / "a" / "new.bmp", 77)
    settle()
    with closing(sqlite3.connect(index_file())) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert ids(indexed) == ids(indexed) == truth(indexed)
        assert reads == ["new.bmp"] * 2
    assert_mended(indexed, reads)


def broken_connections(monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
    """Writing connections that are limited by these settings."""
    real = IdIndex._connect

    def limited(self: IdIndex, write: bool, seconds: float) -> sqlite3.Connection:
        connection = real(self, write, seconds)
        for setting in settings if write else ():
            connection.execute(setting)
        return connection

    monkeypatch.setattr(IdIndex, "_connect", limited)


@pytest.mark.parametrize("setting", ["PRAGMA max_page_count = 3", "PRAGMA query_only = 1"])
def test_a_full_disk_and_one_that_cannot_be_written(
    indexed: Path, reads: list[str], setting: str, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patch:
        broken_connections(patch, setting)
        patch.setattr(dataset, "RECORDED_AT_ONCE", 10)
        for i in range(100):
            content(indexed / "b" / f"{'long' * 40}{i}.bmp", i)
        settle()
        assert ids(indexed) == truth(indexed)
        assert answers(indexed).count(None) > 50
        assert None not in answers(indexed)[: COUNT // 2], "what was there is still there"
    assert_mended(indexed, reads)


@pytest.mark.filterwarnings("ignore::headstart.common.errors.StoreWarning")
@pytest.mark.parametrize("place", ["a file", "below a file", "nowhere", "a folder", "a pipe"])
def test_where_there_can_be_no_index(
    photos: Path, quick: None, reads: list[str], place: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / FILE).mkdir(parents=True)
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / FILE)
    cache = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "nowhere": Path("/proc/self/fdinfo/no"),
        "a folder": tmp_path / "taken",
        "a pipe": tmp_path / "piped",
    }[place]
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    settle()
    assert ids(photos) == ids(photos) == truth(photos)
    assert len(reads) == 2 * COUNT
    assert (tmp_path / "file").read_text() == "mine"


def test_a_python_without_sqlite(photos: Path, quick: None, reads: list[str], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    settle()
    assert ids(photos) == ids(photos) == truth(photos)
    assert len(reads) == 2 * COUNT


MANY = """
import sys
from headstart.data import dataset, folder, id_index
id_index.RACY_NS = 30_000_000
dataset.RECORDED_AT_ONCE = 7
print(*(id for _ in range(3) for id in folder(sys.argv[1]).ids))
"""


def test_eight_processes_at_once(tmp_path: Path, quick: None, reads: list[str]) -> None:
    """All find a damaged index, replace it, and fill it."""
    photos = tmp_path / "photos"
    for i in range(100):
        (photos / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        content(photos / "ab"[i % 2] / f"{i}.bmp", i)
    index_file().parent.mkdir()
    index_file().write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    settle()
    command = [sys.executable, "-c", MANY, str(photos)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    for child in children:
        out, err = child.communicate(timeout=120)
        assert err == b""
        assert out.decode().split() == truth(photos) * 3
    assert_mended(photos, reads)


def test_an_interrupt_keeps_what_was_hashed(photos: Path, quick: None, monkeypatch: Any, reads: list[str]) -> None:
    settle()
    monkeypatch.setattr(workers, "default_workers", lambda: 1)
    monkeypatch.setattr(workers.in_threads, "__defaults__", (1, None))
    counted = file_system.read_file

    def interrupted(path: Any) -> bytes:
        if len(reads) == 4:
            raise KeyboardInterrupt
        return counted(path)

    with monkeypatch.context() as patch:
        patch.setattr(file_system, "read_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ids(photos)
    reads.clear()
    assert ids(photos) == truth(photos)
    assert len(reads) == COUNT - 4


# --- growth


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[the day that it is]"""
    today = [20_000]
    monkeypatch.setattr(id_index, "_today", lambda: today[0])
    yield today


def entries() -> list[str]:
    with closing(sqlite3.connect(index_file())) as connection:
        return sorted(Path(os.fsdecode(path)).name for (path,) in connection.execute("SELECT path FROM files"))


def enter(*names: str) -> None:
    stamp = b"s" * 32
    IdIndex().record([Hashed(f"/{name}", stamp, "ab" * 16, False) for name in names])


def test_entries_of_no_use_for_half_a_year_go(days: list[int]) -> None:
    enter("old", "used", "used too")
    days[0] += 100
    assert None not in IdIndex().look_up(["/used", "/used too"], [b"s" * 32] * 2)
    days[0] += 100
    enter("new")
    assert entries() == ["new", "used", "used too"]


def test_they_are_looked_at_once_a_week(days: list[int]) -> None:
    days[0] -= 179
    enter("old")
    days[0] += 178
    enter("a")  # looks, and finds nothing old enough
    days[0] += 6
    enter("b")
    assert entries() == ["a", "b", "old"]
    days[0] += 1
    enter("c")
    assert entries() == ["a", "b", "c"]


def test_of_too_many_the_oldest_go(days: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(id_index, "KEPT_ENTRIES", 5)
    enter("a", "b")
    days[0] += 10
    enter("c", "d")
    days[0] += 10
    enter("e", "f", "g")
    assert entries() == ["c", "d", "e", "f", "g"]


def test_a_clock_that_was_wrong_leaves_nothing_for_ever(days: list[int]) -> None:
    days[0] += 9000
    enter("future")
    days[0] -= 9000
    enter("a")
    assert entries() == ["a"]


def test_looking_up_writes_nothing(indexed: Path, monkeypatch: Any) -> None:
    real, writing = IdIndex._connect, []

    def connect(self: IdIndex, write: bool, seconds: float) -> sqlite3.Connection:
        writing.append(write)
        return real(self, write, seconds)

    monkeypatch.setattr(IdIndex, "_connect", connect)
    ids(indexed)
    assert writing == [False]
    assert [path.name for path in index_file().parent.iterdir()] == [FILE]
