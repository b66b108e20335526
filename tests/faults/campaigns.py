"""Campaigns that need processes of their own, to be killed, raced or starved.

`campaign(name, ...)` runs one in a fresh process without threads, which forks the victims from itself: a victim so
costs milliseconds, and whatever happens to it, pytest lives. Each campaign asserts what must hold, and returns
its figures.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from faults import damage
from faults.workload import (
    OPERATIONS,
    ROWS_PER_SHARD,
    Extraction,
    Failing,
    Workload,
    folder_in,
    install_numpy_backend,
    peak_nbytes,
    present,
    shards_of,
    system,
)

from headstart.common.errors import DamagedShardError, DiskSpaceError, StoreError
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard, writer

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONUNBUFFERED": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

Figures = dict[str, Any]


def campaign(
    name: str, base: Path, timeout: float = 1800, prefix: tuple[str, ...] = (), **settings: Any
) -> Figures:
    """Run a campaign of this module in the folder `base` and a process of its own, begun by `prefix`."""
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-m", "faults.campaigns", name, str(base), json.dumps(settings)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=timeout,
    )
    assert done.returncode == 0, (
        f"{name} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-8000:]}"
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def workload_of(name: str) -> Workload:
    """ "writer:100", "numpy:60" or "torch:40": what extracts, and how many samples."""
    kind, size = name.split(":")
    return Workload(int(size)) if kind == "writer" else Extraction(int(size), kind)


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child, which ends with 0 or, after a traceback, with 1."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def fork_telling(work: Callable[[], None]) -> tuple[int, Callable[[], list[str]]]:
    """`fork`, and a function that, once the child is dead, says which ids it was told were stored."""
    receive, send = os.pipe()

    def told() -> list[str]:
        os.close(send)
        with os.fdopen(receive, "rb") as pipe:
            return array_to_ids(np.frombuffer(pipe.read(), np.uint8).reshape(-1, 16))

    def telling() -> None:
        write_shard = writer.write_shard

        def write_and_tell(folder: Path, **parts: Any) -> Path:
            path = write_shard(folder, **parts)
            os.write(send, parts["ids"].tobytes())  # small enough to be written whole or not at all
            return path

        writer.write_shard = write_and_tell
        work()

    return fork(telling), told


def dying(at: int, half: bool) -> Any:
    """Stands for `os`: dies at the Nth file operation, before it or, where it writes, half-way through it."""
    done = 0

    def wrap(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == at:
                if half and name == "write":
                    os.write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return operation

    return SimpleNamespace(**(vars(os) | {name: wrap(name) for name in OPERATIONS}))


def kill_at_each_operation(base: Path, workload: str, half: bool) -> Figures:
    """A child a file operation, killed at it, until one comes through."""
    work = workload_of(workload)
    survivors = []
    with shards_of(ROWS_PER_SHARD, work.row_nbytes):
        assert len(work.expected) == len(work.ids)
        for at in count(1):
            root = base / str(at)

            def victim(root: Path = root, at: int = at) -> None:
                with system(dying(at, half)):
                    work.run(root)

            pid, told = fork_telling(victim)
            status = os.waitpid(pid, 0)[1]
            stored = present(work.folder(root), work.ids, work.expected)
            assert set(told()) <= set(stored), "a row that was called stored is lost"
            assert stored == work.ids[: len(stored)]
            survivors.append(len(stored))
            if status == 0:
                break
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
            work.run(root)
            work.assert_whole(root)
    assert survivors == sorted(survivors)
    return {"kills": at - 1, "survivors": sorted(set(survivors))}


def kill_at_random(base: Path, workload: str, times: int, seed: int) -> Figures:
    """Kill at random moments, resume, kill again, until the store is whole; then begin another one."""
    work = workload_of(workload)
    chance = random.Random(seed)
    kills = whole = mid_write = 0
    with shards_of(ROWS_PER_SHARD, work.row_nbytes):
        assert len(work.expected) == len(work.ids)
        seconds = []
        for i in range(3):
            start = time.perf_counter()
            assert os.waitpid(fork(lambda: work.run(base / f"undisturbed{i}")), 0)[1] == 0  # noqa: B023
            seconds.append(time.perf_counter() - start)
        stored: set[str] = set()
        while kills < times:
            root = base / str(whole)
            pid, told = fork_telling(lambda: work.run(root))  # noqa: B023
            time.sleep(chance.uniform(0, min(seconds)))
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            assert status == 0 or os.WIFSIGNALED(status), "the victim failed by itself"
            now = set(present(work.folder(root), work.ids, work.expected))
            assert stored | set(told()) <= now, "a row that was stored is lost"
            mid_write += bool(list(root.rglob(".partial-*"))) and status != 0
            stored = now
            kills += status != 0
            if status == 0 or len(stored) == len(work.ids) or kills == times:
                work.run(root)
                work.assert_whole(root)
                whole, stored = whole + 1, set()
    return {"kills": kills, "stores": whole, "unfinished": mid_write}


WRITES = ("mkdir", "open", "write", "fsync", "close", "replace")


def fail_at_each_operation(base: Path, workload: str, code: int, lasting: bool, expected: str) -> Figures:
    """An extraction whose Nth operation of writing fails, for N from 1 until one comes through: a typed error, the
    store intact, and the next extraction completes it. Returns how often each operation was the one."""
    work = workload_of(workload)
    found = Counter[str]()
    with shards_of(ROWS_PER_SHARD, work.row_nbytes):
        assert len(work.expected) == len(work.ids)
        for at in count(1):
            root = base / str(at)
            failing = Failing(WRITES, at, code, lasting)
            error: StoreError | None = None
            with system(failing):
                try:
                    work.run(root)
                except StoreError as raised:
                    error = raised
            if not failing.failed:
                assert error is None
                break
            if error is None:  # a folder above the cache that may not be opened to be synced is nobody's fault
                assert code == errno.EACCES and failing.failed == "open"
            else:
                assert type(error).__name__ == expected, error
                assert expected != "DiskSpaceError" or "need" in str(error)
            stored = present(work.folder(root), work.ids, work.expected)
            assert stored == work.ids[: len(stored)]
            assert not list(root.rglob(".partial-*"))
            work.run(root)
            work.assert_whole(root)
            found[failing.failed] += 1
    assert set(found) == set(WRITES)
    return dict(found)


def race(base: Path, rounds: int, writers: int, workload: str, readers: int = 2) -> Figures:
    """Writers of the same and of overlapping samples into one key, beside readers and `gc`, file locks doing
    nothing. In every second round `gc` also deletes the very features that are being written."""
    work = workload_of(workload)
    totals: Counter[str] = Counter()
    locks = _count_locks()
    with shards_of(ROWS_PER_SHARD * 4, work.row_nbytes):
        assert len(work.expected) == len(work.ids)
        for i in range(rounds):
            totals += _round(base / str(i), work, np.random.default_rng(i), writers, readers, evict=bool(i % 2))
    assert locks() == 0
    return {"rounds": rounds, "writers": rounds * writers, "lock calls": locks(), **totals}


def _round(
    root: Path, work: Workload, chance: np.random.Generator, writers: int, readers: int, evict: bool
) -> Counter[str]:
    gate, open_gate = os.pipe()
    found = Counter[str]()
    n = len(work.ids)
    # Half of the writers have the same samples in the same order, the others three quarters of them, shuffled.
    shares = [np.arange(n) if i % 2 else chance.permutation(n)[: n * 3 // 4] for i in range(writers)]

    def started(action: Callable[[], None]) -> Callable[[], None]:
        def begin() -> None:
            os.close(open_gate)
            os.read(gate, 1)
            action()

        return begin

    other = folder_in(root, "another trunk")
    with other.writer((3, 5), "float16", {}) as out:
        out.add(["0" * 32], np.zeros((1, 3, 5), np.float32))
    pids = [fork(started(lambda share=share: work.run(root, share))) for share in shares]  # type: ignore[misc]
    (root / "running").touch()
    # Every second reader has a cache of its own, and the writers' as a shared one.
    beside = [fork(started(lambda i=i: _read_until(root, work, i % 2 == 1))) for i in range(readers)]  # type: ignore[misc]
    beside.append(fork(started(lambda: _collect_until(root, evict))))
    os.close(gate)
    os.close(open_gate)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    (root / "running").unlink()
    statuses += [os.waitpid(pid, 0)[1] for pid in beside]
    assert statuses == [0] * len(statuses), statuses
    found["reads"] = int((root / "reads").stat().st_size)
    found["evictions"] = int((root / "evictions").stat().st_size)
    if evict:
        work.run(root)  # what was deleted under the writers is computed again
    work.assert_whole(root)
    assert not list(root.rglob(".partial-*"))
    places = {id: i for i, id in enumerate(work.ids)}
    for path in work.folder(root).path.glob("*.safetensors"):
        shard = open_shard(path)
        rows = np.empty((len(shard), *shard.row_shape), shard.dtype)
        assert shard.read_into(rows, np.arange(len(shard)), np.arange(len(shard))).all()
        wanted = work.expected[[places[id] for id in array_to_ids(shard.ids)]]
        assert rows.tobytes() == wanted.tobytes(), "the same row, stored twice, differs"
        found["rows stored"] += len(shard)
    found["rows"] = n
    return found


def _read_until(root: Path, work: Workload, shared: bool) -> None:
    """Read all that is there again and again. A row may be absent; none may be wrong, no file damaged."""
    folder = work.folder(root)
    if shared:
        warnings.simplefilter("error")  # that is how damage in a shared cache is told
        folder = FeatureStore(root / "own", shared=[root]).folder(folder.key)
    with (root / "reads").open("ab", 0) as told:
        while True:
            last = not (root / "running").exists()
            missing = set(folder.missing(work.ids))
            places = [i for i, id in enumerate(work.ids) if id not in missing]
            try:
                rows = folder.read([work.ids[i] for i in places])
            except StoreError as error:
                assert "have no features" in str(error), error  # deleted in between
            else:
                assert not places or np.array_equal(rows, work.expected[places])
            told.write(b".")
            if last:
                return


def _collect_until(root: Path, evict: bool) -> None:
    """`gc`, again and again: of leftovers and of another trunk, or of all."""
    store = FeatureStore(root)
    with (root / "evictions").open("ab", 0) as told:
        while (root / "running").exists():
            plan = store.gc_plan(0)
            chosen = [info for info in plan if evict or info.label.get("model") == "another trunk"]
            if store.gc(chosen):
                told.write(b".")
            time.sleep(0.002)


def shrink(base: Path, times: int, seed: int) -> Figures:
    """Cut a shard, and mend it again, at random moments of a child that reads it all the time: what it reads is
    right or a typed error, and no signal ends it."""
    stored = damage.store(base, "float16", (32, 32), [2000], 0)  # 4 MiB
    path = next(stored.folder.path.glob("*.safetensors"))
    whole = path.read_bytes()
    running = base / "running"
    running.touch()
    chance = random.Random(seed)

    def reader() -> None:
        outcomes = Counter[str]()
        while running.exists() or not outcomes:
            try:
                assert np.array_equal(stored.fresh().read(stored.ids), stored.rows)
                outcomes["right"] += 1
            except DamagedShardError:
                outcomes["refused"] += 1
            damaged = [path for path, _ in stored.verify()]
            assert damaged in ([], [path])
        (base / "outcomes").write_text(json.dumps(outcomes))

    pid = fork(reader)
    for _ in range(times):
        time.sleep(chance.uniform(0, 0.01))
        length = chance.randrange(len(whole))
        with path.open("r+b", 0) as file:
            file.truncate(length)
            time.sleep(chance.uniform(0, 0.003))
            file.seek(length)
            file.write(whole[length:])
    time.sleep(0.1)
    running.unlink()
    assert os.waitpid(pid, 0)[1] == 0, "the reader died"
    outcomes = json.loads((base / "outcomes").read_text())
    assert outcomes["right"] and outcomes["refused"]
    return {"cuts": times, **outcomes}


def namespace() -> tuple[str, ...] | None:
    """The command under which a process may mount file systems that vanish with it; None where none may."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        trial = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
        with contextlib.suppress(OSError):
            if subprocess.run(trial, capture_output=True).returncode == 0:
                return command
    return None


def fill_disks(base: Path, workload: str, sizes: list[int], mounted: bool) -> Figures:
    """An extraction on file systems that are too small for it, by KiB; then there is room, and it goes on.

    Where nothing may be mounted, the limit is one on the size of files (RLIMIT_FSIZE), by bytes.
    """
    work = workload_of(workload)
    found = Counter[str]()
    with shards_of(ROWS_PER_SHARD, work.row_nbytes):
        assert len(work.expected) == len(work.ids)
        for size in sizes:
            root = base / str(size)
            root.mkdir()
            limit = _mounted if mounted else _limited
            with limit(root, size) as make_room:
                try:
                    work.run(root)
                except DiskSpaceError as error:
                    message = str(error)
                else:
                    raise AssertionError(f"{size} was enough; expected an error")
                assert re.search(r"needs? [0-9.]+ [KM]?i?B|one more entry is needed", message), message
                assert re.search(r"[0-9.]+ [KMGT]?i?B are free", message), message
                stored = present(work.folder(root), work.ids, work.expected)
                assert not list(root.rglob(".partial-*"))
                found["before it began" if "the features need" in message else "while writing"] += 1
                found["rows kept"] += len(stored)
                make_room()
                work.run(root)
                work.assert_whole(root)
                found["full"] += 1
    return dict(found)


def share_read_only(base: Path) -> Figures:
    """A cache on a file system that is mounted read-only, shared with one that can be written."""
    root, own = base / "shared", base / "own"
    root.mkdir()
    found = Counter[str]()
    with _mounted(root, 8192):
        stored = damage.store(root, "float16", (5,), [6, 4], 0)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        for action in (stored.folder.require_writable, (root / "x").touch):
            try:
                action()
            except (StoreError, OSError) as error:
                assert "ead-only file system" in str(error)
                found["refused"] += 1
        folder = FeatureStore(own, shared=[root]).folder(stored.folder.key)
        assert folder.missing(stored.ids) == []
        assert np.array_equal(folder.read(stored.ids), stored.rows)
        found["read"] = len(stored.ids)
        with folder.writer((5,), "float16", {}) as out:
            out.add(["0" * 32, "1" * 32], np.ones((2, 5), np.float32))
        assert folder.missing(["0" * 32, "1" * 32, *stored.ids]) == []
        found["written"] = len(FeatureStore(own).folder(stored.folder.key).ids())
    return dict(found)


@contextlib.contextmanager
def _mounted(root: Path, size: int) -> Iterator[Callable[[], None]]:
    """A tmpfs of so many KiB; of an odd number of them, one that has run out of inodes instead."""
    limit = f"size=64m,nr_inodes={size}" if size % 2 else f"size={size}k"
    mount = ["mount", "-t", "tmpfs", "-o", limit, "none", str(root)]
    subprocess.run(mount, check=True)
    try:
        yield lambda: subprocess.run([*mount[:1], "-o", "remount,size=64m,nr_inodes=10000", str(root)], check=True)
    finally:
        subprocess.run(["umount", str(root)], check=True)


@contextlib.contextmanager
def _limited(root: Path, size: int) -> Iterator[Callable[[], None]]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fuzz(base: Path, seconds: float, seed: int, least: int = 0) -> Figures:
    from faults import hostile

    return hostile.fuzz(base, seconds, seed, least)


def hostile_archives(base: Path, mebibytes: int) -> Figures:
    from faults import hostile_data

    return hostile_data.bounded(hostile_data.judge_archives, base, mebibytes)


def image_bombs(base: Path, mebibytes: int) -> Figures:
    from faults import hostile_data

    return hostile_data.bounded(hostile_data.judge_images, mebibytes)


def fill_with_rows(base: Path, rows: int, columns: int) -> Figures:
    """A store of so many rows of float16."""
    folder = scaled(base)
    seconds = 0.0
    block = np.random.default_rng(0).random((1 << 16, columns), np.float32).astype(np.float16)
    start = time.perf_counter()
    with folder.writer((columns,), "float16", {"backend": "numpy"}) as out:
        for first in range(0, rows, len(block)):
            count = min(len(block), rows - first)
            made = time.perf_counter()
            ids = scaled_ids(first, first + count)
            seconds -= time.perf_counter() - made
            out.add(ids, block[:count])
    seconds += time.perf_counter() - start
    return {"seconds": seconds, "nbytes": sum(path.stat().st_size for path in folder.path.iterdir())}


def open_scaled(base: Path, rows: int) -> Figures:
    """Open it in this fresh process, and ask for some samples."""
    wanted = scaled_ids(rows - 500, rows + 500)
    start = time.perf_counter()
    missing = scaled(base).missing(wanted)
    seconds = time.perf_counter() - start
    assert missing == wanted[500:]
    return {"seconds": seconds, "peak": peak_nbytes()}


def measure_memory(base: Path, images: int, side: int) -> Figures:
    """Extract the decoded images themselves, `side` x `side` x 3 bytes a row, in this fresh process."""
    import headstart as hs

    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 3), np.uint8)
    data = hs.data.arrays(pixels, np.arange(images) % 2)
    model = hs.model("resnet18_half", classes=2, size=side)
    install_numpy_backend()
    before = peak_nbytes()
    start = time.perf_counter()
    features = hs.extract(model, data, "input", backend="numpy", device="cpu", workers=2, cache=base / str(images))
    seconds = time.perf_counter() - start
    assert features.stats.extracted == images
    stored = sum(info.nbytes for info in FeatureStore(base / str(images)).infos())
    return {"peak": peak_nbytes(), "before": before, "nbytes": stored, "seconds": seconds}


def measure_overhead(
    base: Path, images: int, cut: str, folder: str | None = None, backend: str | None = None
) -> Figures:
    """Extract with a resnet18, by default in the backend that HEADSTART_BACKEND names, from JPEG files made here
    (or those in `folder`), and tell what of it was neither decoding nor the trunk: finding and hashing files, ids,
    looking into the store, casting, checksums, writing, syncing."""
    import headstart as hs
    from headstart.data import dataset
    from headstart.features.batch_features import BatchFeatures
    from headstart.features.extractor import Extractor

    data: Any = hs.data.folder(folder or photographs(base / "photographs", images))
    data = data.subset(np.arange(min(images, len(data))))
    model = hs.model("resnet18", classes=2)
    spent: Counter[str] = Counter()

    def timed(what: str, call: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return call(*args, **kwargs)
            finally:
                spent[what] += clock() - start  # type: ignore[assignment]

        return measured

    def computing(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        source = compute_features(self, *args, **kwargs)
        following = timed("computing", lambda: next(source, None), time.perf_counter)
        return iter(following, None)

    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "precision": "float32", "dtype": "float16"}
    settings |= {"batch_size": 64, "workers": None, "cache": base / f"cache-{cut}"}
    extractor = Extractor(model, [cut], **settings)
    size = min(64, len(data))
    extractor.batch_features.trunk.run(
        np.zeros((size, *model.input_shape), np.uint8)
    )  # compilers have run, memory is there
    compute_features, sample_id = BatchFeatures.of, dataset.sample_id
    BatchFeatures.of = computing  # type: ignore[method-assign] # waits for decoding, and runs the trunk
    # In the threads that decode: every file is hashed once more, from the very bytes that are decoded.
    dataset.sample_id = timed("hashing", sample_id, time.thread_time)
    start = time.perf_counter()
    features = extractor(data)
    seconds = time.perf_counter() - start
    assert features.stats.extracted == len(set(features.ids))
    own = seconds - spent["computing"] + spent["hashing"]
    stored = sum(info.nbytes for info in extractor.store.infos())
    return {"seconds": seconds, "own": own, "images": len(data), "nbytes": stored, **spent}


def photographs(root: Path, count: int) -> Path:
    """JPEG files of 500 x 375 pixels and about 50 kB, as photographs are: smooth, with some noise."""
    from PIL import Image

    chance = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(chance.integers(0, 256, (24, 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        image = smooth + chance.integers(-16, 17, smooth.shape, np.int16)
        path = root / str(i % 2) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=85)
    return root


def scaled(base: Path) -> FeatureFolder:
    return folder_in(base, "scaled")


def scaled_ids(start: int, stop: int) -> list[str]:
    """As evenly spread as real ones, and each computable by itself."""
    numbers = np.arange(start, stop, dtype=np.uint64)
    halves = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers ^ np.uint64(0xD6E8FEB86659FD93)], axis=1)
    return array_to_ids(np.ascontiguousarray(halves).view(np.uint8).reshape(len(numbers), 16))


def _count_locks() -> Callable[[], int]:
    """Make file locks do nothing, in this process and those that it forks; the function returned counts calls."""
    import fcntl
    import mmap

    calls = mmap.mmap(-1, 8)  # shared with the children

    def ignored(*args: Any, **kwargs: Any) -> None:
        calls[:8] = (int.from_bytes(calls[:8], "little") + 1).to_bytes(8, "little")

    fcntl.flock = fcntl.lockf = ignored  # type: ignore[assignment]
    os.lockf = ignored  # type: ignore[assignment]
    return lambda: int.from_bytes(calls[:8], "little")


if __name__ == "__main__":
    name, base, settings = sys.argv[1:]
    import faults.campaigns as here

    print(json.dumps(getattr(here, name)(Path(base), **json.loads(settings))))
