"""The rest of a Keras model as head: the softmax at its end comes off, what its owner froze stays; and fresh heads
inside of branches."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from own import P, X

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.models.endings import ENDINGS
from headstart.testing import relative_error

pytestmark = pytest.mark.of("keras")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 3}


@pytest.fixture(scope="module")
def kinds(backend: str) -> Any:
    import own_keras_layers

    return own_keras_layers


@pytest.mark.parametrize("how", ["dense", "activation", "layer", "operation", "nested", "model", "handed"])
def test_a_softmax_at_the_end_comes_off(kinds: Any, how: str) -> None:
    model = kinds.ending(how)
    before = model.get_config()
    made = hs.wrap(model, preprocess=P)
    logits, probabilities = hs.forward(made, X)["logits"], kinds.run(model, X)
    assert np.abs(logits.sum(1) - 1).max() > 0.01
    assert relative_error(ENDINGS["softmax"](logits), probabilities) < 1e-5
    assert relative_error(hs.forward(made, X, "trunk")["trunk"], kinds.run(kinds.ending("none"), X)) < 1e-5
    assert model.get_config() == before
    np.testing.assert_array_equal(kinds.run(model, X), probabilities)


@pytest.mark.parametrize("name", ["log_softmax", "sigmoid"])
def test_other_endings(kinds: Any, name: str) -> None:
    model = kinds.ending("activation", name)
    assert (
        relative_error(ENDINGS[name](hs.forward(hs.wrap(model, preprocess=P), X)["logits"]), kinds.run(model, X))
        < 1e-5
    )


def test_a_softmax_that_cannot_be_taken_off_is_refused(kinds: Any) -> None:
    for how in ("hand-made", "twice"):
        with pytest.raises(SettingError, match="the head gives probabilities"):
            hs.wrap(kinds.ending(how), preprocess=P, name="it")


@pytest.mark.parametrize("how", ["layer", "weight", "made so", "inside"])
def test_what_its_owner_froze_stays(kinds: Any, how: str) -> None:
    made = hs.wrap(kinds.frozen(how), "cut", preprocess=P)
    part = made.graph["head"].attrs["part"]
    names = {"weight": ["0.kernel"], "inside": ["0.kernel", "1.bias"]}
    expected = names.get(how, ["0.kernel", "1.bias", "2.gamma", "3.beta"])
    assert sorted(part.fixed) == expected
    backend = registry.load("keras")
    graph = made.graph.after("trunk", (16, 16, 3))
    params = {name: made.params[name] for name in graph.param_shapes()}
    rates = {f"head.{name}": 0.0 for name in part.fixed}
    for optimizer in (hs.AdamW(lr=0.1, weight_decay=0.1), hs.SGD(lr=0.1, weight_decay=0.1)):
        trainer = backend.trainer(
            graph, params, Recipe(optimizer, Softmax(), True, 0, rates), Place("cpu", "float32")
        )
        trainer.step(np.float32(hs.forward(made, X, "trunk")["trunk"]), np.arange(5), 0.1)
        after = trainer.params()
        moved = {name.removeprefix("head.") for name in params if not np.array_equal(after[name], params[name])}
        # with its scale and offset, a frozen batch norm keeps its statistics, though others follow the batch
        kept = {"4.moving_mean", "5.moving_variance"} if how in ("layer", "made so") else set()
        assert moved == part.shapes.keys() - part.fixed - kept, how


def test_a_fresh_head_inside_of_a_branch(kinds: Any) -> None:
    model = kinds.branched()
    for cut, shape in (("up", (8, 8, 4)), ("deep", (4, 4, 4)), ("first", (10,))):
        made = hs.wrap(model, cut, preprocess=P, head="linear", classes=3)
        assert made.graph.shapes((16, 16, 3))["trunk"] == shape
    with pytest.raises(SettingError, match="has 2 outputs, so its rest is no head"):
        hs.wrap(model, "up", preprocess=P)
    with pytest.raises(CutError, match="a cut at the input"):
        hs.wrap(model, "input", preprocess=P, head="linear", classes=3)


@pytest.mark.parametrize(
    "how", ["dense", "activation", "layer", "operation", "nested", "model", "handed", "twice", "doubled"]
)
def test_a_fresh_classifier_comes_in_the_place_of_the_old_one(kinds: Any, how: str) -> None:
    model = hs.wrap(kinds.ending(how), **FRESH)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], kinds.run(kinds.ending("none"), X)) < 1e-5
    assert model.graph.shapes((16, 16, 3))["trunk"] == (4,)


@pytest.mark.filterwarnings("ignore:layer 'activity_regularization")
@pytest.mark.parametrize("how", ["temperature", "clipped", "bounded"])
def test_what_learns_single_numbers_is_no_classifier(kinds: Any, how: str) -> None:
    model = kinds.behind(how)
    assert hs.wrap(model, **FRESH).graph.shapes((16, 16, 3))["trunk"] == (4,)
    if how == "bounded":
        with pytest.raises(SettingError, match=r"within \[0, 1\] whatever its features"):
            hs.wrap(model, preprocess=P)
    else:
        rest = hs.wrap(model, preprocess=P)
        assert rest.graph.shapes((16, 16, 3))["trunk"] == (4,)
        assert relative_error(hs.predict(rest, X), kinds.run(model, X)) < 1e-5


def test_no_average_over_channels_that_come_first() -> None:
    """In Keras layers say by themselves which axis holds them."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    x = keras.Input((16, 16, 3))
    y = layers.Permute((3, 1, 2))(layers.Conv2D(8, 3)(x))
    y = layers.MaxPooling2D(2, data_format="channels_first", name="first")(y)
    inner = keras.Input(y.shape[1:])
    y = keras.Model(inner, layers.ReLU()(inner), name="active")(y)
    z = layers.Permute((2, 3, 1), name="last")(y)
    model = keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(z)))
    for cut in ("first", "active"):
        with pytest.raises(CutError, match=rf"'{cut}' gives .* the channels first .*Permute\(\(2, 3, 1\)\)"):
            hs.wrap(model, cut, **FRESH)
        hs.wrap(model, cut, preprocess=P)  # whose rest takes them as they are
    made = hs.forward(hs.wrap(model, "last", **FRESH), X, ["trunk", "pool"])
    np.testing.assert_allclose(made["pool"], made["trunk"].mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_codes_are_no_features(kinds: Any) -> None:
    with pytest.raises(CutError, match=r"gives int.* expected floating-point numbers"):
        hs.wrap(kinds.codes(), "codes", **FRESH)


@pytest.mark.parametrize("how", ["none", "hand-made", "tanh", "proj", "norm"])
def test_a_model_that_ends_in_no_classifier_is_taken_whole(kinds: Any, how: str) -> None:
    model = kinds.end(how)
    made = hs.wrap(model, **FRESH)
    assert made.weights == "its own, cut at its end"
    assert relative_error(hs.forward(made, X, "trunk")["trunk"], kinds.run(model, X)) < 1e-5


def test_the_end_is_a_cut_where_a_head_comes_behind_it(kinds: Any) -> None:
    import keras

    model = kinds.ending("dense", "linear")
    end = model.layers[-1].name
    for head in ("linear", keras.Sequential([keras.Input((10,)), keras.layers.Dense(3)])):
        made = hs.wrap(model, end, preprocess=P, head=head, classes=3)
        assert relative_error(hs.forward(made, X, "trunk")["trunk"], kinds.run(model, X)) < 1e-5
    with pytest.raises(CutError, match="leaves nothing to train"):
        hs.wrap(model, end, preprocess=P)
    with pytest.raises(
        CutError, match=r"gives a list and not one tensor; which of them .*'0' \(10,\), '1' \(2,\)"
    ):
        hs.wrap(kinds.branched(), "output", **FRESH)
    made = hs.wrap(kinds.branched(), "1", **FRESH)
    assert hs.forward(made, X, "trunk")["trunk"].shape[1:] == (2,)


def test_quantized_layers_stay_what_they_are(backend: str) -> None:
    """They run frozen; what cannot be drawn or trained is refused."""
    import keras

    x = keras.Input((5,))
    dense = [keras.layers.Dense(4, "relu", name=name) for name in ("first", "cut", "last")]
    net = keras.Model(x, keras.layers.Dense(3)(dense[2](dense[1](dense[0](x)))))
    for layer in (dense[0], dense[2]):
        layer.quantize("int8")
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    made = hs.wrap(net, "cut", head="linear", classes=3)
    expected = keras.Model(x, dense[1].output)(rows, training=False)
    assert relative_error(hs.forward(made, rows, "trunk")["trunk"], keras.ops.convert_to_numpy(expected)) < 1e-5
    with pytest.raises(SettingError, match=r"layer 'first' \(int8\) is quantized, so its weights cannot be drawn"):
        made.graph["trunk"].attrs["part"].initial(0)
    with pytest.raises(SettingError, match=r"layer 'last' \(int8\) behind the cut 'cut' is quantized"):
        hs.wrap(net, "cut")


@pytest.mark.parametrize("nested", [False, True])
def test_what_several_classifiers_read_stands_side_by_side(kinds: Any, nested: bool) -> None:
    import keras

    model, before = kinds.tokens()
    whole = keras.Model(x := keras.Input((16, 16, 3)), model(x)) if nested else model
    tokens = kinds.run(before, X)
    made = hs.wrap(whole, **FRESH)
    read = {"head": tokens[:, 0], "dist": tokens[:, 1], "places": tokens.mean(1)}
    names = made.module_cut.removeprefix("before ").replace(f"{model.name}/", "").split(", ")
    assert sorted(names) == sorted(read)
    expected = np.concatenate([read[name] for name in names], 1)
    assert relative_error(hs.forward(made, X, "trunk")["trunk"], expected) < 1e-5
    again = hs.wrap(whole, made.module_cut, **FRESH)
    assert again.graph["trunk"].attrs["part"].structure == made.graph["trunk"].attrs["part"].structure
    with pytest.raises(CutError, match="before head"):
        hs.wrap(whole, "before head", **FRESH)


def test_what_cannot_stand_side_by_side_is_told() -> None:
    import keras
    from keras import layers

    x = keras.Input((6,))
    deep = layers.Dense(4, "relu")(layers.Reshape((6, 1))(x))
    apart = [layers.Dense(4, name="head")(x), layers.Dense(4, name="dist")(layers.Flatten()(deep))]
    with pytest.raises(CutError, match=r"'head', 'dist', read arrays of their own.*side by side"):
        hs.wrap(keras.Model(x, layers.Average()(apart)), head="linear", classes=3)


def test_several_classifiers_of_the_same_rows() -> None:
    import keras
    from keras import layers

    x = keras.Input((16, 16, 3))
    flat = layers.Flatten()(layers.LayerNormalization()(x))
    alike = [layers.Dense(4, name=name)(flat) for name in ("head", "dist")]
    model = hs.wrap(keras.Model(x, layers.Average()(alike)), **FRESH)
    assert model.graph.shapes((16, 16, 3))["trunk"] == (768,)


@pytest.mark.parametrize("how", ["tanh", "leaky", "norm", "operation", "stacked", "mixed", "nested", "maps"])
def test_what_probabilities_are_made_of_is_no_feature(kinds: Any, how: str) -> None:
    """Whatever is done to each number before."""
    import keras

    model = kinds.between(how)
    upto = model.get_layer("maps").output if how == "maps" else kinds.pooled(model.get_layer("maps").output)
    expected = kinds.run(keras.Model(model.inputs[0], upto), X)
    if how == "nested":
        expected = keras.ops.convert_to_numpy(model.get_layer("head").get_layer("inner")(expected))
    assert relative_error(hs.forward(hs.wrap(model, **FRESH), X, "trunk")["trunk"], expected) < 1e-5


@pytest.mark.parametrize("how", ["gelu", "left leaky", "codes"])
def test_what_was_active_last_is_a_feature(kinds: Any, how: str) -> None:
    assert hs.wrap(kinds.between(how), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("how", ["blocks", "called", "refined"])
def test_a_row_of_residual_blocks_ends_in_no_classifier(kinds: Any, how: str) -> None:
    """However its layers are called; numbers of classes that are refined begin in one."""
    made = hs.wrap(kinds.rows_of(how), head="linear", classes=3)
    assert made.module_cut == ("first" if how == "refined" else "its end")


JOINED = (
    *("pooled", "sum in a lambda", "max", "soft", "shared", "shared lambda", "own", "distributed", "einsum"),
    *("smooth", "grouped", "one", "masked"),
)


@pytest.mark.parametrize("how", JOINED)
def test_a_classifier_of_each_token(kinds: Any, how: str) -> None:
    """Of whose numbers the sum is taken, or the greatest, or probabilities are made."""
    model, before = kinds.joined(how)
    pooled = hs.forward(hs.wrap(model, name="it", **FRESH), X, "pool")["pool"]
    tokens = kinds.run(before, X)
    assert relative_error(pooled, tokens[:, 0] if how == "one" else tokens.mean(1)) < 1e-5


@pytest.mark.parametrize("how", ["larger", "logs", "in a lambda", "deep"])
def test_what_is_made_of_the_numbers_of_several_classifiers(kinds: Any, how: str) -> None:
    model, before = kinds.joined(how)
    tokens = kinds.run(before, X)
    expected = [tokens[:, 0], tokens[:, 1]]
    if how == "deep":
        names = ("first", "second")
        inner = [model.get_layer(name).get_layer(f"{name}_in") for name in names]
        expected = [kinds.ops.convert_to_numpy(f(x)) for f, x in zip(inner, expected, strict=True)]
    trunk = hs.forward(hs.wrap(model, name="it", **FRESH), X, "trunk")["trunk"]
    either = [relative_error(trunk, np.concatenate(parts, 1)) for parts in (expected, expected[::-1])]
    assert min(either) < 1e-5


@pytest.mark.parametrize("how", ["hidden", "unit", "attended", "opaque features"])
def test_what_is_joined_of_tokens_may_be_features(kinds: Any, how: str) -> None:
    assert hs.wrap(kinds.joined(how)[0], name="it", **FRESH).module_cut == "its end"


@pytest.mark.parametrize("how", ["opaque", "closed"])
def test_a_layer_that_cannot_be_looked_into_is_told(kinds: Any, how: str) -> None:
    model, _ = kinds.joined(how)
    with pytest.raises(CutError, match=r"scores of classes that layer 'end' takes or makes.*cut='its end'"):
        hs.wrap(model, name="it", **FRESH)
    assert hs.wrap(model, "its end", name="it", **FRESH).module_cut == "its end"


def test_layers_that_only_keras_named_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """Whether they make numbers of classes, of which the greatest of all instances is taken, nobody can tell."""
    import keras
    from keras import layers

    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype("f")

    def said(name: str | None, pooling: type) -> bool:
        entry = keras.Input((6, 3))
        body = layers.Dense(8, activation="relu", name="body")(entry)
        module = keras.Model(entry, pooling()(layers.Dense(2, name=name)(body)))
        caplog.clear()
        with caplog.at_level(logging.INFO, "headstart"):
            hs.wrap(module, example=x, head="linear", classes=2)
        return "say so by its name, as in 'classifier'" in caplog.text

    assert said(None, layers.GlobalMaxPooling1D)
    assert not said("classifier", layers.GlobalMaxPooling1D)
    assert not said("points", layers.GlobalMaxPooling1D)
    assert not said(None, layers.GlobalAveragePooling1D)
