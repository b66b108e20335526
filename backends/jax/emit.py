"""op -> flax NNX layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.jax import parts
from headstart.backends.jax.arrays import HALVES
from headstart.backends.jax.cpu_forms import Window, form_of, max_pool_of_maps, of_rows
from headstart.common.errors import UnsupportedOpError
from headstart.contract.devices import CPU
from headstart.contract.masks import DROPS
from headstart.contract.recipe import FLOAT32, Place
from headstart.graph import OPS, Graph, Node
from headstart.graph.layout import from_channels_last, to_channels_last
from headstart.graph.ops import adaptive_weights, window_padding

Layer = Callable[..., jax.Array]
Streams = Callable[[], nnx.Rngs]
"""of random numbers: made when they are asked for, since programs are compiled for that"""
HOST = Place(CPU, FLOAT32)


class Linear(nnx.Module):
    """`x @ weight.T + bias`, with the weight `(out, in)`.

    XLA's CPU backend takes six times as long for a weight's gradient laid out as `nnx.Linear` has it, where the
    input is a batch of many features and the outputs are few: a head.
    """

    def __init__(self, weight: Any, bias: Any, dtype: Any) -> None:
        self.weight = nnx.Param(jnp.array(weight))
        self.bias = None if bias is None else nnx.Param(jnp.array(bias))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.dtype or x.dtype
        weight = self.weight[...].astype(dtype)
        y = of_rows(x.astype(dtype), weight, 1)
        return y if self.bias is None else y + self.bias[...].astype(dtype)


class LastNorm(nnx.LayerNorm):
    """In float32 whatever the arithmetic around it, and back to that."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class BatchNorm(nnx.BatchNorm):
    """Keeps a running variance of the unbiased one, as the op table has it, where flax's own is of the biased."""

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            return super().__call__(x)
        count = x.size // x.shape[-1]  # of values a channel
        y, mean, var = normalized(x.astype(jnp.float32), self.scale[...], self.bias[...], self.epsilon)
        for kept, seen in ((self.mean, mean), (self.var, var * (count / max(1, count - 1)))):
            kept[...] = self.momentum * kept[...] + (1 - self.momentum) * seen
        return y.astype(self.dtype or x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x` `(..., c)` by the mean and the biased variance of its channels `(c,)`, which come with it and have no
    gradient. As XLA derives it, a copy of `x` without its mean would be kept for each layer."""
    return _normalized(x, scale, bias, epsilon)[0]


def _normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Any, Any]:
    most = tuple(range(x.ndim - 1))
    mean = x.mean(most)
    var = jnp.square(x - mean).mean(most)
    inverse = jax.lax.rsqrt(var + epsilon)
    return ((x - mean) * (inverse * scale) + bias, mean, var), (x, mean, inverse, scale)


def _normalized_backward(epsilon: float, saved: Any, gradients: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = saved
    gradient, most = gradients[0], tuple(range(x.ndim - 1))
    of_bias = gradient.sum(most)
    of_scale = (gradient * (x - mean)).sum(most) * inverse
    count = x.size // x.shape[-1]
    less = (x - mean) * (inverse * of_scale / count) + of_bias / count
    return (gradient - less) * (inverse * scale), of_scale, of_bias


normalized.defvjp(_normalized, _normalized_backward)


class Scale(nnx.Module):
    def __init__(self, weight: np.ndarray) -> None:
        self.weight = nnx.Param(jnp.array(weight))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.weight[...].astype(x.dtype)


class ClassToken(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        token = jnp.broadcast_to(self.weight[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        return jnp.concatenate([token, x], 1)


class Position(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.weight[...].astype(x.dtype)


class DropPath(nnx.Dropout):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382), a sample at a time."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * super().__call__(jnp.ones((x.shape[0], *[1] * (x.ndim - 1)), x.dtype))


def _given(value: np.ndarray) -> Callable[..., jax.Array]:
    """An initialiser that returns the weights there are, instead of drawing any."""
    return lambda *_: jnp.array(to_channels_last(value))


def _conv(a: Mapping[str, Any], p: Mapping[str, np.ndarray], place: Place, streams: Streams) -> Layer:
    return _form_of_conv(a, place)(
        a["in_channels"],
        a["out_channels"],
        a["kernel"],
        a["stride"],
        padding=a["padding"],
        feature_group_count=a["groups"],
        use_bias=a["bias"],
        dtype=HALVES.get(place.arithmetic),
        kernel_init=_given(p["weight"]),
        bias_init=_given(p["bias"]) if a["bias"] else nnx.initializers.zeros,
        rngs=streams(),
    )


def _form_of_conv(a: Mapping[str, Any], place: Place) -> type[nnx.Conv]:
    """XLA's own convolutions are slow on a CPU."""
    if place.kind != CPU:
        return nnx.Conv
    how = Window(a["stride"], a["padding"], a["groups"])
    return form_of(a["kernel"], a["in_channels"], a["out_channels"], how)


def _linear(a: Mapping[str, Any], p: Mapping[str, np.ndarray], place: Place, streams: Streams) -> Layer:
    return Linear(p["weight"], p["bias"] if a["bias"] else None, HALVES.get(place.arithmetic))


def _batch_norm(a: Mapping[str, Any], p: Mapping[str, np.ndarray], place: Place, streams: Streams) -> Layer:
    layer = BatchNorm(
        a["channels"],
        momentum=1 - a["momentum"],  # flax weighs the old statistic
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where a channel hardly varies
        epsilon=a["epsilon"],
        dtype=HALVES.get(place.arithmetic),
        scale_init=_given(p["weight"]),
        bias_init=_given(p["bias"]),
        rngs=streams(),
    )
    layer.mean[...] = jnp.array(p["running_mean"])
    layer.var[...] = jnp.array(p["running_var"])
    return layer


def _layer_norm(a: Mapping[str, Any], p: Mapping[str, np.ndarray], place: Place, streams: Streams) -> Layer:
    return LastNorm(
        a["channels"],
        epsilon=a["epsilon"],
        use_fast_variance=False,
        scale_init=_given(p["weight"]),
        bias_init=_given(p["bias"]),
        rngs=streams(),
    )


def _pool(a: Mapping[str, Any], padding: Any, start: float, combine: Any) -> Layer:
    window, strides = (1, *a["kernel"], 1), (1, *a["stride"], 1)
    return lambda x: jax.lax.reduce_window(
        x, np.array(start, x.dtype), combine, window, strides, [(0, 0), *padding, (0, 0)]
    )


def _max_pool(a: Mapping[str, Any]) -> Layer:
    return _pool(a, window_padding(a), -jnp.inf, jax.lax.max)


def _avg_pool(a: Mapping[str, Any]) -> Layer:
    total, of_mask = (_pool(a, padding, 0.0, jax.lax.add) for padding in (window_padding(a), ((0, 0), (0, 0))))
    more = [(o - c, p - d) for (o, p), (c, d) in zip(window_padding(a), a["padding"], strict=True)]

    def pool(x: jax.Array) -> jax.Array:
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        mask = jnp.pad(ones, [(0, 0), *a["padding"], (0, 0)], constant_values=float(a["count_padding"]))
        return total(x) / of_mask(jnp.pad(mask, [(0, 0), *more, (0, 0)]))

    return pool


def _adaptive_avg_pool(a: Mapping[str, Any]) -> Layer:
    def pool(x: jax.Array) -> jax.Array:
        down, across = (adaptive_weights(n, m) for n, m in zip(x.shape[1:3], a["size"], strict=True))
        x = jnp.einsum("ih,nhwc->niwc", down.astype(x.dtype), x)
        return jnp.einsum("jw,niwc->nijc", across.astype(x.dtype), x)

    return pool


def _attention(a: Mapping[str, Any]) -> Layer:
    def attend(x: jax.Array) -> jax.Array:
        n, tokens, channels = x.shape
        dtype = jnp.float32 if x.dtype == jnp.float16 else x.dtype  # not all devices sum float16's products so
        qkv = x.astype(dtype).reshape(n, tokens, 3, a["heads"], channels // (3 * a["heads"]))
        y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
        return y.reshape(n, tokens, channels // 3).astype(x.dtype)

    return attend


def _normalize(a: Mapping[str, Any]) -> Layer:
    scale, shift = np.float32(a["scale"]), np.float32(a["shift"])
    order = slice(None, None, -1 if a["reverse"] else None)
    return lambda x: x[..., order].astype(jnp.float32) * scale + shift


# layers with state: (attributes, parameters by suffix, where it will run, random streams) -> module
MODULES: Mapping[str, Callable[..., Layer]] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "scale": lambda a, p, place, streams: Scale(p["weight"]),
    "class_token": lambda a, p, place, streams: ClassToken(p["weight"]),
    "position": lambda a, p, place, streams: Position(p["weight"]),
    "drop_path": lambda a, p, place, streams: DropPath(a["rate"], rngs=streams()),
    "dropout": lambda a, p, place, streams: nnx.Dropout(a["rate"], rngs=streams()),
}
# layers without: attributes -> function
FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any]], Layer]] = {
    "normalize": _normalize,
    "relu": lambda a: jax.nn.relu,
    "relu6": lambda a: jax.nn.relu6,
    "silu": lambda a: jax.nn.silu,
    "sigmoid": lambda a: jax.nn.sigmoid,
    "gelu": lambda a: lambda x: jax.nn.gelu(x, approximate=False),
    "hard_swish": lambda a: jax.nn.hard_swish,
    "quick_gelu": lambda a: lambda x: x * jax.nn.sigmoid(1.702 * x),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "global_avg_pool": lambda a: lambda x: x.mean((1, 2)),
    "add": lambda a: jnp.add,
    "multiply": lambda a: jnp.multiply,
    "concat": lambda a: lambda *xs: jnp.concatenate(xs, -1),
    "tokens": lambda a: lambda x: x.reshape(x.shape[0], -1, x.shape[3]),
    "attention": _attention,
    "first_token": lambda a: lambda x: x[:, 0],
    "mean_tokens": lambda a: lambda x: x.mean(1),
    "flatten": lambda a: lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
}
# of these, what a CPU has in another form
ON_CPU: Mapping[str, Callable[[Mapping[str, Any]], Layer]] = {"max_pool": max_pool_of_maps}
# suffix of a parameter -> attribute of the NNX layer, where the two differ
ATTRIBUTES = {
    "batch_norm": {"weight": "scale", "running_mean": "mean", "running_var": "var"},
    "layer_norm": {"weight": "scale"},
    "conv": {"weight": "kernel"},
}


class Network(nnx.Module):
    """A graph as an NNX module: `(n, h, w, c)` in, `(n, h, w, c)`, `(n, t, c)` or `(n, c)` out. With `outputs` it
    returns a dict of those nodes instead of the output; in training, with auxiliary outputs, a tuple of the
    output and them."""

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        place: Place = HOST,
        seed: int = 0,
        dropping: Callable[[Node], nnx.Module] | None = None,
    ) -> None:
        """`place`: where it will run; it is made on the host. `dropping`: makes the layers that drop something in
        training; None: flax's own."""
        self.graph = graph
        self.outputs = tuple(outputs)
        self.on_cpu = place.kind == CPU
        self.deterministic = True  # which NNX's own train() and eval() set
        streams = cache(lambda: nnx.Rngs(seed))
        self.layers = nnx.Dict({})
        for node in graph.nodes[1:]:
            if node.op == "native":
                own = {key.removeprefix(f"{node.name}."): np.asarray(params[key]) for key in node.param_shapes()}
                dtype = HALVES.get(place.arithmetic)
                self.layers[node.name] = parts.build(node.attrs["part"], own, dtype, seed)
            elif node.op in DROPS and dropping is not None:
                self.layers[node.name] = dropping(node)
            elif node.op in MODULES:
                own = {key.rpartition(".")[2]: np.asarray(params[key]) for key in node.param_shapes()}
                self.layers[node.name] = MODULES[node.op](node.attrs, own, place, streams)
            elif node.op not in FUNCTIONS:
                raise UnsupportedOpError(f"the jax backend has no layer for op {node.op!r} ({node.name!r})")

    def __call__(self, x: jax.Array) -> Any:
        graph = self.graph if self.outputs or not self.deterministic else self.graph.main
        values = {graph.input: x}
        for node in graph.nodes[1:]:
            call = self.function(node) if node.op in FUNCTIONS else self.layers[node.name]
            values[node.name] = call(*(values[name] for name in node.inputs))
        if self.outputs:
            return {name: values[name] for name in self.outputs}
        results = tuple(values[name] for name in graph.outputs)
        return results if len(results) > 1 else results[0]

    def function(self, node: Node) -> Layer:
        """What computes a node without parameters."""
        form = ON_CPU.get(node.op) if self.on_cpu else None
        return (form or FUNCTIONS[node.op])(node.attrs)

    def paths(self) -> dict[tuple[str, ...], str]:
        """The path of a parameter in this module -> torchvision's name of it."""
        found = {
            ("layers", node.name, ATTRIBUTES.get(node.op, {}).get(suffix, suffix)): f"{node.name}.{suffix}"
            for node in self.graph.nodes
            if node.op != "native"
            for suffix in OPS[node.op].params(node.attrs)
        }
        natives = [node for node in self.graph.nodes if node.op == "native"]
        return found | {
            ("layers", node.name, *path): f"{node.name}.{name}"
            for node in natives
            for path, name in node.attrs["part"].native.names.items()
        }

    def numpy_params(self) -> dict[str, np.ndarray]:
        """The parameters under torchvision's names, in its layout."""
        params: dict[str, np.ndarray] = {}
        for node in self.graph.nodes:
            if node.op == "native":
                held = parts.variables(self.layers[node.name])
                names = node.attrs["part"].native.names
                params |= {f"{node.name}.{name}": np.array(held[path].get_value()) for path, name in names.items()}
                continue
            for name in node.param_shapes():
                suffix = name.rpartition(".")[2]
                variable = getattr(self.layers[node.name], ATTRIBUTES.get(node.op, {}).get(suffix, suffix))
                value = np.array(variable[...])
                params[name] = from_channels_last(value) if suffix in ATTRIBUTES.get(node.op, ()) else value
        return params
