"""64 heads trained at once on one cache, beside one head, epoch by epoch in turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from table import table

# What a small set of photographs has behind a ResNet-18, and what a larger one has behind a ResNet-50.
SETTINGS = {"small": (512, 5, 64), "large": (2048, 10, 256)}
FLOOR = 2.0  # so many times as fast as one after the other, at least


@pytest.fixture(scope="module", params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    script = Path(__file__).with_name("heads.py")
    made = Child(request.param, [sys.executable, "-P", str(script), request.param])
    yield made
    made.close()


@pytest.mark.parametrize("size", SETTINGS)
def test_sixty_four_heads_at_once(benchmark: Any, child: Child, size: str) -> None:
    columns, classes, batch = SETTINGS[size]
    child.ask(do="prepare", columns=columns, classes=classes, batch=batch)
    benchmark.group = f"64 linear heads, {columns} features, {classes} classes, batches of {batch}"
    alone: list[tuple[float, float]] = []

    def one() -> None:
        start = time.perf_counter()
        loss = child.ask(do="one")
        alone.append((time.perf_counter() - start, loss))

    losses: list[float] = []

    def many() -> None:
        losses.append(child.ask(do="many"))

    benchmark.pedantic(many, setup=one, rounds=9, warmup_rounds=1)
    # The same head, the same rows, the same rate: the same losses.
    np.testing.assert_allclose(losses, [loss for _, loss in alone], rtol=1e-3)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    single = float(np.median([seconds for seconds, _ in alone[1:]]))
    facts = child.ask(do="facts")
    times = benchmark.stats.stats.median / single
    table.record(
        "64 heads at once, an epoch",
        benchmark.group.partition(", ")[2],
        benchmark.stats.stats.median,
        backend=child.backend,
        peer="one head",
        peers=single,
        target="64 heads",
        facts=facts,
    )
    benchmark.extra_info.update(facts, one_head_seconds=single, time_of_so_many_heads=times)
    gain = facts["heads"] / times
    print(f"\n{child.backend}, {size}: 64 heads in the time of {times:.1f}, {gain:.1f}x one after the other")
    assert gain >= FLOOR
