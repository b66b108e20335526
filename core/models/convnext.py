"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) with torchvision's names, save that a block's layer scale is a node
of its own here (`features.1.0.scale`), which the layout publishes as torchvision's `features.1.0.layer_scale`.

A block's output node carries the block's name (`features.1.0`). Maps have their channels last, so norms and linear
layers apply to them as they are, where the originals permute.
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.classifiers import Head, classifier
from headstart.models.layouts import by_rules

# name: (blocks in each stage, channels of each stage, rate of the last block's drop path, what the shorter side is
# resized to)
CONVNEXTS = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 236),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768), 0.4, 230),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024), 0.5, 232),
    "convnext_large": ((3, 3, 27, 3), (192, 384, 768, 1536), 0.5, 232),
}
EPSILON = 1e-6
LAYER_SCALE = 1e-6


def convnext(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `CONVNEXTS[name]`, with a classifier of `classes` outputs."""
    depths, widths, drop_path, _ = CONVNEXTS[name]
    b, block = Builder(), 0
    x = b.conv("features.0.0", "input", 3, widths[0], 4, stride=4, bias=True)
    x = _norm(b, "features.0.1", x, widths[0])
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage > 0:
            x = _norm(b, f"features.{2 * stage}.0", x, widths[stage - 1])
            x = b.conv(f"features.{2 * stage}.1", x, widths[stage - 1], width, 2, stride=2, bias=True)
        for i in range(depth):
            rate = drop_path * block / (sum(depths) - 1)
            x = _block(b, f"features.{2 * stage + 1}.{i}", x, width, rate)
            block += 1
    x = b.add("avgpool", "global_avg_pool", x)
    x = _norm(b, "classifier.0", x, widths[-1])
    return b.graph(classifier(b, "classifier.2", x, widths[-1], classes, head))


def _norm(b: Builder, name: str, x: str, channels: int) -> str:
    return b.add(name, "layer_norm", x, channels=channels, epsilon=EPSILON)


def _block(b: Builder, name: str, x: str, channels: int, drop_path: float) -> str:
    y = b.conv(f"{name}.block.0", x, channels, channels, 7, pad=3, bias=True, groups=channels)
    y = _norm(b, f"{name}.block.2", y, channels)
    y = b.add(f"{name}.block.4", "gelu", b.linear(f"{name}.block.3", y, channels, 4 * channels))
    y = b.linear(f"{name}.block.5", y, 4 * channels, channels)
    y = b.add(f"{name}.scale", "scale", y, channels=channels, initial=LAYER_SCALE)
    if drop_path > 0:
        y = b.add(f"{name}.stochastic_depth", "drop_path", y, rate=drop_path)
    return b.add(name, "add", y, x)


TORCHVISION = by_rules("torchvision", (r"(.*)\.scale\.weight", r"\1.layer_scale", lambda shape: (*shape, 1, 1)))
# timm's name of each module of a block
TIMM_BLOCK = {"block.0": "conv_dw", "block.2": "norm", "block.3": "mlp.fc1", "block.5": "mlp.fc2"}
TIMM = by_rules(
    "timm",
    (r"features\.0\.(.*)", r"stem.\1"),
    (r"classifier\.0\.(.*)", r"head.norm.\1"),
    (r"classifier\.2\.(.*)", r"head.fc.\1"),
    *((rf"features\.{2 * s + 1}\.(\d+)\.scale\.weight", rf"stages.{s}.blocks.\1.gamma") for s in range(4)),
    *(
        (rf"features\.{2 * s + 1}\.(\d+)\.{ours}\.(\w+)", rf"stages.{s}.blocks.\1.{theirs}.\2")
        for s in range(4)
        for ours, theirs in TIMM_BLOCK.items()
    ),
    *((rf"features\.{2 * s}\.(.*)", rf"stages.{s}.downsample.\1") for s in range(1, 4)),
)


def _hub(tag: str, resize: int = 256) -> Hub:
    return Hub(f"timm/convnext_{tag}_in1k", imagenet(224, resize, "bicubic"))


# Trained on ImageNet's 12 or 22 thousand classes first, then on its one thousand.
LARGER = {
    "convnext_tiny": {"imagenet:in12k": _hub("tiny.in12k_ft", 235)},
    "convnext_small": {"imagenet:in12k": _hub("small.in12k_ft", 235)},
}

ARCHITECTURES = tuple(
    Architecture(
        name,
        convnext,
        "classifier.2",
        imagenet(224, resize),
        {
            "imagenet": _hub(f"{name.removeprefix('convnext_')}.fb"),
            "imagenet:in22k": _hub(f"{name.removeprefix('convnext_')}.fb_in22k_ft"),
            **LARGER.get(name, {}),
        },
        layouts=(TORCHVISION, TIMM),
    )
    for name, (*_, resize) in CONVNEXTS.items()
)
