"""op -> ONNX nodes: one emitter for each row of the op table but `native`.

An emitter appends the nodes that compute a node of ours; the last of them gives the value that has the node's
name. It returns the form that this value is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headstart.common.errors import UnsupportedOpError
from headstart.graph import Graph, Node
from headstart.graph.ops import adaptive_weights, window_padding
from headstart.models.exporting.onnx_graph import DTYPES, FIRST, LAST, TOKEN, Emission

Emitter = Callable[[Emission, Node], str]
Padding = Sequence[Sequence[int]]


def emitter_of(node: Node) -> Emitter:
    """What appends this node. UnsupportedOpError where nothing of ONNX computes it."""
    if node.op in EMITTERS:
        return EMITTERS[node.op]
    what = f"there is no translation of op {node.op!r} (node {node.name!r})"
    if node.op == "native":
        what = f"node {node.name!r} is a part of a wrapped {node.attrs['part'].backend} module"
    raise UnsupportedOpError(
        f"an ONNX file is written of the op table's layers, and {what}; use that framework's own exporter, or "
        "export what is not wrapped: part='head'"
    )


def emit_graph(e: Emission, graph: Graph) -> None:
    """Append all nodes of a graph whose input has been declared."""
    for node in graph.nodes[1:]:
        e.made(node.name, emitter_of(node)(e, node))


def _pads(padding: Padding) -> list[int]:
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


# ---- layers with weights


def _normalize(e: Emission, node: Node) -> str:
    """In float32 whatever the arithmetic is: it takes bytes."""
    single = DTYPES["float32"]
    x = e.value(node.inputs[0], FIRST)
    if node.attrs["reverse"]:
        order = e.integers(f"{node.name}.order", list(range(len(node.attrs["scale"])))[::-1])
        x = e.emit("Gather", [x, order], f"{node.name}/reversed", axis=1)
    x = e.cast(x, f"{node.name}/cast", "float32")
    scale, shift = (
        e.constant(f"{node.name}.{key}", np.asarray(node.attrs[key], single)[:, None, None], single)
        for key in ("scale", "shift")
    )
    x = e.emit("Mul", [x, scale], f"{node.name}/scaled")
    if e.dtype == single:
        e.emit("Add", [x, shift], node.name)
    else:
        e.cast(e.emit("Add", [x, shift], f"{node.name}/shifted"), node.name)
    return FIRST


def _conv(e: Emission, node: Node) -> str:
    a = node.attrs
    inputs = [e.value(node.inputs[0], FIRST), e.param(node, "weight")]
    if a["bias"]:
        inputs.append(e.param(node, "bias"))
    window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": _pads(a["padding"])}
    e.emit("Conv", inputs, node.name, group=a["groups"], **window)
    return FIRST


def _linear(e: Emission, node: Node) -> str:
    (source,), bias, form = node.inputs, node.attrs["bias"], e.form(node)
    x = e.value(source, form)
    if node.name in e.precise and e.dtype != DTYPES["float32"]:
        x = e.cast(x, f"{node.name}/cast", "float32")
    if form == FIRST:  # a convolution of one pixel
        inputs = [x, e.param(node, "weight", lambda weight: weight[:, :, None, None])]
        e.emit("Conv", [*inputs, *([e.param(node, "bias")] if bias else [])], node.name, kernel_shape=(1, 1))
    elif form == TOKEN or len(e.shapes[source]) == 1:
        inputs = [x, e.param(node, "weight")]
        e.emit("Gemm", [*inputs, *([e.param(node, "bias")] if bias else [])], node.name, transB=1)
    else:
        weight = e.param(node, "weight", np.transpose)
        product = e.emit("MatMul", [x, weight], f"{node.name}/product" if bias else node.name)
        if bias:
            e.emit("Add", [product, e.param(node, "bias")], node.name)
    return form


def _batch_norm(e: Emission, node: Node) -> str:
    """As a factor and a term for each channel, worked out in float64: float16 may not hold a variance."""
    weight, bias, mean, variance = (
        np.asarray(e.params[f"{node.name}.{key}"], np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    factor = weight / np.sqrt(variance + node.attrs["epsilon"])
    factors = e.constant(f"{node.name}.weight", factor)
    terms = e.constant(f"{node.name}.bias", bias - mean * factor)
    (source,) = node.inputs
    if len(e.shapes[source]) == 2:  # of tokens ONNX's would take the second axis for the channels
        form = e.form(node)
        product = e.emit("Mul", [e.value(source, form), factors], f"{node.name}/product")
        e.emit("Add", [product, terms], node.name)
        return form
    form = FIRST if e.is_map(source) else LAST
    neutral = [
        e.constant(f"{node.name}.running_mean", np.zeros(len(factor))),
        e.constant(f"{node.name}.running_var", np.ones(len(factor))),
    ]
    e.emit("BatchNormalization", [e.value(source, form), factors, terms, *neutral], node.name, epsilon=0.0)
    return form


def _layer_norm(e: Emission, node: Node) -> str:
    form = TOKEN if node.name in e.lone else LAST
    inputs = [e.value(node.inputs[0], form), e.param(node, "weight"), e.param(node, "bias")]
    e.emit("LayerNormalization", inputs, node.name, axis=-1, epsilon=node.attrs["epsilon"])
    return form


def _scale(e: Emission, node: Node) -> str:
    form = e.form(node)
    weight = e.param(node, "weight", (lambda w: w[:, None, None]) if form == FIRST else None)
    e.emit("Mul", [e.value(node.inputs[0], form), weight], node.name)
    return form


# ---- functions of each number


def _elementwise(steps: Callable[[Emission, str, str], str]) -> Emitter:
    """`steps`: the emission, the input, the name of the output, which they return."""

    def emitter(e: Emission, node: Node) -> str:
        form = e.form(node)
        steps(e, e.value(node.inputs[0], form), node.name)
        return form

    return emitter


def _one(op: str) -> Emitter:
    return _elementwise(lambda e, x, name: e.emit(op, [x], name))


def _relu6(e: Emission, x: str, name: str) -> str:
    return e.emit("Clip", [x, e.constant("constant/zero", 0.0), e.constant("constant/six", 6.0)], name)


def _silu(e: Emission, x: str, name: str) -> str:
    return e.emit("Mul", [x, e.emit("Sigmoid", [x], f"{name}/sigmoid")], name)


def _quick_gelu(e: Emission, x: str, name: str) -> str:
    scaled = e.emit("Mul", [x, e.constant("constant/quick", 1.702)], f"{name}/scaled")
    return e.emit("Mul", [x, e.emit("Sigmoid", [scaled], f"{name}/sigmoid")], name)


def _gelu(e: Emission, x: str, name: str) -> str:
    """ONNX has it from opset 20 on; runtimes know these five for it."""
    part = e.emit("Div", [x, e.constant("constant/root_of_two", math.sqrt(2))], f"{name}/divided")
    part = e.emit("Erf", [part], f"{name}/erf")
    part = e.emit("Add", [part, e.constant("constant/unit", 1.0)], f"{name}/shifted")
    part = e.emit("Mul", [x, part], f"{name}/product")
    return e.emit("Mul", [part, e.constant("constant/half", 0.5)], name)


# ---- pools


def _max_pool(e: Emission, node: Node) -> str:
    a = node.attrs
    window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": _pads(window_padding(a))}
    e.emit("MaxPool", [e.value(node.inputs[0], FIRST)], node.name, **window)
    return FIRST


def _avg_pool(e: Emission, node: Node) -> str:
    a = node.attrs
    x, pads, count = e.value(node.inputs[0], FIRST), _pads(window_padding(a)), int(a["count_padding"])
    if count and any(_pads(a["padding"])) and pads != _pads(a["padding"]):
        # The node's own padding counts and what rounding up adds does not: the one is made of zeros first.
        (top, bottom), (left, right) = a["padding"]
        sides = e.integers(f"{node.name}.padding", [0, 0, top, left, 0, 0, bottom, right])
        x = e.emit("Pad", [x, sides], f"{node.name}/padded")
        pads = [after - before for after, before in zip(pads, _pads(a["padding"]), strict=True)]
        count = 0
    elif pads != _pads(a["padding"]):
        count = 0
    window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": pads}
    e.emit("AveragePool", [x], node.name, count_include_pad=count, **window)
    return FIRST


def _adaptive_avg_pool(e: Emission, node: Node) -> str:
    x, sides, size = e.value(node.inputs[0], FIRST), e.shapes[node.inputs[0]][:2], node.attrs["size"]
    if tuple(size) == (1, 1):
        e.emit("GlobalAveragePool", [x], node.name)
    elif all(side % n == 0 for side, n in zip(sides, size, strict=True)):
        window = tuple(side // n for side, n in zip(sides, size, strict=True))
        e.emit("AveragePool", [x], node.name, kernel_shape=window, strides=window)
    else:  # windows of several sizes: a product with their weights for each side
        rows, columns = (adaptive_weights(side, n) for side, n in zip(sides, size, strict=True))
        x = e.emit("MatMul", [x, e.constant(f"{node.name}.columns", columns.T)], f"{node.name}/columns")
        e.emit("MatMul", [e.constant(f"{node.name}.rows", rows), x], node.name)
    return FIRST


def _global_avg_pool(e: Emission, node: Node) -> str:
    x = e.emit("GlobalAveragePool", [e.value(node.inputs[0], FIRST)], f"{node.name}/map")
    e.emit("Flatten", [x], node.name, axis=1)
    return LAST


# ---- joining and turning


def _joined(op: str) -> Emitter:
    def emitter(e: Emission, node: Node) -> str:
        form = e.form(node)
        e.emit(op, [e.value(name, form) for name in node.inputs], node.name)
        return form

    return emitter


def _concat(e: Emission, node: Node) -> str:
    form = e.form(node)
    axis = 1 if form == FIRST else -1
    e.emit("Concat", [e.value(name, form) for name in node.inputs], node.name, axis=axis)
    return form


def _flatten(e: Emission, node: Node) -> str:
    e.emit("Flatten", [e.value(node.inputs[0], FIRST)], node.name, axis=1)
    return LAST


# ---- tokens


def _tokens(e: Emission, node: Node) -> str:
    count, channels = e.shapes[node.name]
    form = e.form(node)
    x = e.value(node.inputs[0], form)
    if form == LAST:
        e.emit("Reshape", [x, e.integers(f"{node.name}.shape", [0, count, channels])], node.name)
    else:
        shape = e.integers(f"{node.name}.shape", [0, channels, count])
        e.emit("Transpose", [e.emit("Reshape", [x, shape], f"{node.name}/rows")], node.name, perm=(0, 2, 1))
    return LAST


def _class_token(e: Emission, node: Node) -> str:
    """As a token of zeros before the others, to which the learned one is added: so no shape depends on the
    batch's."""
    count, channels = e.shapes[node.name]
    sides = e.integers(f"{node.name}.padding", [0, 1, 0, 0, 0, 0])
    padded = e.emit("Pad", [e.value(node.inputs[0], LAST), sides], f"{node.name}/padded")
    token = np.zeros((count, channels), np.float32)
    token[0] = e.params[f"{node.name}.weight"]
    e.emit("Add", [padded, e.constant(f"{node.name}.weight", token)], node.name)
    return LAST


def _position(e: Emission, node: Node) -> str:
    e.emit("Add", [e.value(node.inputs[0], LAST), e.param(node, "weight")], node.name)
    return LAST


def _attention(e: Emission, node: Node) -> str:
    (source,), heads, name = node.inputs, node.attrs["heads"], node.name
    count, channels = e.shapes[name]
    width, lone = channels // heads, name in e.lone
    sides = e.integers(f"constant/{channels}x3", [channels] * 3)
    q, k, v = e.emit_several("Split", [e.value(source, LAST), sides], [f"{name}/{key}" for key in "qkv"], axis=2)
    if lone:
        q = e.emit("Gather", [q, e.index(0)], f"{name}/q_token", axis=1)
    q = e.emit("Mul", [q, e.constant(f"{name}.scale", width**-0.5)], f"{name}/q_scaled")

    def by_head(x: str, key: str, tokens: int, perm: tuple[int, ...]) -> str:
        shape = e.integers(f"constant/{tokens}x{heads}x{width}", [0, tokens, heads, width])
        return e.emit(
            "Transpose", [e.emit("Reshape", [x, shape], f"{name}/{key}_heads")], f"{name}/{key}_", perm=perm
        )

    q = by_head(q, "q", 1 if lone else count, (0, 2, 1, 3))
    k, v = by_head(k, "k", count, (0, 2, 3, 1)), by_head(v, "v", count, (0, 2, 1, 3))
    weights = e.emit("Softmax", [e.emit("MatMul", [q, k], f"{name}/scores")], f"{name}/weights", axis=-1)
    x = e.emit("MatMul", [weights, v], f"{name}/each")
    x = e.emit("Transpose", [x], f"{name}/together", perm=(0, 2, 1, 3))
    shape = [0, channels] if lone else [0, count, channels]
    e.emit("Reshape", [x, e.integers(f"{name}.shape", shape)], name)
    return TOKEN if lone else LAST


def _first_token(e: Emission, node: Node) -> str:
    e.emit("Identity", [e.value(node.inputs[0], TOKEN)], node.name)
    return LAST


def _mean_tokens(e: Emission, node: Node) -> str:
    e.emit("ReduceMean", [e.value(node.inputs[0], LAST)], node.name, axes=(1,), keepdims=0)
    return LAST


EMITTERS: Mapping[str, Emitter] = {
    "normalize": _normalize,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "scale": _scale,
    "relu": _one("Relu"),
    "relu6": _elementwise(_relu6),
    "sigmoid": _one("Sigmoid"),
    "silu": _elementwise(_silu),
    "gelu": _elementwise(_gelu),
    "quick_gelu": _elementwise(_quick_gelu),
    "hard_swish": _one("HardSwish"),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "global_avg_pool": _global_avg_pool,
    "add": _joined("Add"),
    "multiply": _joined("Mul"),
    "concat": _concat,
    "flatten": _flatten,
    "tokens": _tokens,
    "class_token": _class_token,
    "position": _position,
    "attention": _attention,
    "first_token": _first_token,
    "mean_tokens": _mean_tokens,
    # in inference they do nothing
    "dropout": _one("Identity"),
    "drop_path": _one("Identity"),
}
