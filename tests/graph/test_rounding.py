"""Weights in bfloat16 of which the sum counts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from headstart.graph import Builder, Graph, in_bfloat16

pytestmark = pytest.mark.neutral


def graph_of(inputs: int, outputs: int, groups: int) -> Graph:
    b = Builder()
    return b.graph(b.conv("conv", "input", inputs, outputs, 3, groups=groups))


@pytest.mark.parametrize(("inputs", "groups"), [(32, 32), (3, 1)], ids=["depthwise", "of a picture"])
def test_a_flat_map_stays_what_it_is(inputs: int, groups: int) -> None:
    """Where all pixels are alike a convolution multiplies by the sum of its weights."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, inputs // groups, 3, 3)).astype(np.float32)
    rounded = in_bfloat16(graph_of(inputs, 32, groups), {"conv.weight": weight})["conv.weight"]
    nearest = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded.astype(ml_dtypes.bfloat16).astype(np.float32), rounded)
    np.testing.assert_allclose(rounded, weight, rtol=0, atol=np.abs(weight).max() / 128)

    def off(other: np.ndarray) -> np.ndarray:
        return np.abs((other - weight).sum((2, 3), dtype=np.float64)).mean()

    assert off(rounded) < off(nearest) / 8


def test_others_and_what_is_not_finite_stay() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 16, 3, 3)).astype(np.float32)
    assert in_bfloat16(graph_of(16, 8, 1), {"conv.weight": weight})["conv.weight"] is weight
    lost = np.ones((4, 1, 3, 3), np.float32)
    lost[0, 0, 0, 0], lost[1, 0, 1, 1] = np.inf, np.nan
    given = lost.copy()
    np.testing.assert_array_equal(in_bfloat16(graph_of(4, 4, 4), {"conv.weight": lost})["conv.weight"], given)
    np.testing.assert_array_equal(lost, given)
