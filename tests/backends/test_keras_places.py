"""Keras computes where it was told to, on whichever engine, and nothing lies on the machine's default device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import fit

import headstart as hs
from headstart.common.errors import BackendError
from headstart.contract import registry

pytestmark = pytest.mark.of("keras")
X = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype(np.float32)
DATA = hs.data.arrays(X[:8], np.arange(8) % 3), hs.data.arrays(X[8:], np.arange(8) % 3)


@pytest.fixture
def nowhere(backend: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keras on torch, on a machine where whatever is made on no device that was named fails."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("other engines have no default device of Keras's")
    import keras.src.backend.torch.core as core

    registry.load(backend)
    monkeypatch.setattr(core, "DEFAULT_DEVICE", "xpu")
    with pytest.raises((RuntimeError, AssertionError)):
        keras.ops.ones(3)
    return keras


@pytest.mark.parametrize("mode", ["frozen", "cached", "full"])
def test_the_default_device_is_left_alone(nowhere: Any, mode: str, tmp_path: Path) -> None:
    digits = hs.data.digits()
    train, val = digits.subset(np.arange(24)), digits.subset(np.arange(24, 40))
    model = hs.model("lenet", classes=10, size=32)
    cut = {} if mode == "full" else {"cut": "pool2"}
    run = fit(model, (train, val), tmp_path, mode=mode, epochs=1, backend="keras", **cut)
    assert np.isfinite(run.history["loss"]).all()
    assert np.isfinite(run.predict(val)).all()
    assert {weight.value.device.type for weight in run.native.weights} == {"cpu"}


def test_a_model_is_wrapped_where_it_lies(nowhere: Any, tmp_path: Path) -> None:
    """It is run on its own device, and so is its copy, whatever the default is."""
    layers = nowhere.layers

    def net() -> Any:
        with nowhere.device("cpu"):
            x = nowhere.Input((8, 8, 3))
            y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(x))
            y = layers.Dropout(0.1, name="drop")(layers.GlobalAveragePooling2D(name="pool")(y))
            return nowhere.Model(x, layers.Dense(3, name="fc")(y))

    model = hs.wrap(net(), "pool", example=X, head="rest", init=lambda _: net())
    run = fit(model, DATA, tmp_path, epochs=1, backend="keras")
    assert np.isfinite(run.predict(X)).all()
    assert np.isfinite(fit(model, DATA, tmp_path, mode="scratch", epochs=1).history["loss"]).all()


ON_TWO_DEVICES = """
import gc, json
import jax, numpy as np
import headstart as hs
from headstart.backends.doors import jax_devices
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe

framework = registry.load("keras")
first, second = jax.devices()
kinds = {"cuda": [first], "cpu": [second]}  # the card is the default device, as on a machine that has one
jax_devices.devices_of = lambda kind: kinds.get(kind, [])

model = hs.model("lenet", classes=10, size=32)
graph, params = model.graph, model.params
x = np.zeros((2, *model.input_shape), np.float32)
y = np.array([0, 1])


def lie_on(device):
    return sum(array.nbytes for array in jax.live_arrays() if device in array.devices())


def lies_elsewhere(device, other):
    gc.collect()
    before = lie_on(other)
    place = framework.place(device, "float32")
    trunk = framework.trunk(graph, params, ["pool2"], place)
    features = trunk.run(x)["pool2"]
    trainer = framework.trainer(graph, params, Recipe(hs.SGD(), Softmax(), False, 0), place)
    trainer.step(x, y, 0.1)
    rows = trainer.put(x)
    trainer.epoch(rows, y, np.array([[0, 1]]), np.array([0.1], np.float32))
    kept = trainer.logits(rows, 0, 2), trainer.params(), trunk.params()
    gc.collect()
    return lie_on(other) - before


found = {device: lies_elsewhere(device, other) for device, other in (("cpu", first), ("cuda", second))}
found["native"] = sorted({d.id for w in framework.native(graph, params).weights for d in w.value.devices()})
print(json.dumps(found))
"""


def test_jax_holds_nothing_elsewhere(backend: str, tmp_path: Path) -> None:
    """On a machine whose default device is a card, with two of XLA's devices on the CPU."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another engine")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    devices = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        env={**os.environ, **devices},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == {"cpu": 0, "cuda": 0, "native": [1]}


def test_jax_may_have_been_kept_from_the_cpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another engine")
    from headstart.backends.doors import jax_devices

    framework = registry.load(backend)
    monkeypatch.setattr(jax_devices, "devices_of", lambda kind: [])
    for device in ("cpu", "auto"):
        with pytest.raises(BackendError, match=rf"'{device}' is the CPU, and JAX may not use it.*unset it"):
            framework.place(device, "float32")


# ---- which engine


WITHOUT = """
import importlib.abc, importlib.util, os, sys
missing = set({missing!r})
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocked())
real = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
import logging
logging.basicConfig(level="INFO", format="%(message)s")
from headstart.contract import registry
try:
    framework = registry.load("keras")
except Exception as error:
    print(type(error).__name__, error)
else:
    import keras
    print(keras.backend.backend(), "tensorflow" in sys.modules, framework.place("cpu", "float32").device)
    print(os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH"), os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"))
"""


def loaded(missing: list[str], home: Path, **variables: str) -> tuple[str, str]:
    """What a fresh process says in which some frameworks are not installed."""
    told = ("KERAS_BACKEND", "TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing)],
        env={**environment, "KERAS_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout, ran.stderr


def test_keras_runs_on_what_is_installed(backend: str, tmp_path: Path) -> None:
    """Where nobody has named an engine: on the one that is there, and it is said."""
    import keras

    engine = keras.backend.backend()
    others = sorted({"tensorflow", "jax", "torch"} - {engine})
    said, noted = loaded(others, tmp_path, XLA_PYTHON_CLIENT_MEM_FRACTION=".5")
    assert said.splitlines() == [
        f"{engine} False cpu" if engine != "tensorflow" else "tensorflow True cpu",
        "true None",
    ]
    told = f"keras: tensorflow is not installed, so it runs on {engine} (KERAS_BACKEND names another)"
    assert (told in noted) == (engine != "tensorflow")


def test_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headstart.backends.keras import engine

    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    installed = {"torch"}
    monkeypatch.setattr(engine, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(BackendError, match=r"needs jax .named by KERAS_BACKEND.*to one of torch"):
        engine.choose()
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    with pytest.raises(BackendError, match=r"'openvino' .by KERAS_BACKEND.*one of tensorflow, jax, torch"):
        engine.choose()
    monkeypatch.setenv("KERAS_BACKEND", "")
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')  # as Keras writes it by itself
    engine.choose()
    assert os.environ["KERAS_BACKEND"] == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "")
    (tmp_path / "keras.json").write_text("[damaged")
    installed.clear()
    with pytest.raises(BackendError, match="one of tensorflow, jax and torch"):
        engine.choose()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        ({"TF_FORCE_GPU_ALLOW_GROWTH": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, {}),
        ({"XLA_CLIENT_MEM_FRACTION": "0.9"}, {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}),
    ],
    ids=["nothing", "everything", "a-share"],
)
def test_a_cards_memory_is_not_taken_ahead(
    said: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.backends.keras import engine

    environment = dict(said)
    monkeypatch.setattr(engine.os, "environ", environment)
    engine.leave_memory()
    monkeypatch.undo()
    assert environment == said | expected
