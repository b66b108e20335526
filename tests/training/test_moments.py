"""Mean and deviation by channel: what rounding must not do to them. The map itself is in `test_standardizing`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scalers import scaler_of

from headstart.training.moments import Moments, Standard

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567, -3e4])
def test_a_channel_that_does_not_vary_among_those_that_count(value: float, dtype: Any) -> None:
    """Samples of weight 0 have other values there, and are not to be blown up."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (3000, 4)).astype(dtype)
    weights = rng.uniform(0.2, 3, len(rows))
    weights[::3] = 0
    rows[weights > 0, 2] = value
    standard = Moments.of(rows, weights).standard()
    assert standard.deviation[2] == 1
    mapped = standard.applied(rows)[:, 2]
    assert np.abs(mapped[weights > 0]).max() <= np.abs(rows[1, 2]) * 1e-15
    assert np.abs(mapped).max() < np.abs(rows[:, 2]).max() + abs(float(rows[1, 2])) + 1e-3


def test_what_comes_first_does_not_matter() -> None:
    """The first thousands of rows are dead there; what follows is far from 0 and close together."""
    rng = np.random.default_rng(0)
    rows = np.zeros((8000, 3), np.float32)
    rows[5000:] = rng.normal(300, 0.01, (3000, 3))
    dead_last = Moments()
    for block in np.array_split(rows[::-1], 7):
        dead_last.add(np.ascontiguousarray(block))
    scaler = scaler_of(rows)
    for moments in (Moments.of(rows), dead_last):
        np.testing.assert_allclose(moments.standard().deviation, scaler.scale_, rtol=1e-6)
    alone = Moments()
    alone.add(rows, (np.arange(len(rows)) >= 5000).astype(float))
    scaler = scaler_of(rows[5000:])
    np.testing.assert_allclose(alone.standard().deviation, scaler.scale_, rtol=1e-5)


def test_float64_is_summed_as_it_is() -> None:
    rows = np.random.default_rng(0).normal(1e6, 1e-3, (3000, 3))
    standard, scaler = Moments.of(rows).standard(), scaler_of(rows - 1e6)
    np.testing.assert_allclose(standard.deviation, scaler.scale_, rtol=1e-6)
    np.testing.assert_allclose(standard.applied(rows), scaler.transform(rows - 1e6), atol=1e-6)
    assert standard.applied(rows).dtype == np.float64


def test_the_map_is_of_numbers_that_its_rows_can_hold() -> None:
    """So what a layer is folded with is what its rows were mapped by."""
    rows = np.random.default_rng(0).normal(300, 1e-3, (3000, 3)).astype(np.float32)
    standard = Moments.of(rows).standard()
    for values in (standard.mean, standard.deviation):
        np.testing.assert_array_equal(values, values.astype(np.float32))


@pytest.mark.parametrize("scale", [1e20, 1e-20, 1e-23, 1e-30])
@pytest.mark.parametrize("weighted", [False, True])
def test_squares_that_float32_does_not_hold(scale: float, weighted: bool) -> None:
    """Beside a channel of usual size, and one that does not vary."""
    rows = np.random.default_rng(0).standard_normal((1500, 3)).astype(np.float32)
    rows[:, 1] *= np.float32(scale)
    rows[:, 2] = scale
    weights = np.arange(1500) % 3 / 2 if weighted else None
    standard = Moments.of(rows, weights).standard()
    np.testing.assert_allclose(standard.deviation[:2], scaler_of(rows, weights).scale_[:2], rtol=1e-5)
    assert standard.deviation[2] == 1
    assert not standard.applied(rows)[:, 2].any()


def test_a_layer_is_folded() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(3, [0.1, 2, 30], (50, 3))
    standard = Moments.of(rows).standard()
    weight, bias = rng.normal(0, 1, (2, 4, 3)), rng.normal(0, 1, (2, 4))
    folded, shifted = standard.folded_layer(weight, bias)
    expected = standard.applied(rows) @ weight[1].T + bias[1]
    np.testing.assert_allclose(rows @ folded[1].T + shifted[1], expected, rtol=1e-10, atol=1e-10)


def test_rows_stay_as_they_are_where_they_are_not_to_be_mapped_in_place() -> None:
    rows = np.ones((5, 2), np.float32)
    standard = Standard(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    np.testing.assert_array_equal(standard.applied(rows), [[0.0, -0.5]] * 5)
    assert (rows == 1).all()


@pytest.mark.parametrize(
    ("dtype", "apart", "alike"),
    [("float32", 2e-7, True), ("float32", 1e-4, False), ("float16", 1e-3, True), ("float16", 0.1, False)],
)
def test_samples_that_differ_by_rounding_alone(dtype: str, apart: float, alike: bool) -> None:
    rng = np.random.default_rng(0)
    rows = (1 + apart * rng.standard_normal((50, 8))).astype(dtype)
    rows[:, 0] = 0  # a rectifier's channel that sees nothing
    assert (Moments.of(rows).rounding() is not None) == alike
    weights = np.zeros(50)
    weights[7] = 1
    assert Moments.of(rows, weights).rounding() is None, "one sample that counts is like itself"
    rows[3, 5] = 2
    assert Moments.of(rows).rounding() is None, "one channel tells a sample apart"
