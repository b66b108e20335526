"""JAX modules that are cut at a submodule, with their rest; see `own_jax`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx


class Convolved(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(3, 8, (3, 3), 4, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(nnx.relu(self.second(nnx.relu(self.first(x)))).mean((1, 2)))


def _convolved(params: Any, x: jax.Array, stride: int) -> jax.Array:
    order = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["kernel"], (stride, stride), "SAME", dimension_numbers=order)
    return y + params["bias"]


def _first(params: Any, x: jax.Array) -> jax.Array:
    return _convolved(params["first"], x, 4)


def _behind(params: Any, x: jax.Array) -> jax.Array:
    pooled = jax.nn.relu(_convolved(params["second"], jax.nn.relu(x), 1)).mean((1, 2))
    return pooled @ params["fc"]["kernel"] + params["fc"]["bias"]


PAIR = (_first, _behind)


def params_of(module: Convolved) -> tuple[Any, Any]:
    """For the two functions."""
    named = {
        name: {"kernel": np.asarray(layer.kernel[...]), "bias": np.asarray(layer.bias[...])}
        for name, layer in (("first", module.first), ("second", module.second), ("fc", module.fc))
    }
    return {"first": named.pop("first")}, named


class Stem(nnx.Module):
    def __init__(self) -> None:
        self.rngs = nnx.Rngs(0)
        self.stem, self.bn = nnx.Conv(3, 8, (3, 3), 4, rngs=self.rngs), nnx.BatchNorm(8, rngs=self.rngs)
        self.fc = nnx.Linear(8, 10, rngs=self.rngs)

    def pooled(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.stem(x))).mean((1, 2))


class Dropped(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nnx.Dropout(0.5, rngs=self.rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.drop(self.pooled(x)))


class Encoder(Stem):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pooled(x)


class Pair(Stem):
    def __call__(self, x: jax.Array) -> Any:
        return self.fc(self.pooled(x)), self.pooled(x)


class Two(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.other = nnx.Linear(8, 10, rngs=self.rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.pooled(x)
        return (self.fc(y) + self.other(y * y)) / 2


class Sown(Stem):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pooled(x)
        self.sow(nnx.Intermediate, "seen", x)
        return self.fc(x)


class Contained(Stem):
    """Its parameters are in containers of Python's, one of them in a tuple, and its classifier under remat."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nnx.data({"values": nnx.Param(jnp.ones(8) * 2)})
        self.offsets = nnx.data((nnx.Param(jnp.ones(3)),))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pooled(x + self.offsets[0][...]) * self.scales["values"][...]
        return nnx.remat(lambda fc, x: fc(x))(self.fc, x)


class Mixed(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nnx.Linear(8, 8, rngs=self.rngs)


class Tied(Mixed):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(nnx.relu(self.mix(self.pooled(x))) @ self.mix.kernel[...].T)


class Twice(Mixed):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.mix(nnx.relu(self.mix(self.pooled(x)))))


class Around(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.inner = nnx.Conv(8, 8, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + nnx.relu(self.inner(x))


class Residual(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.block = Around(self.rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.block(self.stem(x)).mean((1, 2)))


class Ending(Stem):
    def __init__(self, ending: str) -> None:
        super().__init__()
        self.ending = ending

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.fc(self.pooled(x))
        if self.ending == "sigmoid":
            return 1 / (1 + jnp.exp(-y))
        powers = jnp.exp((y - y.max(-1, keepdims=True)) * (3 if self.ending == "temperature" else 1))
        shares = powers / powers.sum(-1, keepdims=True)
        return jnp.log(shares) if self.ending == "log_softmax" else shares

    def logits(self, x: np.ndarray) -> np.ndarray:
        module = nnx.view(self, use_running_average=True)
        return np.asarray(module.fc(module.pooled(x)))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.bn = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class Normed(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem, self.fc = nnx.Conv(3, 8, (3, 3), 4, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3))(x)))


LinenBlock.__name__ = "Block"


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 3), 4)(x)
        for _ in range(2):
            x = LinenBlock(name=None)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


def linen() -> tuple[Net, Any]:
    module = Net()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))


def logits(kind: str, x: np.ndarray) -> np.ndarray:
    """What the modules with two blocks give."""
    if kind == "NNX":
        return np.asarray(nnx.view(Normed(), use_running_average=True)(x))
    module, variables = linen()
    return np.asarray(module.apply(variables, x))


class Sentences(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed, self.hidden = nnx.Embed(20, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.fc = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        counted = (self.embed(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return self.fc(nnx.relu(self.hidden(counted)))


def tokens() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.arange(8) < rng.integers(2, 9, 48)[:, None]
    return {"ids": rng.integers(0, 20, (48, 8)).astype(np.int32), "mask": mask}


def sequential() -> nnx.Sequential:
    rngs = nnx.Rngs(0)
    inner = nnx.Sequential(nnx.relu, nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.relu)
    return nnx.Sequential(nnx.Conv(3, 8, (3, 3), 4, rngs=rngs), inner, _pooled, nnx.Linear(8, 10, rngs=rngs))


def _pooled(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))
