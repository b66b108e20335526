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
from headstart.backends.keras.layers import Attention, NoSoftmax, quick_gelu
from headstart.contract.programs import SIGMOID, SOFTMAX, Program
from headstart.graph import Node
from headstart.graph.ops import adaptive_weights, window_padding

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


def _adaptive_avg_pool(node: Node, style: Style, x: Any) -> Any:
    size, sides = tuple(node.attrs["size"]), tuple(x.shape[1:3])
    if size == sides:
        return x
    if all(side % count == 0 for side, count in zip(sides, size, strict=True)):
        window = tuple(side // count for side, count in zip(sides, size, strict=True))
        return layers.AveragePooling2D(window, window, name=layer_name(node.name))(x)
    down, across = (adaptive_weights(side, count).T for side, count in zip(sides, size, strict=True))
    x = ops.matmul(ops.transpose(x, (0, 3, 2, 1)), down)  # (n, c, w, i)
    x = ops.matmul(ops.transpose(x, (0, 1, 3, 2)), across)  # (n, c, i, j)
    return ops.transpose(x, (0, 2, 3, 1))


def _row(node: Node, like: Any) -> Any:
    """A node's weight, `(c,)`, behind each number of `like`."""
    return layers.Embedding(1, node.attrs["channels"], name=layer_name(node.name))(
        ops.zeros_like(like, dtype="int32")
    )


def _scale(node: Node, style: Style, x: Any) -> Any:
    corner = (slice(0, 1),) * (len(x.shape) - 1)
    return x * _row(node, x[(*corner, 0)])


def _class_token(node: Node, style: Style, x: Any) -> Any:
    return ops.concatenate([_row(node, x[:, :1, 0]), x], 1)


def _position(node: Node, style: Style, x: Any) -> Any:
    tokens = node.attrs["tokens"]
    # A sum would be TensorFlow's BiasAdd, of which TFLite has none for integers.
    places = ops.maximum(ops.zeros_like(x[:1, :, 0], dtype="int32"), np.arange(tokens, dtype=np.int32))
    return x + layers.Embedding(tokens, x.shape[2], name=layer_name(node.name))(places)


EMITTERS: Mapping[str, Callable[..., Any]] = {
    **EMIT,
    "quick_gelu": lambda node, style, x: quick_gelu(x),
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "scale": _scale,
    "class_token": _class_token,
    "position": _position,
    "attention": lambda node, style, x: Attention(node.attrs["heads"]).call(x),
    "first_token": lambda node, style, x: x[:, 0],
}
"""op -> Keras's own layer, or operations"""
EMBEDDED = {"weight": "embeddings"}
NAMES = {**ATTRIBUTES, "scale": EMBEDDED, "class_token": EMBEDDED, "position": EMBEDDED}
"""`ATTRIBUTES` of these layers"""


def model_of(program: Program) -> keras.Model:
    """It takes the program's input, or a dict of them by their names, and gives a dict of its outputs."""
    inputs = {name: keras.Input(shape, dtype=dtype, name=name) for name, shape, dtype in program.inputs}
    taken = inputs if program.by_name else next(iter(inputs.values()))
    y = emitted(program.graph, taken, Style(), EMITTERS)[program.graph.output]
    y = y if y.dtype == "float32" else ops.cast(y, "float32")
    outputs = {name: MAKES[how](y) for name, how in program.outputs.items()}
    return filled(keras.Model(taken, outputs), program.graph, program.params, NAMES)


def to_be_saved(model: keras.Model) -> keras.Model:
    """The model, which cannot be run any more, with Keras's own layer in its configuration where we have taken a
    softmax off."""
    for layer in layers_of(model):
        if isinstance(layer, NoSoftmax):
            layer.__class__, layer.activation = layers.Activation, keras.activations.linear
            for call in layer._inbound_nodes:
                call.arguments.kwargs.pop("mask", None)  # which an activation does not take
    return model
