"""Operations that fail, at every place where they can, and file systems that really are full."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.campaigns import campaign, namespace
from faults.workload import (
    Failing,
    Workload,
    all_ids,
    assert_resumes,
    attempt,
    folder_in,
    present,
    shards_of,
    system,
)

from headstart.common.errors import CacheNotWritableError, DamagedShardError, DiskSpaceError, StoreError

CODES: dict[int, type[StoreError]] = {
    errno.ENOSPC: DiskSpaceError,
    errno.EDQUOT: DiskSpaceError,
    errno.EFBIG: DiskSpaceError,
    errno.EIO: StoreError,
    errno.ENOMEM: StoreError,
    errno.EROFS: CacheNotWritableError,
    errno.EACCES: CacheNotWritableError,
}

# The extraction itself for the two that a disk has of its own accord.
CASES = [
    *(("writer:10", code) for code in CODES),
    *(("numpy:10", code) for code in (errno.ENOSPC, errno.EIO)),
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize(
    ("workload", "code"), CASES, ids=[f"{name}-{errno.errorcode[code]}" for name, code in CASES]
)
def test_writing_fails_at_every_operation(
    tmp_path: Path, figure: Any, workload: str, code: int, lasting: bool
) -> None:
    when = "from the Nth file operation on" if lasting else "at the Nth file operation"
    with figure(f"{errno.errorcode[code]} {when}, {workload}") as it:
        found = campaign(
            "fail_at_each_operation",
            tmp_path,
            workload=workload,
            code=code,
            lasting=lasting,
            expected=CODES[code].__name__,
        )
        it.count = sum(found.values())
        operations = ", ".join(f"{number} {name}" for name, number in found.items())
        it.result = f"{CODES[code].__name__}; store intact, resumed: {operations}"
    assert it.count > 40


def test_a_short_write_at_every_write(tmp_path: Path, figure: Any) -> None:
    ids = all_ids(10)
    with figure("the Nth write takes 0, 1 or half of the bytes") as it, shards_of(4):
        for share in (0, 1, 2):
            for at in count(1):
                root = tmp_path / f"{share}-{at}"
                writes = 0

                def short(handle: int, data: memoryview, at: int = at, share: int = share) -> int:
                    nonlocal writes
                    writes += 1
                    if writes != at:
                        return os.write(handle, data)
                    return os.write(handle, data[: len(data) // 2 if share == 2 else 1]) if share else 0

                with system(SimpleNamespace(**(vars(os) | {"write": short}))):
                    error = attempt(folder_in(root), ids)
                assert (error is not None) == (share == 0 and writes >= at)
                present(folder_in(root), ids)
                assert_resumes(root, ids)
                if writes < at:
                    break
                it.count += 1
        assert it.count > 40
        it.result = "went on, or a typed error where nothing was taken"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_reading_fails_at_every_operation(tmp_path: Path, figure: Any, lasting: bool) -> None:
    ids = all_ids(30)
    with shards_of(4):
        assert_resumes(tmp_path, ids)
    said = "from the Nth operation of reading on" if lasting else "at the Nth operation of reading"
    with figure(f"EIO, ESTALE, EACCES, ENOMEM {said}") as it:
        for code in (errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM):
            for at in count(1):
                reader = folder_in(tmp_path)
                failing = Failing(("open", "fstat", "preadv"), at, code, lasting, reading=True)
                refused = False
                with system(failing):
                    try:
                        if reader.missing(ids):
                            assert code == errno.ESTALE  # as if deleted by another machine
                        reader.read(ids)
                    except StoreError as error:
                        refused = True
                        named = isinstance(error, DamagedShardError)
                        assert named == (code == errno.EIO) or "have no features" in str(error)
                if not failing.failed:
                    assert not refused
                    break
                it.count += 1
                assert present(reader, ids) == ids  # the very same reader, once the disk is well
        it.result = "typed, or right on the second look; nothing wrong was read"
    assert it.count > 50


SIZES = [*range(8, 104, 4), 112, 128, 160, 192, 224, 256, 288, 320, 352]  # KiB
INODES = [3, 5, 7, 9, 13, 21, 33]
FILE_SIZES = [*range(0, 40, 2), *range(100, 4100, 200)]  # bytes


@pytest.mark.parametrize("workload", ["writer:200", "numpy:100"])
def test_full_file_systems(tmp_path: Path, figure: Any, workload: str) -> None:
    prefix = namespace()
    if prefix is None:
        with figure(f"NO MOUNTS ALLOWED HERE: limited file sizes instead, {workload}") as it:
            found = campaign("fill_disks", tmp_path, workload=workload, sizes=FILE_SIZES, mounted=False)
    else:
        with figure(f"full tmpfs, of bytes or inodes, {workload}") as it:
            # The extraction of 100 images needs no more than 27 files of 8 KiB.
            sizes = [*SIZES, *INODES] if workload == "writer:200" else [*SIZES[:27], *INODES[:6]]
            found = campaign("fill_disks", tmp_path, prefix=prefix, workload=workload, sizes=sizes, mounted=True)
    it.count = found["full"]
    assert it.count >= (40 if workload == "writer:200" else 30)
    it.result = (
        f"said what was needed ({found.get('before it began', 0)} before beginning), kept {found['rows kept']} "
        "rows in all, went on when there was room"
    )


def test_a_limit_on_the_size_of_files(tmp_path: Path, figure: Any) -> None:
    with figure("RLIMIT_FSIZE, writer:40") as it:
        found = campaign("fill_disks", tmp_path, workload="writer:40", sizes=[1, 100, 1000, 4000], mounted=False)
        it.count, it.result = found["full"], "said what was needed, went on when there was no limit"


def test_an_undisturbed_run_needs_no_mending(tmp_path: Path) -> None:
    work = Workload(30)
    work.run(tmp_path)
    work.assert_whole(tmp_path)
