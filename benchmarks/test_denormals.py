"""Numbers next to nothing, which a CPU multiplies up to a hundred times slower than others: in weights of filters
that a network does not use, and in what a head that is sure of its classes learns from. Each in turn with the same
without such numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import FULL, sized
from table import table

ASKED = BACKENDS if FULL else ["torch"]
"""XLA and TensorFlow have a CPU take such numbers for 0: HEADSTART_BENCH_FULL=1 measures them, too"""
UNUSED, IMAGES = 0.05, 8
SLOWER = 1.5
"""at most; without what is held here 1.6 and 19 in torch"""
ROUNDS = sized(5, 9)
COLUMNS, CLASSES, BATCH = 512, 10, 256
SURE = 0.1
"""a learning rate by which weights grow until all classes but one have a probability of 0"""


@contextmanager
def two(backend: str, script: str) -> Iterator[tuple[Child, Child]]:
    made = Child(backend, script), Child(backend, script)
    try:
        yield made
    finally:
        for child in made:
            child.close()


def times_as_long(benchmark: Any, with_them: Child, without: Child, request: dict[str, str], what: str) -> float:
    """The medians' ratio."""
    seconds: list[float] = []

    def other() -> None:
        start = time.perf_counter()
        without.ask(**request)
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(with_them.ask, kwargs=request, setup=other, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own, peers = benchmark.stats.stats.median, float(np.median(seconds[1:]))
    facts = with_them.ask(do="facts")
    settings: dict[str, Any] = {"backend": with_them.backend, "facts": facts}
    table.record("numbers next to nothing", what, own, peer="without", peers=peers, **settings)
    print(f"\n{with_them.backend}, {what}: {own / peers:.2f} times as long as without")
    return own / peers


@pytest.mark.parametrize("backend", ASKED)
def test_filters_that_are_not_used(benchmark: Any, backend: str) -> None:
    what = f"{UNUSED:.0%} of filters unused, {IMAGES} images through resnet18"
    benchmark.group = what
    with two(backend, "extraction.py") as (unused, used):
        used.ask(do="prepare", model="resnet18", batch=IMAGES)
        unused.ask(do="prepare", model="resnet18", batch=IMAGES, unused=UNUSED)
        assert times_as_long(benchmark, unused, used, {"do": "run", "which": "float32"}, what) <= SLOWER


@pytest.mark.parametrize("backend", ASKED)
def test_heads_that_are_sure(benchmark: Any, backend: str) -> None:
    what = f"64 sure heads, {COLUMNS} features, {CLASSES} classes"
    benchmark.group = what
    epoch = {"do": "epoch", "kind": "many"}
    with two(backend, "heads.py") as (sure, unsure):
        for child, lr in ((sure, SURE), (unsure, SURE / 1000)):
            child.ask(do="prepare", columns=COLUMNS, classes=CLASSES, batch=BATCH, lr=lr)
            for _ in range(3):
                child.ask(**epoch)
        assert times_as_long(benchmark, sure, unsure, epoch, what) <= SLOWER
