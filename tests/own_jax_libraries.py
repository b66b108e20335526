"""JAX modules in the shapes that libraries give them: layers in one scan, general and adapted layers as the
classifier, flags without a default, what is sown; see `own_jax`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm, self.up = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + nnx.relu(self.up(self.norm(x)))


@nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
def one_after_another(x: jax.Array, layer: Layer) -> jax.Array:
    return layer(x)


@nnx.split_rngs(splits=3)
@nnx.vmap(in_axes=0, out_axes=0)
def stacked(rngs: nnx.Rngs) -> Layer:
    return Layer(rngs)


class Scanned(nnx.Module):
    """Three layers, of which each parameter is one array."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed, self.layers = nnx.Conv(3, 8, (8, 8), 8, rngs=rngs), stacked(rngs)
        self.norm, self.fc = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 5, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.norm(one_after_another(self.embed(x).mean((1, 2)), self.layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.features(x))


class Ending(nnx.Module):
    """With a last layer that is given."""

    def __init__(self, last: nnx.Module) -> None:
        self.first, self.last = nnx.Linear(3, 6, rngs=nnx.Rngs(0)), last

    def features(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.first(x.mean((1, 2))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x))


class Careful(Ending):
    """It looks at its classifier before it comes to it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.features(x)
        if features.shape[-1] != self.last.kernel.shape[0]:
            raise ValueError("too wide")
        return self.last(features)


def lasts() -> dict[str, nnx.Module]:
    rngs = nnx.Rngs(0)
    return {
        "adapted": nnx.LoRALinear(6, 5, lora_rank=2, rngs=rngs),
        "adapter": nnx.LoRA(6, 2, 5, base_module=nnx.Linear(6, 5, rngs=rngs), rngs=rngs),
        "general": nnx.LinearGeneral(6, 5, rngs=rngs),
    }


class Undecided(nnx.Module):
    """Its flag is None unless it is told."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.bn = nnx.Linear(3, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.fc = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool | None = None) -> jax.Array:
        return self.fc(self.bn(self.first(x.mean((1, 2))), use_running_average=not train))


class Needs(nnx.Module):
    """It is compiled, and does not run as it is, as what needs a mesh."""

    def __init__(self) -> None:
        self.fc = nnx.Linear(3, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        if not isinstance(x, jax.core.Tracer):
            raise ValueError("no mesh is set")
        return self.fc(x.mean((1, 2)))


class Methods(nnx.Module):
    def __init__(self) -> None:
        self.fc = nnx.Linear(3, 6, rngs=nnx.Rngs(0))

    def encode(self, x: jax.Array) -> jax.Array:
        return self.fc(x.mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(6)(x))


class Again(nn.Module):
    """A block whose activations are computed again for gradients, and a dense layer that is written as a general
    one."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.DenseGeneral(5, name="fc")(nn.remat(Block)(name="block")(x.mean((1, 2))))


class Merged(nn.Module):
    """Its flag is said when it is made or when it is called, and what it gives is sown."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        still = nn.merge_param("deterministic", self.deterministic, deterministic)
        x = nn.Dense(6)(x.mean((1, 2)))
        self.sow("losses", "size", (x**2).mean())
        x = nn.BatchNorm(use_running_average=still)(x)
        return nn.Dense(5)(nn.Dropout(0.5)(x, deterministic=still))


class Encodes(nn.Module):
    def setup(self) -> None:
        self.fc = nn.Dense(6)

    def encode(self, x: jax.Array) -> jax.Array:
        return self.fc(x.mean((1, 2)))


class Ranks(nn.Module):
    """A head of maps."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(jnp.tanh(x.reshape(len(x), -1)))
