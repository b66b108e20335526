"""Trunks in Keras: weights in half precision, and features that stay where they were computed."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import ml_dtypes
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


@pytest.fixture
def streams(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU were a device that reads the host's memory for itself."""
    if engine == "tensorflow":
        pytest.skip("batches go one by one")
    from headstart.backends.keras.arrays import DEVICES

    monkeypatch.setattr(DEVICES, "can_stream", lambda place: True)
    if engine == "torch":
        event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
        module = SimpleNamespace(Event=lambda: event, device=lambda device: contextlib.nullcontext())
        monkeypatch.setattr(DEVICES.torch, "get_device_module", lambda kind: module)
        monkeypatch.setattr(DEVICES, "_pinned", DEVICES.torch.empty_like)


def test_batches_are_streamed_in_order(streams: None, engine: str, monkeypatch: Any) -> None:
    """More of them than are under way at once, the last one smaller; a batch that its dtype does not hold comes in
    float32."""
    small = SMALL["vit"]
    graph = small.graph(monkeypatch, "vit")
    params = reference.random_params(graph, 0)
    framework = registry.load("keras")
    tokens = next(node.name for node in graph.nodes if node.op == "tokens")
    trunk = framework.trunk(graph, params, [graph.output, tokens], framework.place("cpu", "float32"))
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, small.size, small.size, 3)).astype(np.float32) for n in (4, 4, 4, 4, 3)]
    batches[2] *= 1e6
    taken: list[int] = []

    def counted() -> Any:
        for i, images in enumerate(batches):
            taken.append(i)
            yield images

    for dtypes in (
        {graph.output: np.dtype(np.float32), tokens: np.dtype(np.float16)},
        {tokens: np.dtype(ml_dtypes.bfloat16)},
    ):
        taken.clear()
        results = trunk.stream(counted(), dtypes)
        found = [next(results)]
        assert taken == [0, 1, 2], "two are under way behind the first"
        found += results
        assert len(found) == len(batches)
        for i, (rows, images) in enumerate(zip(found, batches, strict=True)):
            outputs = trunk.run(images)
            for node, dtype in dtypes.items():
                exact = framework.numpy(outputs[node])
                wide = i == 2 and dtype == np.float16
                assert rows[node].dtype == (np.float32 if wide else dtype)
                np.testing.assert_array_equal(rows[node], exact if wide else exact.astype(dtype))
