"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) with torchvision's names.

A block's output node carries the block's name where it is a sum (`features.3`); where the input is not added, it
is the last batch norm (`features.2.conv.3`), and `features.2` still finds it. Of a convolution with batch norm and
activation, the activation carries the module's name (`features.0`, `features.2.conv.0`).
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.blocks import conv_norm, dropped_classifier
from headstart.models.classifiers import Head
from headstart.models.layouts import SAME, timm_of_features

# expansion, output channels, stride of the first, for each block; and the stage of timm's that it is in
BLOCKS = tuple(
    (expansion, channels, stride if i == 0 else 1, f"{stage}.{i}")
    for stage, (expansion, channels, count, stride) in enumerate(
        ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    )
    for i in range(count)
)
STEM, LAST = 32, 1280


def mobilenet_v2(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph, with a classifier of `classes` outputs."""
    b = Builder()
    x = conv_norm(b, "features.0", "input", 3, STEM, 3, "relu6", stride=2)
    channels = STEM
    for place, (expansion, cout, stride, _) in enumerate(BLOCKS, start=1):
        x = _inverted_residual(b, f"features.{place}", x, channels, cout, expansion, stride)
        channels = cout
    x = conv_norm(b, f"features.{len(BLOCKS) + 1}", x, channels, LAST, 1, "relu6")
    x = b.add("avgpool", "global_avg_pool", x)
    return b.graph(dropped_classifier(b, x, LAST, classes, head, rate=0.2))


def _inverted_residual(b: Builder, name: str, x: str, cin: int, cout: int, expansion: int, stride: int) -> str:
    inner, y, place = cin * expansion, x, 0
    if expansion > 1:
        y = conv_norm(b, f"{name}.conv.0", y, cin, inner, 1, "relu6")
        place = 1
    y = conv_norm(b, f"{name}.conv.{place}", y, inner, inner, 3, "relu6", stride=stride, groups=inner)
    y = b.conv(f"{name}.conv.{place + 1}", y, inner, cout, 1)
    y = b.add(f"{name}.conv.{place + 2}", "batch_norm", y, channels=cout)
    return b.add(name, "add", y, x) if stride == 1 and cin == cout else y


# timm's name of each module of a block, without expansion and with it
TIMM_PLAIN = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
TIMM_EXPANDED = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
TIMM = timm_of_features(
    len(BLOCKS) + 1,
    *(
        (rf"features\.{place}\.conv\.{ours}\.(\w+)", rf"blocks.{theirs}.{module}.\1")
        for place, (expansion, _, _, theirs) in enumerate(BLOCKS, start=1)
        for ours, module in (TIMM_EXPANDED if expansion > 1 else TIMM_PLAIN).items()
    ),
)

ARCHITECTURES = (
    Architecture(
        "mobilenet_v2",
        mobilenet_v2,
        "classifier.1",
        imagenet(),
        {"imagenet": Hub("timm/mobilenetv2_100.ra_in1k", imagenet(interpolation="bicubic"))},
        stack="classifier",
        layouts=(SAME, TIMM),
    ),
)
