"""The networks of the Visual Geometry Group (Simonyan and Zisserman 2014, arXiv:1409.1556) with torchvision's
names, with and without batch norms.

timm publishes the first two fully connected layers as convolutions, the first over the whole map of 7 x 7: the
same numbers in the same order, so a layout says it. On larger maps the two libraries part: here, as in
torchvision, they are averaged down to 7 x 7, where timm slides its convolutions and averages the result.
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Hub, imagenet
from headstart.models.classifiers import Head, classifier
from headstart.models.layouts import SAME, by_rules

# name: 3 x 3 convolutions before each of the five pools
VGGS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)
SIDE = 7
CLASSIFIER = (4096, 0.5, 4096, 0.5)

TIMM = by_rules(
    "timm",
    (r"classifier\.0\.weight", "pre_logits.fc1.weight", lambda shape: (shape[0], WIDTHS[-1], SIDE, SIDE)),
    (r"classifier\.3\.weight", "pre_logits.fc2.weight", lambda shape: (*shape, 1, 1)),
    (r"classifier\.0\.bias", "pre_logits.fc1.bias"),
    (r"classifier\.3\.bias", "pre_logits.fc2.bias"),
    (r"classifier\.6\.(weight|bias)", r"head.fc.\1"),
)


def vgg(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of a network of `VGGS`; `name` ends in `_bn` where it has batch norms."""
    b = Builder()
    x, channels, place = "input", 3, 0
    for count, width in zip(VGGS[name.removesuffix("_bn")], WIDTHS, strict=True):
        for _ in range(count):
            x = b.conv(f"features.{place}", x, channels, width, 3, pad=1, bias=True)
            channels, place = width, place + 1
            if name.endswith("_bn"):
                x = b.add(f"features.{place}", "batch_norm", x, channels=width)
                place += 1
            x = b.add(f"features.{place}", "relu", x)
            place += 1
        x = b.max_pool(f"features.{place}", x, 2, 2)
        place += 1
    x = b.add("avgpool", "adaptive_avg_pool", x, size=(SIDE, SIDE))
    features = SIDE * SIDE * channels
    x = b.add("flatten", "flatten", x, features=features)
    return b.graph(classifier(b, "classifier", x, features, classes, CLASSIFIER if head == "linear" else head))


ARCHITECTURES = tuple(
    Architecture(
        name,
        vgg,
        "classifier.6",
        imagenet(),
        {"imagenet": Hub(f"timm/{name}.tv_in1k", imagenet())},
        stack="classifier",
        layouts=(SAME, TIMM),
    )
    for plain in VGGS
    for name in (plain, f"{plain}_bn")
)
