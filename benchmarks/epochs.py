"""Pairs of training epochs, cached and uncached, of one head on one cut; and what they have in common whatever the
model and the data."""

from __future__ import annotations

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

    def __init__(self, backend: str, cache: Path) -> None:
        super().__init__(backend, "worker.py", cache)

    def prepare(self, head: str, **setting: Any) -> None:
        self.head, self.medians = head, {}
        self.facts = self.ask(do="prepare", **setting)


def time_epochs(benchmark: Any, worker: Worker, kind: str, rounds: int) -> np.ndarray:
    """Time epochs of one kind, and keep their median; the losses of the last one's steps."""
    benchmark.group = f"{worker.backend} {worker.head}, {worker.facts['model']}: training epoch"
    benchmark.extra_info.update(worker.facts)
    losses = benchmark.pedantic(
        worker.ask,
        kwargs={"do": "epoch", "kind": kind},
        rounds=rounds,
        warmup_rounds=1,  # compilers run in the first
    )
    if benchmark.stats is not None:
        worker.medians[kind] = benchmark.stats.stats.median
    return np.ravel(losses)


def check_pair(
    worker: Worker, floor: float, target: str | None = None, scale: float = 1.0, steps: int | None = None
) -> None:
    """Once both of a pair were timed: they train alike, for so many steps from the start or a whole epoch, and the
    speed-up is recorded and above the floor."""
    if len(worker.medians) < len(KINDS):
        pytest.skip("nothing was timed, or its pair was not run")
    cached, rounded, uncached = (
        worker.ask(do="first", kind=kind, steps=steps) for kind in ("cached", "rounded", "uncached")
    )
    np.testing.assert_allclose(cached, rounded, rtol=SAME_ROWS)
    np.testing.assert_allclose(cached[0], uncached[0], rtol=AS_STORED)
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
