"""op -> Keras layer, as a functional `keras.Model`, so that what comes out is an ordinary Keras model: it can
be cut, drawn, saved and trained like any other. Layers are called as the graph's nodes, with `_` for each dot:
on its torch engine Keras makes parameter names of them, which may hold none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from headstart.backends.keras.arrays import to_numpy
from headstart.errors import UnsupportedOpError
from headstart.graph import Graph, Node
from headstart.graph.layout import from_channels_last, to_channels_last
from headstart.graph.ops import is_buffer


@dataclass(frozen=True)
class Style:
    """What a model is made for."""

    dtype: str = "float32"
    """Keras's dtype policy: "float32" or "mixed_bfloat16\""""
    frozen_statistics: bool = False
    """keep batch norms' statistics in training too, while their scale and offset are trained"""
    seed: int = 0
    """of dropout"""


def layer_name(node: str) -> str:
    return node.replace(".", "_")


def _pad(x: Any, padding: Any, value: float) -> Any:
    return keras.ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


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
    return layers.Conv2D(
        a["out_channels"],
        a["kernel"],
        a["stride"],
        padding,
        groups=a["groups"],
        use_bias=a["bias"],
        kernel_initializer="zeros",
        name=layer_name(node.name),
        dtype=style.dtype,
    )(x)


class FrozenStatistics(layers.BatchNormalization):
    """Keeps its statistics and trains its scale and offset. `trainable=False` would freeze those as well, and a
    `training=False` given when the model is built is overridden by the model's own call."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


def _batch_norm(node: Node, style: Style, x: Any) -> Any:
    kind = FrozenStatistics if style.frozen_statistics else layers.BatchNormalization
    return kind(
        momentum=1 - node.attrs["momentum"],  # Keras weighs the old statistic
        epsilon=node.attrs["epsilon"],
        name=layer_name(node.name),
        dtype=style.dtype,
    )(x)


def _max_pool(node: Node, style: Style, x: Any) -> Any:
    a = node.attrs
    if a["padding"] != ((0, 0), (0, 0)):
        x = _pad(x, a["padding"], -float("inf"))  # Keras itself pads with zeros, or not symmetrically
    return layers.MaxPooling2D(a["kernel"], a["stride"], name=layer_name(node.name), dtype=style.dtype)(x)


def _flatten(node: Node, style: Style, x: Any) -> Any:
    x = layers.Permute((3, 1, 2), name=layer_name(f"{node.name}.permute"), dtype=style.dtype)(x)
    return layers.Reshape((node.attrs["features"],), name=layer_name(node.name), dtype=style.dtype)(x)


EMIT: Mapping[str, Callable[..., Any]] = {
    "normalize": lambda node, style, x: layers.Rescaling(
        list(node.attrs["scale"]), list(node.attrs["shift"]), name=layer_name(node.name), dtype="float32"
    )(x),
    "conv": _conv,
    "batch_norm": _batch_norm,
    "relu": lambda node, style, x: layers.ReLU(name=layer_name(node.name), dtype=style.dtype)(x),
    "max_pool": _max_pool,
    "global_avg_pool": lambda node, style, x: layers.GlobalAveragePooling2D(
        name=layer_name(node.name), dtype=style.dtype
    )(x),
    "add": lambda node, style, *xs: layers.Add(name=layer_name(node.name), dtype=style.dtype)(list(xs)),
    "flatten": _flatten,
    "linear": lambda node, style, x: layers.Dense(
        node.attrs["out_features"],
        use_bias=node.attrs["bias"],
        kernel_initializer="zeros",
        name=layer_name(node.name),
        dtype=style.dtype,
    )(x),
    "dropout": lambda node, style, x: layers.Dropout(
        node.attrs["rate"], seed=style.seed, name=layer_name(node.name), dtype=style.dtype
    )(x),
}
# suffix of a parameter -> attribute of the Keras layer, where the two differ
ATTRIBUTES = {
    "batch_norm": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    "conv": {"weight": "kernel"},
    "linear": {"weight": "kernel"},
}


def network(
    graph: Graph,
    params: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
    style: Style = Style(),
) -> keras.Model:
    """The graph as a functional model, float32 out; with `outputs`, a dict of those nodes."""
    pixels = any(node.op == "normalize" for node in graph.nodes[:2])
    shape = graph.nodes[0].attrs["shape"] or (None, None, 3)
    x = keras.Input(shape, dtype="uint8" if pixels else "float32", name=graph.input)
    values = {graph.input: x}
    for node in graph.nodes[1:]:
        if node.op not in EMIT:
            raise UnsupportedOpError(f"the keras backend has no layer for op {node.op!r} ({node.name!r})")
        values[node.name] = EMIT[node.op](node, style, *(values[name] for name in node.inputs))
    if outputs:
        found: Any = {name: keras.ops.cast(values[name], "float32") for name in outputs}
    else:
        found = values[graph.output]
        if style.dtype != "float32":
            found = keras.ops.cast(found, "float32")
    model = keras.Model(x, found)
    for name, variable in variables(graph, model).items():
        variable.assign(params[name] if is_buffer(name) else to_channels_last(params[name]))
    return model


def variables(graph: Graph, model: keras.Model) -> dict[str, keras.Variable]:
    """torchvision's parameter name -> the model's variable."""
    found = {}
    for node in graph.nodes:
        for name in node.param_shapes():
            suffix = name.rpartition(".")[2]
            attribute = ATTRIBUTES[node.op].get(suffix, suffix)
            found[name] = getattr(model.get_layer(layer_name(node.name)), attribute)
    return found


def numpy_params(graph: Graph, model: keras.Model) -> dict[str, np.ndarray]:
    """The parameters under torchvision's names, in its layout."""
    return {
        name: from_channels_last(to_numpy(keras.ops.copy(variable.value)))
        for name, variable in variables(graph, model).items()
    }
