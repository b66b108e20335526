"""Parts that several families of networks are built of.

Each takes the builder, the name of the module that it is in torchvision's networks, and the node that it stands
behind; it returns the node with its output. Published weights are found by the names, and features by the graph:
nothing here changes for a family that exists.
"""

from __future__ import annotations

from typing import Any

from headstart.graph import Builder
from headstart.graph.graph import Pair
from headstart.models.classifiers import Head, classifier

INCEPTION_EPSILON = 1e-3


def conv_norm(
    b: Builder,
    name: str,
    x: str,
    cin: int,
    cout: int,
    kernel: int,
    activation: str | None = None,
    *,
    stride: int = 1,
    groups: int = 1,
    **norm: Any,
) -> str:
    """A convolution (`name.0`) that keeps the size but for its stride, a batch norm (`name.1`) with the attributes
    `norm`, and an activation (`name`), if there is one."""
    x = b.conv(f"{name}.0", x, cin, cout, kernel, stride, pad=kernel // 2, groups=groups)
    x = b.add(f"{name}.1", "batch_norm", x, channels=cout, **norm)
    return x if activation is None else b.add(name, activation, x)


def basic_conv(
    b: Builder, name: str, x: str, cin: int, cout: int, kernel: Pair, stride: int = 1, pad: Pair = 0
) -> str:
    """A convolution (`name.conv`), a batch norm (`name.bn`) and a rectifier (`name`), as Inception has them."""
    x = b.conv(f"{name}.conv", x, cin, cout, kernel, stride, pad)
    x = b.add(f"{name}.bn", "batch_norm", x, channels=cout, epsilon=INCEPTION_EPSILON)
    return b.add(name, "relu", x)


def squeeze_excite(b: Builder, name: str, x: str, channels: int, inner: int, activation: str = "silu") -> str:
    """A factor for each channel of the map `x` (`name`), from its average through two layers, the first of `inner`
    channels (Hu et al. 2017, arXiv:1709.01507)."""
    y = b.add(f"{name}.avgpool", "adaptive_avg_pool", x, size=(1, 1))
    y = b.add(f"{name}.activation", activation, b.conv(f"{name}.fc1", y, channels, inner, 1, bias=True))
    y = b.add(f"{name}.scale_activation", "sigmoid", b.conv(f"{name}.fc2", y, inner, channels, 1, bias=True))
    return b.add(name, "multiply", x, y)


def dropped_classifier(b: Builder, x: str, features: int, classes: int, head: Head, rate: float) -> str:
    """Dropout and a linear layer (`classifier.1`), or the layers of `head` instead of both."""
    if head != "linear":
        return classifier(b, "classifier", x, features, classes, head)
    x = b.add("classifier.0", "dropout", x, rate=rate)
    return b.linear("classifier.1", x, features, classes)


def divisible(channels: float) -> int:
    """The nearest multiple of eight that is not less than nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
