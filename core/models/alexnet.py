"""AlexNet (Krizhevsky 2014, arXiv:1404.5997, "one weird trick") with torchvision's names: one column, no local
response normalisation.

Its fully connected part is a head list as users write them, so a list of one's own takes the place of all three
layers.
"""

from __future__ import annotations

from headstart.graph import Builder, Graph
from headstart.models.architecture import Architecture, Pickled, imagenet
from headstart.models.classifiers import Head, classifier

# (output channels, kernel, stride, padding, whether a pool of 3 by 2 follows)
CONVS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
SIDE = 6
CLASSIFIER = (0.5, 4096, 0.5, 4096)


def alexnet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph, with a classifier of `classes` outputs."""
    b = Builder()
    x, channels, place = "input", 3, 0
    for width, kernel, stride, pad, pooled in CONVS:
        x = b.conv(f"features.{place}", x, channels, width, kernel, stride, pad, bias=True)
        x = b.add(f"features.{place + 1}", "relu", x)
        channels, place = width, place + 2
        if pooled:
            x = b.max_pool(f"features.{place}", x, 3, 2)
            place += 1
    x = b.add("avgpool", "adaptive_avg_pool", x, size=(SIDE, SIDE))
    features = SIDE * SIDE * channels
    x = b.add("flatten", "flatten", x, features=features)
    return b.graph(classifier(b, "classifier", x, features, classes, CLASSIFIER if head == "linear" else head))


ARCHITECTURES = (
    Architecture(
        "alexnet",
        alexnet,
        "classifier.6",
        imagenet(),
        {
            "imagenet": Pickled(
                "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79", imagenet()
            )
        },
        stack="classifier",
    ),
)
