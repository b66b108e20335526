"""Features by networks of depthwise convolutions, batch by batch in turn in every backend, beside the best of
them: JAX, which has no fast form of these of its own, took four times as long. All compute the same features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import sized
from table import table

MODELS = ("mobilenet_v2", "efficientnet_lite0")
ROUNDS = sized(5, 9)
REST = 0.3  # seconds, until the threads of one framework's pool no longer spin where the next one computes
CEILING = 2.5
"""times the best backend's; what was asked for, of JAX, stands in the table"""


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, Child]]:
    made = {backend: Child(backend, "extraction.py") for backend in BACKENDS}
    yield made
    for child in made.values():
        child.close()


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed, and it is the best of them")
@pytest.mark.parametrize("model", MODELS)
def test_depthwise(benchmark: Any, children: dict[str, Child], model: str) -> None:
    benchmark.group = f"32 images of 224 px through {model}"
    seconds: dict[str, list[float]] = {backend: [] for backend in children}
    samples = []
    for child in children.values():
        child.ask(do="prepare", model=model)
        child.ask(do="run", which="float32")  # in which compilers run
        samples.append(child.ask(do="sample", which="float32"))
    for sample in samples:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-3, atol=1e-3 * np.abs(samples[0]).max())

    def turn() -> None:
        for backend, child in children.items():
            time.sleep(REST)
            child.ask(
                do="run", which="float32"
            )  # not timed: after a rest threads are some time spread over the cores
            start = time.perf_counter()
            child.ask(do="run", which="float32")
            seconds[backend].append(time.perf_counter() - start)

    benchmark.pedantic(turn, rounds=ROUNDS)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own = {backend: float(np.median(of)) for backend, of in seconds.items()}
    ratios = table.record_beside_the_best(
        "depthwise convolutions, 32 images of 224 px",
        f"{model}, float32",
        own,
        {"jax": "depthwise"},
        {backend: child.ask(do="facts") for backend, child in children.items()},
    )
    print(f"\n{model}: {', '.join(f'{backend} {of:.2f} s' for backend, of in own.items())}")
    assert all(ratio <= CEILING for ratio in ratios.values()), own
