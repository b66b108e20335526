"""Residual networks (He et al. 2015, arXiv:1512.03385) with torchvision's names, strides and padding.

A block's output node carries the block's name (`layer4.1`); it is its last rectifier. In the bottleneck the
stride sits on the 3x3 convolution, as torchvision has it (the paper puts it on the first 1x1).
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, Shipped, imagenet
from headstart.models.classifiers import Head, classifier

# name: (block, blocks in each layer, width of the first layer)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet34": ("basic", (3, 4, 6, 3), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 64),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 64),
    "resnet18_half": ("basic", (2, 2, 2, 2), 32),
}
EXPANSION = {"basic": 1, "bottleneck": 4}
# published weights: (timm's tag, preprocessing, for which blocks)
WEIGHTS = {
    "imagenet": ("tv_in1k", imagenet(), ("basic", "bottleneck")),
    "imagenet:tv2": ("tv2_in1k", imagenet(224, 232), ("bottleneck",)),
    "imagenet:a1": ("a1_in1k", imagenet(224, 235, "bicubic"), ("basic", "bottleneck")),
    "imagenet:gluon": ("gluon_in1k", imagenet(interpolation="bicubic"), ("basic", "bottleneck")),
}


def resnet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `RESNETS[name]`, with a classifier of `classes` outputs."""
    kind, blocks, width = RESNETS[name]
    b = Builder()
    x = b.conv("conv1", "input", 3, width, 7, stride=2, pad=3)
    x = b.add("bn1", "batch_norm", x, channels=width)
    x = b.add("relu", "relu", x)
    x = b.max_pool("maxpool", x, 3, 2, pad=1)
    channels = width
    for layer, count in enumerate(blocks, start=1):
        inner = width << (layer - 1)
        for i in range(count):
            stride = 2 if i == 0 and layer > 1 else 1
            x = _block(b, kind, f"layer{layer}.{i}", x, channels, inner, stride)
            channels = inner * EXPANSION[kind]
    x = b.add("avgpool", "global_avg_pool", x)
    return b.graph(classifier(b, "fc", x, channels, classes, head))


def _block(b: Builder, kind: str, name: str, x: str, cin: int, inner: int, stride: int) -> str:
    cout = inner * EXPANSION[kind]
    # (kernel, output channels, stride) of each convolution in the block
    if kind == "basic":
        convs = [(3, inner, stride), (3, inner, 1)]
    else:
        convs = [(1, inner, 1), (3, inner, stride), (1, cout, 1)]
    y, channels = x, cin
    for i, (kernel, width, step) in enumerate(convs, start=1):
        y = b.conv(f"{name}.conv{i}", y, channels, width, kernel, stride=step, pad=kernel // 2)
        y = b.add(f"{name}.bn{i}", "batch_norm", y, channels=width)
        if i < len(convs):
            y = b.add(f"{name}.relu{i}", "relu", y)
        channels = width
    if stride != 1 or cin != cout:
        x = b.conv(f"{name}.downsample.0", x, cin, cout, 1, stride=stride)
        x = b.add(f"{name}.downsample.1", "batch_norm", x, channels=cout)
    return b.add(name, "relu", b.add(f"{name}.add", "add", y, x))


ARCHITECTURES = (
    *(
        Architecture(
            name,
            resnet,
            "fc",
            imagenet(),
            {
                key: Hub(f"timm/{name}.{tag}", preprocess, "torchvision")
                for key, (tag, preprocess, kinds) in WEIGHTS.items()
                if kind in kinds
            },
        )
        for name, (kind, _, width) in RESNETS.items()
        if width == 64
    ),
    Architecture(
        "resnet18_half",
        resnet,
        "fc",
        imagenet(96, 96),
        {"tinyimagenet": Shipped("resnet18_half-tinyimagenet.safetensors")},
    ),
)
