"""All of a network trained, step by step in turn in every backend, beside the best of them: of a network with
depthwise convolutions, whose gradients one framework may compute many times slower than another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import sized
from table import table
from whole import BATCH, MODEL, SIZE

CAPABILITY = "all of a network trained, seconds of one core an image"
ROUNDS = sized(3, 10)
REST = 0.3  # seconds, until the threads of one framework's pool no longer spin where the next one computes
CEILING = 2.0
"""times the best backend's; what was asked for stands in the table"""


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, Child]]:
    # the one that compiles longest is the last, and has a core to itself where there are two
    made = {backend: Child(backend, "whole.py", str(i // 2)) for i, backend in enumerate(BACKENDS)}
    yield made
    for child in made.values():
        child.close()


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed, and it is the best of them")
def test_a_step_of_the_whole_network(benchmark: Any, children: dict[str, Child]) -> None:
    benchmark.group = f"{MODEL}, all of it trained, batches of {BATCH}"
    for child in children.values():
        child.tell(do="first")
    first = {backend: child.answer() for backend, child in children.items()}
    assert np.allclose([*first.values()], first[BACKENDS[0]], rtol=1e-4), "all train the same network"
    steps: dict[str, list[tuple[float, float]]] = {backend: [] for backend in children}

    def turn() -> None:
        for backend, child in children.items():
            time.sleep(REST)
            steps[backend].append(child.ask(do="step"))

    benchmark.pedantic(turn, rounds=ROUNDS)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    assert all(of[-1][0] < first[backend] for backend, of in steps.items()), (
        "the network that was timed has learned"
    )
    own = {backend: float(np.median([taken for _, taken in of])) / BATCH for backend, of in steps.items()}
    ratios = table.record_beside_the_best(
        CAPABILITY,
        f"{MODEL}, float32, {BATCH} images of {SIZE} px",
        own,
        dict.fromkeys(own, "whole network"),
        {backend: child.ask(do="facts") for backend, child in children.items()},
    )
    benchmark.extra_info.update(seconds_an_image=own)
    print(f"\n{MODEL}: {', '.join(f'{backend} {1e3 * of:.0f}' for backend, of in own.items())} ms an image")
    assert all(ratio <= CEILING for ratio in ratios.values()), own
