"""What Keras models are like: nested, numbered, with masks and functions inside."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key, sentences

import headstart as hs
from headstart.common.errors import CutError, DataWarning, FrozenWarning, SettingError
from headstart.data import Dataset
from headstart.testing import relative_error

pytestmark = pytest.mark.of("keras")


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_keras

    return own_keras


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0, by="position")


# Keras on torch, in its own code; pytest.warns tells it anew as of here
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_model_inside_of_a_model(own: Any, data: Any, tmp_path: Path) -> None:
    model = own.nested(trainable=False)
    flags = [layer.trainable for layer in model.layers]
    wrapped = hs.wrap(model, "base", preprocess=P)
    outputs = hs.forward(wrapped, X, ["trunk", "logits"])
    assert relative_error(outputs["trunk"], own.logits(model.get_layer("base"), X)) < 1e-5
    assert relative_error(outputs["logits"], own.logits(model, X)) < 1e-5
    assert hs.wrap(model, preprocess=P).weights.startswith("its own, cut at pool"), "before the dropout"
    with pytest.warns(FrozenWarning, match="mode 'full' trains everything"):
        run = fit(wrapped, data, tmp_path, mode="full")
    kept, trunk = wrapped.graph.buffers(), wrapped.graph.upto("trunk").param_shapes().keys()
    moved = {name for name in wrapped.params if not np.array_equal(run.model.params[name], wrapped.params[name])}
    assert moved == wrapped.params.keys() - trunk, "what its owner froze stays"
    run = fit(hs.wrap(own.nested(), "base", preprocess=P), data, tmp_path, mode="full")
    moved = {name for name in wrapped.params if not np.array_equal(run.model.params[name], wrapped.params[name])}
    assert moved == wrapped.params.keys() - kept, "all that can be trained is, the statistics are kept"
    assert len(kept) == 2
    assert [layer.trainable for layer in model.layers] == flags
    assert key(hs.wrap(own.nested(), "base", preprocess=P)).digest == key(wrapped).digest


def test_functions_of_the_users_own(own: Any, data: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"is a Lambda, any function.*pass name="):
        hs.wrap(own.lambdas(), "pool", preprocess=P)
    model = hs.wrap(own.lambdas(), "pool", preprocess=P, name="doubled")
    assert relative_error(hs.forward(model, X)["logits"], own.logits(own.lambdas(), X)) < 1e-5
    runs = [fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached", "full", "scratch")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    digests = [
        key(hs.wrap(own.active(function), "pool", preprocess=P)).digest
        for function in ("relu", own.steep, lambda x: x * 0.5, lambda x: x * 0.25)
    ]
    assert len(set(digests)) == 4


def test_a_layer_on_both_sides_is_refused(own: Any) -> None:
    with pytest.raises(CutError, match=r"layer 'conv' is used on both sides of the cut 'relu'"):
        hs.wrap(own.twice(), "relu", preprocess=P)
    model = hs.wrap(own.twice(), "relu2", preprocess=P)
    assert relative_error(hs.forward(model, X)["logits"], own.logits(own.twice(), X)) < 1e-5
    second = hs.wrap(own.twice(), "conv_1", preprocess=P, head="linear", classes=3)
    assert second.graph.shapes((16, 16, 3))["trunk"] == (16, 16, 3)


def test_a_mask_that_passes_the_cut_is_seen(own: Any) -> None:
    ids = sentences()["ids"]
    with pytest.raises(CutError, match=r"'dense' is inside a branch.* nearest legal cuts are 'pool'"):
        hs.wrap(own.masked(), "dense", example=ids)
    model = hs.wrap(own.masked(), "pool", example=ids)
    assert relative_error(hs.forward(model, ids)["logits"], own.logits(own.masked(), ids)) < 1e-5


def test_padded_tokens_are_not_averaged_in(own: Any) -> None:
    import keras

    fresh: dict[str, Any] = {"head": "linear", "classes": 2}
    with pytest.raises(CutError, match=r"'dense' gives a mask with its output.* padded steps would count"):
        hs.wrap(own.masked(), "dense", example=sentences()["ids"], **fresh)
    net = own.text()
    tokens = [layer.name for layer in net.layers if isinstance(layer, keras.layers.LayerNormalization)][-2]
    with pytest.raises(SettingError, match=r"tokens of shape \(12, 16\).* and 'mask' says that some are padding"):
        hs.wrap(net, tokens, example=sentences(), **fresh)


def test_models_that_are_no_graphs(own: Any) -> None:
    import keras

    for model in (own.Subclassed(), keras.Sequential([keras.layers.Dense(3)])):
        with pytest.raises(SettingError, match=r"is no functional keras\.Model with known inputs"):
            hs.wrap(model, example=np.zeros((4, 5), np.float32), head="linear", classes=3)


def test_inputs_by_other_names(own: Any) -> None:
    batch = sentences()
    with pytest.raises(
        SettingError, match=r"the model's inputs are called \['ids', 'mask'\], and the arrays \['Mask',"
    ):
        hs.wrap(own.text(), "norm", head="linear", classes=2, example={"ids": batch["ids"], "Mask": batch["mask"]})
    with pytest.raises(SettingError, match="takes 2 inputs: pass a dict"):
        hs.wrap(own.text(), "norm", head="linear", classes=2, example=batch["ids"])


@pytest.mark.filterwarnings("error:The structure of `inputs`:UserWarning")
def test_a_model_of_a_dict_is_called_with_one() -> None:
    import keras

    image, number = keras.Input((4, 4, 3), name="image"), keras.Input((2,), name="number")
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    end = keras.layers.Dense(3)(keras.layers.Concatenate(name="both")([pooled, number]))
    rng = np.random.default_rng(0)
    batch = {"number": rng.normal(size=(4, 2)).astype("f"), "image": rng.normal(size=(4, 4, 4, 3)).astype("f")}
    model = hs.wrap(keras.Model({"image": image, "number": number}, end), example=batch, head="linear", classes=3)
    expected = np.concatenate([batch["image"].mean((1, 2)), batch["number"]], 1)
    assert relative_error(hs.forward(model, batch, "trunk")["trunk"], expected) < 1e-5
    with pytest.warns(UserWarning, match="must match the names"):  # Keras's own
        mixed = keras.Model({"number": image, "image": number}, end)
    with pytest.raises(SettingError, match="under 'image' the model takes an input that is called 'number'"):
        hs.wrap(mixed, example=batch, head="linear", classes=3)


RESCALED = {"layer": 1 / 255, "recipe": 1 / 127.5, "operation": 1 / 255, "adapted": 1 / 60, "none": 1.0}


@pytest.mark.parametrize("how", RESCALED)
def test_pixels_that_are_scaled_twice_are_told_of(how: str) -> None:
    """Behind augmentation in a model of its own, as the usual recipe has it."""
    import keras
    from keras import layers

    way = {
        "layer": layers.Rescaling(1 / 255),
        "recipe": keras.applications.mobilenet_v2.preprocess_input,
        "operation": lambda x: (x - 3.0) / 255.0,
        "adapted": layers.Normalization(mean=(120.0,) * 3, variance=(3600.0,) * 3),
        "none": lambda x: x,
    }
    image = keras.Input((16, 16, 3))
    x = keras.Sequential([keras.Input((16, 16, 3)), layers.RandomFlip(), layers.RandomRotation(0.1)])(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(way[how](x)))
    model = keras.Model(image, layers.Dense(3)(x))
    raw = hs.Preprocess(16, 16, mean=(0, 0, 0), std=(1, 1, 1), scale=1)
    for preprocess, alike in ((hs.Preprocess(16, 16), how != "none"), (raw, False)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", DataWarning)
            hs.wrap(model, preprocess=preprocess, head="linear", classes=3)
        said = [str(warning.message) for warning in told if warning.category is DataWarning]
        assert len(said) == alike
        assert all(f"multiplies pixels by {RESCALED[how]:.3g}" in text for text in said)


def test_a_layer_that_runs_a_file(tmp_path: Path) -> None:
    """A SavedModel may be replaced, and its weights be the same; Keras makes such a layer when it is told to."""
    import keras
    from keras.src.saving.serialization_lib import SafeModeScope

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TFSMLayer runs on TensorFlow")
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(6)])
    inner.export(tmp_path / "inner", verbose=False)
    image = keras.Input((4, 4, 3))
    layer = keras.layers.TFSMLayer(str(tmp_path / "inner"), call_endpoint="serve")
    model = keras.Model(image, keras.layers.Dense(3)(layer(image)))
    options = {"preprocess": hs.Preprocess(4, 4), "head": "linear", "classes": 3}
    if "safe_mode" in inspect.signature(keras.layers.TFSMLayer.from_config).parameters:  # not so in Keras' oldest
        with pytest.raises(SettingError, match=r"call keras\.config\.enable_unsafe_deserialization\(\) before"):
            hs.wrap(model, **options)
    with SafeModeScope(False):  # as enable_unsafe_deserialization does for good
        with pytest.raises(SettingError, match=r"runs a SavedModel, any program.*pass name="):
            hs.wrap(model, **options)
        x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("f")
        found = hs.forward(hs.wrap(model, name="first", **options), x, "trunk")["trunk"]
    assert relative_error(found, np.asarray(inner(x))) < 1e-5


def test_integers_of_another_width(own: Any, tmp_path: Path) -> None:
    batch = sentences()
    wide = {"ids": batch["ids"].astype(np.int64), "mask": batch["mask"]}
    data = hs.data.arrays(wide, (batch["ids"] == 7).any(1).astype(int)).split(0.75)
    model = hs.wrap(own.text(), "norm", head="linear", classes=2, example=data[0])
    expected = own.text_features(own.text(), batch)
    assert relative_error(hs.forward(model, wide, "trunk")["trunk"], expected) < 1e-4
    for mode in ("cached", "full"):
        assert np.isfinite(fit(model, data, tmp_path, mode=mode, epochs=1).history["loss"]).all()


def test_a_wrapped_trunk_runs_in_low_precision(own: Any) -> None:
    model = hs.wrap(own.small(), "block", preprocess=P)
    low = hs.forward(model, X, "trunk", precision="bfloat16")["trunk"]
    full = hs.forward(model, X, "trunk")["trunk"]
    assert low.dtype == np.float32
    assert 1e-5 < relative_error(low, full) < 0.05


def test_a_compiled_model(own: Any) -> None:
    model = own.small()
    model.compile("adam", lambda y, z: z)
    assert relative_error(hs.forward(hs.wrap(model, preprocess=P), X)["logits"], own.logits(model, X)) < 1e-5
