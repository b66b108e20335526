"""Inception v3 (Szegedy et al. 2015, arXiv:1512.00567) with torchvision's names; averages count the zeros of their
padding, as torchvision's do.

A block's output node carries the block's name (`Mixed_5b`); so does that of a convolution with its batch norm and
rectifier (`Mixed_5b.branch1x1`). The auxiliary classifier takes its features from `Mixed_6e`, and needs images
large enough for a map of 17 x 17 there.

torchvision feeds images normalised for ImageNet and has `transform_input` bring them to pixels from -1 to 1, for
which the weights were made: `x * 0.229 / 0.5 + (0.485 - 0.5) / 0.5` is `(pixel - 0.5) / 0.5`. Here the
preprocessing that belongs to the weights says so at once, and the graph needs no op for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.blocks import basic_conv
from headstart.models.classifiers import Head, classifier

Kernel = int | tuple[int, int]


class Conv(NamedTuple):
    """A convolution with batch norm and rectifier; padded to keep the map's size unless it has a stride of 2."""

    name: str
    channels: int
    kernel: Kernel
    stride: int = 1


# Convolutions one after the other. A string is a pool of 3 x 3: "average" keeps the size, "maximum" halves it. A
# list is a fork, and the last step.
Branch = Sequence[Conv | str | list[Conv]]


def _a(pooled: int) -> list[Branch]:
    return [
        [Conv("branch1x1", 64, 1)],
        [Conv("branch5x5_1", 48, 1), Conv("branch5x5_2", 64, 5)],
        [Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)],
        ["average", Conv("branch_pool", pooled, 1)],
    ]


B: list[Branch] = [
    [Conv("branch3x3", 384, 3, 2)],
    [Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)],
    ["maximum"],
]


def _c(inner: int) -> list[Branch]:
    double: list[tuple[int, Kernel]] = [
        (inner, 1),
        (inner, (7, 1)),
        (inner, (1, 7)),
        (inner, (7, 1)),
        (192, (1, 7)),
    ]
    return [
        [Conv("branch1x1", 192, 1)],
        [Conv("branch7x7_1", inner, 1), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))],
        [Conv(f"branch7x7dbl_{i}", *conv) for i, conv in enumerate(double, start=1)],
        ["average", Conv("branch_pool", 192, 1)],
    ]


D: list[Branch] = [
    [Conv("branch3x3_1", 192, 1), Conv("branch3x3_2", 320, 3, 2)],
    [
        Conv("branch7x7x3_1", 192, 1),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, 3, 2),
    ],
    ["maximum"],
]
E: list[Branch] = [
    [Conv("branch1x1", 320, 1)],
    [Conv("branch3x3_1", 384, 1), [Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))]],
    [
        Conv("branch3x3dbl_1", 448, 1),
        Conv("branch3x3dbl_2", 384, 3),
        [Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))],
    ],
    ["average", Conv("branch_pool", 192, 1)],
]
BLOCKS = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": D,
    "Mixed_7b": E,
    "Mixed_7c": E,
}
# block -> (auxiliary classifier behind it, weight of its loss)
AUXILIARY = {"Mixed_6e": ("AuxLogits", 0.4)}


def inception_v3(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph, with a classifier and an auxiliary one of `classes` outputs each."""
    b = Builder()
    x = basic_conv(b, "Conv2d_1a_3x3", "input", 3, 32, 3, stride=2)
    x = basic_conv(b, "Conv2d_2a_3x3", x, 32, 32, 3)
    x = basic_conv(b, "Conv2d_2b_3x3", x, 32, 64, 3, pad=1)
    x = b.max_pool("maxpool1", x, 3, 2)
    x = basic_conv(b, "Conv2d_3b_1x1", x, 64, 80, 1)
    x = basic_conv(b, "Conv2d_4a_3x3", x, 80, 192, 3)
    x = b.max_pool("maxpool2", x, 3, 2)
    channels, outputs = 192, []
    for block, branches in BLOCKS.items():
        x, channels = _mixed(b, block, x, channels, branches)
        if block in AUXILIARY:
            module, weight = AUXILIARY[block]
            outputs.append((_auxiliary(b, module, x, channels, classes), weight))
    x = b.add("avgpool", "global_avg_pool", x)
    x = b.add("dropout", "dropout", x, rate=0.5)
    return b.graph(classifier(b, "fc", x, channels, classes, head), tuple(outputs))


def _mixed(b: Builder, name: str, x: str, channels: int, branches: list[Branch]) -> tuple[str, int]:
    """Add the branches on `x` side by side; returns the node and its channels."""
    ends: list[tuple[str, int]] = []
    for branch in branches:
        ways = [(x, channels)]
        for step in branch:
            (source, width), *_ = ways
            if isinstance(step, str):
                ways = [(_pool(b, f"{name}.pool", source, step), width)]
            else:
                fork = step if isinstance(step, list) else [step]
                ways = [(_conv(b, f"{name}.{conv.name}", source, width, conv), conv.channels) for conv in fork]
        ends += ways
    return b.add(name, "concat", *(node for node, _ in ends)), sum(width for _, width in ends)


def _pool(b: Builder, name: str, x: str, kind: str) -> str:
    return b.avg_pool(name, x, 3, 1, pad=1) if kind == "average" else b.max_pool(name, x, 3, 2)


def _conv(b: Builder, name: str, x: str, cin: int, conv: Conv) -> str:
    kernel = (conv.kernel, conv.kernel) if isinstance(conv.kernel, int) else conv.kernel
    pad = (kernel[0] // 2, kernel[1] // 2) if conv.stride == 1 else 0
    return basic_conv(b, name, x, cin, conv.channels, conv.kernel, conv.stride, pad)


def _auxiliary(b: Builder, name: str, x: str, cin: int, classes: int) -> str:
    x = b.avg_pool(f"{name}.pool", x, 5, 3)
    x = basic_conv(b, f"{name}.conv0", x, cin, 128, 1)
    x = basic_conv(b, f"{name}.conv1", x, 128, 768, 5)
    x = b.add(f"{name}.avgpool", "global_avg_pool", x)
    return b.linear(f"{name}.fc", x, 768, classes)


ARCHITECTURES = (
    Architecture(
        "inception_v3",
        inception_v3,
        "fc",
        imagenet(299, 341, "bicubic", half=True),
        {
            key: Hub(f"timm/inception_v3.{tag}_in1k", imagenet(299, 341, "bicubic", half=half), "torchvision")
            for key, tag, half in (
                ("imagenet", "tv", True),
                ("imagenet:tf", "tf", True),
                ("imagenet:tf_adv", "tf_adv", True),
                ("imagenet:gluon", "gluon", False),
            )
        },
    ),
)
