"""Dropout and stochastic depth as `headstart.contract.masks` has them. What is computed of them is fused with what
they are multiplied with."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.contract.masks import FIRST, SECOND, SHIFTS, key_of, scale_of, threshold_of
from headstart.graph import Node


class Step(nnx.Variable[Any]):
    """The number of the next step of a training, int32."""


class Dropped(nnx.Module):
    """In the place of a node's layer, where a trainer trains it."""

    def __init__(self, node: Node, seed: int) -> None:
        self.op, self.rate, self.key = node.op, node.attrs["rate"], key_of(seed, node.name)
        self.step = Step(np.zeros((), np.int32))
        self.deterministic = True  # which NNX's own train() and eval() set

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.deterministic:
            return x
        step = self.step[...]
        self.step[...] = step + 1
        if self.op == "drop_path":
            return x * of_samples(self.key, self.rate, step, len(x), x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        shape = len(x), math.prod(x.shape[1:])
        return x * of_elements(self.key, self.rate, step, shape, x.dtype).reshape(x.shape)


def of_samples(key: int, rate: float, step: jax.Array, count: int, dtype: Any) -> jax.Array:
    """`(n,)`: what each sample of the step's batch is multiplied by."""
    return _factors(_samples(key, step, count), rate, dtype)


def of_elements(key: int, rate: float, step: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """`(n, size)`: what each of a sample's numbers is multiplied by."""
    count, size = shape
    x = _samples(key, step, count)[:, None] ^ _mixed_count(size)
    return _factors(_shifted(x * _uint32(FIRST), SHIFTS[1]) * _uint32(SECOND), rate, dtype)


def _samples(key: int, step: jax.Array, count: int) -> jax.Array:
    of_step = _mixed(_uint32(key) ^ _mixed(step.astype(jnp.uint32)))
    return _mixed(of_step ^ _mixed_count(count))


def _mixed_count(count: int) -> jax.Array:
    return _mixed(jnp.arange(count, dtype=jnp.uint32))


def _mixed(x: jax.Array) -> jax.Array:
    before, between, behind = SHIFTS
    return _shifted(_shifted(_shifted(x, before) * _uint32(FIRST), between) * _uint32(SECOND), behind)


def _shifted(x: jax.Array, by: int) -> jax.Array:
    return x ^ (x >> np.uint32(by))


def _uint32(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)


def _factors(drawn: jax.Array, rate: float, dtype: Any) -> jax.Array:
    kept = jax.lax.bitcast_convert_type(drawn, jnp.int32) >= np.int32(threshold_of(rate))
    return kept.astype(dtype) * jnp.asarray(scale_of(rate), dtype)
