"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) with torchvision's names, and with its two departures from the
paper: batch norms, and 3 x 3 convolutions in the branch that the paper gives 5 x 5.

A block's output node carries the block's name (`inception3a`); so does that of a convolution with its batch norm
and rectifier (`inception3a.branch1`). The published weights take pixels from -1 to 1, which the preprocessing that
belongs to them says; torchvision normalises for ImageNet and has `transform_input` undo it, see
`headstart.models.inception`.
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Pickled, imagenet
from headstart.models.blocks import basic_conv
from headstart.models.classifiers import Head, classifier

# name: output channels of the 1 x 1 branch, of the second and third branch (narrow, then wide), behind the pool;
# or the kernel of a pool between blocks
BLOCKS: dict[str, tuple[int, ...]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": (3,),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": (2,),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
# name: (block that it takes its features from, their channels, weight of its loss)
AUXILIARY = {"aux1": ("inception4a", 512, 0.3), "aux2": ("inception4d", 528, 0.3)}


def googlenet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph, with a classifier and two auxiliary ones of `classes` outputs each."""
    b = Builder()
    x = basic_conv(b, "conv1", "input", 3, 64, 7, stride=2, pad=3)
    x = b.max_pool("maxpool1", x, 3, 2, ceil=True)
    x = basic_conv(b, "conv2", x, 64, 64, 1)
    x = basic_conv(b, "conv3", x, 64, 192, 3, pad=1)
    x = b.max_pool("maxpool2", x, 3, 2, ceil=True)
    channels = 192
    for block, sizes in BLOCKS.items():
        if len(sizes) == 1:
            x = b.max_pool(block, x, sizes[0], 2, ceil=True)
        else:
            x = _inception(b, block, x, channels, sizes)
            channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    auxiliary = tuple(
        (_auxiliary(b, module, source, width, classes), weight)
        for module, (source, width, weight) in AUXILIARY.items()
    )
    x = b.add("avgpool", "global_avg_pool", x)
    x = b.add("dropout", "dropout", x, rate=0.2)
    return b.graph(classifier(b, "fc", x, channels, classes, head), auxiliary)


def _inception(b: Builder, name: str, x: str, cin: int, widths: tuple[int, ...]) -> str:
    direct, *pairs, pooled = widths
    branches = [basic_conv(b, f"{name}.branch1", x, cin, direct, 1)]
    for i, (narrow, wide) in enumerate(zip(pairs[::2], pairs[1::2], strict=True), start=2):
        y = basic_conv(b, f"{name}.branch{i}.0", x, cin, narrow, 1)
        branches.append(basic_conv(b, f"{name}.branch{i}.1", y, narrow, wide, 3, pad=1))
    y = b.max_pool(f"{name}.branch4.0", x, 3, 1, pad=1, ceil=True)
    branches.append(basic_conv(b, f"{name}.branch4.1", y, cin, pooled, 1))
    return b.add(name, "concat", *branches)


def _auxiliary(b: Builder, name: str, x: str, cin: int, classes: int) -> str:
    x = b.add(f"{name}.avgpool", "adaptive_avg_pool", x, size=(4, 4))
    x = basic_conv(b, f"{name}.conv", x, cin, 128, 1)
    x = b.add(f"{name}.flatten", "flatten", x, features=4 * 4 * 128)
    x = b.add(f"{name}.relu", "relu", b.linear(f"{name}.fc1", x, 4 * 4 * 128, 1024))
    x = b.add(f"{name}.dropout", "dropout", x, rate=0.7)
    return b.linear(f"{name}.fc2", x, 1024, classes)


ARCHITECTURES = (
    Architecture(
        "googlenet",
        googlenet,
        "fc",
        imagenet(),
        {
            "imagenet": Pickled(
                "https://download.pytorch.org/models/googlenet-1378be20.pth", "1378be20", imagenet(half=True)
            )
        },
    ),
)
