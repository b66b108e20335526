"""The plain numpy reference, which the backends and the graph's transformations are compared with, is not only
right by our own opinion: each op of it beside torch's own function. And resized positions beside torch's own
interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.graph import OPS, Node
from headstart.models.positions import resample
from headstart.testing import reference

RNG = np.random.default_rng(0)
# odd and different sides, so that rounding and mixed up axes show
MAP, TOKENS, VECTOR = (2, 9, 8, 6), (2, 7, 6), (2, 6)
Weights = dict[str, Tensor]


def first(tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 1)


def last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1)


def window(kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int], **more: Any) -> dict[str, Any]:
    return {"kernel": kernel, "stride": stride, "padding": tuple((p, p) for p in pads), **more}


def pooled(function: Callable[..., Tensor], **more: Any) -> Callable[..., Tensor]:
    def run(attrs: dict[str, Any], w: Weights, x: Tensor) -> Tensor:
        pads = tuple(before for before, _ in attrs["padding"])
        settings = {"ceil_mode": attrs.get("ceil", False), **more}
        if function is F.avg_pool2d:
            settings["count_include_pad"] = attrs.get("count_padding", True)
        return last(function(first(x), attrs["kernel"], attrs["stride"], pads, **settings))

    return run


def convolved(attrs: dict[str, Any], w: Weights, x: Tensor) -> Tensor:
    (top, bottom), (left, right) = attrs.get("padding", ((0, 0), (0, 0)))
    padded = F.pad(first(x), (left, right, top, bottom))
    stride, groups = attrs.get("stride", (1, 1)), attrs.get("groups", 1)
    return last(F.conv2d(padded, w["weight"], w.get("bias"), stride, groups=groups))


def attended(attrs: dict[str, Any], w: Weights, x: Tensor) -> Tensor:
    n, t, channels = x.shape
    q, k, v = x.reshape(n, t, 3, attrs["heads"], channels // 3 // attrs["heads"]).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, channels // 3)


def normed(attrs: dict[str, Any], w: Weights, x: Tensor) -> Tensor:
    statistics = (w["running_mean"], w["running_var"], w["weight"], w["bias"])
    return last(F.batch_norm(first(x), *statistics, eps=attrs.get("epsilon", 1e-5)))


def unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda attrs, w, x: function(x)


CONV = {"in_channels": 6, "out_channels": 4}
# op, attributes, shapes of the inputs, what torch computes of attributes, weights and inputs
ROWS: list[tuple[str, dict[str, Any], list[tuple[int, ...]], Callable[..., Tensor]]] = [
    ("conv", CONV | window((3, 2), (2, 1), (1, 0)), [MAP], convolved),
    ("conv", CONV | {"kernel": (3, 3), "padding": ((0, 1), (2, 0)), "bias": False}, [MAP], convolved),
    ("conv", CONV | {"kernel": (2, 3), "groups": 2}, [MAP], convolved),
    (
        "conv",
        {"in_channels": 6, "out_channels": 6, "groups": 6} | window((3, 3), (2, 2), (1, 1)),
        [MAP],
        convolved,
    ),
    ("batch_norm", {"channels": 6, "epsilon": 1e-3}, [MAP], normed),
    ("batch_norm", {"channels": 6}, [MAP], normed),
    *(
        (
            "layer_norm",
            {"channels": 6, "epsilon": epsilon},
            [shape],
            lambda a, w, x: F.layer_norm(x, x.shape[-1:], w["weight"], w["bias"], a["epsilon"]),
        )
        for epsilon, shape in ((1e-6, MAP), (1e-2, TOKENS))
    ),
    ("relu", {}, [MAP], unary(F.relu)),
    ("relu6", {}, [MAP], unary(F.relu6)),
    ("silu", {}, [MAP], unary(F.silu)),
    ("sigmoid", {}, [MAP], unary(torch.sigmoid)),
    ("gelu", {}, [TOKENS], unary(F.gelu)),
    ("hard_swish", {}, [MAP], unary(F.hardswish)),
    ("quick_gelu", {}, [TOKENS], unary(lambda x: x * torch.sigmoid(1.702 * x))),
    *(
        ("max_pool", window(kernel, stride, pads, ceil=ceil), [MAP], pooled(F.max_pool2d))
        for kernel, stride, pads in (((3, 3), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((2, 3), (2, 1), (0, 1)))
        for ceil in (False, True)
    ),
    *(
        ("avg_pool", window((3, 3), stride, pads, ceil=ceil, count_padding=count), [MAP], pooled(F.avg_pool2d))
        for stride, pads in (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((2, 3), (1, 0)))
        for ceil in (False, True)
        for count in (False, True)
    ),
    *(
        (
            "adaptive_avg_pool",
            {"size": size},
            [MAP],
            lambda a, w, x: last(F.adaptive_avg_pool2d(first(x), a["size"])),
        )
        for size in ((1, 1), (4, 3), (9, 8), (13, 16))
    ),
    ("global_avg_pool", {}, [MAP], lambda a, w, x: x.mean((1, 2))),
    ("add", {}, [MAP, MAP], lambda a, w, x, y: x + y),
    ("multiply", {}, [MAP, (2, 1, 1, 6)], lambda a, w, x, y: x * y),
    ("concat", {}, [MAP, (2, 9, 8, 1), MAP], lambda a, w, *xs: last(torch.cat([first(x) for x in xs], 1))),
    ("flatten", {"features": 432}, [MAP], lambda a, w, x: torch.flatten(first(x), 1)),
    *(
        (
            "linear",
            {"in_features": 6, "out_features": 4, "bias": bias},
            [shape],
            lambda a, w, x: F.linear(x, w["weight"], w.get("bias")),
        )
        for shape, bias in ((VECTOR, True), (TOKENS, True), (MAP, False))
    ),
    ("scale", {"channels": 6}, [TOKENS], lambda a, w, x: x * w["weight"]),
    ("tokens", {}, [MAP], lambda a, w, x: first(x).flatten(2).transpose(1, 2)),
    (
        "class_token",
        {"channels": 6},
        [TOKENS],
        lambda a, w, x: torch.cat([w["weight"].expand(len(x), 1, -1), x], 1),
    ),
    ("position", {"tokens": 7, "channels": 6}, [TOKENS], lambda a, w, x: x + w["weight"][None]),
    ("attention", {"heads": 2}, [TOKENS], attended),
    ("attention", {"heads": 3}, [(2, 5, 18)], attended),
    ("first_token", {}, [TOKENS], lambda a, w, x: x[:, 0]),
    ("mean_tokens", {}, [TOKENS], lambda a, w, x: torch.mean(x, 1)),
    ("dropout", {"rate": 0.5}, [TOKENS], lambda a, w, x: F.dropout(x, a["rate"], training=False)),
    ("drop_path", {"rate": 0.5}, [MAP], lambda a, w, x: x),
    (
        "normalize",
        {"scale": (1.0, 2.0, 3.0), "shift": (0.5, -1.0, 0.0)},
        [(2, 4, 5, 3)],
        lambda a, w, x: x * torch.tensor(a["scale"]) + torch.tensor(a["shift"]),
    ),
]


@pytest.mark.parametrize(("op", "attrs", "shapes", "torchs"), ROWS, ids=[f"{r[0]}{i}" for i, r in enumerate(ROWS)])
def test_every_op_is_torchs(
    op: str, attrs: dict[str, Any], shapes: list[tuple[int, ...]], torchs: Callable[..., Tensor]
) -> None:
    node = Node("x", op, tuple(f"input{i}" for i in range(len(shapes))), attrs)
    weights = {n.removeprefix("x."): RNG.uniform(0.2, 2, shape) for n, shape in node.param_shapes().items()}
    inputs = [4 * RNG.normal(size=shape) for shape in shapes]
    wanted = torchs(attrs, {n: torch.from_numpy(w) for n, w in weights.items()}, *map(torch.from_numpy, inputs))
    got = reference.apply(node, weights, inputs)
    assert got.shape == tuple(wanted.shape)
    assert np.abs(got - wanted.numpy()).max() <= 1e-10 * max(1.0, np.abs(got).max())


def test_no_op_is_left_out() -> None:
    assert {row[0] for row in ROWS} == OPS.keys() - {"input", "native"}


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("old", "new"), [(37, 16), (16, 37), (14, 24), (14, 7), (7, 8), (4, 1), (1, 3), (14, 14)])
def test_resized_positions_are_those_of_torchs_interpolation(old: int, new: int, prefix: int) -> None:
    """Which timm resizes positions by: bicubic, antialiased."""
    rows = RNG.normal(size=(old * old + prefix, 5)).astype(np.float32)
    grid = torch.from_numpy(rows[prefix:]).reshape(1, old, old, 5).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    wanted = np.concatenate([rows[:prefix], resized.permute(0, 2, 3, 1).reshape(new * new, 5).numpy()])
    got = resample(rows, (new * new + prefix, 5))
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5
