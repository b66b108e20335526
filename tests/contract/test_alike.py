"""What is rounding, and what is another output."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.contract.alike import excess

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    ("scale", "moved", "differs"),
    [(1.0, 1e-5, False), (1.0, 1e-2, True), (1e-30, 1e-5, False), (1e-30, 1e-2, True), (5e-40, 1e-2, False)],
)
def test_numbers_too_small_for_their_digits_are_the_same(scale: float, moved: float, differs: bool) -> None:
    """A network with random weights may give features of 1e-40, of which float32 has two digits left."""
    a = np.random.default_rng(0).uniform(0.5, 1, (2, 8)) * scale
    assert (excess(a, a * (1 + moved), 1e-4) is not None) == differs


def test_a_channel_does_not_hide_behind_a_larger_one() -> None:
    a = np.array([[1e3, 1.0], [1e3, 2.0]])
    assert excess(a, a + [0, 0.5], 1e-4) == 0.5
    assert excess(a, a + [0, 0.005], 1e-4) is None
    assert excess(a, a + [0, np.nan], 1e-4) is not None
