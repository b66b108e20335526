"""A training epoch of the same head on the same cut, uncached and cached, a pair a group; and a floor under the
speed-up: half of the ratio of FLOPs where a residual block is trained, 50 where the head is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ROUNDS = {"uncached": 5, "cached": 20}


@pytest.mark.parametrize("kind", ["uncached", "cached"])
def test_epoch(benchmark: Any, worker: Any, kind: str) -> None:
    benchmark.group = f"{worker.backend} {worker.head}: training epoch"
    benchmark.extra_info.update(worker.facts)
    losses = benchmark.pedantic(
        worker.ask,
        kwargs={"do": "epoch", "kind": kind},
        rounds=ROUNDS[kind],
        warmup_rounds=1,  # compilers run in the first
    )
    assert losses[-1] < 0.8 * np.log(10), "the head that was timed has learned"
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    worker.medians[kind] = benchmark.stats.stats.median
    if kind == "cached":
        if "uncached" not in worker.medians:
            pytest.skip("its pair was not run")
        np.testing.assert_allclose(
            worker.ask(do="first", kind="cached"), worker.ask(do="first", kind="uncached"), rtol=1e-2
        )
        worker.check_floor()
