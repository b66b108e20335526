"""Modules as users write them, in flax NNX; see `own_torch`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

CUT, EARLIER, INSIDE, UNKNOWN = "layers.3", "layers.1", "layers.3.conv", "layer.3"


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Weights from numpy: JAX would compile a program for every shape."""
    return {"kernel_init": lambda key, shape, *_: jnp.array(rng.standard_normal(shape) * 0.2, jnp.float32)}


class Block(nnx.Module):
    def __init__(self, slope: float, rng: np.random.Generator, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs, **drawn(rng))
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.slope = slope

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + nnx.leaky_relu(self.bn(self.conv(x)), self.slope)


class Mean(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


def small(seed: int = 0, slope: float = 0.1, first: Any = None) -> nnx.Module:
    r = nnx.Rngs(seed)
    bn = nnx.BatchNorm(8, rngs=r)
    rng = np.random.default_rng(seed)
    bn.mean[...] = jnp.array(rng.uniform(-0.3, 0.3, 8), jnp.float32)
    bn.var[...] = jnp.array(rng.uniform(0.5, 1.5, 8), jnp.float32)
    stem = nnx.Conv(3, 8, (3, 3), 2, rngs=r, **drawn(rng))
    conv = nnx.Conv(8, 12, (3, 3), 2, rngs=r, **drawn(rng))
    fc = nnx.Linear(12, 10, rngs=r, **drawn(rng))
    layers = [stem, bn, nnx.relu, Block(slope, rng, r), conv, nnx.relu, Mean(), nnx.Dropout(0.3, rngs=r), fc]
    module = nnx.Sequential(*layers)
    if first is not None:
        module = nnx.Sequential(first(r), *module.layers)
    return module


def logits(module: nnx.Module, x: np.ndarray) -> np.ndarray:
    clone = nnx.clone(module)
    clone.eval()
    return np.asarray(clone(x))


def features(module: nnx.Module, x: np.ndarray) -> np.ndarray:
    clone = nnx.clone(module)
    clone.eval()
    for layer in list(clone.layers)[:4]:
        x = layer(x)
    return np.asarray(x)


def state(module: nnx.Module) -> list[Any]:
    flat = nnx.to_flat_state(nnx.state(module))
    keys = nnx.RngKey
    values = [(path, np.array(jax.random.key_data(v[...]) if isinstance(v, keys) else v[...])) for path, v in flat]
    settings = [
        {key: value for key, value in vars(one).items() if isinstance(value, bool | str | int)}
        for _, one in nnx.iter_modules(module)
    ]
    return [*values, settings, [type(one) for _, one in nnx.iter_modules(module)]]


def nudge(module: nnx.Module) -> None:
    kernel = np.array(module.layers[0].kernel[...])
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
    module.layers[0].kernel[...] = jnp.array(kernel)


class Noise(nnx.Module):
    """It draws in inference too."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rngs = rngs.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + 0.01 * jax.random.normal(self.rngs.default(), x.shape)


class Statistics(nnx.Module):
    """A norm of somebody's own, which also keeps what it gives for whoever looks."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.mean = nnx.BatchStat(jnp.zeros(3))
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.use_running_average:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean((0, 1, 2))
        x = x - self.mean[...]
        self.given = nnx.Intermediate(x)
        return x


class Company(nnx.Module):
    """Its samples are not alone."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return x - x.mean(0, keepdims=True)


def restless() -> list[nnx.Module]:
    return [small(first=Noise), small(first=Company)]


def secret() -> nnx.Module:
    code = """
class Hidden(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.conv(x) * 2
"""
    scope: dict[str, Any] = {"nnx": nnx, "__name__": "hidden"}
    exec(code, scope)
    return scope["Hidden"](nnx.Rngs(0))


class Layer(nnx.Module):
    def __init__(self, rng: np.random.Generator, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs, **drawn(rng))
        self.norms = nnx.List([nnx.LayerNorm(16, rngs=rngs) for _ in range(2)])
        self.up, self.down = (nnx.Linear(*s, rngs=rngs, **drawn(rng)) for s in ((16, 32), (32, 16)))

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.norms[0](x + self.attention(x, mask=mask[:, None, None]))
        return self.norms[1](x + self.down(nnx.gelu(self.up(x))))


class Text(nnx.Module):
    """A small transformer, with a masked mean at its end."""

    def __init__(self, classes: int, rng: np.random.Generator, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(20, 16, rngs=rngs, embedding_init=drawn(rng)["kernel_init"])
        self.layers = nnx.List([Layer(rng, rngs)])
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.fc = nnx.Linear(16, classes, rngs=rngs, **drawn(rng))

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, mask)
        weight = mask[..., None].astype(x.dtype)
        return self.fc(self.norm((x * weight).sum(1) / weight.sum(1)))


TEXT_CUT = "norm"


def text(seed: int = 0) -> nnx.Module:
    return Text(2, np.random.default_rng(seed), nnx.Rngs(seed))


def text_features(module: Text, batch: dict[str, np.ndarray]) -> np.ndarray:
    identity = nnx.clone(module)
    identity.fc = lambda x: x
    return np.asarray(identity(**batch))


MLP_END = "layers.2"  # where a trunk ends that is the whole of it


def mlp(inputs: int, outputs: int, seed: int = 0) -> nnx.Module:
    r, rng = nnx.Rngs(seed), np.random.default_rng(seed)
    first, last = (nnx.Linear(*sides, rngs=r, **drawn(rng)) for sides in ((inputs, 6), (6, outputs)))
    return nnx.Sequential(first, nnx.relu, last)


class Named(nnx.Module):
    """Takes one array, by its name."""

    def __init__(self) -> None:
        self.mlp = mlp(6, 2)

    def __call__(self, numbers: jax.Array) -> jax.Array:
        return self.mlp(numbers)


def named() -> nnx.Module:
    return Named()


def init(seed: int) -> nnx.Module:
    return small(seed)


# ---- functions, and modules with something about them


def trunk(params: Any, x: jax.Array) -> jax.Array:
    for weight in params["convs"]:
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(x, weight, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return x.mean((1, 2)) * params["scale"]


def head(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x) @ params["w"] + params["b"]


def pair_params(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    return {"convs": [normal(3, 3, 3, 6), normal(3, 3, 6, 8)], "scale": np.int32(2)}, {
        "w": normal(8, 10),
        "b": normal(10),
    }


def bag(params: Any, batch: Any) -> jax.Array:
    weight = batch["mask"][..., None].astype(jnp.float32)
    return (params["embed"][batch["ids"]] * weight).sum(1) / weight.sum(1)


def scaled(factor: float) -> Any:
    def inner(params: Any, x: jax.Array) -> jax.Array:
        return trunk(params, x) * factor

    return inner


class Deep(nnx.Module):
    """A network of which any submodule can be cut at."""

    def __init__(self, seed: int = 0) -> None:
        rng, r = np.random.default_rng(seed), nnx.Rngs(seed)
        self.stem = nnx.Conv(3, 8, (3, 3), 2, rngs=r, **drawn(rng))
        self.blocks = nnx.List([Block(0.1, rng, r) for _ in range(2)])
        self.drop = nnx.Dropout(0.5, rngs=r)
        self.fc = nnx.Linear(8, 10, rngs=r, **drawn(rng))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


def deep_features(module: Deep, x: np.ndarray) -> np.ndarray:
    """At `blocks.0`."""
    return np.asarray(nnx.view(module, use_running_average=True).blocks[0](module.stem(x)))


class Then(nnx.Module):
    """A module, and something behind it."""

    def __init__(self, after: Any, name: str = "inner") -> None:
        setattr(self, name, Deep())
        self.name, self.after = name, after

    def __call__(self, x: jax.Array) -> Any:
        return self.after(getattr(self, self.name)(x))


class Tempered(Then):
    """Its logits are divided by what is learned, and clipped."""

    def __init__(self) -> None:
        super().__init__(lambda x: jnp.clip(x, -1, 1))
        self.temperature = nnx.Param(jnp.array(2.0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after(self.inner(x) / self.temperature[...])


class Codes(Deep):
    """Of what it gives at `codes`, float16 would not hold the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nnx.Sequential(lambda x: (1e4 * x.sum(-1)).astype(jnp.int32).reshape(len(x), -1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.codes(self.stem(x)).astype(jnp.float32)


def times(params: Any, x: jax.Array) -> jax.Array:
    return x @ params


class Pair(nnx.Module):
    """Two layers that are in no list."""

    def __init__(self) -> None:
        self.first, self.fc = (nnx.Linear(*sides, rngs=nnx.Rngs(0)) for sides in ((4, 3), (3, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(jax.nn.relu(self.first(x)))


def cuts() -> list[tuple[Any, Any, dict[str, Any]]]:
    """See `own_torch`."""
    example = {"example": np.zeros((2, 4), np.float32)}
    functions = {"params": (np.ones((4, 8), np.float32), pair_params()[1]), **example}
    return [(Pair(), None, {"head": "linear", "classes": 3, **example}), ((times, head), None, functions)]


class Repeats(nnx.Module):
    """The same layer, or its weights, may stand in it twice."""

    def __init__(self, layers: list[nnx.Conv]) -> None:
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def repeating(again: int, tied: bool) -> nnx.Module:
    rngs = nnx.Rngs(0)
    layers = [nnx.Conv(3, 3, (1, 1), rngs=rngs) for _ in range(3)]
    if tied:
        layers[2].kernel, layers[2].bias = layers[again].kernel, layers[again].bias
    else:
        layers[2] = layers[again]
    return Repeats(layers)


def beside(factor: float) -> nnx.Module:
    """A module that computes with another, which a function holds."""
    other = nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(0))
    other.kernel[...] = other.kernel[...] * factor
    module = Repeats([nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(0))])
    return nnx.Sequential(module, lambda x: other(x))
