"""Pairs of training epochs, cached and uncached, of one head on one cut; and what they have in common whatever the
model and the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child
from table import table

KINDS = ("uncached", "cached")
# Of the losses of an epoch's steps, on the same rows. They are equal to the bit in each backend (JAX: linear
# heads to 1e-6). 1e-3, since a start that is 1e-6 off makes 5e-4 of it in 23 steps of the block; one row in
# another batch makes 2e-2, and so does a rate that is 1 % off.
SAME_ROWS = 1e-3
# Of the first step's loss, on rows as computed and as stored: 1e-5. Later steps say less: training makes of what
# float16 has rounded off 0.4 to 1.2 % in 23 steps of the block, as it does of a start that is 1e-5 off.
AS_STORED = 1e-4


class Worker(Child):
    """Prepared for one cut after the other, runs epochs."""

    head: str
    first: dict[str, list[list[float]]]
    """"cached", "uncached", "rounded": the losses of a first epoch's first steps, as `worker.py` says"""

    def __init__(self, backend: str, cache: Path) -> None:
        super().__init__(backend, "worker.py", cache)

    def prepare(self, head: str, cuts: Mapping[str, str], steps: int | None = None, **setting: Any) -> None:
        """`cuts`: of every head, this one too; features of them all come of one pass. `steps`: in how many both of
        a pair are held to each other, from the start, None for all of an epoch. After these nothing is left to be
        compiled, so they are the warm-up, too."""
        self.head, self.medians = head, {}
        self.facts = self.ask(do="prepare", cut=cuts[head], cuts=[*cuts.values()], **setting)
        self.first = self.ask(do="first", steps=steps)


def time_epochs(benchmark: Any, worker: Worker, kind: str, rounds: int) -> np.ndarray:
    """Time epochs of one kind, and keep their median; the losses of the last one's steps."""
    benchmark.group = f"{worker.backend} {worker.head}, {worker.facts['model']}: training epoch"
    benchmark.extra_info.update(worker.facts)
    losses = benchmark.pedantic(worker.ask, kwargs={"do": "epoch", "kind": kind}, rounds=rounds)
    if benchmark.stats is not None:
        worker.medians[kind] = benchmark.stats.stats.median
    return np.ravel(losses)


def check_pair(worker: Worker, floor: float, target: str | None = None, scale: float = 1.0) -> None:
    """Once both of a pair were timed: they have trained alike from the start, and the speed-up is recorded and
    above the floor."""
    first = worker.first
    np.testing.assert_allclose(first["cached"][: len(first["rounded"])], first["rounded"], rtol=SAME_ROWS)
    np.testing.assert_allclose(first["cached"][0], first["uncached"][0], rtol=AS_STORED)
    if len(worker.medians) < len(KINDS):
        pytest.skip("nothing was timed, or its pair was not run")
    facts = worker.facts
    table.record(
        "cached epoch against a frozen one",
        f"{worker.head} head at {facts['cut']}, {facts['model']}, {facts['images']} of {facts['data']}; "
        f"ratio of FLOPs {facts['flops_ratio']:,.1f}",
        worker.medians["cached"],
        backend=worker.backend,
        peer="the same head, uncached",
        peers=worker.medians["uncached"],
        target=target,
        scale=scale,
        facts=facts,
    )
    speedup = worker.medians["uncached"] / worker.medians["cached"]
    assert speedup >= floor, f"{worker.backend} {worker.head}: {speedup:.1f}x is below the floor of {floor:.1f}x"
