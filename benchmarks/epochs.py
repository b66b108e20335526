"""Pairs of training epochs, cached and uncached, of one head on one cut; and what they have in common whatever the
model and the data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child
from table import table

KINDS = ("uncached", "cached")


class Worker(Child):
    """Prepared for one cut, runs epochs."""

    def __init__(self, backend: str, head: str, cache: Path, **setting: Any) -> None:
        script = Path(__file__).with_name("worker.py")
        super().__init__(backend, [sys.executable, "-P", str(script), backend, str(cache)])
        self.head = head
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


def check_pair(worker: Worker, floor: float, target: str | None = None, scale: float = 1.0) -> None:
    """Once both of a pair were timed: they train alike, and the speed-up is recorded and above the floor."""
    if len(worker.medians) < len(KINDS):
        pytest.skip("nothing was timed, or its pair was not run")
    cached, uncached = (worker.ask(do="first", kind=kind) for kind in ("cached", "uncached"))
    np.testing.assert_allclose(cached, uncached, rtol=1e-2)
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
