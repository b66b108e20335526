"""Extraction by a cluster of three raylets on this machine, under kills at random moments: of actors, of machines
and of the process that asks; and what the engine costs. Prints a table of figures."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import heeded_ctrl_c
from object_server import ObjectServer, served
from ray_clusters import ACTOR, actors_below, gone, kill, make_photos, processes_below

import headstart as hs
from headstart.contract import registry
from headstart.store import FeatureStore

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")
ray = pytest.importorskip("ray", reason="has no wheels for this Python")
KILLS = {"actor": 8, "raylet": 6, "driver": 6}
COUNT, BATCH = 3_000, 16
WORDS = ("--model", "resnet18", "--weights", "none", "--size", "64", "--device", "cpu", "--dtype", "float32")


def command(photos: Path, *more: str, words: tuple[str, ...] = WORDS, batch: int = BATCH) -> list[str]:
    begin = [sys.executable, "-m", "headstart", "extract", "--data", str(photos), "--batch-size", str(batch)]
    return [*begin, *words, *more]


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HEADSTART_CACHE": str(cache), "RAY_ADDRESS": "", **more}


def rows_of(cache: Path, photos: Path, backend: str, **settings: Any) -> Any:
    """What is stored, in the data set's order; nothing is computed."""
    model = hs.model("resnet18", weights=None, classes=4, size=64)
    settings = {"device": "cpu", "dtype": "float32", "batch_size": BATCH, **settings}
    features = hs.extract(model, hs.data.folder(photos), backend=backend, cache=cache, **settings)
    return features.numpy(), features.stats.extracted


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), COUNT)


class Machines:
    """A head with one CPU, which is not killed, and two machines that are. Their environment is that of here."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self.added(), self.added()]

    def added(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    def kill_one(self, rng: random.Random) -> int:
        """A raylet, and everything on that machine with it; another machine comes. Returns its process."""
        node = self.others.pop(rng.randrange(2))
        (raylet,) = node.all_processes["raylet"]
        process = raylet.process.pid
        kill(process)
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.append(self.added())
        return int(process)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with served() as there:
        yield there


@pytest.fixture(scope="module")
def machines(server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("theirs")))
        there = Machines()
        yield there
        there.cluster.shutdown()


# ---- kills


def test_kills_at_random_moments(machines: Machines, photos: Path, tmp_path: Path, backend: str) -> None:
    """Rows are those of an undisturbed store, none is lost, and what a kill costs is at most the tasks that were
    under way."""
    seed = int(os.environ.get("HEADSTART_FUZZ_SEED", "0"))
    rng = random.Random(seed)
    expected, _ = rows_of(tmp_path / "plain", photos, backend)
    left = [kind for kind, count in KILLS.items() for _ in range(count)]
    rng.shuffle(left)
    killed: Counter[str] = Counter()
    again: list[int] = []
    stored = rounds = drivers = at_start = 0
    address, start = machines.cluster.address, time.monotonic()
    while left:
        cache = tmp_path / f"round{rounds}"
        rounds += 1
        while True:
            drivers += 1
            said = _disturbed(machines, photos, cache, address, left, rng, killed)
            if said.endswith("\nended"):
                break
        assert "features: " in said, said
        again += [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) of its task's", said)]
        at_start += said.count("a worker ended as it started")
        stored += sum(info.rows for info in FeatureStore(cache).infos())
        rows, extracted = rows_of(cache, photos, backend)
        assert extracted == 0 and np.array_equal(rows, expected)
    task = BATCH * -(-COUNT // (3 * 4 * BATCH))
    print(
        f"\nkills, seed {seed}: {dict(killed)} in {rounds} extractions of {COUNT} samples by {drivers} drivers, "
        f"{time.monotonic() - start:.0f} s; rows equal: all, lost: 0, stored twice: {stored - rounds * COUNT}; "
        f"workers that died as they started: {at_start}, in a task: {len(again)}, for which {sum(again)} samples "
        f"were submitted again, at most {max(again, default=0)} of a task's {task} (a shard holds 32,768)"
    )
    assert killed == KILLS and max(again, default=0) <= task
    assert 0 <= stored - rounds * COUNT <= task * sum(killed.values())


def _disturbed(
    machines: Machines,
    photos: Path,
    cache: Path,
    address: str,
    left: list[str],
    rng: random.Random,
    killed: Counter[str],
) -> str:
    """Have a process extract, and kill what is next on the list after a moment, again and again, until it ended or
    was killed. What it has said."""
    words = command(photos, "--ray", address, "--ray-workers", "3")
    with open(cache.with_suffix(".txt"), "a+") as file:  # noqa: PTH123
        process = subprocess.Popen(words, env=environment(cache), stdout=file, stderr=file, text=True)
        while process.poll() is None and left:
            if not _wait_for_actors(process):
                break
            # Three times of four in the work, else also as actors start.
            _wait_for_shards(process, cache, 1 if rng.random() < 0.75 else 0)
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, 3.0))
            if process.poll() is not None:
                break
            kind = left[-1]
            if kind == "actor":
                actors = actors_below(os.getpid())
                if not actors:
                    continue
                kill(rng.choice(actors))
            elif kind == "raylet":
                machines.kill_one(rng)
            else:
                kill(process.pid)
            killed[left.pop()] += 1
            if kind == "driver":
                process.wait()
        code = process.wait(timeout=300)
        assert gone(actors_below(os.getpid()), 30.0)
        file.seek(0)
        said = file.read()
        assert code in (0, -signal.SIGKILL), said
        return said + ("\nended" if code == 0 else "")


def _wait_for_actors(process: subprocess.Popen[str]) -> bool:
    """False where the process ends without any."""
    while process.poll() is None:
        if actors_below(os.getpid()):
            return True
        time.sleep(0.05)
    return False


def _wait_for_shards(process: subprocess.Popen[str], cache: Path, more: int) -> None:
    """So many more than there are."""
    before = len(list((cache / "features").glob("*/*.safetensors")))
    while process.poll() is None and len(list((cache / "features").glob("*/*.safetensors"))) < before + more:
        time.sleep(0.02)


# ---- what goes through Ray, and which machines see the store


ACCOUNTS = """
import sys
sys.path.insert(0, TESTS)
import ray
import headstart as hs
from ray_clusters import created_nbytes
ray.init(address="local", num_cpus=2, object_store_memory=200e6, include_dashboard=False, logging_level="ERROR")
before = created_nbytes()
model = hs.model("resnet18", weights=None, classes=4, size=64)
settings = {"device": "cpu", "dtype": "float32", "batch_size": BATCH, "cache": CACHE, "backend": "torch"}
features = hs.extract(model, hs.data.folder(PHOTOS), engine=hs.Ray(workers=2), **settings)
assert features.stats.extracted == len(features) == COUNT
print(created_nbytes() - before, sum(array.nbytes for array in model.params.values()), features.numpy().nbytes)
"""


def test_no_feature_goes_through_ray(photos: Path, tmp_path: Path) -> None:
    """By Ray's own accounts of all that was ever put into its object store: the parameters, and of each sample its
    path, label and id."""
    names = {"TESTS": str(Path(__file__).parent.parent), "CACHE": str(tmp_path / "cache"), "PHOTOS": str(photos)}
    code = "\n".join([*(f"{name} = {value!r}" for name, value in names.items()),
                      f"COUNT, BATCH = {COUNT}, {BATCH}", ACCOUNTS])  # fmt: skip
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    nbytes, params, features = map(int, said.stdout.split()[-3:])
    print(
        f"\nRay's object store: {nbytes:,} bytes, of which parameters {params:,} and the data {nbytes - params:,} "
        f"({(nbytes - params) / COUNT:.0f} a sample); features would be {features:,}"
    )
    assert 0 < nbytes - params < 200 * COUNT + 50_000 < features


@pytest.fixture
def blind_machine(machines: Machines, tmp_path: Path) -> Iterator[Path]:
    """A cache that a fourth raylet does not see: there another folder is mounted in that place, its own cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    probe = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", str(cache), "true"], check=False)
    if probe.returncode:
        pytest.skip("no mounts of one's own here")
    node = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", machines.cluster.address, "--block",
            "--num-cpus", "1", "--object-store-memory", str(100 << 20)]  # fmt: skip
    raylet = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(cache), *node],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(cache),
    )
    try:
        time.sleep(10)
        yield cache
    finally:
        below = list(processes_below(raylet.pid))
        for process in (raylet.pid, *below):
            kill(process)
        raylet.wait()


def test_a_machine_that_does_not_see_the_store_is_named(
    machines: Machines, blind_machine: Path, photos: Path
) -> None:
    words = command(photos, "--ray", machines.cluster.address)
    said = subprocess.run(words, check=False, capture_output=True, text=True, env=environment(blind_machine))
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    print(f"\n{line}")
    assert said.returncode == 2 and re.search(
        r"\(node \w+, process \d+\) does not see it; set HEADSTART_CACHE .* push='s3://bucket/prefix'", line
    )
    assert not any((blind_machine / "features").glob("*/*.safetensors"))


def test_its_features_come_by_a_url(
    machines: Machines, server: ObjectServer, blind_machine: Path, photos: Path, tmp_path: Path, backend: str
) -> None:
    """And those of the other machines."""
    url = f"{server.url}/team"
    words = command(photos, "--ray", machines.cluster.address, "--push", url)
    said = subprocess.run(words, check=True, capture_output=True, text=True, env=environment(blind_machine))
    assert f"features come by {url}, as {blind_machine} is not seen by " in said.stderr
    rows, extracted = rows_of(blind_machine, photos, backend)
    assert extracted == 0 and np.array_equal(rows, rows_of(tmp_path / "plain", photos, backend)[0])


# ---- the other engines of computation, and the commands


@pytest.mark.parametrize("name", registry.installed())
def test_each_framework(name: str, machines: Machines, photos: Path, tmp_path: Path) -> None:
    """Of 400 pictures the rows of a plain extraction."""
    few = make_photos(tmp_path / "photos", 400)
    for cache, more in (("plain", ()), ("ray", ("--ray", machines.cluster.address, "--ray-workers", "2"))):
        words = command(few, "--backend", name, *more)
        subprocess.run(words, check=True, capture_output=True, env=environment(tmp_path / cache))
    plain, computed = rows_of(tmp_path / "plain", few, name)
    rows, extracted = rows_of(tmp_path / "ray", few, name)
    assert computed == extracted == 0
    far = float(np.abs(rows - plain).max())
    print(f"\n{name}: largest difference of a feature {far:.2g}")
    assert far <= 1e-5 * np.abs(plain).max()


def test_sweep_and_advise_extract_by_it(machines: Machines, tmp_path: Path) -> None:
    few = make_photos(tmp_path / "photos", 200)
    for words in (
        [
            "sweep",
            "--model",
            "resnet18_half",
            "--weights",
            "none",
            "--size",
            "64",
            "--epochs",
            "1",
            "--lr",
            "0.01",
        ],
        ["advise", "--models", "resnet18_half:none", "--size", "64"],
    ):
        arguments = [sys.executable, "-m", "headstart", *words, "--data", str(few), "--device", "cpu", "--ray",
                     machines.cluster.address, "--ray-workers", "2"]  # fmt: skip
        said = subprocess.run(
            arguments, check=True, capture_output=True, text=True, env=environment(tmp_path / words[0])
        )
        assert "Ray: 2 workers of 1 CPU" in said.stderr


# ---- a process with a cluster of its own


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_shards_and_no_process(
    photos: Path, tmp_path: Path, backend: str, sent: signal.Signals
) -> None:
    """Ctrl-C reaches every process of a terminal."""
    cache = tmp_path / "features"
    with heeded_ctrl_c():
        process = subprocess.Popen(
            command(photos, "--ray", "--ray-workers", "2"),
            env=environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    while not any((cache / "features").glob("*/*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    below = processes_below(process.pid)
    actors = [one for one, command in below.items() if command.startswith(ACTOR)]
    assert len(actors) == 2 and not any(command.startswith("ray::IDLE") for command in below.values())
    # as any other process of the user's
    assert {os.getpriority(os.PRIO_PROCESS, actor) for actor in actors} == {os.getpriority(os.PRIO_PROCESS, 0)}
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == (130 if sent == signal.SIGINT else -sent), said
    # Ray's own agents look whether their raylet is there, and end up to a minute after one that was killed.
    assert gone(list(below), 150.0), [below[process] for process in below if Path(f"/proc/{process}").exists()]
    kept = sum(info.rows for info in FeatureStore(cache).infos())
    if sent == signal.SIGINT:
        assert f"interrupted: the features of {kept} of {COUNT} images are kept" in said
    print(f"\n{sent.name}: {kept} of {COUNT} samples kept, {len(below)} processes gone")
    rows, extracted = rows_of(cache, photos, backend)
    assert extracted == COUNT - kept
    assert np.array_equal(rows, rows_of(tmp_path / "plain", photos, backend)[0])


# ---- what it costs


RATES = """
import os, sys
sys.path.insert(0, TESTS)
import numpy as np
import headstart as hs
from headstart.features.engines import ray_engine
from ray_clusters import actors_below, cpu_seconds
fill, warm, seen = ray_engine.Driver._fill, set(), []
def fill_and_note(driver):
    fill(driver)
    warm.update(worker for worker in driver._workers if worker.attempt and worker.attempt.counted)
    actors = actors_below(os.getpid())
    if len(warm) == len(actors) == WORKERS and all(worker.attempt for worker in driver._workers):
        seen.append((sum(map(cpu_seconds, actors)), driver.ledger.samples))
ray_engine.Driver._fill, ray_engine.POLL_SECONDS = fill_and_note, 0.05
model = hs.model("resnet18", weights=None, classes=4, size=224)
engine = hs.Ray("local", workers=WORKERS, cpus_per_worker=2 // WORKERS)
hs.extract(model, hs.data.folder(PHOTOS), cache=CACHE, device="cpu", batch_size=32, workers=2, engine=engine,
           backend=BACKEND)
seconds, samples = np.array(seen).T
print(np.polyfit(seconds, samples, 1)[0], np.ptp(seconds), np.ptp(samples))
"""


def rate(photos: Path, cache: Path, backend: str, workers: int) -> float:
    """Samples a second of CPU time, of so many workers on two CPUs, while all of them work: without the start of
    their frameworks, and the first batch of each."""
    names = {"TESTS": str(Path(__file__).parent.parent), "CACHE": str(cache), "PHOTOS": str(photos),
             "BACKEND": backend, "WORKERS": workers}  # fmt: skip
    code = "\n".join([*(f"{name} = {value!r}" for name, value in names.items()), RATES])
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    per_second, seconds, samples = map(float, said.stdout.split()[-3:])
    print(
        f"\n{workers} with {2 // workers} CPUs each: {per_second:.2f} samples a second of CPU time, from "
        f"{samples:.0f} samples in {seconds:.0f} s"
    )
    return per_second


class Measured:
    """A command, the seconds it takes, and the CPU's seconds of it and of all that it has started."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        start = time.monotonic()
        process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ticks: dict[int, int] = {}
        actors: set[int] = set()  # whose titles change in the end
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                for each, command in {process.pid: "driver", **processes_below(process.pid)}.items():
                    with suppress(OSError, IndexError):
                        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
                        ticks[each] = int(fields[11]) + int(fields[12])
                    if command.startswith(ACTOR):
                        actors.add(each)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, err = process.communicate()
        done.set()
        watcher.join()
        assert process.returncode == 0, err
        self.seconds = time.monotonic() - start
        hertz = os.sysconf("SC_CLK_TCK")
        self.cpu = sum(ticks.values()) / hertz
        self.cpu_of_actors = sum(ticks.get(each, 0) for each in actors) / hertz
        self.cpu_beside = self.cpu - self.cpu_of_actors
        self.out = out


def test_two_workers_do_as_much_as_one_with_two_threads(tmp_path: Path, backend: str) -> None:
    """resnet18 at 224 pixels, 2,000 images, for the same time of the CPU."""
    many = make_photos(tmp_path / "photos", 2_000, width=500)
    one, two = (rate(many, tmp_path / str(workers), backend, workers) for workers in (1, 2))
    print(f"\ntwo workers do {two / one:.3f} times what one with two threads does")
    assert two >= 0.95 * one


def test_what_the_engine_costs(tmp_path: Path) -> None:
    """resnet18 at 224 pixels, 400 and 2,000 images: a worker with two threads beside a plain extraction. Of the
    CPU's seconds, what each image more takes, of the actor; and what Ray's processes and the driver take beside
    it. They compute by the second, not by the image, so on a machine that others use too an image would cost what
    the others make it wait: they count as if both CPUs were the extraction's."""
    words = ("--model", "resnet18", "--weights", "none", "--size", "224", "--device", "cpu", "--workers", "2")
    few, many = 400, 2_000
    ways = {"plain": (), "one worker": ("--ray", "--ray-workers", "1", "--cpus-per-worker", "2")}
    measured: dict[tuple[str, int], Measured] = {}
    for count in (few, many):
        images = make_photos(tmp_path / f"photos{count}", count, width=500)
        for name, more in ways.items():
            one = measured[name, count] = Measured(
                command(images, *more, words=words, batch=64),
                environment(tmp_path / f"{name} {count}", OMP_NUM_THREADS="2"),
            )
            print(
                f"\n{name}, {count:,} images: {one.seconds:.1f} s; CPU {one.cpu:.1f} s, of which actors "
                f"{one.cpu_of_actors:.1f} s"
            )
    less, more_of = measured["one worker", few], measured["one worker", many]
    plain = (measured["plain", many].cpu - measured["plain", few].cpu) / (many - few)
    ours = (more_of.cpu_of_actors - less.cpu_of_actors) / (many - few)
    beside = (more_of.cpu_beside - less.cpu_beside) / (more_of.seconds - less.seconds)
    overhead = ours / plain - 1 + beside / 2
    print(
        f"\nCPU: {1e3 * plain:.2f} and {1e3 * ours:.2f} ms an image, {ours / plain - 1:+.1%}; beside it "
        f"{beside:.1%} of a CPU; together {overhead:+.1%} where both CPUs are the extraction's"
    )
    assert less.cpu_of_actors < more_of.cpu_of_actors and overhead <= 0.05
