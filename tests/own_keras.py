"""Models as users write them, in Keras; see `own_torch`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers, ops

CUT, EARLIER, INSIDE, UNKNOWN = "block", "stem_bn", "block_conv", "blok"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    yield
    random.setstate(state)


@seeded(0)
def small(seed: int = 0, slope: float = 0.1, restless: int = 0) -> keras.Model:
    random.seed(seed)
    x = inputs = keras.Input((16, 16, 3))
    if restless == 1:
        x = Noise()(x)
    if restless == 2:
        x = Company()(x)
    x = layers.Conv2D(8, 3, 2, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.BatchNormalization(name="block_bn")(layers.Conv2D(8, 3, padding="same", name="block_conv")(x))
    x = layers.Add(name="block")([x, layers.LeakyReLU(slope)(y)])
    x = layers.ReLU()(layers.Conv2D(12, 3, 2)(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(10)(layers.Dropout(0.3)(x))
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(seed)
    for name in ("stem_bn", "block_bn"):
        model.get_layer(name).moving_mean.assign(rng.uniform(-0.3, 0.3, 8))
        model.get_layer(name).moving_variance.assign(rng.uniform(0.5, 1.5, 8))
    return model


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model(x, training=False))


def features(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return logits(keras.Model(model.input, model.get_layer(CUT).output), x)


def state(model: keras.Model) -> list[Any]:
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes), layer.trainable) for layer in model.layers]
    return [*((w.path, np.array(w.numpy())) for w in model.weights), nodes, random.getstate()]


def nudge(model: keras.Model) -> None:
    kernel = model.get_layer("stem").kernel
    value = np.array(kernel.numpy())
    value[0, 0, 0, 0] = np.nextafter(value[0, 0, 0, 0], np.float32(9))
    kernel.assign(value)


class Noise(layers.Layer):
    """It draws in inference too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        return x + 0.01 * keras.random.normal(ops.shape(x), seed=self.generator)


class Company(layers.Layer):
    """Its samples are not alone."""

    def call(self, x: Any) -> Any:
        return x - ops.mean(x, 0, keepdims=True)


def restless() -> list[keras.Model]:
    return [small(restless=1), small(restless=2)]


@seeded(0)
def secret() -> keras.Model:
    x = keras.Input((16, 16, 3))
    return keras.Model(x, layers.Conv2D(4, 3)(layers.Lambda(lambda x: x * 2)(x)))


TEXT_CUT = "norm"


@seeded(0)
def text(seed: int = 0) -> keras.Model:
    ids, mask = keras.Input((12,), dtype="int32", name="ids"), keras.Input((12,), dtype="bool", name="mask")
    x = layers.Embedding(20, 16)(ids)
    # one block: Keras traces each op of each, and a second has none that the first lacks
    attended = layers.MultiHeadAttention(2, 8, dropout=0.1)(x, x, attention_mask=mask[:, None])
    x = layers.LayerNormalization()(x + attended)
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, "gelu")(x)))
    weight = ops.cast(mask, "float32")[..., None]
    x = ops.sum(x * weight, 1) / ops.sum(weight, 1)
    x = layers.Dense(2)(layers.LayerNormalization(name="norm")(x))
    return keras.Model([ids, mask], x)


def text_features(model: keras.Model, batch: dict[str, np.ndarray]) -> np.ndarray:
    part = keras.Model(model.inputs, model.get_layer("norm").output)
    return ops.convert_to_numpy(part([batch["ids"], batch["mask"]], training=False))


MLP_END = "end"  # where a trunk ends that is the whole of it


@seeded(0)
def mlp(inputs: int, outputs: int, seed: int = 0) -> keras.Model:
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(6, "relu"), layers.Dense(outputs, name=MLP_END)])


@seeded(0)
def named() -> keras.Model:
    """Takes one array, by its name."""
    x = keras.Input((6,), name="numbers")
    return keras.Model({"numbers": x}, layers.Dense(2)(layers.Dense(6, "relu")(x)))


init = None


# ---- models with something about them


@seeded(0)
def nested(trainable: bool = True) -> keras.Model:
    """A base model inside of a model, as the usual recipe for transfer learning has it."""
    x = keras.Input((16, 16, 3))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, 2)(x)))
    base = keras.Model(x, layers.Conv2D(8, 3, 2)(y), name="base")
    base.trainable = trainable
    pool = layers.GlobalAveragePooling2D(name="pool")
    return keras.Sequential([keras.Input((16, 16, 3)), base, pool, layers.Dropout(0.2), layers.Dense(10)])


@seeded(0)
def lambdas() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Lambda(lambda x: x * 2)(layers.Conv2D(8, 4, 4)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D(name="pool")(x)))


@seeded(0)
def twice() -> keras.Model:
    """A layer that is called two times, on both sides of a cut."""
    x = inputs = keras.Input((16, 16, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    x = layers.ReLU(name="relu")(conv(x))
    x = layers.ReLU(name="relu2")(conv(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D(name="pool")(x)))


def steep(x: Any) -> Any:
    return ops.leaky_relu(x, 0.3)


@seeded(0)
def active(function: Any) -> keras.Model:
    x = keras.Input((16, 16, 3))
    y = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 4, 4, activation=function)(x))
    return keras.Model(x, layers.Dense(3)(y))


@seeded(0)
def masked() -> keras.Model:
    """A mask goes along with what the layers give, unseen."""
    x = inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True)(x)
    x = layers.Dense(5, name="dense")(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(layers.GlobalAveragePooling1D(name="pool")(x)))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def cuts() -> list[tuple[keras.Model, Any, dict[str, Any]]]:
    """See `own_torch`."""
    example = {"example": np.zeros((2, 16, 16, 3), np.float32)}
    return [(small(), None, example), (small(), CUT, {"head": "linear", "classes": 3, **example})]
