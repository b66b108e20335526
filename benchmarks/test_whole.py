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


OF_ITS_OWN = 1.15
"""times as long as of the zoo's network, at most"""


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


@pytest.mark.skipif("torch" not in BACKENDS, reason="elsewhere a compiler has all of a network")
def test_a_step_of_a_wrapped_network(benchmark: Any) -> None:
    """The same network as somebody's own module, in turn with the zoo's."""
    benchmark.group = f"torch: {MODEL}, wrapped, all of it trained, batches of {BATCH}"
    wrapped, zoo = (Child("torch", "whole.py", "0", *how) for how in (("wrapped",), ()))
    first = [child.ask(do="first") for child in (wrapped, zoo)]
    assert np.isclose(*first, rtol=1e-4), "both train the same network"
    steps: list[tuple[float, float]] = []

    def turn() -> None:
        own, peers = wrapped.ask(do="step"), zoo.ask(do="step")
        assert np.isclose(own[0], peers[0], rtol=1e-2) and own[0] < first[0]
        steps.append((own[1] / BATCH, peers[1] / BATCH))

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
    facts = wrapped.ask(do="facts")
    wrapped.close()
    zoo.close()
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own, peers = np.median(steps[1:], 0)
    table.record(
        CAPABILITY,
        f"{MODEL}, wrapped, float32, {BATCH} images of {SIZE} px",
        own,
        backend="torch",
        peer="the zoo's",
        peers=peers,
        cost=True,
        facts=facts,
    )
    print(f"\n{MODEL}, wrapped: {1e3 * own:.0f} ms an image, {own / peers:.2f} times the zoo's")
    assert own <= OF_ITS_OWN * peers
