"""A program as a functional model of Keras's own layers and operations alone, which opens wherever Keras is.

Where Keras has no layer for an op, ours (`headstart.backends.keras.layers`) is left out, and what it computes
stands in the model, operation by operation; its weights are those of Keras's embeddings and products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from headstart.backends.keras.copying import layers_of
from headstart.backends.keras.emit import ATTRIBUTES, EMIT, Style, emitted, filled, layer_name
from headstart.backends.keras.layers import AdaptiveAveragePool, Attention, NoSoftmax, quick_gelu
from headstart.contract.programs import SIGMOID, SOFTMAX, Program
from headstart.graph import Node
from headstart.graph.ops import window_padding

MAKES: Mapping[str, Callable[[Any], Any]] = {"": lambda y: y, SOFTMAX: ops.softmax, SIGMOID: ops.sigmoid}


def _avg_pool(node: Node, style: Style, x: Any) -> Any:
    a, outside = node.attrs, window_padding(node.attrs)
    if outside == ((0, 0), (0, 0)):
        return EMIT["avg_pool"](node, style, x)
    sides = zip(x.shape[1:3], a["kernel"], a["stride"], a["padding"], outside, strict=True)
    share = np.outer(*(_counted(*side, a["count_padding"]) for side in sides))[:, :, None]
    x = layers.ZeroPadding2D(outside, name=layer_name(f"{node.name}.pad"))(x)
    x = layers.AveragePooling2D(a["kernel"], a["stride"], name=layer_name(node.name))(x)
    return x if (share == 1).all() else x * (1 / share).astype(np.float32)


def _counted(side: int, kernel: int, stride: int, padding: Any, outside: Any, count_padding: bool) -> np.ndarray:
    """Along a side, the share of each window that counts in its average."""
    counts = np.pad(np.ones(side), padding, constant_values=float(count_padding))
    counts = np.pad(counts, [there - counted for there, counted in zip(outside, padding, strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(counts, kernel)[::stride]
    return windows.mean(1)


def _scale(node: Node, style: Style, x: Any) -> Any:
    letters = "abcd"[: len(x.shape)]
    return layers.EinsumDense(
        f"{letters},{letters[-1]}->{letters}", (None, *x.shape[2:]), name=layer_name(node.name)
    )(x)


def _class_token(node: Node, style: Style, x: Any) -> Any:
    first = ops.zeros_like(x[:, :1, 0], dtype="int32")
    return ops.concatenate([layers.Embedding(1, x.shape[2], name=layer_name(node.name))(first), x], 1)


def _position(node: Node, style: Style, x: Any) -> Any:
    tokens = node.attrs["tokens"]
    places = ops.zeros_like(x[:1, :, 0], dtype="int32") + np.arange(tokens, dtype=np.int32)
    return x + layers.Embedding(tokens, x.shape[2], name=layer_name(node.name))(places)


EMITTERS: Mapping[str, Callable[..., Any]] = {
    **EMIT,
    "quick_gelu": lambda node, style, x: quick_gelu(x),
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": lambda node, style, x: AdaptiveAveragePool(node.attrs["size"]).call(x),
    "scale": _scale,
    "class_token": _class_token,
    "position": _position,
    "attention": lambda node, style, x: Attention(node.attrs["heads"]).call(x),
    "first_token": lambda node, style, x: x[:, 0],
}
"""op -> Keras's own layer, or operations"""
EMBEDDED = {"weight": "embeddings"}
NAMES = {**ATTRIBUTES, "scale": {"weight": "kernel"}, "class_token": EMBEDDED, "position": EMBEDDED}
"""`ATTRIBUTES` of these layers"""


def model_of(program: Program) -> keras.Model:
    """It takes the program's input, or a dict of them by their names, and gives a dict of its outputs."""
    inputs = {name: keras.Input(shape, dtype=dtype, name=name) for name, shape, dtype in program.inputs}
    taken = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    y = emitted(program.graph, taken, Style(), EMITTERS)[program.graph.output]
    y = y if y.dtype == "float32" else ops.cast(y, "float32")
    outputs = {name: MAKES[how](y) for name, how in program.outputs.items()}
    model = filled(keras.Model(taken, outputs), program.graph, program.params, NAMES)
    for layer in layers_of(model):
        if isinstance(layer, NoSoftmax):
            layer.__class__, layer.activation = layers.Activation, keras.activations.linear
            for call in layer._inbound_nodes:
                call.arguments.kwargs.pop("mask", None)  # which an activation does not take
    return model
