"""The closed table of ops. One row states everything that frameworks disagree on, so that a backend only
translates: padding is given per side, pooling pads with minus infinity, momentum is the weight of the *new*
statistic (torch's sense), flattening is in (c, h, w) order because published linear weights are.

Shapes are those of one sample: `(h, w, c)` for maps, `(c,)` for vectors. Weights have torchvision's layout:
convolutions `(out, in / groups, kh, kw)`, linear layers `(out, in)`.

Invariant: an op or attribute that is not in this table cannot be in a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.errors import GraphError

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

REQUIRED: Any = object()


@dataclass(frozen=True)
class Op:
    """One row of the table."""

    name: str
    shape: Callable[[Attributes, Sequence[Shape]], Shape]
    """attributes and input shapes -> output shape; raises GraphError where they do not fit"""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """attribute -> default, or REQUIRED"""
    params: Callable[[Attributes], dict[str, Shape]] = lambda _: {}
    """attributes -> parameter suffix -> shape; names in `BUFFERS` are statistics, not trained"""
    macs: Callable[[Attributes, Sequence[Shape], Shape], int] = lambda *_: 0
    """multiply-adds of one sample, counted as papers do: convolutions and linear layers only"""
    inputs: int = 1


BUFFERS = ("running_mean", "running_var")


def is_buffer(param: str) -> bool:
    """Whether the parameter called `param` is a statistic (kept, not trained)."""
    return param.rpartition(".")[2] in BUFFERS


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
        steps = (size + before + after - kernel) / stride
        if steps < 0:
            raise GraphError(
                f"{op} with a {kernel} wide window does not fit an input of shape {shape}; use larger images"
            )
        sides.append(math.floor(steps) + 1)
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


def _pool_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    shape = _map("max_pool", shapes[0])
    return (*_window(attrs, shape, "max_pool"), shape[2])


def _norm_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][-1] != attrs["channels"]:
        raise GraphError(f"batch_norm expects {attrs['channels']} channels, received shape {shapes[0]}")
    return shapes[0]


def _linear_shape(attrs: Attributes, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != (attrs["in_features"],):
        raise GraphError(f"linear expects shape ({attrs['in_features']},), received {shapes[0]}")
    return (attrs["out_features"],)


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


_WINDOW = {"kernel": REQUIRED, "stride": (1, 1), "padding": ((0, 0), (0, 0))}

OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        # shape None: a map of any size with three channels
        Op("input", _input_shape, {"shape": None}, inputs=0),
        # uint8 pixels (or any numbers) to float32: x * scale + shift, per channel
        Op("normalize", _same, {"scale": REQUIRED, "shift": REQUIRED}),
        Op(
            "conv",
            _conv_shape,
            {"in_channels": REQUIRED, "out_channels": REQUIRED, **_WINDOW, "groups": 1, "bias": True},
            _conv_params,
            _conv_macs,
        ),
        Op(
            "batch_norm",
            _norm_shape,
            {"channels": REQUIRED, "epsilon": 1e-5, "momentum": 0.1},
            lambda a: dict.fromkeys(("weight", "bias", *BUFFERS), (a["channels"],)),
        ),
        Op("relu", _same),
        Op("max_pool", _pool_shape, _WINDOW),
        Op("global_avg_pool", lambda a, s: _map("global_avg_pool", s[0])[2:]),
        Op("add", _add_shape, inputs=2),
        Op("flatten", _flatten_shape, {"features": REQUIRED}),
        Op(
            "linear",
            _linear_shape,
            {"in_features": REQUIRED, "out_features": REQUIRED, "bias": True},
            _linear_params,
            lambda a, s, out: a["in_features"] * a["out_features"],
        ),
        Op("dropout", _same, {"rate": REQUIRED}),
    )
}
