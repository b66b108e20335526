"""What is Keras's own about the files that it writes: what cannot be in one, and what is in none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import Here, photographs, small_model
from families import SMALL

import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.errors import ExportError
from headstart.models import Model
from headstart.training.exporting import framework_file

pytestmark = pytest.mark.of("keras")
EXAMPLE = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def owned(module: str, make: str, *about: Any) -> Any:
    """A module of a user's, wrapped."""
    return hs.wrap(getattr(import_module(module), make)(*about), example=EXAMPLE, name="theirs")


def kinds(config: Any) -> set[str]:
    """The modules of all classes that a saved configuration names."""
    if isinstance(config, list):
        return set().union(*map(kinds, config)) if config else set()
    if not isinstance(config, dict):
        return set()
    named = {str(config["module"]).partition(".")[0]} if "module" in config else set()
    return named.union(*map(kinds, config.values()))


@pytest.mark.parametrize(
    "make",
    [small_model, lambda: owned("own_keras_layers", "ending", "layer"), lambda: owned("own_keras", "nested")],
    ids=["of headstart's", "with a softmax taken off", "nested"],
)
def test_a_keras_file_holds_nothing_but_keras(make: Callable[[], Any], tmp_path: Path) -> None:
    hs.export(make(), tmp_path / "out.keras", verify=False)
    with zipfile.ZipFile(tmp_path / "out.keras") as archive:
        assert kinds(json.loads(archive.read("config.json"))) <= {"keras", "builtins"}


def test_what_is_the_users_own_is_in_no_keras_file(tmp_path: Path) -> None:
    steep = import_module("own_keras").steep
    refused = {
        "layer 'own_norm\\w*' \\(OwnNorm\\)": owned("own_keras_layers", "norms"),
        "a lambda of layer 'lambda": owned("own_keras", "lambdas"),
        "function 'steep' of layer 'conv2d": owned("own_keras", "active", steep),
    }
    for text, model in refused.items():
        with pytest.raises(ExportError, match=f"{text}.* is no part of Keras"):
            hs.export(model, tmp_path / "out.keras", verify=False)
    with pytest.raises(ExportError, match="expected a name that ends in"):
        hs.export(small_model(), tmp_path / "out.bin", format="keras", verify=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        # test_framework_files has a transformer, and core's own networks
        pytest.param("efficientnet", marks=pytest.mark.slow),
        pytest.param("clip", marks=pytest.mark.slow),
        pytest.param("dinov2", marks=pytest.mark.slow),
    ],
)
def test_architectures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have ops for which Keras has no layer, or LiteRT no op of that name."""
    monkeypatch.setattr(framework_file, "FileProcess", Here)
    small, rng = SMALL[name], np.random.default_rng(0)
    graph = small.graph(monkeypatch, name).main
    params = {
        parameter: np.abs(rng.normal(0.3, 0.3, shape)).astype(np.float32)
        if parameter.endswith("running_var")
        else rng.normal(0, 0.5, shape).astype(np.float32)
        for parameter, shape in graph.param_shapes().items()
    }
    preprocess = Preprocess(small.size, small.size, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    model = Model(name, graph, params, preprocess, ("cat", "dog", "eel"), cut=graph.cuts()[-2])
    for suffix in ("tflite", "keras"):
        exported = hs.export(model, tmp_path / f"out.{suffix}", photographs(), device="cpu")
        assert exported.verification is not None and exported.verification.largest < 1e-4


# ---- TensorFlow's


def test_a_saved_model_serves_any_batch_and_holds_weights_once(tmp_path: Path) -> None:
    import tensorflow as tf

    model = hs.model("lenet", classes=["cat", "dog"])
    path = hs.export(model, tmp_path / "out.savedmodel", verify=False).path
    _, taken = tf.saved_model.load(str(path)).signatures["serving_default"].structured_input_signature
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in taken.items()} == {
        "images": ([None, *model.input_shape], tf.uint8)
    }
    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert stored < 1.2 * sum(value.nbytes for value in model.params.values())
    assert json.loads((path / "assets.extra" / "headstart.json").read_text())["verified"] == "not verified"


def test_a_tflite_file_has_its_labels_behind_it(tmp_path: Path) -> None:
    import tensorflow as tf

    names = ("red\nrose", "tu\udcfflip", *small_model().classes[2:])  # of two lines; of bytes that are no UTF-8
    path = hs.export(replace(small_model(), classes=names), tmp_path / "out.tflite", verify=False).path
    import_module("headstart.backends.keras.tflite").note(str(path), {"verified": "by a friend"})
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == ["red rose", "tu\\udcfflip", *names[2:]]
        texts = json.loads(archive.read("headstart.json"))
        assert len(archive.namelist()) == 2
    assert (texts["verified"], texts["model"]) == ("by a friend", "small")
    assert tuple(json.loads(texts["classes"])) == names
    with pytest.warns(UserWarning, match="ai_edge_litert"):
        signature = tf.lite.Interpreter(str(path)).get_signature_runner()
    assert [list(entry["shape_signature"]) for entry in signature.get_input_details().values()] == [
        [-1, 24, 24, 3]
    ]


def test_ops_that_tflite_has_not_are_named(tmp_path: Path) -> None:
    keras = import_module("keras")
    x = keras.Input((16, 16, 3))
    y = keras.layers.GlobalAveragePooling2D(name="pool")(keras.ops.sinh(x))
    model = hs.wrap(keras.Model(x, keras.layers.Dense(3)(y)), example=EXAMPLE)
    with pytest.raises(ExportError, match="TFLite has no op for TensorFlow's Sinh in this model") as caught:
        hs.export(model, tmp_path / "out.tflite")
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]
    exported = hs.export(model, tmp_path / "out.savedmodel", device="cpu", verify=False)
    assert (exported.path / "saved_model.pb").is_file()


def test_a_softmax_that_was_taken_off_is_in_no_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_file, "FileProcess", Here)
    model = owned("own_keras_layers", "ending", "layer")
    for suffix in ("keras", "savedmodel", "tflite"):
        exported = hs.export(model, tmp_path / f"out.{suffix}", EXAMPLE, device="cpu")
        assert exported.verification is not None and exported.verification.largest < 1e-4


def test_layers_that_augment_draw_nothing_unless_told(tmp_path: Path) -> None:
    """Keras's own draw by default wherever a model is called, as a file is by whoever opens it, and a run's native
    module by whoever has it; also where they stand in a model of their own, as Keras's guides have them."""
    import keras

    x = keras.Input((16, 16, 3))
    y = keras.Sequential([keras.layers.RandomContrast(0.9), keras.layers.RandomFlip()])(x)
    net = keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.RandomContrast(0.9)(y))))
    model = hs.wrap(net, example=EXAMPLE)
    hs.export(model, tmp_path / "out.keras", verify=False)
    opened = keras.saving.load_model(tmp_path / "out.keras")
    expected = net.predict_on_batch(EXAMPLE)
    for called in (lambda **how: opened(EXAMPLE, **how)["logits"], partial(hs.native(model), EXAMPLE)):
        plain, drawn = (keras.ops.convert_to_numpy(called(**how)) for how in ({}, {"training": True}))
        np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(drawn - plain).max() > 0.01, "who trains on it has them"


def test_tensorflow_writes_its_own_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.backends.keras.files.ENGINE", "jax")
    for suffix in ("savedmodel", "tflite"):
        with pytest.raises(ExportError, match="it runs on jax; expected KERAS_BACKEND=tensorflow"):
            hs.export(small_model(), tmp_path / f"out.{suffix}", verify=False)
    assert not [*tmp_path.iterdir()]
