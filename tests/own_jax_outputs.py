"""JAX modules whose call takes a flag or gives several arrays; see `own_jax`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from own import X


class Base(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv, self.bn = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.fc, self.drop = nnx.Linear(8, 10, rngs=rngs), nnx.Dropout(0.3)

    def maps(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x), use_running_average=True))


class Several(Base):
    def __call__(self, x: jax.Array) -> Any:
        maps = self.maps(x)
        return {"maps": (maps, maps + 1), "pooler_output": maps.mean((1, 2))}


class Pair(Base):
    def __call__(self, x: jax.Array) -> Any:
        pooled = self.maps(x).mean((1, 2))
        return pooled, pooled * 2


class Tasks(Base):
    """Two classifiers of the same features, or one of them behind another layer."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        rngs, self.apart = nnx.Rngs(1), apart
        self.age, self.kind, self.inner = (nnx.Linear(8, width, rngs=rngs) for width in (1, 3, 8))

    def pooled(self, x: jax.Array) -> jax.Array:
        return self.maps(x).mean((1, 2))

    def __call__(self, x: jax.Array) -> Any:
        pooled = self.pooled(x)
        inner = jax.nn.relu(self.inner(pooled)) if self.apart else pooled
        return {"age": self.age(inner), "kind": jax.nn.softmax(self.kind(pooled))}


class Coded(Base):
    def __call__(self, x: jax.Array) -> Any:
        pooled = self.maps(x).mean((1, 2))
        return {"features": pooled, "codes": jnp.stack([pooled.argmax(1), pooled.argmin(1)], 1)}


class Around(nnx.Module):
    def __init__(self, inner: nnx.Module) -> None:
        self.inner = inner

    def __call__(self, x: jax.Array) -> Any:
        return self.inner(x)["pooler_output"]


class Tokens(nnx.Module):
    def __init__(self, with_token: bool) -> None:
        self.conv = nnx.Conv(3, 8, (8, 8), 8, padding="VALID", rngs=nnx.Rngs(0))
        self.cls_token = nnx.Param(jnp.ones((1, 1, 8))) if with_token else None

    def __call__(self, x: jax.Array) -> Any:
        tokens = self.conv(x).reshape(len(x), -1, 8)
        if self.cls_token is not None:
            tokens = jnp.concatenate([tokens.mean(1, keepdims=True) * self.cls_token[...], tokens], 1)
        return {"last_hidden_state": tokens, "hidden_states": (tokens, tokens)}


class Flagged(Base):
    def features(self, x: jax.Array, train: bool) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x), use_running_average=not train)).mean((1, 2))

    def __call__(self, x: jax.Array, train: bool = True, rngs: nnx.Rngs | None = None) -> Any:
        return self.fc(self.drop(self.features(x, train), deterministic=not train, rngs=rngs))


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(self.width, (3, 3))(x)))


class Net(nn.Module):
    widths: tuple[int, ...] = (8, 12)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        for width in self.widths:
            x = Block(width)(x, train)
        return nn.Dense(10)(nn.Dropout(0.3, deterministic=not train)(x.mean((1, 2))))


def linen() -> tuple[Net, Any, dict[str, np.ndarray]]:
    """A module, its variables with statistics that are not neutral, and what its submodules give for X."""
    module = Net()
    variables = module.init(jax.random.key(0), X, train=False)
    variables = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])}
    _, made = module.apply(variables, X, train=False, capture_intermediates=True, mutable=["intermediates"])
    given = {name: np.asarray(made["intermediates"][name]["__call__"][0]) for name in ("Block_0", "Dropout_0")}
    return module, variables, given
