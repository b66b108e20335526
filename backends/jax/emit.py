"""op -> flax NNX layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.errors import UnsupportedOpError
from headstart.graph import Graph
from headstart.graph.layout import from_channels_last, to_channels_last

Layer = Callable[..., jax.Array]


class PointwiseConv(nnx.Conv):
    """A 1x1 convolution as the matrix product it is: XLA's convolutions are slow on a CPU."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        down, right = self.strides
        x = inputs[:, ::down, ::right]
        dtype = self.dtype or x.dtype
        y = x.astype(dtype) @ self.kernel[...][0, 0].astype(dtype)
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def _given(value: np.ndarray) -> Callable[..., jax.Array]:
    """An initialiser that returns the weights there are, instead of drawing any."""
    return lambda *_: jnp.array(to_channels_last(value))


def _conv(a: Mapping[str, Any], p: Mapping[str, np.ndarray], dtype: Any, rngs: nnx.Rngs) -> Layer:
    pointwise = a["kernel"] == (1, 1) and a["padding"] == ((0, 0), (0, 0)) and a["groups"] == 1
    return (PointwiseConv if pointwise else nnx.Conv)(
        a["in_channels"],
        a["out_channels"],
        a["kernel"],
        a["stride"],
        padding=a["padding"],
        feature_group_count=a["groups"],
        use_bias=a["bias"],
        dtype=dtype,
        kernel_init=_given(p["weight"]),
        bias_init=_given(p["bias"]) if a["bias"] else nnx.initializers.zeros,
        rngs=rngs,
    )


def _linear(a: Mapping[str, Any], p: Mapping[str, np.ndarray], dtype: Any, rngs: nnx.Rngs) -> Layer:
    return nnx.Linear(
        a["in_features"],
        a["out_features"],
        use_bias=a["bias"],
        dtype=dtype,
        kernel_init=_given(p["weight"]),
        bias_init=_given(p["bias"]) if a["bias"] else nnx.initializers.zeros,
        rngs=rngs,
    )


def _batch_norm(a: Mapping[str, Any], p: Mapping[str, np.ndarray], dtype: Any, rngs: nnx.Rngs) -> Layer:
    layer = nnx.BatchNorm(
        a["channels"],
        momentum=1 - a["momentum"],  # flax weighs the old statistic
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where a channel hardly varies
        epsilon=a["epsilon"],
        dtype=dtype,
        scale_init=_given(p["weight"]),
        bias_init=_given(p["bias"]),
        rngs=rngs,
    )
    layer.mean[...] = jnp.array(p["running_mean"])
    layer.var[...] = jnp.array(p["running_var"])
    return layer


def _max_pool(a: Mapping[str, Any]) -> Layer:
    window, strides = (1, *a["kernel"], 1), (1, *a["stride"], 1)

    def pool(x: jax.Array) -> jax.Array:
        padding = [(0, 0), *a["padding"], (0, 0)]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)

    return pool


def _normalize(a: Mapping[str, Any]) -> Layer:
    scale, shift = np.float32(a["scale"]), np.float32(a["shift"])
    return lambda x: x.astype(jnp.float32) * scale + shift


# layers with state: (attributes, parameters by suffix, dtype of the arithmetic, random streams) -> module
MODULES: Mapping[str, Callable[..., Layer]] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "dropout": lambda a, p, dtype, rngs: nnx.Dropout(a["rate"], rngs=rngs),
}
# layers without: attributes -> function
FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any]], Layer]] = {
    "normalize": _normalize,
    "relu": lambda a: jax.nn.relu,
    "max_pool": _max_pool,
    "global_avg_pool": lambda a: lambda x: x.mean((1, 2)),
    "add": lambda a: jnp.add,
    "flatten": lambda a: lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1),
}
# suffix of a parameter -> attribute of the NNX layer, where the two differ
ATTRIBUTES = {
    "batch_norm": {"weight": "scale", "running_mean": "mean", "running_var": "var"},
    "conv": {"weight": "kernel"},
    "linear": {"weight": "kernel"},
}


class Network(nnx.Module):
    """A graph as an NNX module: `(n, h, w, c)` in, `(n, h, w, c)` or `(n, c)` out. With `outputs` it returns
    a dict of those nodes instead of the output."""

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.outputs = tuple(outputs)
        dtype = jnp.bfloat16 if precision == "bfloat16" else None
        rngs = nnx.Rngs(seed)
        self.layers = nnx.Dict({})
        for node in graph.nodes[1:]:
            if node.op in MODULES:
                own = {key.rpartition(".")[2]: np.asarray(params[key]) for key in node.param_shapes()}
                self.layers[node.name] = MODULES[node.op](node.attrs, own, dtype, rngs)
            elif node.op not in FUNCTIONS:
                raise UnsupportedOpError(f"the jax backend has no layer for op {node.op!r} ({node.name!r})")

    def __call__(self, x: jax.Array) -> Any:
        values = {self.graph.input: x}
        for node in self.graph.nodes[1:]:
            call = self.layers[node.name] if node.op in MODULES else FUNCTIONS[node.op](node.attrs)
            values[node.name] = call(*(values[name] for name in node.inputs))
        if self.outputs:
            return {name: values[name] for name in self.outputs}
        return values[self.graph.output]

    def numpy_params(self) -> dict[str, np.ndarray]:
        """The parameters under torchvision's names, in its layout."""
        found = {}
        for node in self.graph.nodes:
            for name in node.param_shapes():
                suffix = name.rpartition(".")[2]
                variable = getattr(self.layers[node.name], ATTRIBUTES[node.op].get(suffix, suffix))
                found[name] = from_channels_last(np.array(variable[...]))
        return found
