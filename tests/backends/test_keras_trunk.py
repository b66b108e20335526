"""Trunks in Keras: weights in half precision, and features that stay where they were computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import SMALL

from headstart.contract import registry
from headstart.testing import reference, relative_error

pytestmark = pytest.mark.of("keras")


@pytest.fixture(scope="module")
def engine() -> str:
    keras = pytest.importorskip("keras")
    registry.load("keras")
    return str(keras.backend.backend())


@pytest.mark.parametrize(("precision", "limit"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_weights_are_rounded_once(engine: str, precision: str, limit: float, monkeypatch: Any) -> None:
    """But for those of norms, which are used in float32; and they are told as they came, until somebody writes to
    one."""
    small = SMALL["dinov2"]
    graph = small.graph(monkeypatch, "dinov2")
    params = reference.random_params(graph, 0)
    x = np.random.default_rng(0).standard_normal((2, small.size, small.size, 3)).astype(np.float32)
    framework = registry.load("keras")
    trunk = framework.trunk(graph, params, [graph.output], framework.place("cpu", precision))
    features = trunk.run(x)[graph.output]
    assert isinstance(features, np.ndarray) == (engine == "tensorflow"), "it was copied to the host"
    features = framework.numpy(features)
    assert features.dtype == np.float32
    expected = reference.run(graph, params, x)[graph.output]
    assert 0 < relative_error(features, expected) < limit

    dtypes = {"norm" in weight.path: weight._value.dtype for weight in trunk.model.weights}
    kinds = {norm: str(getattr(dtype, "name", dtype)) for norm, dtype in dtypes.items()}
    half = "float32" if engine == "tensorflow" else precision
    assert {norm: kind.removeprefix("torch.") for norm, kind in kinds.items()} == {True: "float32", False: half}
    for name, value in trunk.params().items():
        np.testing.assert_array_equal(value, params[name], err_msg=name)
    weight = next(weight for weight in trunk.model.weights if "norm" not in weight.path)
    weight.assign(weight.value * 2)
    changed = [name for name, value in trunk.params().items() if not np.array_equal(value, params[name])]
    assert len(changed) == 1
