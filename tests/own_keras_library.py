"""Keras models as libraries of models write them: classes that make themselves of layers, layers of which the
configuration says too little or too much, several outputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

SIDE = 16


class Patches(layers.Layer):
    """Its configuration says what it has worked out, and leaves out a parameter that was added later."""

    def __init__(self, width: int, size: int = 4, use_bias: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.width, self.size, self.use_bias = width, size, use_bias
        self.number = (SIDE // size) ** 2
        self.embed = layers.Conv2D(width, size, size, use_bias=use_bias, name="embed")

    def call(self, x: Any) -> Any:
        return ops.reshape(self.embed(x), (-1, self.number, self.width))

    def get_config(self) -> Any:
        return {**super().get_config(), "width": self.width, "size": self.size, "number": self.number}


class Block(layers.Layer):
    """Its configuration cannot be had at all, and it makes layers of its activation at once."""

    def __init__(self, width: int, activation: Any = "relu", **settings: Any) -> None:
        super().__init__(**settings)
        self.width, self.activation = width, keras.activations.get(activation)
        self.dense = layers.Dense(width, self.activation, name="dense")

    def call(self, x: Any) -> Any:
        return x + self.dense(x)

    def get_config(self) -> Any:
        return {**super().get_config(), "heads": self.number_of_heads}


class Scaled(layers.Layer):
    """Its configuration holds a class, which it writes as if that were a layer."""

    def __init__(self, norm: type[layers.Layer], **settings: Any) -> None:
        super().__init__(**settings)
        self.norm = norm
        self.made = norm(name="made")

    def call(self, x: Any) -> Any:
        return self.made(x)

    def get_config(self) -> Any:
        return {**super().get_config(), "norm": keras.saving.serialize_keras_object(self.norm)}


def steep(x: Any) -> Any:
    return ops.relu(2 * x)


class Backbone(keras.Model):
    """Holds its layers in another order than it calls them in, and one that it never calls."""

    def __init__(self, several: bool = False, **settings: Any) -> None:
        self.norm = Scaled(layers.LayerNormalization, name="norm")
        self.block = Block(8, steep, name="block")
        self.unused = layers.Dense(5, name="unused")
        self.unused.build((None, 8))
        self.patches = Patches(8, use_bias=False, name="patches")
        inputs = keras.Input((SIDE, SIDE, 3), name="images")
        tokens = self.norm(self.block(self.patches(inputs)))
        pooled = layers.Dense(6, "tanh", name="pooled_dense")(tokens[:, 0])
        outputs = {"sequence_output": tokens, "pooled_output": pooled} if several else tokens
        super().__init__(inputs, outputs, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
        """On torch a module takes no layers before it is one; KerasHub's classes go round that so."""
        if keras.backend.backend() == "torch" and "_layers" not in vars(self):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def task(several: bool) -> keras.Model:
    """A classifier on a backbone, whose inputs are the model's."""
    backbone = Backbone(several, name="backbone")
    given = backbone(backbone.input)
    pooled = given["pooled_output"] if several else layers.GlobalAveragePooling1D()(given)
    return keras.Model(backbone.input, layers.Dense(4, name="classes")(layers.Dropout(0.1)(pooled)))


def pyramid() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(4, 3, 2, "same", name="one")(inputs)
    second = layers.Conv2D(6, 3, 2, "same", name="two")(first)
    return keras.Model(inputs, {"P1": first, "P2": second})


def run(model: keras.Model, x: np.ndarray, *entries: str) -> np.ndarray:
    found = model(x, training=False)
    for entry in entries:
        found = found[entry]
    return np.asarray(ops.convert_to_numpy(found))
