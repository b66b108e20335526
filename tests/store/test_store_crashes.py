"""Writers die, disks fill up and fail, several write at once: what is stored stays whole, and resuming gives
the store that an undisturbed run gives, row for row. `tox -e faults` does the same at length."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults.campaigns import campaign, namespace
from faults.workload import (
    HANDLING_FILES,
    ROW,
    Failing,
    all_ids,
    assert_resumes,
    attempt,
    extract,
    folder_in,
    present,
    rows_of,
    shards_of,
    system,
)

from headstart.common import files
from headstart.common.errors import CacheNotWritableError, DamagedShardError, DiskSpaceError, StoreError
from headstart.store import FeatureFolder, FeatureStore

pytestmark = pytest.mark.neutral


def handle_files_with(monkeypatch: pytest.MonkeyPatch, replacement: Any) -> None:
    """Let the store's files be handled by another `os` until the test's end."""
    for module in HANDLING_FILES:
        monkeypatch.setattr(module, "os", replacement)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is such a thing: it is processes that die here, not machines, and thousands
    of syncs of a disk that others keep busy take minutes. `tox -e faults` does them on a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def small_shards() -> Iterator[None]:
    with shards_of(4):
        yield


@pytest.mark.parametrize(
    ("workload", "half"),
    [
        ("writer:10", True),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in [("writer:10", False), ("numpy:6", True)]),
    ],
)
def test_killed_at_every_file_operation(place: Path, workload: str, half: bool) -> None:
    found = campaign("kill_at_each_operation", place, workload=workload, half=half)
    assert found["kills"] > 60
    assert found["survivors"] == ([0, 4, 8, 10] if workload == "writer:10" else [0, 4, 6])


@pytest.mark.parametrize("workload", ["writer:200", pytest.param("numpy:60", marks=pytest.mark.slow)])
def test_killed_at_random_moments_until_done(place: Path, workload: str) -> None:
    assert campaign("kill_at_random", place, workload=workload, times=6, seed=0)["kills"] == 6


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, DiskSpaceError),
        (errno.EDQUOT, DiskSpaceError),
        (errno.EIO, StoreError),
        (errno.EROFS, CacheNotWritableError),
    ],
    ids=["ENOSPC", "EDQUOT", "EIO", "EROFS"],
)
@pytest.mark.parametrize("operation", ["write", "fsync", "close", "replace", "open", "mkdir"])
def test_errors_at_every_operation(
    place: Path, operation: str, code: int, expected: type[StoreError], lasting: bool
) -> None:
    ids = all_ids(10)
    for at in range(1, 100):
        root = place / str(at)
        failing = Failing([operation], at, code, lasting)
        with system(failing):
            error = attempt(folder_in(root), ids)
        if error is None:
            assert not failing.failed
            break
        assert type(error) is expected
        assert "is intact" in str(error) or "HEADSTART_CACHE" in str(error)
        assert not list(root.rglob(".partial-*"))
        stored = present(folder_in(root), ids)
        assert stored == ids[: len(stored)]
        assert_resumes(root, ids)
    assert at > 2


def test_errors_at_every_operation_of_an_extraction(place: Path) -> None:
    found = campaign(
        "fail_at_each_operation", place, workload="numpy:6", code=errno.EIO, lasting=False, expected="StoreError"
    )
    assert sum(found.values()) > 40


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES], ids=lambda code: errno.errorcode[code])
def test_errors_at_every_operation_of_reading(place: Path, code: int) -> None:
    ids = all_ids(10)
    assert_resumes(place, ids)
    for at in range(1, 100):
        failing = Failing(("open", "fstat", "preadv"), at, code, True, reading=True)
        reader = folder_in(place)
        with system(failing):
            try:
                assert np.array_equal(reader.read(ids), rows_of(ids))
            except StoreError as error:
                assert isinstance(error, DamagedShardError) == (code == errno.EIO)
                assert code != errno.ESTALE or "have no features" in str(error)  # deleted by another machine
        if not failing.failed:
            break
        assert present(reader, ids) == ids  # the same reader, once the disk is well
    assert at > 10


@pytest.mark.parametrize("mounted", [True, False], ids=["tmpfs", "RLIMIT_FSIZE"])
def test_full_file_systems(place: Path, mounted: bool) -> None:
    prefix = namespace() if mounted else ()
    if prefix is None:
        pytest.skip("no file system may be mounted here; a limit on the size of files stands in for it")
    sizes = [3, 7, 8, 24, 60, 100] if mounted else [1, 100, 4000]
    found = campaign("fill_disks", place, prefix=prefix, workload="numpy:60", sizes=sizes, mounted=mounted)
    assert found["full"] == len(sizes)
    assert not mounted or (found["before it began"] and found["while writing"] and found["rows kept"])


def test_a_passing_error_costs_no_row(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = all_ids(4)
    folder = folder_in(place)
    out = folder.writer(ROW, "float16", {})
    out.add(ids[:3], rows_of(ids[:3]))
    handle_files_with(monkeypatch, Failing(("write",), 1, errno.ENOSPC, False))
    with pytest.raises(DiskSpaceError, match=r"it needs 351 B, .* free.*; what was stored before is intact"):
        out.close()
    assert out.rows_written == 0
    out.close()
    assert out.rows_written == 3
    assert present(folder, ids) == ids[:3]


def test_rows_that_come_after_an_error_are_stored_behind_those_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = all_ids(8)
    folder = folder_in(place)
    out = folder.writer(ROW, "float16", {})
    handle_files_with(monkeypatch, Failing(("write",), 1, errno.ENOSPC, False))
    with pytest.raises(DiskSpaceError):
        out.add(ids[:4], rows_of(ids[:4]))  # a shard
    out.add(ids[4:], rows_of(ids[4:]))
    out.close()
    assert out.rows_written == 8
    assert present(folder, ids) == ids


def test_the_first_error_is_raised_and_the_second_noted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = all_ids(3)
    handle_files_with(monkeypatch, Failing(("write",), 1, errno.EIO, True))
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        folder_in(place).writer(ROW, "float16", {}) as out,
    ):
        out.add(ids, rows_of(ids))
        raise KeyboardInterrupt
    assert "3 finished rows could not be stored either" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_rows_added_before_an_exception_are_kept(place: Path, error: type[BaseException]) -> None:
    ids = all_ids(7)
    folder = folder_in(place)
    with pytest.raises(error), folder.writer(ROW, "float16", {}) as out:
        out.add(ids[:6], rows_of(ids[:6]))
        raise error
    assert out.rows_written == 6
    assert present(folder, ids) == ids[:6]


def test_an_interrupt_inside_a_write_leaves_nothing_half_done(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = all_ids(10)
    calls = 0

    def interrupted(handle: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return os.write(handle, data)

    handle_files_with(monkeypatch, SimpleNamespace(**(vars(os) | {"write": interrupted})))
    with pytest.raises(KeyboardInterrupt):
        extract(folder_in(place), ids)
    assert not list(place.rglob(".partial-*"))
    assert len(present(folder_in(place), ids)) >= 4  # the rows that had been added are written on the way out
    assert_resumes(place, ids)


def test_short_writes_are_continued(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = SimpleNamespace(**(vars(os) | {"write": lambda handle, data: os.write(handle, data[:7])}))
    handle_files_with(monkeypatch, short)
    assert_resumes(place, all_ids(10))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing to advise here")
def test_the_disk_begins_before_the_last_bytes_come(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a file system that takes no advice does no harm."""
    begun: list[tuple[int, int, int]] = []

    def advise(handle: int, start: int, nbytes: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        begun.append((os.fstat(handle).st_size, start, nbytes))
        raise OSError(errno.EINVAL, "no advice is taken")

    handle_files_with(monkeypatch, SimpleNamespace(**(vars(os) | {"posix_fadvise": advise})))
    monkeypatch.setattr(files, "WRITE_BEHIND_NBYTES", 100)
    files.replace_whole(place / "file", (bytes([number]) * 60 for number in range(5)))
    assert begun == [(120, 0, 120), (240, 120, 120)]
    assert (place / "file").read_bytes() == b"".join(bytes([number]) * 60 for number in range(5))


def test_a_write_that_takes_nothing_is_an_error(place: Path) -> None:
    with (
        system(SimpleNamespace(**(vars(os) | {"write": lambda handle, data: 0}))),
        pytest.raises(StoreError, match="nothing was written"),
    ):
        extract(folder_in(place), all_ids(10))
    assert_resumes(place, all_ids(10))


def test_a_folder_that_vanishes_while_it_is_probed_is_no_error(place: Path) -> None:
    """At the Nth handle closed: after a folder was made, or its entry synced, or the probe written."""
    for at in range(1, 100):
        folder = folder_in(place / str(at))
        closed = 0

        def vanishing(handle: int, at: int = at, folder: FeatureFolder = folder) -> None:
            nonlocal closed
            closed += 1
            os.close(handle)
            if closed == at:
                shutil.rmtree(folder.path.parent, ignore_errors=True)

        with system(SimpleNamespace(**(vars(os) | {"close": vanishing}))):
            folder.require_writable()
        if closed < at:
            break
    assert at > 3


def test_a_folder_that_never_stays_is_a_typed_error(place: Path) -> None:
    folder = folder_in(place)

    def vanishing(handle: int) -> None:
        os.close(handle)
        shutil.rmtree(folder.path, ignore_errors=True)

    with (
        system(SimpleNamespace(**(vars(os) | {"close": vanishing}))),
        pytest.raises(StoreError, match="No such file or directory; what was stored before is intact"),
    ):
        folder.require_writable()


def test_bytes_are_synced_before_the_name_and_the_name_after(place: Path) -> None:
    log: list[str] = []
    reading: set[int] = set()

    def logged(name: str) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            result = getattr(os, name)(*args, **kwargs)
            if name == "open" and args[1] & os.O_NONBLOCK:
                reading.add(result)
            elif args[0] not in reading:
                log.append(name)
            elif name == "close":
                reading.remove(args[0])
            return result

        return operation

    names = ("mkdir", "open", "write", "fsync", "close", "replace")
    with system(SimpleNamespace(**(vars(os) | {name: logged(name) for name in names}))):
        extract(folder_in(place), all_ids(8))
    folder_synced = ["open", "fsync", "close"]
    made = ["mkdir", *folder_synced] * 2
    description = ["open", "write", "fsync", "close", "replace", *folder_synced]
    # A shard: header, blocks of rows (3 + 1, then 2 + 2), checksums, ids.
    shard = ["open", *["write"] * 5, "fsync", "close", "replace", *folder_synced]
    assert log == made + description + shard + shard


def test_several_processes_write_overlapping_ids_while_gc_deletes_and_others_read(place: Path) -> None:
    found = campaign("race", place, rounds=4, writers=6, workload="writer:120")
    assert found["rows stored"] >= found["rows"] == 480
    assert found["reads"] and found["evictions"] and not found["lock calls"]


@pytest.mark.parametrize("by_hand", [False, True], ids=["gc", "rm"])
@pytest.mark.parametrize("when", ["mkdir", "open", "write", "fsync", "replace"])
def test_an_eviction_at_any_moment_of_a_write(place: Path, when: str, by_hand: bool) -> None:
    """The folder, and whatever lies in it, vanishes just before the Nth such operation; `gc` spares the file that
    is being written, others may not."""
    ids = all_ids(10)
    for at in range(1, 100):
        root = place / str(at)
        calls = 0

        def evicting(*args: Any, at: int = at, root: Path = root, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                if by_hand:
                    shutil.rmtree(root / "features", ignore_errors=True)
                else:
                    folder = folder_in(root).path
                    if folder.is_dir():
                        (folder / ".partial-another").touch()  # so that the folder stays
                    store = FeatureStore(root)
                    store.gc(store.gc_plan(0))
            return getattr(os, when)(*args, **kwargs)

        with system(SimpleNamespace(**(vars(os) | {when: evicting}))):
            extract(folder_in(root), ids)
        assert_resumes(root, ids)
        (info,) = FeatureStore(root).infos()
        assert info.label == {"model": "tiny"}
        if calls < at:
            break
    assert at > 2


def test_the_folder_may_be_evicted_under_a_writer(place: Path) -> None:
    ids = all_ids(8)
    store = FeatureStore(place)
    folder = folder_in(place)
    with folder.writer(ROW, "float16", {}) as out:
        out.add(ids[:4], rows_of(ids[:4]))
        assert store.gc(store.gc_plan(0)) > 0
        assert not folder.path.exists()
        out.add(ids[4:], rows_of(ids[4:]))
    assert folder.missing(ids) == ids[:4]
    assert present(folder, ids) == ids[4:]
