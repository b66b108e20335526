"""The closed table of ops. An `Op` states everything that frameworks disagree on, so that a backend only
translates: padding is given per side, max pooling pads with minus infinity, an average says whether it counts
padding, `ceil` rounds the number of windows up, momentum is the weight of the *new* statistic (torch's sense),
`gelu` is the exact one, flattening is in (c, h, w) order because published linear weights are. In training a batch
norm normalises by the batch's own variance (the mean of squared differences) and its running one follows the
unbiased variance (their sum over n - 1), as torch's does, with which published weights were trained.

Shapes are those of one sample: `(h, w, c)` for maps, `(t, c)` for tokens, `(c,)` for vectors; what says "last
axis" takes any of them. Weights have torchvision's layout: convolutions `(out, in / groups, kh, kw)`, linear
layers `(out, in)`.

One op is open: `native` stands for a part of a user's own module, which only the framework that it is written in
can run. What it computes is not in this table; its `part` says what core needs to know instead (shapes,
parameters, structure), so that cuts, keys, modes and training treat it as any other node.

Invariants: an op or attribute that is not in this table cannot be in a graph; a default never changes, since keys
of stored features leave defaults out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.common.errors import GraphError

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

REQUIRED: Any = object()
INITIAL = ("he", "uniform", "normal", "constant", "ones", "zeros")
"""how fresh parameters are drawn; what each means `headstart.models.initial` says"""
BUFFERS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Op:
    """What is true of an op in every framework."""

    name: str
    shape: Callable[[Attributes, Sequence[Shape]], Shape]
    """attributes and input shapes -> output shape; raises GraphError where they do not fit"""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """attribute -> default, or REQUIRED"""
    params: Callable[[Attributes], dict[str, Shape]] = lambda _: {}
    """attributes -> parameter suffix -> shape"""
    macs: Callable[[Attributes, Sequence[Shape], Shape], int] = lambda *_: 0
    """multiply-adds of one sample, counted as papers do: convolutions, linear layers and attention only"""
    initial: Mapping[str, str] = field(default_factory=dict)
    """parameter suffix -> how a fresh one is drawn: one of `INITIAL`. A node of an op that has the attribute
    `initial` may say otherwise of its weight"""
    buffers: Callable[[Attributes], Collection[str]] = lambda _: BUFFERS
    """attributes -> suffixes of the parameters that are kept (statistics, counters) and not trained"""
    inputs: int | None = 1
    """how many it takes; None: two or more"""
    activation: bool = False
    """whether it is a function of each number by itself, without attributes"""
    random: bool = False
    """whether it draws random numbers in training, or may"""
    inert: bool = False
    """whether it does nothing in inference"""


def window_padding(attrs: Attributes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding per side with which rounding the number of windows down gives what the node's own rounding gives:
    `ceil` adds what a last window may need. What it adds counts in no average."""
    (top, bottom), (left, right) = attrs["padding"]
    if attrs.get("ceil"):
        bottom, right = bottom + attrs["stride"][0] - 1, right + attrs["stride"][1] - 1
    return (top, bottom), (left, right)


def adaptive_weights(side: int, size: int) -> np.ndarray:
    """float32 `(size, side)`: the weights with which `adaptive_avg_pool` averages along a side."""
    place = np.arange(side)
    first = np.arange(size) * side // size
    last = -(-(np.arange(size) + 1) * side // size)
    inside = (place >= first[:, None]) & (place < last[:, None])
    weights: np.ndarray = (inside / inside.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _same(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _map(op: str, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise GraphError(f"{op} takes a map of shape (h, w, c), received {shape}")
    return shape


def _window(attrs: Attributes, shape: Shape, op: str) -> tuple[int, int]:
    sides = []
    for size, kernel, stride, (before, after) in zip(
        shape[:2], attrs["kernel"], attrs["stride"], attrs["padding"], strict=True
    ):
        if attrs.get("ceil") and kernel < stride + after:
            # torch drops a last window that would lie in the padding entirely; with this there is none
            raise GraphError(f"{op} with ceil needs a window of {stride + after} or more, received {kernel}")
        steps = (size + before + after - kernel) / stride
        if steps < 0:
            raise GraphError(
                f"{op} with a {kernel} wide window does not fit an input of shape {shape}; use larger images"
            )
        sides.append((math.ceil if attrs.get("ceil") else math.floor)(steps) + 1)
    return sides[0], sides[1]


def _conv_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    shape = _map("conv", shapes[0])
    if shape[2] != attrs["in_channels"]:
        raise GraphError(f"conv expects {attrs['in_channels']} channels, received a map of shape {shape}")
    groups, cin, cout = attrs["groups"], attrs["in_channels"], attrs["out_channels"]
    if groups < 1 or cin % groups or cout % groups:
        raise GraphError(f"conv from {cin} to {cout} channels cannot be split into {groups} groups")
    return (*_window(attrs, shape, "conv"), cout)


def _conv_params(attrs: Attributes) -> dict[str, Shape]:
    weight = (attrs["out_channels"], attrs["in_channels"] // attrs["groups"], *attrs["kernel"])
    return {"weight": weight} | ({"bias": (attrs["out_channels"],)} if attrs["bias"] else {})


def _conv_macs(attrs: Attributes, shapes: Sequence[Shape], out: Shape) -> int:
    return out[0] * out[1] * math.prod(_conv_params(attrs)["weight"])


def _pool_shape(op: str) -> Callable[[Attributes, Sequence[Shape]], Shape]:
    def shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
        given = _map(op, shapes[0])
        return (*_window(attrs, given, op), given[2])

    return shape


def _channels(op: str) -> Callable[[Attributes, Sequence[Shape]], Shape]:
    def shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
        if shapes[0][-1] != attrs["channels"]:
            raise GraphError(f"{op} expects {attrs['channels']} channels, received shape {shapes[0]}")
        return shapes[0]

    return shape


def _linear_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][-1] != attrs["in_features"]:
        raise GraphError(f"linear expects shape (..., {attrs['in_features']}), received {shapes[0]}")
    return (*shapes[0][:-1], attrs["out_features"])


def _linear_params(attrs: Attributes) -> dict[str, Shape]:
    weight = (attrs["out_features"], attrs["in_features"])
    return {"weight": weight} | ({"bias": weight[:1]} if attrs["bias"] else {})


def _input_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if attrs["shape"] is not None and tuple(attrs["shape"]) != shapes[0]:
        raise GraphError(f"the input has shape {attrs['shape']}, received {shapes[0]}")
    return shapes[0]


def _flatten_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    size = math.prod(_map("flatten", shapes[0]))
    if size != attrs["features"]:
        raise GraphError(
            f"flatten expects {attrs['features']} values, received a map of shape {shapes[0]}; "
            "an architecture with fully connected layers takes images of one size only"
        )
    return (size,)


def _add_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != shapes[1]:
        raise GraphError(f"add takes two equal shapes, received {shapes[0]} and {shapes[1]}")
    return shapes[0]


def _multiply_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    x, factor = shapes
    if len(x) != len(factor) or any(f not in (1, n) for n, f in zip(x, factor, strict=True)):
        raise GraphError(f"multiply takes a factor whose sides are 1 or equal, received {x} and {factor}")
    return x


def _concat_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if len({shape[:-1] for shape in shapes}) != 1:
        raise GraphError(f"concat takes shapes that differ in their last side only, received {list(shapes)}")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def _tokens(op: str, shape: Shape) -> Shape:
    if len(shape) != 2:
        raise GraphError(f"{op} takes tokens of shape (t, c), received {shape}")
    return shape


def _class_token_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    tokens, channels = _tokens("class_token", _channels("class_token")(attrs, shapes))
    return (tokens + 1, channels)


def _position_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    wanted = (attrs["tokens"], attrs["channels"])
    if shapes[0] != wanted:
        raise GraphError(
            f"position has {wanted[0]} places of {wanted[1]} channels, received {shapes[0]}; positions are made "
            "for images of one size, which model(..., size=) sets"
        )
    return shapes[0]


def _attention_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    tokens, channels = _tokens("attention", shapes[0])
    if channels % (3 * attrs["heads"]):
        raise GraphError(
            f"attention takes queries, keys and values side by side, each of {attrs['heads']} equal heads; "
            f"received shape {shapes[0]}"
        )
    return (tokens, channels // 3)


def _first_token_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    return _tokens("first_token", shapes[0])[1:]


def _flat_tokens_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    height, width, channels = _map("tokens", shapes[0])
    return (height * width, channels)


_WINDOW = {"kernel": REQUIRED, "stride": (1, 1), "padding": ((0, 0), (0, 0))}
_NORM = {"weight": "ones", "bias": "zeros"}

OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        # shape None: a map of any size with three channels
        Op("input", _input_shape, {"shape": None}, inputs=0),
        # uint8 pixels (or any numbers) to float32: x * scale + shift, per channel
        Op("normalize", _same, {"scale": REQUIRED, "shift": REQUIRED, "reverse": False}),
        Op(
            "conv",
            _conv_shape,
            {
                "in_channels": REQUIRED,
                "out_channels": REQUIRED,
                **_WINDOW,
                "groups": 1,
                "bias": True,
                "initial": None,
            },
            _conv_params,
            _conv_macs,
            {"weight": "he", "bias": "uniform"},
        ),
        Op(
            "batch_norm",
            _channels("batch_norm"),
            {"channels": REQUIRED, "epsilon": 1e-5, "momentum": 0.1},
            lambda a: dict.fromkeys(("weight", "bias", *BUFFERS), (a["channels"],)),
            initial={**_NORM, "running_mean": "zeros", "running_var": "ones"},
        ),
        # over the last axis
        Op(
            "layer_norm",
            _channels("layer_norm"),
            {"channels": REQUIRED, "epsilon": 1e-5},
            lambda a: dict.fromkeys(("weight", "bias"), (a["channels"],)),
            initial=_NORM,
        ),
        Op("relu", _same, activation=True),
        Op("relu6", _same, activation=True),
        Op("silu", _same, activation=True),
        Op("sigmoid", _same, activation=True),
        # x * Phi(x), not the tanh approximation
        Op("gelu", _same, activation=True),
        # x * sigmoid(1.702 x), as OpenAI's CLIP has it
        Op("quick_gelu", _same, activation=True),
        Op("hard_swish", _same, activation=True),  # x * relu6(x + 3) / 6
        Op("max_pool", _pool_shape("max_pool"), {**_WINDOW, "ceil": False}),
        # count_padding: whether the zeros of the padding count in the average
        Op("avg_pool", _pool_shape("avg_pool"), {**_WINDOW, "ceil": False, "count_padding": True}),
        # window i of n reaches from floor(i * side / n) to ceil((i + 1) * side / n), as torch's; any input size
        Op(
            "adaptive_avg_pool",
            lambda a, s: (*a["size"], _map("adaptive_avg_pool", s[0])[2]),
            {"size": REQUIRED},
        ),
        Op("global_avg_pool", lambda a, s: _map("global_avg_pool", s[0])[2:]),
        Op("add", _add_shape, inputs=2),
        # the second is stretched along its sides of 1
        Op("multiply", _multiply_shape, inputs=2),
        # along the last axis
        Op("concat", _concat_shape, inputs=None),
        Op("flatten", _flatten_shape, {"features": REQUIRED}),
        # over the last axis
        Op(
            "linear",
            _linear_shape,
            {"in_features": REQUIRED, "out_features": REQUIRED, "bias": True, "initial": None},
            _linear_params,
            lambda a, s, out: math.prod(s[0]) * a["out_features"],
            {"weight": "uniform", "bias": "uniform"},
        ),
        # a factor for each channel of the last axis; `initial`: what it starts from
        Op(
            "scale",
            _channels("scale"),
            {"channels": REQUIRED, "initial": 1.0},
            lambda a: {"weight": (a["channels"],)},
            initial={"weight": "constant"},
        ),
        # (h, w, c) -> (h * w, c), row by row
        Op("tokens", _flat_tokens_shape),
        # a learned token put before the others
        Op(
            "class_token",
            _class_token_shape,
            {"channels": REQUIRED},
            lambda a: {"weight": (a["channels"],)},
            initial={"weight": "normal"},
        ),
        # a learned vector added to each token
        Op(
            "position",
            _position_shape,
            {"tokens": REQUIRED, "channels": REQUIRED},
            lambda a: {"weight": (a["tokens"], a["channels"])},
            initial={"weight": "normal"},
        ),
        # queries, keys and values side by side, (t, 3 c), each split into heads -> (t, c);
        # softmax(q k^T / sqrt(c / heads)) v
        Op(
            "attention",
            _attention_shape,
            {"heads": REQUIRED},
            macs=lambda a, s, out: 2 * out[0] * out[0] * out[1],
        ),
        Op("first_token", _first_token_shape),
        Op("mean_tokens", lambda a, s: _tokens("mean_tokens", s[0])[1:]),
        # in training an element (dropout), or a sample's whole input (drop_path), is zero with probability `rate`
        # and the rest scaled by 1 / (1 - rate); which ones `headstart.contract.masks` says
        Op("dropout", _same, {"rate": REQUIRED}, random=True, inert=True),
        Op("drop_path", _same, {"rate": REQUIRED}, random=True, inert=True),
        # a `NativePart`, which runs in one framework only
        Op(
            "native",
            lambda a, s: a["part"].shape(s[0]),
            {"part": REQUIRED},
            lambda a: dict(a["part"].shapes),
            buffers=lambda a: a["part"].buffers,
            random=True,
        ),
    )
}
ACTIVATIONS = frozenset(op.name for op in OPS.values() if op.activation)
RANDOM = frozenset(op.name for op in OPS.values() if op.random)
INERT = frozenset(op.name for op in OPS.values() if op.inert)
