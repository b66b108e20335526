"""Writers die, disks fill up and fail, several write at once: what is stored stays whole, and resuming gives
the store that an undisturbed run gives, row for row."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.errors import CacheNotWritableError, DiskSpaceError, StoreError
from headstart.features import FeatureStore, TrunkFolder, files, writer

# What the child processes run, too: the same deterministic "trunk", and shards of 4 rows.
COMMON = """
import os, signal, sys
import numpy as np
from headstart.features import FeatureStore, array_to_ids, files, trunk_key, writer

ROW = (3, 5)
writer.SHARD_NBYTES = 4 * 15 * 2

def all_ids(n):
    return array_to_ids(np.random.default_rng(0).integers(0, 256, (n, 16), dtype=np.uint8))

def rows_of(ids):
    first = np.array([int(one[:4], 16) for one in ids], np.float32)
    return (first[:, None, None] + np.arange(15).reshape(ROW)).astype(np.float16)

def folder_in(root):
    key = trunk_key(graph=["conv"], weights_digest="0" * 32, preprocess={}, precision="float32",
                    dtype="float16", label={"model": "tiny"})
    return FeatureStore(root).trunk(key)

def extract(folder, ids, batch=3, report=lambda n: None):
    ids = folder.missing(ids)
    with folder.writer(ROW, "float16", {"backend": "numpy"}) as out:
        for i in range(0, len(ids), batch):
            out.add(ids[i:i + batch], rows_of(ids[i:i + batch]))
            report(out.rows_written)
"""

OPERATIONS = ("mkdir", "open", "write", "fsync", "close", "replace")

# For each N: a child that dies at its Nth file operation, before it or, for a write, half-way through. It
# tells through a pipe how many rows were stored before; a line a death goes to stdout.
KILL_AT_EACH = (
    COMMON
    + f"OPERATIONS = {OPERATIONS}"
    + """
from types import SimpleNamespace

def dying(at, half):
    count = 0
    def wrap(name, call):
        def operation(*args, **kwargs):
            nonlocal count
            count += 1
            if count == at:
                if half and name == "write":
                    os.write(args[0], args[1][:len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return operation
    wrapped = {name: wrap(name, getattr(os, name)) for name in OPERATIONS}
    return SimpleNamespace(**(vars(os) | wrapped))

base, half = sys.argv[1], sys.argv[2] == "half"
ids = all_ids(10)
for at in range(1, 1000):
    root = f"{base}/{at}"
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        files.os = dying(at, half)
        extract(folder_in(root), ids, report=lambda n: os.write(send, bytes([n])))
        os._exit(0)
    os.close(send)
    told = os.read(receive, 1000)
    os.close(receive)
    status = os.waitpid(pid, 0)[1]
    print(at, max(told, default=0), os.WIFSIGNALED(status) and os.WTERMSIG(status), flush=True)
    if status == 0:
        break
"""
)

ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

shared: dict[str, Any] = {}
exec(COMMON.replace("writer.SHARD_NBYTES =", "small ="), shared)  # in this process a fixture sets it
all_ids: Callable[[int], list[str]] = shared["all_ids"]
rows_of: Callable[[list[str]], np.ndarray[Any, Any]] = shared["rows_of"]
folder_in: Callable[[Path], TrunkFolder] = shared["folder_in"]
extract: Callable[..., None] = shared["extract"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_NBYTES", shared["small"])


def present(folder: TrunkFolder, ids: list[str]) -> list[str]:
    """The ids that are stored, after testing that every file is intact and every row right."""
    report = FeatureStore(folder.path.parent.parent).verify()
    assert report.damaged == []
    missing = set(folder.missing(ids))
    stored = [one for one in ids if one not in missing]
    np.testing.assert_array_equal(folder.read(stored).reshape(-1, 3, 5), rows_of(stored))
    return stored


def assert_resumes(root: Path, ids: list[str]) -> None:
    extract(folder_in(root), ids)
    folder = folder_in(root)
    assert present(folder, ids) == ids
    assert folder.ids() == sorted(ids)


@pytest.mark.parametrize("moment", ["before", "half"])
def test_killed_at_every_file_operation(tmp_path: Path, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT_EACH, str(tmp_path), moment],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    deaths = [[int(one) for one in line.replace("False", "0").split()] for line in done.stdout.splitlines()]
    assert len(deaths) > 40 and all(death[2] == signal.SIGKILL for death in deaths[:-1])
    assert deaths[-1][2] == 0  # the last one came through
    ids = all_ids(10)
    survivors = []
    for at, told, _ in deaths:
        root = tmp_path / str(at)
        stored = present(folder_in(root), ids)
        assert len(stored) >= told  # what the writer called stored, is
        assert stored == ids[: len(stored)]
        survivors.append(len(stored))
        assert_resumes(root, ids)
    assert survivors == sorted(survivors) and set(survivors) == {0, 4, 8, 10}


def test_killed_at_random_moments_until_done(tmp_path: Path) -> None:
    ids = all_ids(400)
    program = COMMON + (
        "folder = folder_in(sys.argv[1])\nids = all_ids(400)\nprint('ready', flush=True)\n"
        "extract(folder, ids, report=lambda n: print(n, flush=True))\n"
    )
    chance = random.Random(0)
    stored_before = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.03))
        child.kill()
        told = [int(line) for line in child.stdout.read().splitlines() if line]
        child.stdout.close()
        child.wait()
        stored = len(present(folder_in(tmp_path), ids))
        assert stored >= stored_before + max(told[:-1], default=0)  # the last line may have been cut short
        stored_before = stored
    assert_resumes(tmp_path, ids)


class Failing:
    """Stands for `os` in the module that writes: the Nth of some operations fails, or all from the Nth on."""

    def __init__(self, operations: tuple[str, ...], at: int, code: int, lasting: bool) -> None:
        self.operations, self.at, self.code, self.lasting = operations, at, code, lasting
        self.count = 0
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in self.operations:
            return call

        def operation(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at or (self.lasting and self.count > self.at):
                self.failed = True
                if name == "write":  # a full disk takes some of it first
                    os.write(args[0], args[1][: len(args[1]) // 3])
                raise OSError(self.code, os.strerror(self.code))
            return call(*args, **kwargs)

        return operation


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
@pytest.mark.parametrize("operations", [("write",), ("fsync",), ("replace",), ("open",), ("mkdir",)], ids="".join)
def test_errors_at_every_operation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operations: tuple[str, ...],
    code: int,
    expected: type[StoreError],
    lasting: bool,
) -> None:
    ids = all_ids(10)
    for at in range(1, 100):
        root = tmp_path / str(at)
        failing = Failing(operations, at, code, lasting)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", failing)
            if not failing_run(folder_in(root), ids, expected):
                assert not failing.failed
                break
        assert failing.failed
        assert not list(root.rglob(".partial-*"))
        stored = present(folder_in(root), ids)
        assert stored == ids[: len(stored)]
        assert_resumes(root, ids)
    assert at > 2


def failing_run(folder: TrunkFolder, ids: list[str], expected: type[StoreError]) -> bool:
    """Whether the extraction failed; it may in one way only."""
    try:
        extract(folder, ids)
    except StoreError as error:
        assert type(error) is expected
        assert "is intact" in str(error) or "HEADSTART_CACHE" in str(error)
        return True
    return False


def test_a_passing_error_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = all_ids(4)
    folder = folder_in(tmp_path)
    out = folder.writer((3, 5), "float16", {})
    out.add(ids[:3], rows_of(ids[:3]))
    monkeypatch.setattr(files, "os", Failing(("write",), 1, errno.ENOSPC, False))
    with pytest.raises(DiskSpaceError, match=r"free; what was stored before is intact"):
        out.close()
    assert out.rows_written == 0
    out.close()
    assert out.rows_written == 3
    assert present(folder, ids) == ids[:3]


def test_the_first_error_is_raised_and_the_second_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = all_ids(3)
    monkeypatch.setattr(files, "os", Failing(("write",), 1, errno.EIO, True))
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        folder_in(tmp_path).writer((3, 5), "float16", {}) as out,
    ):
        out.add(ids, rows_of(ids))
        raise KeyboardInterrupt
    assert "3 finished rows could not be stored either" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_rows_added_before_an_exception_are_kept(tmp_path: Path, error: type[BaseException]) -> None:
    ids = all_ids(7)
    folder = folder_in(tmp_path)
    with pytest.raises(error), folder.writer((3, 5), "float16", {}) as out:
        out.add(ids[:6], rows_of(ids[:6]))
        raise error
    assert out.rows_written == 6
    assert present(folder, ids) == ids[:6]


def test_an_interrupt_inside_a_write_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = all_ids(10)
    calls = 0

    def interrupted(handle: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return os.write(handle, data)

    monkeypatch.setattr(files, "os", SimpleNamespace(**(vars(os) | {"write": interrupted})))
    with pytest.raises(KeyboardInterrupt):
        extract(folder_in(tmp_path), ids)
    assert not list(tmp_path.rglob(".partial-*"))
    assert len(present(folder_in(tmp_path), ids)) >= 4  # the rows that had been added are written on the way out
    assert_resumes(tmp_path, ids)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = SimpleNamespace(**(vars(os) | {"write": lambda handle, data: os.write(handle, data[:7])}))
    monkeypatch.setattr(files, "os", short)
    assert_resumes(tmp_path, all_ids(10))


def test_bytes_are_synced_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def logged(name: str) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            log.append(name)
            return getattr(os, name)(*args, **kwargs)

        return operation

    names = ("mkdir", "open", "write", "fsync", "close", "replace")
    monkeypatch.setattr(files, "os", SimpleNamespace(**(vars(os) | {name: logged(name) for name in names})))
    extract(folder_in(tmp_path), all_ids(8))
    folder_synced = ["open", "fsync", "close"]
    made = ["mkdir", *folder_synced] * 2
    description = ["open", "write", "fsync", "close", "replace", *folder_synced]
    # A shard: header, blocks of rows (3 + 1, then 2 + 2), checksums, ids.
    shard = ["open", *["write"] * 5, "fsync", "close", "replace", *folder_synced]
    assert log == made + description + shard + shard


def test_several_processes_write_overlapping_ids(tmp_path: Path) -> None:
    ids = all_ids(120)
    program = COMMON + (
        "ids = all_ids(120)\nnp.random.default_rng(int(sys.argv[2])).shuffle(ids)\nsys.stdin.readline()\n"
        "extract(folder_in(sys.argv[1]), ids[:90], batch=5)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(i)],
            stdin=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for i in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.close()
    reader = folder_in(tmp_path)
    while any(child.poll() is None for child in children):
        present(reader, ids)  # reading while they write
        time.sleep(0.02)
    assert [child.wait() for child in children] == [0] * 4
    wanted = set()
    for i in range(4):
        shuffled = all_ids(120)
        np.random.default_rng(i).shuffle(shuffled)
        wanted |= set(shuffled[:90])
    stored = present(reader, ids)
    assert set(stored) == wanted
    (info,) = FeatureStore(tmp_path).trunks()
    assert info.rows == len(wanted) and info.damaged == ()
    assert not list(tmp_path.rglob(".partial-*"))
    assert_resumes(tmp_path, ids)


def test_the_folder_may_be_evicted_under_a_writer(tmp_path: Path) -> None:
    ids = all_ids(8)
    store = FeatureStore(tmp_path)
    folder = folder_in(tmp_path)
    with folder.writer((3, 5), "float16", {}) as out:
        out.add(ids[:4], rows_of(ids[:4]))
        assert store.gc(store.gc_plan(0)) > 0
        assert not folder.path.exists()
        out.add(ids[4:], rows_of(ids[4:]))
    assert folder.missing(ids) == ids[:4]
    assert present(folder, ids) == ids[4:]
