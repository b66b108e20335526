"""Convolutions and their gradients in JAX on a CPU, our form and XLA's own in turn: none may be slower, and what
XLA computes number by number is many times faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from cpu_forms import SHAPES
from sizes import sized
from table import table

CAPABILITY = "a convolution and its gradients on a CPU, seconds of one core"
ROUNDS = sized(7, 20)
ASKED = dict(zip(SHAPES, (1.6, 1.1, 1.1, 40.0, 8.0), strict=True))
"""times the speed of XLA, for the table: three quarters of what an EPYC had, half of what was many times"""
FLOOR = 0.7
"""of that, at the least"""

pytestmark = pytest.mark.skipif("jax" not in BACKENDS, reason="JAX is not installed")


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    made = Child("jax", "cpu_forms.py")
    yield made
    made.close()


@pytest.mark.parametrize("which", SHAPES)
def test_a_form_beside_that_of_xla(benchmark: Any, child: Child, which: str) -> None:
    benchmark.group = f"a convolution and its gradients: {which}"
    taken: dict[str, list[float]] = {"ours": [], "xla": []}
    sums: dict[str, float] = {}

    def turn() -> None:
        for form, seconds in taken.items():
            of_step, sums[form] = child.ask(do="step", which=which, form=form)
            seconds.append(of_step)

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
    np.testing.assert_allclose(sums["ours"], sums["xla"], rtol=1e-4)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own, peers = (float(np.median(seconds[1:])) for seconds in taken.values())
    table.record(
        CAPABILITY,
        which,
        own,
        backend="jax",
        peer="XLA's own form",
        peers=peers,
        target="CPU form",
        scale=ASKED[which],
        facts=child.ask(do="facts"),
    )
    print(f"\n{which}: {1e3 * own:.1f} ms, {peers / own:.2f}x as fast as XLA's own form")
    assert peers / own >= FLOOR * ASKED[which]
