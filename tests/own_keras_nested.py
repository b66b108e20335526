"""Keras models with models inside of them."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
from keras import layers


def _base(top: int = 0) -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, 2, name="conv")(x)))
    x = layers.Add(name="add")([x, layers.Conv2D(4, 3, padding="same", name="branch")(x)])
    x = layers.Dropout(0.2, name="drop")(layers.Conv2D(6, 3, name="last")(x * 2.0))
    if top:
        x = layers.GlobalAveragePooling2D(name="inner_pool")(x)
        x = layers.Dense(top, "softmax", name="classes")(x)
    model = keras.Model(inputs, x, name="base")
    rng = np.random.default_rng(0)
    norm = model.get_layer("norm")
    norm.moving_mean.assign(rng.uniform(-0.3, 0.3, 4))
    norm.moving_variance.assign(rng.uniform(0.5, 1.5, 4))
    return model


def model(how: str) -> keras.Model:
    """The usual recipe for transfer learning, and others."""
    random.seed(0)
    x = inputs = keras.Input((16, 16, 3))
    base = _base(10 if how == "topped" else 0)
    if how == "augmented":
        flips = [layers.RandomFlip(seed=0), layers.RandomRotation(0.1, seed=0)]
        x = keras.Sequential([keras.Input((16, 16, 3)), *flips], name="augment")(x)
        base.trainable = False
        x = base(x / 2.0 - 0.1, training=False)
    elif how == "deep":
        x = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(0.5), base], name="middle")(x)
    elif how == "twice":
        x = layers.Concatenate()([base(x), base(-x)])
    else:
        x = base(layers.Rescaling(0.5, 0.1)(x))
    if how == "topped":
        return keras.Model(inputs, x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def inside(net: keras.Model, name: str, x: np.ndarray) -> np.ndarray:
    """What a layer of the base gives, where the model only rescales before it."""
    base = net.get_layer("base")
    before: Any = keras.Model(net.input, net.layers[1].output)(x, training=False)
    upto = keras.Model(base.input, base.get_layer(name).output)
    return keras.ops.convert_to_numpy(upto(before, training=False))


def state(net: keras.Model) -> list[Any]:
    told = [(len(layer._inbound_nodes), len(layer._outbound_nodes), layer.name) for layer in net._flatten_layers()]
    return [*told, *(np.array(weight) for weight in net.get_weights())]
