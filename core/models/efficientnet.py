"""EfficientNet (Tan and Le 2019, arXiv:1905.11946) with torchvision's names: MobileNetV2's inverted residuals with
squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507), scaled in width, depth and resolution together.

A block's output node carries the block's name where it is a sum (`features.2.1`), else it is the last batch norm
(`features.2.0.block.3.1`). The batch norms of B5 to B7 have an epsilon and momentum of their own, as torchvision
has it; timm's networks of those sizes have the usual ones, another function, so its files are not listed.
"""

from __future__ import annotations

import math
from typing import Any

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.blocks import conv_norm, divisible, dropped_classifier, squeeze_excite
from headstart.models.classifiers import Head
from headstart.models.layouts import SAME, timm_of_features

# expansion, kernel, stride of the first block, output channels and blocks before scaling
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM = 32
DROP_PATH = 0.2
# name: (factor of the width, factor of the depth, dropout, size in pixels, what the shorter side is resized to)
EFFICIENTNETS = {
    "efficientnet_b0": (1.0, 1.0, 0.2, 224, 256),
    "efficientnet_b1": (1.0, 1.1, 0.2, 240, 256),
    "efficientnet_b2": (1.1, 1.2, 0.3, 288, 288),
    "efficientnet_b3": (1.2, 1.4, 0.3, 300, 320),
    "efficientnet_b4": (1.4, 1.8, 0.4, 380, 384),
    "efficientnet_b5": (1.6, 2.2, 0.4, 456, 456),
    "efficientnet_b6": (1.8, 2.6, 0.5, 528, 528),
    "efficientnet_b7": (2.0, 3.1, 0.5, 600, 600),
}
NORM: dict[str, Any] = {"epsilon": 1e-3, "momentum": 0.01}
NORMS = dict.fromkeys(("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"), NORM)


def efficientnet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `EFFICIENTNETS[name]`, with a classifier of `classes` outputs."""
    width, depth, dropout, _, _ = EFFICIENTNETS[name]
    norm = NORMS.get(name, {})
    counts = [math.ceil(count * depth) for *_, count in STAGES]
    b, channels, block = Builder(), divisible(STEM * width), 0
    x = conv_norm(b, "features.0", "input", 3, channels, 3, "silu", stride=2, **norm)
    for stage, ((expansion, kernel, stride, cout, _), count) in enumerate(zip(STAGES, counts, strict=True), 1):
        cout = divisible(cout * width)
        for i in range(count):
            sizes = (channels, cout, expansion, kernel, stride if i == 0 else 1)
            x = _block(b, f"features.{stage}.{i}", x, *sizes, DROP_PATH * block / sum(counts), norm)
            channels, block = cout, block + 1
    x = conv_norm(b, f"features.{len(STAGES) + 1}", x, channels, 4 * channels, 1, "silu", **norm)
    x = b.add("avgpool", "global_avg_pool", x)
    return b.graph(dropped_classifier(b, x, 4 * channels, classes, head, dropout))


def _block(
    b: Builder,
    name: str,
    x: str,
    cin: int,
    cout: int,
    expansion: int,
    kernel: int,
    stride: int,
    drop_path: float,
    norm: dict[str, Any],
) -> str:
    inner, y, place = cin * expansion, x, 0
    if expansion > 1:
        y = conv_norm(b, f"{name}.block.0", y, cin, inner, 1, "silu", **norm)
        place = 1
    depthwise: dict[str, Any] = {"stride": stride, "groups": inner, **norm}
    y = conv_norm(b, f"{name}.block.{place}", y, inner, inner, kernel, "silu", **depthwise)
    y = squeeze_excite(b, f"{name}.block.{place + 1}", y, inner, cin // 4)
    y = conv_norm(b, f"{name}.block.{place + 2}", y, inner, cout, 1, **norm)
    if stride != 1 or cin != cout:
        return y
    return b.add(name, "add", b.add(f"{name}.stochastic_depth", "drop_path", y, rate=drop_path), x)


# timm's name of each module of a block, without expansion and with it
_SQUEEZE = {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}
TIMM_PLAIN = {"0.0": "conv_dw", "0.1": "bn1", "2.0": "conv_pw", "2.1": "bn2"}
TIMM_PLAIN |= {f"1.{ours}": theirs for ours, theirs in _SQUEEZE.items()}
TIMM_EXPANDED = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "3.0": "conv_pwl", "3.1": "bn3"}
TIMM_EXPANDED |= {f"2.{ours}": theirs for ours, theirs in _SQUEEZE.items()}
TIMM = timm_of_features(
    len(STAGES) + 1,
    *(
        (rf"features\.{stage + 1}\.(\d+)\.block\.{ours}\.(\w+)", rf"blocks.{stage}.\1.{theirs}.\2")
        for stage, (expansion, *_) in enumerate(STAGES)
        for ours, theirs in (TIMM_EXPANDED if expansion > 1 else TIMM_PLAIN).items()
    ),
)


def _hub(tag: str, size: int, resize: int, half: bool = False) -> Hub:
    return Hub(f"timm/efficientnet_{tag}_in1k", imagenet(size, resize, "bicubic", half=half))


WEIGHTS = {
    "efficientnet_b0": {
        "imagenet": _hub("b0.ra", 224, 256),
        "imagenet:ra4": _hub("b0.ra4_e3600_r224", 224, 248, half=True),
    },
    "efficientnet_b1": {
        "imagenet": _hub("b1.ft", 224, 256),
        "imagenet:ra4": _hub("b1.ra4_e3600_r240", 240, 266, half=True),
    },
    "efficientnet_b2": {"imagenet": _hub("b2.ra", 256, 292)},
    "efficientnet_b3": {"imagenet": _hub("b3.ra2", 288, 329)},
    "efficientnet_b4": {"imagenet": _hub("b4.ra2", 320, 365)},
}

ARCHITECTURES = tuple(
    Architecture(
        name,
        efficientnet,
        "classifier.1",
        imagenet(size, resize, "bicubic"),
        WEIGHTS.get(name, {}),
        stack="classifier",
        layouts=(SAME, TIMM),
    )
    for name, (*_, size, resize) in EFFICIENTNETS.items()
)
