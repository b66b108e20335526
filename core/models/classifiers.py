"""The classifier at the end of every architecture: one linear layer, or hidden layers and dropout before it."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.common.errors import SettingError
from headstart.graph import Builder

Head = str | Sequence[int | float]


def check_head(head: Head) -> Head:
    """`head` as given, if it is "linear" or a list of positive widths and dropout rates; else SettingError."""
    if head == "linear":
        return head
    if isinstance(head, Sequence) and not isinstance(head, str) and head and all(map(_is_layer, head)):
        return tuple(head)
    raise SettingError(
        f"unknown head {head!r}; expected 'linear', or a list of hidden widths (integers) and dropout rates "
        "(between 0 and 1) such as [256] or [4096, 0.5, 4096, 0.5]"
    )


def _is_layer(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and value > 0) or (isinstance(value, float) and 0 < value < 1)


def classifier(b: Builder, name: str, x: str, features: int, classes: int, head: Head) -> str:
    """Add the classifier called `name` on `x` of shape `(features,)`; returns the node with the logits.

    In a list, an integer is a linear layer of that width with a rectifier, and a number below 1 is dropout. The
    layers are numbered as torch.nn.Sequential does: `name.0`, `name.1` ...
    """
    if head == "linear":
        return b.linear(name, x, features, classes)
    place = 0
    for layer in head:
        if isinstance(layer, float):
            x = b.add(f"{name}.{place}", "dropout", x, rate=layer)
            place += 1
            continue
        x = b.linear(f"{name}.{place}", x, features, int(layer))
        x = b.add(f"{name}.{place + 1}", "relu", x)
        features, place = int(layer), place + 2
    return b.linear(f"{name}.{place}", x, features, classes)
