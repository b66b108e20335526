"""Models as Keras's libraries of models make them are copied whole; of several outputs the right one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("keras")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def kinds(backend: str) -> Any:
    import own_keras_library

    return own_keras_library


def features(model: Any, x: np.ndarray = X) -> np.ndarray:
    return hs.forward(model, x, "trunk")["trunk"]


def shaken(model: Any) -> Any:
    """With weights of which none is as it is made."""
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def test_a_class_that_makes_itself_of_layers(kinds: Any) -> None:
    model = shaken(kinds.Backbone())
    before = model.get_weights()
    made = hs.wrap(model, **FRESH)
    assert relative_error(features(made), kinds.run(model, X)) < 1e-5
    assert not any("unused" in name for name in made.params)
    cut = hs.wrap(model, "block", **FRESH)
    assert relative_error(features(cut), kinds.run(kinds.keras.Model(model.input, model.block.output), X)) < 1e-5
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_frozen_in_such_a_class_stays_so(kinds: Any) -> None:
    model = shaken(kinds.task(several=False))
    model.get_layer("backbone").block.dense.trainable = False
    made = hs.wrap(model, "classes", **FRESH)
    fixed = made.graph["trunk"].attrs["part"].fixed
    assert {made.params[f"trunk.{name}"].shape for name in fixed} == {(8, 8), (8,)}


@pytest.mark.parametrize("several", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_task_on_a_backbone(kinds: Any, several: bool, tmp_path: Path) -> None:
    """Of what the backbone gives, the head is on what the classifier is on."""
    model = shaken(kinds.task(several))
    for head in (FRESH, {"preprocess": P}):
        made = hs.wrap(model, **head)
        shape = (6,) if several else (8,)
        assert features(made).shape[1:] == shape
        if several:
            assert made.module_cut == "backbone.pooled_output"
            assert (
                relative_error(features(made), kinds.run(model.get_layer("backbone"), X, "pooled_output")) < 1e-5
            )
        np.testing.assert_array_equal(features(hs.wrap(model, made.module_cut, **head)), features(made))
    assert relative_error(hs.forward(made, X, "head")["head"], kinds.run(model, X)) < 1e-5
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    run = fit(hs.wrap(model, **FRESH), data, tmp_path, mode="full", epochs=1)
    again = hs.load(run.save(tmp_path / "saved"), model=hs.wrap(model, **FRESH))
    np.testing.assert_array_equal(again.predict(data[1]), run.predict(data[1]))


def test_which_of_several_outputs(kinds: Any) -> None:
    model = shaken(kinds.Backbone(several=True))
    for cut, entry in (
        (None, "pooled_output"),
        ("pooled_output", "pooled_output"),
        ("pooled_dense", "pooled_output"),
        ("sequence_output", "sequence_output"),
    ):
        made = hs.wrap(model, cut, **FRESH)
        assert relative_error(features(made), kinds.run(model, X, entry)) < 1e-5
        np.testing.assert_array_equal(features(hs.wrap(model, made.module_cut, **FRESH)), features(made))
    inner = kinds.task(several=True)
    made = hs.wrap(inner, "backbone.sequence_output", **FRESH)
    assert relative_error(features(made), kinds.run(inner.get_layer("backbone"), X, "sequence_output")) < 1e-5
    with pytest.raises(CutError, match=r"no 'last' is in it; choose .*'pooled_output' \(6,\)"):
        hs.wrap(inner, "backbone.last", **FRESH)


def test_maps_of_a_pyramid_are_chosen_from(kinds: Any) -> None:
    model = kinds.pyramid()
    with pytest.raises(CutError, match=r"gives a dict .* which of them .*'P1' \(8, 8, 4\), 'P2' \(4, 4, 6\)"):
        hs.wrap(model, **FRESH)
    for cut in ("P2", "two"):
        assert relative_error(features(hs.wrap(model, cut, **FRESH)), kinds.run(model, X, "P2")) < 1e-5
    with pytest.raises(SettingError, match="has 2 outputs, so its rest is no head"):
        hs.wrap(model, "one", preprocess=P)


def test_a_layer_of_several_tensors(kinds: Any) -> None:
    """The one that is used behind it, unless another is named."""
    from keras import Input, Model, layers

    inputs = Input((16, 16, 3))
    rows = layers.Reshape((16, 48))(inputs)
    given, last, memory = layers.LSTM(5, return_sequences=True, return_state=True, name="lstm")(rows)
    model = shaken(Model(inputs, layers.Dense(3, name="classes")(last)))
    expected = Model(inputs, [given, last, memory])(X, training=False)
    for cut, place in ((None, 1), ("lstm", 1), ("lstm.1", 1), ("lstm.0", 0), ("lstm.2", 2)):
        made = hs.wrap(model, cut, **FRESH)
        assert relative_error(features(made), kinds.ops.convert_to_numpy(expected[place])) < 1e-5, cut
    made = hs.wrap(model, preprocess=P)
    assert made.module_cut == "lstm.1"
    assert relative_error(hs.forward(made, X, "head")["head"], kinds.run(model, X)) < 1e-5
