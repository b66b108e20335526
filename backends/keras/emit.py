"""op -> Keras layer, as a functional `keras.Model`, so that what comes out is an ordinary Keras model: it can
be cut, drawn, saved and trained like any other. Layers are called as the graph's nodes, with `_` for each dot:
on its torch engine Keras makes parameter names of them, which may hold none."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from headstart.backends.keras import wrap
from headstart.backends.keras.arrays import ENGINE, to_numpy
from headstart.backends.keras.copying import settle
from headstart.backends.keras.layers import (
    AdaptiveAveragePool,
    Attention,
    AveragePool,
    ClassToken,
    DropPath,
    FirstToken,
    FrozenStatistics,
    PlainConvolution,
    Position,
    RunningStatistics,
    Scale,
    quick_gelu,
)
from headstart.backends.keras.masks import Dropped
from headstart.common.errors import UnsupportedOpError
from headstart.data.rows import ALONE
from headstart.graph import Graph, Node
from headstart.graph.layout import from_channels_last, to_channels_last
from headstart.graph.ops import window_padding


@dataclass(frozen=True, kw_only=True)
class Style:
    """What a model is made for."""

    dtype: str = "float32"
    """Keras's dtype policy: "float32" or "mixed_bfloat16\""""
    frozen_statistics: bool = False
    """keep batch norms' statistics in training too, while their scale and offset are trained"""
    seed: int = 0
    """of dropout, and of what a wrapped module draws"""
    frozen: bool = False
    """it is a trunk's, which nobody trains, saves or sees"""
    learns: bool = False
    """it is trained: then what a wrapped module holds in half precision is float32 meanwhile, since the moments of
    its gradients would come to nothing"""
    shared: bool = False
    """parts of wrapped modules run as they are, and not as copies: they hold all parameters that there are"""


def layer_name(node: str) -> str:
    return node.replace(".", "_")


def seed_of(node: Node, seed: int) -> int:
    """A layer's own: of one seed, all layers of a shape would drop the same numbers, or the same samples, in every
    step. On its torch engine Keras has no seeds beyond 31 bits."""
    return zlib.crc32(node.name.encode(), seed & 0xFFFFFFFF) >> 1


def _pad(x: Any, padding: Any, value: float) -> Any:
    return keras.ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def _depthwise(node: Node) -> bool:
    """Whether it is a convolution of each channel by itself, for which frameworks have code of its own."""
    a = node.attrs
    one_each = 1 < a["groups"] == a["in_channels"] == a["out_channels"]
    return one_each and a["stride"][0] == a["stride"][1]  # TensorFlow's takes equal strides only


def _conv(node: Node, style: Style, x: Any) -> Any:
    a = node.attrs
    padding = "valid"
    if a["stride"] == (1, 1) and all(
        p == ((k - 1) // 2, k // 2) for k, p in zip(a["kernel"], a["padding"], strict=True)
    ):
        padding = "same"
    elif a["padding"] != ((0, 0), (0, 0)):
        # "same" with a stride pads more at the end than at the beginning, unlike the op table
        x = layers.ZeroPadding2D(a["padding"], name=layer_name(f"{node.name}.pad"), dtype=style.dtype)(x)
    settings = {"use_bias": a["bias"], "name": layer_name(node.name), "dtype": style.dtype}
    if _depthwise(node):
        return layers.DepthwiseConv2D(
            a["kernel"], a["stride"], padding, depthwise_initializer="zeros", **settings
        )(x)
    return (PlainConvolution if style.frozen and ENGINE == "torch" else layers.Conv2D)(
        a["out_channels"],
        a["kernel"],
        a["stride"],
        padding,
        groups=a["groups"],
        kernel_initializer="zeros",
        **settings,
    )(x)


def _batch_norm(node: Node, style: Style, x: Any) -> Any:
    trained = RunningStatistics if style.learns else layers.BatchNormalization
    return (FrozenStatistics if style.frozen_statistics else trained)(
        momentum=1 - node.attrs["momentum"],  # Keras weighs the old statistic
        epsilon=node.attrs["epsilon"],
        name=layer_name(node.name),
        dtype=style.dtype,
    )(x)


def _max_pool(node: Node, style: Style, x: Any) -> Any:
    a, padding = node.attrs, window_padding(node.attrs)
    if padding != ((0, 0), (0, 0)):
        x = _pad(x, padding, -float("inf"))  # Keras itself pads with zeros, or not symmetrically
    return layers.MaxPooling2D(a["kernel"], a["stride"], name=layer_name(node.name), dtype=style.dtype)(x)


def _avg_pool(node: Node, style: Style, x: Any) -> Any:
    a = node.attrs
    settings = {"name": layer_name(node.name), "dtype": style.dtype}
    if window_padding(a) == ((0, 0), (0, 0)):
        return layers.AveragePooling2D(a["kernel"], a["stride"], **settings)(x)
    padding, more = a["padding"], window_padding(a)
    return AveragePool(a["kernel"], a["stride"], padding, more, a["count_padding"], **settings)(x)


def _named(kind: Callable[..., Any], *arguments: str) -> Callable[..., Any]:
    """The emitter of a layer that takes some of the node's attributes."""

    def emit(node: Node, style: Style, x: Any) -> Any:
        given = [node.attrs[name] for name in arguments]
        return kind(*given, name=layer_name(node.name), dtype=style.dtype)(x)

    return emit


def _merged(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda node, style, *xs: kind(name=layer_name(node.name), dtype=style.dtype)(list(xs))


def _activation(function: Any) -> Callable[..., Any]:
    return lambda node, style, x: layers.Activation(function, name=layer_name(node.name), dtype=style.dtype)(x)


def _flatten(node: Node, style: Style, x: Any) -> Any:
    x = layers.Permute((3, 1, 2), name=layer_name(f"{node.name}.permute"), dtype=style.dtype)(x)
    return layers.Reshape((node.attrs["features"],), name=layer_name(node.name), dtype=style.dtype)(x)


def _native(node: Node, style: Style, x: Any) -> Any:
    part, name = node.attrs["part"], layer_name(node.name)
    if style.shared:
        model = wrap.view(part, name)
    else:
        model = wrap.build(part, name, style.dtype, style.frozen_statistics, style.seed, style.learns)
    return wrap.call(model, x)


def _dropped(kind: Callable[..., Any]) -> Callable[..., Any]:
    """`kind`: what stands in a model that users get, and draws as Keras does."""

    def emit(node: Node, style: Style, x: Any) -> Any:
        settings: dict[str, Any] = {"name": layer_name(node.name), "dtype": style.dtype}
        if style.learns:
            return Dropped(node, style.seed, **settings)(x)
        return kind(node.attrs["rate"], seed=seed_of(node, style.seed), **settings)(x)

    return emit


# op -> Keras's name of the function, or the function
ACTIVATIONS: Mapping[str, Any] = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "gelu": "gelu",
    "quick_gelu": quick_gelu,
    "hard_swish": "hard_swish",
}
EMIT: Mapping[str, Callable[..., Any]] = {
    "normalize": lambda node, style, x: layers.Rescaling(
        list(node.attrs["scale"]), list(node.attrs["shift"]), name=layer_name(node.name), dtype="float32"
    )(keras.ops.flip(x, 3) if node.attrs["reverse"] else x),
    "conv": _conv,
    "batch_norm": _batch_norm,
    "layer_norm": lambda node, style, x: layers.LayerNormalization(
        epsilon=node.attrs["epsilon"], name=layer_name(node.name), dtype=style.dtype
    )(x),
    **{op: _activation(function) for op, function in ACTIVATIONS.items()},
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _named(AdaptiveAveragePool, "size"),
    "global_avg_pool": _named(layers.GlobalAveragePooling2D),
    "add": _merged(layers.Add),
    "multiply": _merged(layers.Multiply),
    "concat": _merged(layers.Concatenate),
    "scale": _named(Scale),
    "tokens": lambda node, style, x: layers.Reshape(
        (-1, x.shape[3]), name=layer_name(node.name), dtype=style.dtype
    )(x),
    "class_token": _named(ClassToken),
    "position": _named(Position, "tokens"),
    "attention": _named(Attention, "heads"),
    "first_token": _named(FirstToken),
    "mean_tokens": _named(layers.GlobalAveragePooling1D),
    "drop_path": _dropped(DropPath),
    "flatten": _flatten,
    "linear": lambda node, style, x: layers.Dense(
        node.attrs["out_features"],
        use_bias=node.attrs["bias"],
        kernel_initializer="zeros",
        name=layer_name(node.name),
        dtype=style.dtype,
    )(x),
    "dropout": _dropped(layers.Dropout),
    "native": _native,
}
# suffix of a parameter -> attribute of the Keras layer, where the two differ
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "batch_norm": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    "layer_norm": {"weight": "gamma", "bias": "beta"},
    "conv": {"weight": "kernel"},
    "linear": {"weight": "kernel"},
}


def network(
    graph: Graph,
    params: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
    style: Style = Style(),
) -> keras.Model:
    """The graph as a functional model, float32 out; with `outputs`, a dict of those nodes; with auxiliary outputs,
    a list of the output and them."""
    x = _input(graph)
    values = emitted(graph, x, style)
    if outputs:
        found: Any = {name: keras.ops.cast(values[name], "float32") for name in outputs}
    else:
        results = [values[name] for name in graph.outputs]
        results = [x if x.dtype == "float32" else keras.ops.cast(x, "float32") for x in results]
        found = results if len(results) > 1 else results[0]
    model = keras.Model(x, found)
    return model if style.shared else filled(model, graph, params)


def emitted(
    graph: Graph, x: Any, style: Style, emitters: Mapping[str, Callable[..., Any]] = EMIT
) -> dict[str, Any]:
    """What each node of the graph gives for the input `x`, by the node's name."""
    values = {graph.input: x}
    for node in graph.nodes[1:]:
        if node.op not in emitters:
            raise UnsupportedOpError(f"the keras backend has no layer for op {node.op!r} ({node.name!r})")
        values[node.name] = emitters[node.op](node, style, *(values[name] for name in node.inputs))
    return values


def filled(
    model: keras.Model,
    graph: Graph,
    params: Mapping[str, np.ndarray],
    attributes: Mapping[str, Mapping[str, str]] = ATTRIBUTES,
) -> keras.Model:
    """The model with its parameters. `attributes`: how its layers call these, where that differs from the op."""
    for node in graph.nodes:
        for name, variable in variables(node, model, attributes).items():
            value = _to_keras(node, np.asarray(params[name]))
            # an embedding of one row in the place of a layer of ours
            variable.assign(value[None] if value.ndim == 1 and len(variable.shape) == 2 else value)
        if node.op == "native":
            settle(model.get_layer(layer_name(node.name)))
    return model


def _input(graph: Graph) -> Any:
    """The graph's input; a dict of them where a native part takes one."""
    first = graph.nodes[min(1, len(graph.nodes) - 1)]
    if first.op == "native":
        entries = first.attrs["part"].entries
        made = {name: keras.Input(shape, dtype=kind, name=name or graph.input) for name, shape, kind in entries}
        return made.get(ALONE, made)
    shape = graph.nodes[0].attrs["shape"] or (None, None, 3)
    return keras.Input(shape, dtype="uint8" if first.op == "normalize" else "float32", name=graph.input)


def _to_keras(node: Node, value: np.ndarray) -> np.ndarray:
    if node.op not in ("conv", "linear"):
        return value
    value = to_channels_last(value)
    return value.swapaxes(2, 3) if node.op == "conv" and value.ndim == 4 and _depthwise(node) else value


def _from_keras(node: Node, value: np.ndarray) -> np.ndarray:
    if node.op not in ("conv", "linear"):
        return value
    if node.op == "conv" and value.ndim == 4 and _depthwise(node):
        value = value.swapaxes(2, 3)
    return from_channels_last(value)


def variables(
    node: Node, model: keras.Model, attributes: Mapping[str, Mapping[str, str]] = ATTRIBUTES
) -> dict[str, keras.Variable]:
    """torchvision's parameter name -> the model's variable, of one node."""
    if node.op == "native":
        return dict(zip(node.param_shapes(), model.get_layer(layer_name(node.name)).weights, strict=True))
    names = {name: name.rpartition(".")[2] for name in node.param_shapes()}
    own = attributes.get(node.op, {})
    return {
        name: getattr(model.get_layer(layer_name(node.name)), own.get(suffix, suffix))
        for name, suffix in names.items()
    }


def numpy_params(graph: Graph, model: keras.Model) -> dict[str, np.ndarray]:
    """The parameters under torchvision's names, in its layout."""
    return snapshot(graph, model)()


def snapshot(graph: Graph, model: keras.Model) -> Callable[[], dict[str, np.ndarray]]:
    """Reads what `numpy_params` would have given now, from copies on the device."""
    copies = [
        (node, name, keras.ops.copy(variable.value))
        for node in graph.nodes
        for name, variable in variables(node, model).items()
    ]
    return lambda: {name: _from_keras(node, to_numpy(copy)) for node, name, copy in copies}
