"""Modules in flax NNX which write to their own variables whenever they are called, as NNX's transforms and its
norms of weights do; see `own_torch`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

SIZE, LAYERS = 6, 3


class Remat(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(SIZE, SIZE, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(nnx.remat(lambda fc, x: fc(x))(self.fc, x))


class Scan(nnx.Module):
    """One layer after the other, whose weights lie in one array."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap
        def made(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(SIZE, SIZE, rngs=rngs)

        self.layers = made(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def through(x: jax.Array, layer: nnx.Linear) -> jax.Array:
            return jnp.tanh(layer(x))

        result: jax.Array = through(x, self.layers)
        return result


class Normed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.WeightNorm(nnx.Linear(SIZE, SIZE, rngs=rngs), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.fc(x))


def transformed(how: str) -> nnx.Module:
    return {"remat": Remat, "scan": Scan, "weight norm": Normed}[how](nnx.Rngs(0))
