"""What all parts of the suite stand on: which backend is tested, and where it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pytest

from headstart.contract import registry
from headstart.contract.description import ABILITIES
from headstart.contract.optimizers import SGD, Optimizer
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe

PLAIN = SGD(lr=0.1, momentum=0.0)
"""an update is the gradient times the rate"""


class Suite:
    """A part of the suite. Tests share what takes long to make, compiled above all, by fixtures of the class."""

    backend: ClassVar[str]
    """the name of the backend that is tested"""

    @pytest.fixture(scope="class")
    @classmethod
    def framework(cls) -> Backend:
        """The backend, as core has it: behind the door that checks what comes back."""
        return registry.load(cls.backend)

    @classmethod
    def require(cls, ability: str) -> None:
        """Skip what calls this, unless the backend's description says that it has the ability."""
        if ability not in registry.describe(cls.backend).abilities:
            pytest.skip(f"backend {cls.backend!r} cannot {ABILITIES[ability].what}, and says so")

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, framework: Backend) -> Place:
        """The CPU, in float32."""
        return framework.place("cpu", "float32")


def recipe_of(
    optimizer: Optimizer = PLAIN,
    *,
    smoothing: float = 0.0,
    train_statistics: bool = False,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
) -> Recipe:
    """A recipe, plain where nothing is said."""
    return Recipe(optimizer, smoothing, train_statistics, seed, rates or {})


def drawn(seed: int, n: int, *shape: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(n, *shape)` float32 and labels `(n,)` int64."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(0, classes, n)


def floats(values: Sequence[float]) -> np.ndarray:
    """float32"""
    return np.array(values, np.float32)


def assert_close(actual: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """To what a few updates in float32 lose."""
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4, err_msg=what)
