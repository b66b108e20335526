"""Densely connected networks (Huang et al. 2016, arXiv:1608.06993) with torchvision's names, which are timm's too.

A dense layer's few new channels are put behind all earlier ones (`features.denseblock1.denselayer1.concat`), where
the original puts all pieces together at every layer: the same numbers, and a network that can be cut behind every
layer. A block's last concatenation carries the block's name (`features.denseblock1`), and the pool that ends a
transition the transition's (`features.transition1`).
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.classifiers import Head, classifier

# name: (channels that a layer adds, layers in each block, channels of the stem)
DENSENETS = {
    "densenet121": (32, (6, 12, 24, 16), 64),
    "densenet161": (48, (6, 12, 36, 24), 96),
    "densenet169": (32, (6, 12, 32, 32), 64),
    "densenet201": (32, (6, 12, 48, 32), 64),
}
BOTTLENECK = 4


def densenet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `DENSENETS[name]`, with a classifier of `classes` outputs."""
    growth, blocks, channels = DENSENETS[name]
    b = Builder()
    x = b.conv("features.conv0", "input", 3, channels, 7, stride=2, pad=3)
    x = b.add("features.norm0", "batch_norm", x, channels=channels)
    x = b.add("features.relu0", "relu", x)
    x = b.max_pool("features.pool0", x, 3, 2, pad=1)
    for i, count in enumerate(blocks, start=1):
        block = f"features.denseblock{i}"
        for layer in range(1, count + 1):
            new = _dense_layer(b, f"{block}.denselayer{layer}", x, channels, growth)
            whole = block if layer == count else f"{block}.denselayer{layer}.concat"
            x = b.add(whole, "concat", x, new)
            channels += growth
        if i < len(blocks):
            x = _transition(b, f"features.transition{i}", x, channels)
            channels //= 2
    x = b.add("features.norm5", "batch_norm", x, channels=channels)
    x = b.add("relu", "relu", x)
    x = b.add("avgpool", "global_avg_pool", x)
    return b.graph(classifier(b, "classifier", x, channels, classes, head))


def _dense_layer(b: Builder, name: str, x: str, channels: int, growth: int) -> str:
    inner = BOTTLENECK * growth
    x = b.add(f"{name}.relu1", "relu", b.add(f"{name}.norm1", "batch_norm", x, channels=channels))
    x = b.conv(f"{name}.conv1", x, channels, inner, 1)
    x = b.add(f"{name}.relu2", "relu", b.add(f"{name}.norm2", "batch_norm", x, channels=inner))
    return b.conv(f"{name}.conv2", x, inner, growth, 3, pad=1)


def _transition(b: Builder, name: str, x: str, channels: int) -> str:
    x = b.add(f"{name}.relu", "relu", b.add(f"{name}.norm", "batch_norm", x, channels=channels))
    return b.avg_pool(name, b.conv(f"{name}.conv", x, channels, channels // 2, 1), 2, 2)


def _hub(tag: str) -> Hub:
    return Hub(f"timm/{tag}_in1k", imagenet(interpolation="bicubic"), layout="torchvision")


VARIANTS = {"densenet121": {"imagenet:ra": _hub("densenet121.ra")}}

ARCHITECTURES = tuple(
    Architecture(
        name, densenet, "classifier", imagenet(), {"imagenet": _hub(f"{name}.tv"), **VARIANTS.get(name, {})}
    )
    for name in DENSENETS
)
