"""A batch norm that adds nothing to the variance: other frameworks have such layers, and torch refuses an epsilon
of 0, in training, and before 2.12 in inference too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Recipe
from headstart.graph import Builder
from headstart.training.standardizing import EPSILON, MAPPED, Standardization, mapping_trunk

MEAN, VARIANCE = np.array([0.5, -2.0, 3.0], np.float32), np.array([1e-6, 0.25, 4.0], np.float32)


def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch as it was until 2.11."""
    torch = pytest.importorskip("torch")
    inner = torch.nn.functional.batch_norm

    def batch_norm(*args: Any, **kwargs: Any) -> Any:
        epsilon = kwargs.get("eps", args[7] if len(args) > 7 else 1e-5)
        if epsilon <= 0.0:
            raise ValueError(f"batch_norm eps must be positive, but got {epsilon}")
        return inner(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", batch_norm)


def test_an_epsilon_of_zero(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "torch":
        refusing(monkeypatch)
    b = Builder()
    norm = b.add("norm", "batch_norm", "input", channels=3, epsilon=0.0)
    graph = b.graph(b.linear("fc", b.add("pool", "global_avg_pool", norm), 3, 2))
    rng = np.random.default_rng(0)
    params = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in graph.param_shapes().items()}
    params |= {"norm.running_mean": MEAN, "norm.running_var": VARIANCE}
    x = (MEAN + rng.standard_normal((4, 5, 5, 3)) * np.sqrt(VARIANCE)).astype(np.float32)
    loaded = registry.load(backend)
    place = loaded.place("cpu", "float32")
    found = loaded.numpy(loaded.trunk(graph.upto("norm"), params, ["norm"], place).run(x)["norm"])
    expected = (x - MEAN) / np.sqrt(VARIANCE) * params["norm.weight"] + params["norm.bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    trainer = loaded.trainer(graph, params, Recipe(SGD(lr=0.1), Softmax(), True, 0), place)
    losses, _ = trainer.step(x, np.array([0, 1, 0, 1]), 0.1)
    assert np.isfinite(losses).all()


def test_features_are_standardised_where_epsilon_may_not_be_zero(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by no other numbers for that."""
    if backend == "torch":
        refusing(monkeypatch)
    loaded = registry.load(backend)
    deviation = np.full(3, 0.37)
    trunk = mapping_trunk(Standardization(MEAN, deviation, ()), (3,), loaded, loaded.place("cpu", "float32"))
    x = np.random.default_rng(1).normal(1, 3, (8, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded.numpy(trunk.run(x)[MAPPED]), (x - MEAN) / 0.37, rtol=2e-6, atol=1e-6)
    assert EPSILON > 0 and np.float32(1) + np.float32(EPSILON) == 1
