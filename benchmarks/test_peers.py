"""A cached epoch beside what people write today: in turn, in one process, medians and ratios. What each ran is
asserted afterwards: all heads have learned the same task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import sized
from table import TARGETS, table

GROUP = "a cached epoch, linear head, 50,000 x 2,048 features, batches of 256, AdamW"
# So many times as fast, at least: below what the README reports, for machines that are busy.
FLOORS = {
    "DataLoader over a TensorDataset": 2.0,
    "fit on arrays": 1.5,
    "fit on tf.data": 1.5,
    "a jitted loop": 1.1,
    "scikit-learn SGDClassifier": 2.0,
}
# A share of the speed of the products alone.
OF_PRODUCTS = {"torch": 0.5, "keras": 0.2, "jax": 0.5}
OF_THE_BEST = 4.0
"""times its seconds at most; what was asked for stands in the table"""
ROUNDS = sized(3, 7)
REST = 0.3  # seconds, until the threads of one library's pool no longer spin where the next one computes


@dataclass(frozen=True)
class Measured:
    seconds: float
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    """By backend, filled by one test for the next."""
    return {}


@pytest.fixture(scope="module", params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(request.param, "peers.py")
    yield made
    made.close()


def test_a_cached_epoch(benchmark: Any, child: Child, measured: dict[str, Measured]) -> None:
    benchmark.group = GROUP
    peers = child.ask(do="names")
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    results: dict[str, float] = {}

    def others() -> None:
        for name in peers:
            time.sleep(REST)
            # not timed: after a rest threads are some time spread over the cores, and in the first compilers run
            child.ask(do="run", which=name)
            start = time.perf_counter()
            results[name] = child.ask(do="run", which=name)
            seconds[name].append(time.perf_counter() - start)
        time.sleep(REST)
        child.ask(do="run", which="headstart")

    loss = benchmark.pedantic(child.ask, kwargs={"do": "run", "which": "headstart"}, setup=others, rounds=ROUNDS)
    for name, result in {"headstart": loss, **results}.items():
        if name.startswith("scikit"):
            assert -result > 0.9, "scikit-learn's head has learned"
        elif name != "products":
            assert result < 0.25, f"the head of {name} has learned"
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own = benchmark.stats.stats.median
    ratios = {name: float(np.median(times)) / own for name, times in seconds.items()}
    facts = child.ask(do="facts")
    measured[child.backend] = Measured(own, facts)
    benchmark.extra_info.update(facts, times_as_fast_as=ratios)
    for name, ratio in ratios.items():
        table.record(
            GROUP,
            "float16 rows, the peer's float32",
            own,
            backend=child.backend,
            peer="the matrix products alone" if name == "products" else name,
            peers=own * ratio,
            target=name if name in TARGETS else None,
            facts=facts,
        )
    for name, ratio in ratios.items():
        print(f"\n{child.backend}: {own:.3f} s, {ratio:.2f}x as fast as {name}", end="")
    print()
    floors = {**FLOORS, "products": OF_PRODUCTS[child.backend]}
    assert all(ratio >= floors[name] for name, ratio in ratios.items()), ratios


def test_beside_the_best_backend(measured: dict[str, Measured]) -> None:
    """Each as measured above, one after the other on the same rows."""
    if len(measured) < 2:
        pytest.skip("fewer than two backends were timed")
    ratios = table.record_beside_the_best(
        GROUP,
        "float16 rows",
        {backend: of.seconds for backend, of in measured.items()},
        dict.fromkeys(measured, "the best backend"),
        {backend: of.facts for backend, of in measured.items()},
    )
    assert all(ratio <= OF_THE_BEST for ratio in ratios.values()), ratios
