"""Keras models whose layers hold more than weights and what their configuration says."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
from keras import layers, ops

NOISE = np.random.default_rng(5).standard_normal((6, 16, 16, 3)).astype(np.float32)


def run(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model(x, training=False))


def pooled(x: Any) -> Any:
    return layers.GlobalAveragePooling2D()(x)


class Inside(layers.Layer):
    """A layer that has another one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = layers.Normalization()

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x)


class Palette(layers.Layer):
    """Keeps a table that is no weight, and saves it as Keras offers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.colors = np.zeros(3, np.float32)

    def save_own_variables(self, store: Any) -> None:
        store["colors"] = self.colors

    def load_own_variables(self, store: Any) -> None:
        self.colors = np.array(store["colors"])

    def call(self, x: Any) -> Any:
        return x * (1 + ops.convert_to_tensor(self.colors))


class Penalty(layers.Layer):
    """Adds a loss of its own."""

    def call(self, x: Any) -> Any:
        self.add_loss(ops.mean(ops.abs(x)))
        return x


def penalised(how: str) -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    weights = {"kernel_regularizer": "l2"} if how == "weights" else {}
    outputs = {"activity_regularizer": "l2"} if how == "outputs" else {}
    x = layers.Conv2D(4, 3, name="conv", **weights, **outputs)(x)
    if how == "inside":
        x = keras.Sequential([keras.Input((14, 14, 4)), Penalty(name="conv")])(x)
    return keras.Model(inputs, layers.Dense(10)(pooled(x)))


def adapted(where: str, shift: float = 2) -> keras.Model:
    """`shift`: of what the layer was adapted to."""
    random.seed(0)
    seen = NOISE * (1 + shift) + shift
    x = inputs = keras.Input((16, 16, 3))
    if where == "layer":
        layer = layers.Normalization()
        layer.adapt(seen)
        x = layer(x)
    elif where == "inside":
        layer = Inside()
        x = layer(x)
        layer.inner.adapt(seen)
    elif where == "nested":
        layer = layers.Normalization()
        x = keras.Sequential([keras.Input((16, 16, 3)), layer])(x)
        layer.adapt(seen)
    elif where == "discretization":
        layer = layers.Discretization(num_bins=4)
        layer.adapt(seen)
        x = ops.cast(layer(x), "float32")
    elif where == "table":
        layer = layers.IntegerLookup()
        layer.adapt(np.repeat(np.arange(4) + int(shift), np.arange(1, 5)))
        x = ops.cast(layer(ops.cast(ops.round(x), "int32")), "float32")
    else:
        layer = Palette()
        x = layer(x)
        layer.colors = np.float32([1, 2, 3]) * shift
    return keras.Model(inputs, pooled(layers.Conv2D(4, 3)(x)))


ONE = np.float32([1])


class Secret(layers.Layer):
    """Multiplies by something that its configuration does not say."""

    def __init__(self, factor: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor


class Hidden(Secret):
    """Its factor is not one that Keras would note, nor an attribute of that name."""

    def __init__(self, factor: np.ndarray = ONE, **settings: Any) -> None:
        super().__init__(**settings)
        self.by = factor

    def get_config(self) -> Any:
        return layers.Layer.get_config(self)

    def call(self, x: Any) -> Any:
        return x * ops.convert_to_tensor(self.by)


def unsaid(how: str) -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    layer = Hidden(3 * ONE, name="secret") if how == "hidden" else Secret(name="secret")
    if how == "inside":
        inner = keras.Input((16, 16, 3))
        x = keras.Model(inner, layer(layers.ReLU()(inner)), name="outer")(layers.ReLU()(x))
    else:
        x = layer(layers.ReLU()(x))
    if how in ("set", "inside"):
        layer.factor = 2.0
    if how == "call":
        layer.call = lambda x: x + 1
    return keras.Model(inputs, pooled(x))


class Needy(layers.Layer):
    def __init__(self, factor: np.ndarray, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = factor

    def get_config(self) -> Any:
        return layers.Layer.get_config(self)

    def call(self, x: Any) -> Any:
        return x * ops.convert_to_tensor(self.factor)


def needy() -> keras.Model:
    x = keras.Input((16, 16, 3))
    return keras.Model(x, pooled(Needy(np.float32([2, 3, 4]), name="needy")(x)))


class Doubled(keras.Model):
    def call(self, *args: Any, **settings: Any) -> Any:
        return 2 * super().call(*args, **settings)


def overridden(nested: bool = False) -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    model = Doubled(x, pooled(layers.Conv2D(4, 3)(x)), name="doubled")
    return keras.Model(inputs, layers.ReLU()(model(inputs))) if nested else model


def times(x: Any, by: float) -> Any:
    return x * by


class Times:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x: Any) -> Any:
        return x * self.by

    def apply(self, x: Any) -> Any:
        return x - self.by


def active(function: Any) -> keras.Model:
    random.seed(0)
    x = keras.Input((16, 16, 3))
    return keras.Model(x, pooled(layers.Activation(function)(layers.Conv2D(4, 3)(x))))


class Nameless(layers.Layer):
    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        return x * self.gamma + self.shift


def nameless() -> keras.Model:
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = Nameless()(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(10)(pooled(x)))


class OwnNorm(layers.BatchNormalization):
    pass


class Follows(layers.Layer):
    """A norm that is none of Keras's."""

    def build(self, shape: Any) -> None:
        settings = {"shape": shape[-1:], "trainable": False}
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **settings)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **settings)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            for kept, now in zip(self.non_trainable_variables, ops.moments(x, (0, 1, 2)), strict=True):
                kept.assign(0.9 * kept + 0.1 * now)
        return (x - self.moving_mean) / ops.sqrt(self.moving_variance + 1e-3)


class Block(layers.Layer):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norm = layers.BatchNormalization()
        self.more = keras.Sequential([layers.Conv2D(4, 3), OwnNorm()])

    def build(self, shape: Any) -> None:
        self.norm.build(shape)
        self.more.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.more(self.norm(x, training=training), training=training)


def norms() -> keras.Model:
    """Batch norms of a class of their own, in a layer, in a model, and one that is none of Keras's."""
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = OwnNorm()(layers.Conv2D(4, 3, name="cut")(x))
    inner = keras.Input((14, 14, 4))
    x = Follows()(keras.Model(inner, layers.BatchNormalization()(inner))(x))
    return keras.Model(inputs, layers.Dense(10)(pooled(Block()(x))))


def ending(how: str, name: str = "softmax") -> keras.Model:
    """Ten numbers, which something makes probabilities of; "none": what they are made of."""
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = pooled(layers.Conv2D(4, 3, activation="relu")(x))
    if how == "none":
        return keras.Model(inputs, x)
    if how == "dense":
        return keras.Model(inputs, layers.Dense(10, activation=name)(x))
    y = given = keras.Input((4,)) if how in ("nested", "model") else x
    y = layers.Dense(10)(y)
    if how == "operation":
        y = ops.softmax(y)
    elif how in ("layer", "nested"):
        y = layers.Softmax()(y)
    elif how == "doubled":
        for _ in range(40):
            y = layers.Add()([y, y])
    elif how == "hand-made":
        y = ops.exp(y) / ops.sum(ops.exp(y), -1, keepdims=True)
    else:
        y = layers.Activation(name)(y)
    if how == "twice":
        y = layers.Softmax()(y)
    if how == "handed":
        y = layers.Activation("linear", dtype="float32")(y)
    return keras.Model(inputs, keras.Model(given, y)(x) if given is not x else y)


def end(how: str) -> keras.Model:
    """Ends that are no classifiers."""
    if how in ("none", "hand-made"):
        return ending(how)
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Dense(10, name="proj" if how == "proj" else None)(pooled(layers.Conv2D(4, 3)(x)))
    x = {"tanh": layers.Activation("tanh"), "norm": layers.LayerNormalization()}.get(how, layers.Identity())(x)
    return keras.Model(inputs, x)


def between(how: str) -> keras.Model:
    """Something stands between the last layer and what makes probabilities; or features end so."""
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="maps")(x)
    rows = pooled(x)
    given = keras.Input((4,))
    ends = {
        "tanh": lambda: layers.Activation("softmax")(layers.Dense(10, "tanh")(rows)),
        "leaky": lambda: layers.Softmax()(layers.LeakyReLU()(layers.Dense(10)(rows))),
        "norm": lambda: ops.softmax(layers.BatchNormalization()(layers.Dense(10)(rows))),
        "operation": lambda: ops.log_softmax(3 * ops.gelu(layers.Dense(10)(rows))),
        "stacked": lambda: ops.sum(ops.stack([layers.Dense(10)(rows) for _ in range(2)], -1), 2),
        "mixed": lambda: layers.Average()([layers.Softmax()(layers.Dense(10, "tanh")(rows)) for _ in range(2)]),
        "nested": lambda: layers.Softmax()(
            keras.Model(given, layers.Dense(10)(layers.Dense(4, "elu", name="inner")(given)), name="head")(rows)
        ),
        "maps": lambda: ops.softmax(layers.ReLU()(layers.Conv2D(10, 3)(x))),
        "gelu": lambda: layers.Dense(10, "gelu")(rows),
        "left leaky": lambda: layers.LeakyReLU()(layers.Dense(10)(rows)),
        "codes": lambda: ops.sigmoid(layers.BatchNormalization()(layers.Dense(10)(rows))),
    }
    return keras.Model(inputs, ends[how]())


def rows_of(how: str) -> keras.Model:
    """Residual blocks on a dense layer, or numbers of classes that are refined."""
    random.seed(0)
    x = inputs = keras.Input((6,))
    stem, again = {"blocks": ("stem", "head"), "called": ("fc", "fc2"), "refined": ("head", "again")}[how]
    x = layers.Dense(5, "tanh", name="first")(x) if how != "blocks" else x
    x = layers.Dense(4, name=stem)(x)
    return keras.Model(inputs, layers.Add()([x, layers.Dense(4, name=again)(layers.Dense(7, "relu")(x))]))


def tokens() -> tuple[keras.Model, keras.Model]:
    """A classifier on each of two tokens, and one of each of all; and what gives the tokens."""
    random.seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 4))(layers.Conv2D(4, 3, 4, "same")(inputs))
    x = layers.LayerNormalization(name="norm")(x)
    apart = [layers.Dense(10, name="head")(layers.Dropout(0.1)(x[:, 0])), layers.Dense(10, name="dist")(x[:, 1])]
    apart.append(layers.GlobalAveragePooling1D()(layers.Dense(10, name="places")(x)))
    return keras.Model(inputs, layers.Average()(apart)), keras.Model(inputs, x)


class Greatest(layers.Layer):
    def call(self, x: Any) -> Any:
        return ops.max(x, axis=1)


class Ranks(layers.Layer):
    """A classifier in a layer of somebody's own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = layers.Dense(10)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x)


def opaque(x: Any) -> Any:
    """As a function of another library is to Keras."""
    if isinstance(x, keras.KerasTensor):
        raise TypeError("no tensor")
    return ops.sum(x, 1)


def joined(how: str) -> tuple[keras.Model, keras.Model]:
    """Numbers of the classes of all tokens, or of several classifiers, become one; or features do. And what gives
    the tokens."""
    random.seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 4))(layers.Conv2D(4, 3, 4, "same")(inputs))
    x = layers.LayerNormalization(name="norm")(x)

    def dense(name: str | None = None, y: Any = x) -> Any:
        return layers.Dense(10, name=name)(y)

    def heads(**settings: Any) -> list[Any]:
        return [layers.Dense(10, name=name, **settings)(x[:, i]) for i, name in enumerate(("head", "head_2"))]

    def deep(name: str, y: Any) -> Any:
        return keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, name=f"{name}_in"), layers.Dense(10)], name=name
        )(y)

    pool = layers.GlobalMaxPooling1D()
    ends = {
        "pooled": lambda: pool(dense("head")),
        "sum in a lambda": lambda: layers.Lambda(lambda y: ops.sum(y, 1))(dense("head")),
        "max": lambda: ops.max(dense("logits"), axis=1),
        "soft": lambda: ops.logsumexp(dense("classifier"), axis=-2),
        "shared": lambda: layers.Softmax()(pool(dense())),
        "shared lambda": lambda: ops.softmax(layers.Lambda(lambda y: ops.max(y, 1))(dense())),
        "own": lambda: Greatest()(dense("head")),
        "distributed": lambda: pool(layers.TimeDistributed(layers.Dense(10, name="head"))(x)),
        "einsum": lambda: ops.sum(layers.EinsumDense("ntc,cd->ntd", (None, 10), name="head")(x), 1),
        "smooth": lambda: layers.Softmax()(layers.DepthwiseConv1D(3, padding="same")(dense())),
        "grouped": lambda: ops.softmax(layers.Conv1D(10, 3, padding="same", groups=10)(dense())),
        "one": lambda: dense("head")[:, 0],
        "masked": lambda: (
            ops.sum(dense("head") * (there := ops.reshape(ops.abs(inputs[:, :4, :4, :1]), (-1, 16, 1))), 1)
            / ops.sum(there, 1)
        ),
        "larger": lambda: layers.Maximum()(heads()),
        "logs": lambda: ops.logsumexp(ops.stack(heads(activation="log_softmax")), 0),
        "in a lambda": lambda: layers.Lambda(lambda ys: ys[0] + ys[1])(heads()),
        "deep": lambda: layers.Average()([deep("first", x[:, 0]), deep("second", x[:, 1])]),
        "hidden": lambda: pool(dense("wide")),
        "unit": lambda: layers.Lambda(lambda y: y / ops.norm(y, axis=-1, keepdims=True))(dense("fc", x[:, 0])),
        "attended": lambda: ops.sum(dense("head") * ops.softmax(layers.Dense(1)(x), 1), 1),
        "opaque": lambda: layers.Lambda(opaque, name="end")(dense("head")),
        "closed": lambda: layers.Softmax()(Ranks(name="end")(x[:, 0])),
        "opaque features": lambda: layers.Lambda(opaque)(dense("wide")),
    }
    return keras.Model(inputs, ends[how]()), keras.Model(inputs, x)


class Temperature(layers.Layer):
    def build(self, shape: Any) -> None:
        self.weight = self.add_weight((), "ones", name="weight")

    def call(self, x: Any) -> Any:
        return x / self.weight


def behind(how: str) -> keras.Model:
    """Ends with something behind the classifier that is no layer."""
    x = inputs = keras.Input((16, 16, 3))
    x = pooled(layers.Conv2D(4, 3)(x))
    x = layers.Dense(10, "hard_sigmoid" if how == "bounded" else None)(x)
    if how == "temperature":
        x = Temperature()(x)
    if how == "clipped":
        x = ops.clip(layers.ActivityRegularization(l2=0.1)(x), -1, 1)
    return keras.Model(inputs, x)


def codes() -> keras.Model:
    """Of what it gives at "codes", float16 would not hold the numbers."""
    x = inputs = keras.Input((16, 16, 3))
    x = ops.sum(layers.Reshape((-1, 4))(layers.Conv2D(4, 3)(x)), -1)
    x = layers.Discretization(list(np.linspace(-3, 3, 4000)), name="codes")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(layers.Embedding(4001, 4)(x))))


def frozen(how: str) -> keras.Model:
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    made = {"trainable": False} if how == "made so" else {}
    x = layers.Conv2D(4, 3, name="cut")(x)
    conv, norm = layers.Conv2D(4, 3, 2, **made), layers.BatchNormalization(**made)
    if how == "inside":
        given = keras.Input((14, 14, 4))
        x = keras.Model(given, conv(given))(x)
        conv.trainable = False
    else:
        x = conv(x)
    x = norm(x)
    if how == "layer":
        conv.trainable = norm.trainable = False
    if how == "weight":
        conv.kernel.trainable = False
    return keras.Model(inputs, layers.Dense(10)(pooled(x)))


def branched() -> keras.Model:
    """Two outputs, one of each of two maps."""
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    up = layers.Conv2D(4, 3, 2, "same", name="up")(x)
    deep = layers.Conv2D(4, 3, 2, "same", name="deep")(up)
    first = layers.Dense(10, name="first")(pooled(up))
    return keras.Model(inputs, [first, layers.Dense(2)(pooled(deep))])


def repeating(again: int) -> Any:
    """One of its two layers stands in it twice."""
    keras.utils.set_random_seed(0)
    first = x = keras.Input((16, 16, 3))
    layers = [keras.layers.Conv2D(3, 1, name=name) for name in "ab"]
    for layer in (*layers, layers[again]):
        x = layer(x)
    return keras.Model(first, keras.layers.Flatten()(x))
