"""JAX modules that end in a classifier which is hard to see; see `own_jax`."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Net(nnx.Module):
    def __init__(self, last: Any = None) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.mid = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 5, rngs=rngs)
        self.fc = nnx.Linear(5, 3, rngs=rngs) if last is None else last

    def features(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.mid(nnx.relu(self.first(x))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.features(x))


def einsum(equation: str, *sides: int) -> nnx.Module:
    return nnx.Einsum(equation, sides, rngs=nnx.Rngs(0))


class Own(nnx.Module):
    """A linear layer that is written by hand."""

    def __init__(self) -> None:
        self.w, self.b = nnx.Param(jnp.ones((5, 3)) * jnp.arange(3)), nnx.Param(jnp.ones(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x @ self.w[...] + self.b[...]).astype(x.dtype)


class Itself(Net):
    """Its classifier is in no submodule."""

    def __init__(self, compiled: bool, name: str = "w") -> None:
        super().__init__()
        self.compiled, self.name = compiled, name
        setattr(self, name, nnx.Param(jnp.ones((5, 3)) * jnp.arange(3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        def last(x: jax.Array, w: jax.Array) -> jax.Array:
            return x @ w.astype(x.dtype)

        w = getattr(self, self.name)[...]
        return nnx.softmax((jax.jit(last) if self.compiled else last)(self.features(x), w) / 0.5)


class LinenItself(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(5, name="mid")(x)) @ self.param("w", nn.initializers.lecun_normal(), (5, 3))


class Blocks(nnx.Module):
    """Residual blocks on a linear layer: of sums of what linear layers give none is a classifier."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem, self.up, self.down = (nnx.Linear(*sides, rngs=rngs) for sides in ((6, 5), (5, 7), (7, 5)))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(jnp.tanh(x))
        return x + self.down(nnx.relu(self.up(x)))


class Gated(Own):
    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) * x[:, :3]


class Residual(Own):
    def __init__(self) -> None:
        self.w, self.b = nnx.Param(jnp.eye(5)), nnx.Param(jnp.ones(5))

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) + x


class Doubled(Own):
    """Its terms are very many if each is walked through."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return reduce(lambda y, _: y + y, range(40), super().__call__(x))


class Compiled(Net):
    @nnx.jit
    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.softmax(super().__call__(x))


class ByJax(Net):
    @jax.jit
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(inputs=self.features(x))


class Flagged(Net):
    @partial(nnx.jit, static_argnames="train")
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        return super().__call__(x) if not train else x


class Again(Net):
    @nnx.remat
    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x)


class Inside(Net):
    @nnx.jit
    def ranks(self, x: jax.Array) -> jax.Array:
        return self.fc(self.features(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.ranks(x)


class Twice(Net):
    @nnx.jit
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(nnx.relu(self.mid(self.features(x))))


class Linen(nn.Module):
    """With a product as its last layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mid = nn.Dense(6, name="mid")
        x = nn.relu(mid(nn.relu(mid(x))))
        return nn.Einsum((6, 3), name="fc")(x, "bd,dc->bc")


def compiled_linen() -> nn.Module:
    kind: Any = nn.jit(Linen)
    made: nn.Module = kind()
    return made


class Row(nnx.Module):
    """So many blocks that going back through each takes too many calls of Python's."""

    def __init__(self, count: int, normed: bool) -> None:
        rngs, self.normed = nnx.Rngs(0), normed
        self.blocks = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(count)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            y = nnx.relu(block(x))
            x = x + (nnx.standardize(y) if self.normed else y)
        return x
