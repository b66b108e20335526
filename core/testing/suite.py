"""What all parts of the suite stand on: which backend is tested, where it computes, and how near its numbers have
to come."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from headstart.contract import registry
from headstart.contract.description import ABILITIES, HEADS
from headstart.contract.devices import CPU
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Loss, Softmax
from headstart.contract.optimizers import SGD, Optimizer
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.graph import Graph

PLAIN = SGD(lr=0.1, momentum=0.0)
"""an update is the gradient times the rate"""


DEVICE_VARIABLE = "HEADSTART_TEST_DEVICE"
"""names the device that is tested, where a class names none"""

TOLERANCES: Mapping[str, float] = {"float32": 1e-5, "tf32": 3e-3, "float16": 5e-3, "bfloat16": 3e-2}
"""precision -> how far a layer's outputs may be from those in float64, as a share of the largest. TF32 and float16
have ten bits of mantissa, bfloat16 has seven."""
ELSEWHERE = 3.0
"""times as far in float32 on a device that is no CPU, which sums in another order and has its own `exp`"""


class Suite:
    """A part of the suite. Tests share what takes long to make, compiled above all, by fixtures of the class."""

    backend: ClassVar[str]
    """the name of the backend that is tested"""
    device: ClassVar[str] = ""
    """where it computes: "cpu", "cuda", "cuda:1" ...; "" is what HEADSTART_TEST_DEVICE says, else the CPU"""

    @classmethod
    def on(cls) -> str:
        """The device that is tested."""
        return cls.device or os.environ.get(DEVICE_VARIABLE) or CPU

    @classmethod
    def on_cpu(cls) -> bool:
        """Whether that is the CPU, of which more is asked: two equal computations give equal bits."""
        return cls.on() == CPU

    @classmethod
    def tolerance(cls, precision: str = "float32") -> float:
        """How far a layer's outputs may be off there, as a share of the largest."""
        return TOLERANCES[precision] * (1 if cls.on_cpu() or precision != "float32" else ELSEWHERE)

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
        """The device that is tested, in float32."""
        return framework.place(cls.on(), "float32")

    @classmethod
    def side_by_side(
        cls,
        framework: Backend,
        graph: Graph,
        starts: Sequence[Mapping[str, np.ndarray]],
        recipe: HeadsRecipe,
        place: Place,
    ) -> Any:
        """The backend's heads of a graph that is a chain, which begin with these parameters. Skips where the
        framework has no way to train them at once."""
        cls.require(HEADS)
        chain = chain_of(graph)
        assert chain is not None
        stacked = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
        heads = framework.heads(chain, stacked, recipe, place)
        if heads is None:
            pytest.skip(f"backend {cls.backend!r} trains these heads one after the other")
        return heads


def recipe_of(
    optimizer: Optimizer = PLAIN,
    *,
    smoothing: float = 0.0,
    loss: Loss | None = None,
    train_statistics: bool = False,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
) -> Recipe:
    """A recipe, plain where nothing is said."""
    return Recipe(optimizer, loss or Softmax(smoothing), train_statistics, seed, rates or {})


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
