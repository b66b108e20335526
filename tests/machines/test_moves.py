"""What moves between stores, at length: as fast as a plain copy, under kills, under faults, by many at once."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from faults.damage import Stored, store
from object_proxy import ObjectProxy, Request, Rule, proxied
from object_server import BUCKET, environment, served
from static_objects import static_objects

import headstart as hs
from headstart.common.errors import RemoteError, RemoteRefusedError
from headstart.common.objects import open_objects
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard, trunk_key
from headstart.store.moving import pull, pusher
from headstart.store.snapshot import raise_if_damaged

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")

GIGABYTES = float(os.environ.get("HEADSTART_PULL_GB", "2"))
FAULTS_AT_LEAST = 500
KILLS = 20


# ---- as fast as a plain copy


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 GB: rows of 2,048 float16, as a ResNet-50 gives, in shards of 64 MiB."""
    root: Path = tmp_path_factory.mktemp("large")
    key = trunk_key(
        graph=[["pool", "pool", [], {}]],
        weights_digest="0" * 32,
        preprocess={"size": 224},
        precision="float32",
        dtype="float16",
        label={"model": "resnet50", "cut": "avgpool"},
    )
    chance = np.random.default_rng(0)
    with FeatureStore(root).folder(key).writer((2048,), "float16", {"backend": "numpy"}) as out:
        left = int(GIGABYTES * 1e9 / 4096)
        while left:
            count = min(left, 16384)
            ids = array_to_ids(chance.integers(0, 256, (count, 16), np.uint8))
            out.add(ids, chance.integers(0, 1000, (count, 2048)).astype(np.float16))
            left -= count
    return root


def copied_plainly(url: str, folder: Path, sync: bool = False) -> int:
    """By obstore itself, with as many threads, a stream into a file each. Nothing is verified. `sync`: whether
    each file is on the disk at the end, and not in memory still."""
    import obstore

    objects = open_objects(url)
    client = objects._client(False)
    folder.mkdir()

    def copy(name: str) -> int:
        with (folder / name.rpartition("/")[2]).open("wb") as file:
            nbytes = sum(file.write(piece) for piece in obstore.get(client, name).stream(min_chunk_size=1 << 20))
            if sync:
                file.flush()
                os.fsync(file.fileno())
            return nbytes

    with ThreadPoolExecutor(pull.DOWNLOADS) as pool:
        return sum(pool.map(copy, [entry.name for entry in objects.entries("features")]))


def pulled(url: str, folder: Path) -> int:
    return hs.cache.pull(url, cache=folder).moved_nbytes


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_pull_is_nearly_as_fast_as_a_copy(kind, large, tmp_path) -> None:
    with contextlib.ExitStack() as stack:
        url = large.as_uri()
        if kind == "s3":
            endpoint = stack.enter_context(static_objects(large))
            stack.enter_context(patch.dict(os.environ, environment(endpoint)))
            url = f"s3://{BUCKET}"
        copies = {"obstore": copied_plainly, "obstore, synced": partial(copied_plainly, sync=True), "pull": pulled}
        rates: dict[str, list[float]] = {name: [] for name in copies}
        processor: dict[str, list[float]] = {name: [] for name in copies}
        for attempt in range(6):  # the first one warms up
            for name, copy in copies.items():
                folder = tmp_path / "copy"
                os.sync()
                before, start = _cpu_seconds(), time.perf_counter()
                nbytes = copy(url, folder)
                seconds = time.perf_counter() - start
                if attempt:
                    rates[name].append(nbytes / seconds / 1e6)
                    processor[name].append((_cpu_seconds() - before) / nbytes * 1e9)
                shutil.rmtree(folder)
    print(f"\n{kind}: {GIGABYTES:g} GB, {pull.DOWNLOADS} threads, load {os.getloadavg()[0]:.0f}")
    ratios = {
        name: statistics.median(ours / other for other, ours in zip(rates[name], rates["pull"], strict=True))
        for name in rates
    }
    for name, ratio in ratios.items():
        seconds = statistics.median(processor[name])
        listed = ", ".join(f"{rate:.0f}" for rate in rates[name])
        print(f"  {name}: {listed} MB/s, {seconds:.2f} s of processor a GB; pull has {ratio:.0%} of its rate")
    assert min(ratios.values()) >= 0.7


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ---- killed


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """60 shards of about 1 MB."""
    return store(tmp_path_factory.mktemp("middling"), "float16", (512,), [1000] * 60, 0)


def moving(what: str, url: str, root: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "headstart", "cache", what, url]
    return subprocess.Popen(
        words,
        env={**os.environ, "HEADSTART_CACHE": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(
    process: subprocess.Popen[bytes], moved: Callable[[], Iterator[Any]], count: int, seconds: float
) -> None:
    """Until so many files have moved, and some time more; or the process has ended."""
    while process.poll() is None and sum(1 for _ in moved()) < count:
        time.sleep(0.002)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


@pytest.mark.parametrize("what", ["push", "pull"])
def test_a_kill_at_any_moment_leaves_nothing_half_and_the_same_call_goes_on(what, middling, tmp_path) -> None:
    chance = random.Random(0)
    source = middling.folder.path.parent.parent
    caught = Counter[str]()
    with served() as server:
        url = f"{server.url}/{what}"
        objects = open_objects(url)
        if what == "pull":
            hs.cache.push(url, cache=source)
        start = time.perf_counter()
        first = (f"{url}-measured", source) if what == "push" else (url, tmp_path / "measured")
        assert moving(what, *first).wait() == 0
        whole = time.perf_counter() - start
        for kill in range(KILLS):
            own = source if what == "push" else tmp_path / f"{kill}"
            if what == "push":
                for entry in objects.entries():
                    objects.delete(entry.name)
            local = partial(own.glob, "features/*/*.safetensors")
            there = partial(objects.entries, "features") if what == "push" else local
            process = moving(what, url, own)
            # One time of four at any moment, else when some have moved: how long the start takes, others decide.
            if chance.random() < 0.25:
                wait_for(process, there, 0, chance.uniform(0.0, whole))
            else:
                wait_for(process, there, chance.randrange(60), chance.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if what == "push":
                time.sleep(1.0)  # what was on its way lands, or not
                report = hs.cache.at(url).verify()
                # Of what was described first, nothing is half.
                assert not report.damaged and not report.unreadable
                count = report.shards
            else:
                paths = list(local())
                for path in paths:
                    raise_if_damaged(open_shard(path))
                count = len(paths)
            again = getattr(hs.cache, what)(url, cache=own)
            assert again.complete and again.moved == 60 - count, "nothing moves twice"
            caught["in the middle" if 0 < count < 60 else "before" if not count else "after"] += 1
            if what == "pull":
                middling.assert_sound(
                    FeatureFolder(own / "features" / middling.folder.key.digest, middling.folder.key)
                )
                shutil.rmtree(own)
            else:
                assert hs.cache.at(url).verify().rows == 60_000
    print(f"\n{what}: {KILLS} kills, {dict(caught)}; undisturbed it takes {whole:.1f} s")
    assert caught["in the middle"] >= KILLS // 4


# ---- many at once

WRITERS = 16
ROUNDS = 20


def test_many_writers_push_into_one_place_while_it_is_emptied(tmp_path: Path) -> None:
    """16 processes, whose caches hold some of the same shards, with a collection without any grace and a reader
    beside them."""
    pool = store(tmp_path / "pool", "float16", (30,), [3] * 6 * ROUNDS, 0)
    paths = sorted(pool.folder.path.glob("*.safetensors"))
    rows = dict(zip(pool.ids, pool.rows, strict=True))
    chance = random.Random(0)
    roots = [tmp_path / f"writer{number}" for number in range(WRITERS)]
    for root in roots:
        (root / "features" / pool.folder.key.digest).mkdir(parents=True)
        shutil.copy(pool.folder.path / "trunk.json", root / "features" / pool.folder.key.digest)
    stop, quiet = threading.Event(), threading.Lock()
    counts = Counter[str]()

    with served() as server, ThreadPoolExecutor(2) as beside:
        url = f"{server.url}/team"

        def empty() -> None:
            while not stop.is_set():
                with quiet:
                    done = hs.cache.at(url, cache=tmp_path / "own").gc(grace=0, delete=True)
                assert not done.failures
                counts["deleted"] += sum(len(trunk.shards) for trunk in done)
                time.sleep(0.05)

        def read() -> None:
            while not stop.is_set():
                own = tmp_path / f"reader{counts['readings']}"
                moves = hs.cache.pull(url, cache=own)
                assert moves.complete, moves.failures
                folder = FeatureStore(own, shared=[]).folder(pool.folder.key)
                ids = folder.ids()
                assert not ids or np.array_equal(folder.read(ids), np.array([rows[id] for id in ids]))
                counts["readings"] += 1
                counts["rows read"] += len(ids)
                shutil.rmtree(own, ignore_errors=True)

        with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as writers:
            helpers = [beside.submit(empty), beside.submit(read)]
            try:
                for number in range(ROUNDS):
                    for root in roots:
                        for path in chance.sample(paths[6 * number : 6 * number + 6], 3):
                            shutil.copy(path, root / "features" / pool.folder.key.digest)
                    calls = [writers.submit(hs.cache.push, url, cache=root) for root in roots]
                    for moves in (call.result() for call in calls):
                        assert moves.complete, moves.failures
                        counts["pushed"] += moves.moved
                    with quiet:  # whatever is there is whole, and described
                        report = hs.cache.at(url, cache=tmp_path / "own").verify()
                    assert report, report
                    counts["there after a round"] += report.shards
                    for helper in helpers:
                        if helper.done():
                            helper.result()  # which says why
            finally:
                stop.set()
            for helper in helpers:
                helper.result()
            calls = [writers.submit(hs.cache.push, url, cache=root) for root in roots]
            assert all(call.result().complete for call in calls)
        entries = list(open_objects(url).entries("features"))
        names = [entry.name.rpartition("/")[2] for entry in entries]
        written = {path.name for root in roots for path in root.glob("features/*/*")}
        assert sorted(names) == sorted(written), "every name once"
        objects = open_objects(url)
        for entry in entries:
            content = (pool.folder.path / entry.name.rpartition("/")[2]).read_bytes()
            assert objects.get(entry.name, limit=entry.nbytes) == content
    print(
        f"\n{WRITERS} writers, {ROUNDS} rounds: {dict(counts)}; at the end {len(names)} objects, each as written"
    )


# ---- faults in writing


def drawn_rule(chance: random.Random) -> Rule:
    """Requests that write fail, now and then or nearly always, in one way or in several."""
    faults = chance.sample(["drop", "500", "503", "403", "cut"], chance.randrange(1, 6))
    rate = chance.choice([0.05, 0.2, 0.5, 0.9])
    everything = chance.random() < 0.3

    def rule(request: Request) -> str | None:
        if request.method != "PUT" and not everything:
            return None
        return chance.choice(faults) if chance.random() < rate else None

    return rule


@pytest.fixture(scope="module")
def proxy() -> Iterator[ObjectProxy]:
    with served() as server, proxied(server.endpoint) as proxy:
        yield proxy


def test_faults_in_writing(proxy: ObjectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store(tmp_path / "cache", "float16", (30,), [5] * 12, 0)
    names = {path.name for path in stored.folder.path.glob("*.safetensors")}
    injected, ends = Counter[str](), Counter[str]()
    case = calls = 0
    while injected.total() < FAULTS_AT_LEAST:
        chance = random.Random(case)
        url = f"s3://{BUCKET}/case{case}"
        proxy.forget()
        for _ in range(chance.randrange(1, 4)):
            monkeypatch.setattr("headstart.common.objects.RETRIES", chance.choice([0, 0, 1]))
            proxy.rule = drawn_rule(chance)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    moves = hs.cache.push(url, cache=tmp_path / "cache")
                except RemoteError as error:  # the listing, or no permission
                    assert _names_an_object(error.url, error.reason, url), error
                    ends["refused" if isinstance(error, RemoteRefusedError) else "no listing"] += 1
                else:
                    assert all(_names_an_object(where, reason, url) for where, reason in moves.failures), (
                        moves.failures
                    )
                    assert (
                        moves.moved
                        + moves.untried
                        + len([where for where, _ in moves.failures if where.endswith(".safetensors")])
                        == moves.lacking
                    )
                    ends["complete" if moves.complete else "with failures"] += 1
            assert all(url in str(warning.message) and "secret" not in str(warning.message) for warning in told)
            calls += 1
        injected.update(fault for _, fault in proxy.faults)
        # Whatever was written is what its name says; and a push on a good day writes the rest.
        proxy.rule = lambda request: None
        report = hs.cache.at(url).verify()
        assert report.damaged == report.unreadable == () or _only_undescribed(report.damaged, names, url)
        assert hs.cache.push(url, cache=tmp_path / "cache").complete
        assert bool(hs.cache.at(url).verify())
        own = tmp_path / f"{case}"
        assert hs.cache.pull(url, cache=own).moved == 12
        stored.assert_sound(FeatureFolder(own / "features" / stored.folder.key.digest, stored.folder.key))
        shutil.rmtree(own)
        case += 1
    print(
        f"\n{case} cases of {calls} pushes, {injected.total()} faults {dict(injected)}; pushes ended {dict(ends)}"
    )


def _names_an_object(where: str, reason: str, url: str) -> bool:
    return where.startswith(url) and len(reason) > 5 and "secret" not in where + reason and "\n" not in reason


def _only_undescribed(damaged: Any, names: set[str], url: str) -> bool:
    """Whether all that is wrong is a trunk.json that has not been written."""
    return [reason.partition(";")[0] for _, reason in damaged] == ["there is no such object"]


def test_faults_while_features_are_extracted(
    proxy: ObjectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that goes wrong there ends it or loses a row, and what is not there is told."""
    stored = store(tmp_path / "made", "float16", (30,), [5] * 8, 0)
    injected, told_of = Counter[str](), 0
    for case in range(60):
        chance = random.Random(1000 + case)
        monkeypatch.setattr(pusher, "_refused", set())
        monkeypatch.setattr("headstart.common.objects.RETRIES", chance.choice([0, 1]))
        url, root = f"s3://{BUCKET}/extract{case}", tmp_path / f"cache{case}"
        proxy.forget()
        proxy.rule = drawn_rule(chance)
        folder = FeatureStore(root).folder(stored.folder.key)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            push = pusher.Pusher(root, open_objects(url))
            with push, folder.writer((30,), "float16", {"backend": "numpy"}, push) as out:
                for start in range(0, 40, 5):
                    out.add(stored.ids[start : start + 5], stored.rows[start : start + 5])
                    out.close()
        stored.assert_sound(folder)
        injected.update(fault for _, fault in proxy.faults)
        proxy.rule = lambda request: None
        there = {entry.name.rpartition("/")[2] for entry in open_objects(url).entries("features")}
        lacking = {path.name for path in folder.path.iterdir() if path.is_file()} - there
        assert told or not lacking - {"last_used"}
        told_of += len(told)
        assert hs.cache.push(url, cache=root).complete and bool(hs.cache.at(url).verify())
        assert hs.cache.at(url).info(stored.folder.key.digest[:9]).rows == 40
    print(f"\n60 extractions, {injected.total()} faults {dict(injected)}, {told_of} warnings")
