"""Training on a machine that others use too: epochs of every mode beside one and beside two trainings of somebody
else's, and beside nobody, with what `compare` tells its children and without.

What is fair: with k others who have as many threads, each gets a share of 1 / (k + 1) of the cores, so an epoch
takes k + 1 times as long as alone. The neighbours wait as torch does where nobody has told it otherwise, by
spinning; that is theirs. A minute a backend, `HEADSTART_BACKEND` chooses one; with HEADSTART_BENCH_FULL=1 two and
a half, with twice the images and more epochs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from children import BACKENDS, Child
from shared import IMAGES, MODES, epochs, plain
from sizes import sized
from table import table

from headstart.common.environment import for_frameworks

FAIR = 1.5
"""times its fair share that an epoch takes at most"""
ALONE = 1.03
"""times what it takes where threads spin"""
TURNS = sized(6, 8)
"""of each alone, an even number; three said 1.05 where there was no difference at all"""

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="the neighbours train in torch")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many others, who have begun to train."""
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            command = [sys.executable, Path(__file__).with_name("shared.py"), "neighbour"]
            started.append(subprocess.Popen(command, env=plain(), stdout=subprocess.PIPE, text=True))
        for other in started:
            assert other.stdout is not None and other.stdout.readline() == "training\n"
        yield
        assert all(other.poll() is None for other in started), "a neighbour has ended"
    finally:
        for other in started:
            other.kill()
            with other:
                pass


@pytest.fixture(scope="module", params=BACKENDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Child, Child]]:
    """A process as `compare` starts it, and one that was told nothing."""
    cache = tmp_path_factory.mktemp("cache")
    started = [
        Child(request.param, "shared.py", cache, "short", env=plain() | for_frameworks(plain())),
        Child(request.param, "shared.py", cache, env=plain()),
    ]
    for child in started:
        child.facts = child.ask(do="prepare")
    yield started[0], started[1]
    for child in started:
        child.close()


def test_alone(benchmark: Any, pair: tuple[Child, Child]) -> None:
    """In turn, so that what the machine does meanwhile happens to both, and each first as often as the other. Two
    processes that are told the same are up to 6 % apart in their medians, and up to 4 % in their fastest epochs,
    which are printed, too: where these are within the bar, it may have been the machine."""
    told, untold = pair
    benchmark.group = f"{told.backend}: epochs alone, waiting threads asleep and spinning"
    seconds: dict[str, dict[Child, list[float]]] = {mode: {told: [], untold: []} for mode in MODES}

    def turns() -> None:
        for turn in range(TURNS):
            for mode, times in seconds.items():
                for child in pair if turn % 2 else reversed(pair):  # whoever comes second finds warmer caches
                    times[child] += epochs(child, mode)

    benchmark.pedantic(turns, rounds=1)
    slower = {}
    for mode, times in seconds.items():
        own, peers = (median(times[child]) for child in pair)
        told.medians[mode] = own
        slower[mode] = own / peers
        table.record(
            "an epoch alone, waiting threads asleep",
            f"{mode}, {IMAGES} images",
            own,
            backend=told.backend,
            peer="waiting threads spinning",
            peers=peers,
            target="asleep alone",
            facts=told.facts,
        )
    fastest = {mode: min(times[told]) / min(times[untold]) for mode, times in seconds.items()}
    print(f"\n{told.backend} alone, asleep / spinning: {_text(slower)}; the fastest: {_text(fastest)}")
    assert all(ratio <= ALONE for ratio in slower.values()), (slower, fastest)


@pytest.mark.parametrize("others", [1, 2])
def test_beside_others(benchmark: Any, pair: tuple[Child, Child], others: int) -> None:
    """Alone just before it and after it, beside them in between."""
    told, _ = pair
    benchmark.group = f"{told.backend}: epochs beside {others} other trainings"
    alone: dict[str, list[float]] = {mode: epochs(told, mode) for mode in MODES}
    beside: dict[str, list[float]] = {}

    def disturbed() -> None:
        with neighbours(others):
            for mode in MODES:
                beside[mode] = epochs(told, mode)

    benchmark.pedantic(disturbed, rounds=1)
    for mode in MODES:
        alone[mode] += epochs(told, mode)
    shares = {}
    for mode in MODES:
        own, fair = median(beside[mode]), median(alone[mode]) * (others + 1)
        shares[mode] = own / fair
        table.record(
            f"an epoch beside {others} other training{'s' * (others > 1)}",
            f"{mode}, {IMAGES} images",
            own,
            backend=told.backend,
            peer="its fair share of the cores",
            peers=fair,
            target="beside others",
            facts=told.facts,
        )
    print(f"\n{told.backend} beside {others}, of a fair share: {_text(shares)}")
    assert all(share <= FAIR for share in shares.values()), shares


def _text(ratios: dict[str, float]) -> str:
    return ", ".join(f"{mode} {ratio:.2f}" for mode, ratio in ratios.items())
