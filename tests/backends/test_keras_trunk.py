"""Trunks in Keras: weights in half precision, and features that stay where they were computed."""

from __future__ import annotations

import contextlib
import weakref
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from families import SMALL

from headstart.contract import registry
from headstart.graph import Builder
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


def test_what_no_layer_needs_any_more_is_given_up(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chain of layers there are two outputs at any time, and not all of them: those of a ViT-L/16 and 64
    images have 8 GB together."""
    if engine != "torch":
        pytest.skip("a compiled program sees to that")
    import keras

    b = Builder()
    x = "input"
    for i in range(12):
        x = b.add(f"relu{i}", "relu", b.conv(f"conv{i}", x, 3, 3, 3, pad=1))
    graph = b.graph(x)
    params = reference.random_params(graph, 0)
    framework = registry.load("keras")
    trunk = framework.trunk(graph, params, [graph.output], framework.place("cpu", "float32"))
    alive: list[Any] = []
    counts = []
    call = keras.layers.Conv2D.call

    def counted(layer: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        made = call(layer, inputs, *rest, **more)
        alive.append(weakref.ref(made))
        counts.append(sum(model() is not None for model in alive))
        return made

    monkeypatch.setattr(keras.layers.Conv2D, "call", counted)
    x_in = np.random.default_rng(0).standard_normal((2, 9, 9, 3)).astype(np.float32)
    found = framework.numpy(trunk.run(x_in)[graph.output])
    assert len(counts) == 12 and max(counts) <= 2
    assert relative_error(found, reference.run(graph, params, x_in)[graph.output]) < 1e-5


def test_a_keras_that_keeps_another_record_is_called_as_it_is(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.backends.keras import forward

    if engine != "torch":
        pytest.skip("a compiled program sees to that")
    assert forward._steps(SimpleNamespace()) is None
    monkeypatch.setattr(forward, "_steps", lambda model: None)
    graph = SMALL["dinov2"].graph(monkeypatch, "dinov2")
    params = reference.random_params(graph, 0)
    x = np.random.default_rng(0).standard_normal((2, SMALL["dinov2"].size, SMALL["dinov2"].size, 3))
    framework = registry.load("keras")
    trunk = framework.trunk(graph, params, [graph.output], framework.place("cpu", "float32"))
    found = framework.numpy(trunk.run(x.astype(np.float32))[graph.output])
    assert relative_error(found, reference.run(graph, params, x.astype(np.float32))[graph.output]) < 1e-4


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


def test_a_kernel_under_lora_stays_frozen(engine: str) -> None:
    """Where a model's layers are set free again; Keras on PyTorch would free the kernel with its layer."""
    import keras

    from headstart.backends.keras.copying import thawed

    image = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="inner")])
    model = keras.Model(image, keras.layers.Dense(2, name="frozen")(inner(image)))
    inner.layers[0].enable_lora(2)
    model.get_layer("frozen").trainable = False
    trained = {"/".join(variable.path.split("/")[-2:]) for variable in thawed(model).trainable_weights}
    assert trained == {"inner/bias", "inner/lora_kernel_a", "inner/lora_kernel_b", "frozen/kernel", "frozen/bias"}
