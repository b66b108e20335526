"""Keras models of users' own that ONNX files are written of."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from own_keras import seeded


class Steep(layers.Layer):
    """A layer that stands in a module."""

    def __init__(self, slope: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.slope = slope

    def call(self, x: Any) -> Any:
        return ops.where(x > 0, x, x * self.slope)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}


class Branching(layers.Layer):
    """It computes otherwise where there are many samples."""

    def call(self, x: Any) -> Any:
        count = ops.shape(x)[0]
        if count is None:
            return x
        if keras.backend.backend() == "tensorflow":
            return x * ops.where(count > 10, 2.0, 1.0)
        return x * 2 if count > 10 else x

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@seeded(0)
def several() -> keras.Model:
    """Takes arrays of three kinds."""
    words = keras.Input((3,), dtype="int32", name="the words")
    numbers = keras.Input((4,), name="weight.0")
    picture = keras.Input((8, 8, 3), dtype="uint8", name="add")
    x = layers.Embedding(20, 6, mask_zero=True)(words)
    x = layers.Bidirectional(layers.GRU(4, dropout=0.2, recurrent_dropout=0.1))(x)
    y = Steep(0.3)(layers.Dense(4, name="mul")(layers.Normalization(mean=0.5, variance=4.0)(numbers)))
    z = layers.DepthwiseConv2D(3, 2, "same", activation="gelu")(layers.Rescaling(1 / 127.5, -1)(picture))
    x = layers.Concatenate()([x, y, layers.GlobalMaxPooling2D()(z)])
    return keras.Model([words, numbers, picture], layers.Dense(3)(layers.Dropout(0.5)(x)))


@seeded(0)
def branching() -> keras.Model:
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(3)(Branching()(layers.Dense(8)(x))))


@seeded(0)
def hidden() -> keras.Model:
    """A layer of it is known inside of a function alone."""

    class Hidden(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    x = inputs = keras.Input((16, 16, 3))
    x = Hidden()(layers.Conv2D(8, 4, 4)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D(name="pool")(x)))


class Talkative(layers.Layer):
    """It says more of itself than it takes, as some of KerasHub's do."""

    def call(self, x: Any) -> Any:
        return x * 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "colour": "red"}


@seeded(0)
def talkative() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    x = Talkative()(layers.Conv2D(8, 4, 4)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D(name="pool")(x)))
