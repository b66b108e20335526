"""Dropout and stochastic depth as `headstart.contract.masks` has them.

torch computes with no unsigned 32 bits: on its engine they are int32, of which right shifts keep the sign, so
that is masked out. TensorFlow computes with int32 on the host even where there is a GPU: elsewhere they
are uint32, and are compared as signed numbers with their first bit turned over.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from headstart.backends.keras.arrays import ENGINE
from headstart.contract.masks import FIRST, SECOND, SHIFTS, key_of, scale_of, threshold_of
from headstart.graph import Node

NUMBERS = "int32" if ENGINE == "torch" else "uint32"
TOP = 1 << 31


class Dropped(keras.layers.Layer):
    """A node's layer, where a trainer trains it."""

    def __init__(self, node: Node, seed: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.op, self.rate, self.key = node.op, node.attrs["rate"], key_of(seed, node.name)

    def build(self, shape: Any) -> None:
        self.step = new_step(self.add_weight)

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        step = ops.copy(self.step.value)  # TensorFlow would read the variable later
        self.step.assign(ops.add(step, number(1)))
        count, *sides = ops.shape(x)
        if self.op == "drop_path":
            factors = of_samples(self.key, self.rate, step, count, x.dtype)
            return x * ops.reshape(factors, (-1, *[1] * len(sides)))
        size = math.prod(sides) if all(isinstance(side, int) for side in sides) else ops.prod(ops.stack(sides))
        return x * ops.reshape(of_elements(self.key, self.rate, step, (count, size), x.dtype), ops.shape(x))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def new_step(make: Any) -> keras.Variable:
    """The number of a training's next step. `make`: of a layer, or a variable of its own."""
    return make((), initializer="zeros", dtype=NUMBERS, trainable=False, name="step")


def of_samples(key: int, rate: float, step: Any, count: Any, dtype: Any) -> Any:
    """`(n,)`: what each sample of the step's batch is multiplied by."""
    return _factors(_samples(key, step, count), rate, dtype)


def of_elements(key: int, rate: float, step: Any, shape: tuple[Any, Any], dtype: Any) -> Any:
    """`(n, size)`: what each of a sample's numbers is multiplied by."""
    count, size = shape
    x = ops.bitwise_xor(ops.expand_dims(_samples(key, step, count), 1), _mixed_count(size))
    return _factors(_times(_shifted(_times(x, FIRST), SHIFTS[1]), SECOND), rate, dtype)


def number(value: int) -> Any:
    """As such a number of 32 bits."""
    return np.array(value & 0xFFFFFFFF, np.uint32).view(NUMBERS)


def _samples(key: int, step: Any, count: Any) -> Any:
    of_step = _mixed(ops.bitwise_xor(_mixed(step), number(key)))
    return _mixed(ops.bitwise_xor(_mixed_count(count), of_step))


def _mixed_count(count: Any) -> Any:
    return _mixed(ops.cast(ops.arange(count, dtype="int32"), NUMBERS))


def _mixed(x: Any) -> Any:
    before, between, behind = SHIFTS
    return _shifted(_times(_shifted(_times(_shifted(x, before), FIRST), between), SECOND), behind)


def _times(x: Any, factor: int) -> Any:
    return ops.multiply(x, number(factor))  # torch's own operator hands numpy's number to numpy


def _shifted(x: Any, by: int) -> Any:
    shifted = ops.bitwise_right_shift(x, number(by))
    if NUMBERS == "int32":
        shifted = ops.bitwise_and(shifted, number((1 << (32 - by)) - 1))
    return ops.bitwise_xor(x, shifted)


def _factors(drawn: Any, rate: float, dtype: Any) -> Any:
    least = threshold_of(rate)
    if NUMBERS == "uint32":
        drawn, least = ops.bitwise_xor(drawn, number(TOP)), least + TOP
    kept = ops.greater_equal(drawn, number(least))
    return ops.cast(kept, dtype) * ops.cast(scale_of(rate), dtype)
