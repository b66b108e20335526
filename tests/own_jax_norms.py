"""JAX modules that tell their batch norms of training in all ways there are; see `own_jax`. Each holds statistics
`mean` and `var` that are not neutral, and gives `(n, 6)`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


def norm(kind: Any = nnx.BatchNorm) -> Any:
    made = kind(6, rngs=nnx.Rngs(0))
    made.mean[...] = made.mean[...] + 0.3
    return made


class Derived(nnx.BatchNorm):
    def __call__(self, x: jax.Array, *args: Any, **settings: Any) -> jax.Array:
        return super().__call__(x, *args, **settings)


class Own(nnx.Module):
    """A norm of somebody's own, whose flag is no setting."""

    def __init__(self) -> None:
        self.kept = nnx.data({"mean": nnx.BatchStat(jnp.full(6, 0.3))})

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        mean = x.mean(0) if train else self.kept["mean"][...]
        if train:
            self.kept["mean"][...] = mean
        return x - mean


class Inner(nnx.Module):
    def __init__(self) -> None:
        self.norm = norm()

    @nnx.jit(static_argnames="train")
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        self.norm.use_running_average = not train
        return self.norm(x)


class Told(nnx.Module):
    """By a place, by a name, by a setting, in what is compiled, in a module of linen's."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.named, self.placed, self.derived, self.own, self.inner = norm(), norm(), norm(Derived), Own(), Inner()
        self.spectral = nnx.SpectralNorm(self.last, rngs=rngs)
        self.linen, self.free = bridged(jnp.ones((2, 6))), bridged(jnp.ones((2, 6)))

    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = self.named(self.first(x), use_running_average=not train)
        x = self.derived(self.placed(x, not train), not train)
        x = self.free(self.linen(x, train=train, mutable=["batch_stats"] if train else False), train=train)
        return self.spectral(self.inner(self.own(x, train), train), update_stats=train)


class OwnInLinen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kept = self.variable("batch_stats", "mean", lambda: jnp.full(6, 0.3))
        mean = x.mean(0) if train else kept.value
        if train:
            kept.value = mean
        return x - mean


class Block(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=not self.train)(nn.Dense(6)(x))


class Layers(nn.Module):
    """By a setting, by an argument, in what is computed again, and by a layer of somebody's own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        x = OwnInLinen()(nn.BatchNorm()(x, use_running_average=not train), train)
        return nn.remat(Block)(train)(x)


class Alone(nn.Module):
    """It writes to its statistics whatever it is told."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        kept = self.variable("batch_stats", "all", lambda: {"mean": {"of": jnp.full(6, 0.3)}})
        if train:
            kept.value = {"mean": {"of": x.mean(0)}}
        return nn.Dense(6)(x - kept.value["mean"]["of"])


class Drops(nn.Module):
    """What drops is told as ever."""

    rate: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        return nn.Dropout(self.rate, deterministic=not train)(nn.BatchNorm(use_running_average=not train)(x))


def linen(module: nn.Module, x: Any) -> Any:
    return moved(module.init(jax.random.key(0), x, train=False))


def key() -> Any:
    return jax.random.key(0)


def moved(made: Any) -> Any:
    return {**made, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made["batch_stats"])}


def bridged(x: Any) -> nnx.Module:
    """A module of linen's as one of NNX, whose call says nothing of flags."""
    return nnx.bridge.ToNNX(Drops(0.0), rngs=nnx.Rngs(0)).lazy_init(jnp.asarray(x), train=False)


class Both(nnx.Module):
    """It moves a statistic, and drops, as one flag says."""

    def __init__(self) -> None:
        self.mean, self.drop = nnx.BatchStat(jnp.full(6, 0.3)), nnx.Dropout(0.9, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if train:
            self.mean[...] = x.mean(0)
        return self.drop(x - self.mean[...], deterministic=not train)


class BothSet(Both):
    """As a setting of its own says."""

    training = True

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x, self.training)


class BothInLinen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        kept = self.variable("batch_stats", "mean", lambda: jnp.full(6, 0.3))
        if train:
            kept.value = x.mean(0)
        return nn.Dropout(0.9, deterministic=not train)(nn.Dense(6)(x - kept.value))


class Around(Both):
    """What it drops does not go by its flag, and its statistic never moves."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop(x - self.mean[...])


class Kept(nnx.Module):
    def __init__(self) -> None:
        self.mean = nnx.BatchStat(jnp.full(6, 0.3))


class Elsewhere(nnx.Module):
    """It moves a statistic of a module that is not called, or one that it makes anew."""

    def __init__(self, anew: bool) -> None:
        self.kept, self.anew = Kept(), anew

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if train and self.anew:
            self.kept.mean = nnx.BatchStat(x.mean(0))
        elif train:
            self.kept.mean[...] = x.mean(0)
        return x - self.kept.mean[...]


class Late(nnx.Module):
    """In training it makes a statistic that was not there."""

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if train:
            self.mean = nnx.BatchStat(x.mean(0))
        return x


class Set(nnx.Module):
    """It drops as a setting says that is called as `name`."""

    def __init__(self, name: str, value: bool) -> None:
        self.name, self.drop = name, nnx.Dropout(0.9, rngs=nnx.Rngs(0))
        self.inner = nnx.Dict({"norm": norm()})
        setattr(self, name, value)

    def __call__(self, x: jax.Array) -> jax.Array:
        learns = getattr(self, self.name) is not (self.name == "inference")
        return self.drop(self.inner["norm"](x, use_running_average=not learns), deterministic=not learns)


class SetInLinen(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not self.train)(x)
        return nn.Dropout(0.9, deterministic=not self.train)(x)


class Outer(nn.Module):
    """It is made with another one, which is told by a setting alone."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(x)


class Listed(nn.Module):
    """The same of one in a list, or in a dict in it."""

    inner: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (inner,) = self.inner
        return inner(x) if isinstance(inner, nn.Module) else inner["norm"](x)


class Tied(nnx.Module):
    """It moves a statistic and drops, and cannot be run by itself: it counts its calls in what is around it."""

    def __init__(self) -> None:
        self.mean, self.drop = nnx.BatchStat(jnp.full(6, 0.3)), nnx.Dropout(0.9, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, counts: Any, train: bool = False) -> jax.Array:
        if train:
            counts.called()
            self.mean[...] = x.mean(0)
        return self.drop(x - self.mean[...], deterministic=not train)


class Counting(nnx.Module):
    def __init__(self) -> None:
        self.tied, self.count = Tied(), nnx.Variable(jnp.zeros(()))

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.tied(x, Counter(self.count), train)


class Counter:
    def __init__(self, count: Any) -> None:
        self.count = count

    def called(self) -> None:
        self.count[...] = self.count[...] + 1
