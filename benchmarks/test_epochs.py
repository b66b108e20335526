"""A training epoch of the same head on the same cut, uncached and cached, a pair a group; and a floor under the
speed-up: half of the ratio of FLOPs where a residual block is trained, 50 where the head is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from epochs import KINDS, check_pair, time_epochs
from sizes import sized

ROUNDS = {"uncached": sized(3, 5), "cached": sized(10, 20)}
LINEAR_FLOOR = 50.0


@pytest.mark.parametrize("kind", KINDS)
def test_epoch(benchmark: Any, worker: Any, kind: str) -> None:
    losses = time_epochs(benchmark, worker, kind, ROUNDS[kind])
    assert np.mean(losses) < np.mean(worker.first[kind]), "the head that was timed has learned"
    if benchmark.stats is not None:  # of two epochs, with --benchmark-disable, not as much
        assert losses[-1] < 0.8 * np.log(10)
    if kind == "cached":
        check_pair(worker, LINEAR_FLOOR if worker.head == "linear" else worker.facts["flops_ratio"] / 2)
