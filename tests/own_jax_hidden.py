"""JAX modules that end in a classifier which is hard to see; see `own_jax`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, ClassVar

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
    """Residual blocks on a linear layer: of sums of what linear layers give none is a classifier. Or numbers of
    classes that are refined."""

    def __init__(self, stem: str, down: str, deep: bool) -> None:
        rngs, self.names = nnx.Rngs(0), (stem, down)
        self.first = nnx.Linear(6, 6, rngs=rngs) if deep else None
        self.up = nnx.Linear(5, 7, rngs=rngs)
        setattr(self, stem, nnx.Linear(6, 5, rngs=rngs))
        setattr(self, down, nnx.Linear(7, 5, rngs=rngs))

    def features(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x if self.first is None else self.first(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        stem, down = (getattr(self, name) for name in self.names)
        x = stem(self.features(x))
        return x + down(nnx.relu(self.up(x)))


def normed(x: jax.Array) -> jax.Array:
    return nnx.standardize(x, epsilon=1e-3)


ENDS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": lambda x: nnx.log_softmax(nnx.relu(x)),
    "scaled": lambda x: nnx.softmax(3 * jnp.tanh(nnx.gelu(x)) ** 2),
    "leaky": lambda x: nnx.sigmoid(nnx.leaky_relu(x)),
    "norm": lambda x: nnx.softmax(normed(x)),
    "turned": lambda x: nnx.softmax(x.T, 0).T,
    "gelu": nnx.gelu,
    "left leaky": nnx.leaky_relu,
    "codes": lambda x: nnx.sigmoid(normed(x)),
    "turned back": lambda x: x.T.T,
}


class Active(Net):
    """Something stands between its last layer and what makes probabilities; or features end so."""

    def __init__(self, how: str, last: Any = None) -> None:
        super().__init__(last)
        self.how = how

    def __call__(self, x: jax.Array) -> jax.Array:
        return ENDS[self.how](self.fc(self.features(x)))


class Frames(Net):
    """Classes of each of six frames, by a convolution that is not called a classifier."""

    def __init__(self) -> None:
        self.mid = nnx.Conv(1, 4, (3,), rngs=nnx.Rngs(0))
        self.last = nnx.Conv(4, 3, (3,), rngs=nnx.Rngs(0))

    def features(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.mid(x[..., None]))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.log_softmax(nnx.relu(self.last(self.features(x))))


class Tokens(nnx.Module):
    """Two tokens, a classifier of each of them, or of each by its own, and what becomes of their numbers."""

    ENDS: ClassVar[dict[str, Callable[[Any, jax.Array], jax.Array]]] = {
        "sum": lambda self, x: self.head(x).sum(1),
        "max": lambda self, x: jnp.max(self.head(x), axis=-2),
        "pooled": lambda self, x: nnx.max_pool(self.head(x), (2,))[:, 0],
        "one": lambda self, x: self.head(x)[:, 0],
        "soft": lambda self, x: jax.nn.logsumexp(self.head(x), 1),
        "shared": lambda self, x: nnx.softmax(self.wide(x).max(1)),
        "mean": lambda self, x: self.wide(x).mean(1),
        "average": lambda self, x: nnx.avg_pool(self.wide(x), (2,)).reshape(len(x), -1),
        "smooth": lambda self, x: nnx.softmax(self.smooth(self.wide(x))),
        "both": lambda self, x: (self.head(x[:, 0]) + self.dist(x[:, 1])) / 2,
        "maps": lambda self, x: self.head(x[:, 0]) + self.dist(x).mean(1),
        "logs": lambda self, x: jax.nn.logsumexp(
            jnp.stack([nnx.log_softmax(self.head(x[:, 0])), nnx.log_softmax(self.dist(x[:, 1]))]), 0
        ),
        "hidden": lambda self, x: self.wide(x).max(1),
        "hidden sum": lambda self, x: self.wide(x).sum(1),
        "attended": lambda self, x: (self.head(x) * nnx.softmax(self.weigh(x), 1)).sum(1),
        "again": lambda self, x: self.head(x[:, 0]) + self.head(x[:, 1]),
    }

    def __init__(self, how: str) -> None:
        rngs, self.how = nnx.Rngs(0), how
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.head, self.dist, self.wide = (nnx.Linear(4, 3, rngs=rngs) for _ in range(3))
        self.weigh, self.whole = nnx.Linear(4, 1, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.smooth = nnx.Conv(3, 3, (3,), feature_group_count=3, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        """`(n, 2, 4)`"""
        return jnp.tanh(self.first(x)).reshape(len(x), 2, 4)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.how == "masked":
            there = jnp.abs(x[:, :2, None])
            return (self.head(self.features(x)) * there).sum(1) / there.sum(1)
        if self.how == "input":
            return self.head(self.features(x)[:, 0]) + self.whole(x)
        return self.ENDS[self.how](self, self.features(x))


class LinenTokens(nn.Module):
    """The same in linen, with a norm that learns."""

    how: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, name="norm")(jnp.tanh(nn.Dense(8, name="first")(x)))
        x = x.reshape(len(x), 2, 4)
        head, dist = nn.Dense(3, name="head"), nn.Dense(3, name="dist")
        return head(x).max(1) if self.how == "max" else (head(x[:, 0]) + dist(x[:, 1])) / 2


def active_row() -> nnx.Module:
    rngs = nnx.Rngs(0)
    last = nnx.Linear(5, 3, rngs=rngs), jnp.tanh, nnx.LayerNorm(3, rngs=rngs), nnx.softmax
    return nnx.Sequential(nnx.Linear(6, 5, rngs=rngs), nnx.relu, *last)


class ActiveLinen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.softmax(nn.LayerNorm()(nn.gelu(nn.Dense(3, name="proj")(nn.Dense(5, name="mid")(x)))))


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


class Ensemble(Net):
    """The mean of what two classifiers give, which are stacked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nnx.Linear(5, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.features(x)
        return jnp.stack([nnx.softmax(jnp.tanh(layer(x))) for layer in (self.fc, self.other)]).mean(0)


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
