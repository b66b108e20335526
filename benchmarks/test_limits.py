"""Training where a process may use fewer CPUs than the machine has: by a control group's quota, as a container has
it, or by its affinity, as `taskset` sets it. Epochs of every mode, in turn with processes that were told a number
of threads by hand, one of them the best.

A quota needs a control group of one's own, which root may make, or whoever was given one. The affinity is measured
with HEADSTART_BENCH_FULL=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from children import BACKENDS, CORES, Child
from shared import IMAGES, epochs, plain
from sizes import sized
from table import TARGETS, table

from headstart.common.environment import for_frameworks
from headstart.common.machine import Cpus

LIMITS = sized(("quota",), ("quota", "affinity"))
ALLOWED = {"quota": min(2, len(CORES) - 1), "affinity": 1}
"""CPUs: of a quota two, where there are more"""
TURNS = sized(2, 8)
"""of each, an even number"""
MODES = ("full", "frozen", "cached")
SLACK = 1.25
"""times the best number of threads; what was asked for stands in the table"""
PERIOD = 100_000
"""microseconds, in which a quota is used up"""
GROUPS = Path("/sys/fs/cgroup")

pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="this process may use one CPU")


Confine = Callable[[int], object]
"""puts the process with this number under the limit"""


@contextmanager
def control_group(allowed: int) -> Iterator[Confine]:
    """A group of processes that get so many CPUs' worth of time. Skips where none can be made."""
    first = GROUPS / "cpu"
    folder = (first if first.is_dir() else GROUPS) / f"headstart-benchmark-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        set_quota(folder, allowed)
        yield lambda process: (folder / "cgroup.procs").write_text(str(process))
    finally:
        folder.rmdir()


@contextmanager
def affinity(allowed: int) -> Iterator[Confine]:
    yield lambda process: os.sched_setaffinity(process, CORES[:allowed])


def set_quota(group: Path, allowed: int) -> None:
    """In the form of either version of control groups."""
    quota = allowed * PERIOD
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    elif (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    else:
        pytest.skip("groups that are made here have no quota")


@contextmanager
def limited(limit: str, backend: str, cache: Path) -> Iterator[dict[int, Child]]:
    """Processes under the limit, by the number of threads that they were told: 0 for one that finds out, as the
    command does."""
    allowed, started = ALLOWED[limit], dict[int, Child]()
    with ExitStack() as stack:
        confine = stack.enter_context({"quota": control_group, "affinity": affinity}[limit](allowed))
        for threads in sorted({0, 1, allowed, len(CORES)}):
            environment = plain() | for_frameworks(plain(), Cpus(threads or allowed, True))
            by_hand = [str(threads)] if threads else []
            child = Child(backend, "shared.py", cache / str(threads), *by_hand, env=environment)
            stack.callback(child.close)  # before the group is removed, which must be empty
            confine(child.process.pid)  # before it has a framework, and threads
            child.facts = child.ask(do="prepare", modes=MODES)
            started[threads] = child
        yield started


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_as_fast_as_the_best_number_of_threads(benchmark: Any, backend: str, limit: str, tmp_path: Path) -> None:
    allowed = ALLOWED[limit]
    benchmark.group = f"{backend}: epochs under a limit"
    with limited(limit, backend, tmp_path) as children:
        seconds = {mode: {threads: list[float]() for threads in children} for mode in MODES}

        def turns() -> None:
            for turn in range(TURNS):
                for mode, times in seconds.items():
                    for threads in sorted(children, reverse=turn % 2 > 0):
                        times[threads] += epochs(children[threads], mode)

        benchmark.pedantic(turns, rounds=1)
        facts = children[0].facts
    assert facts["cpus"] == allowed, "as many threads decode"
    assert facts["threads"] <= allowed
    slower = {}
    for mode, times in seconds.items():
        found, *by_hand = (median(times[threads]) for threads in sorted(times))
        slower[mode] = found / min(by_hand)
        best = sorted(times)[1 + by_hand.index(min(by_hand))]
        table.record(
            f"an epoch where {allowed} of {len(CORES)} CPUs may be used, by {limit}",
            f"{mode}, {IMAGES} images",
            found,
            backend=backend,
            peer=f"{best} thread{'s' * (best > 1)} by hand, the best",
            peers=min(by_hand),
            target="limited",
            facts=facts,
        )
    print(f"\n{backend}, {limit}: {', '.join(f'{mode} {ratio:.2f}' for mode, ratio in slower.items())}")
    assert all(ratio <= SLACK for ratio in slower.values()), (slower, TARGETS["limited"])
