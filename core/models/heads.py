"""The classifier at the end of every architecture: one linear layer, or hidden layers before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from headstart.errors import SettingError
from headstart.graph import Builder

Head = str | Sequence[int]


def check_head(head: Head) -> Head:
    """`head` as given, if it is "linear" or a list of positive widths; else SettingError."""
    if head == "linear":
        return head
    if (
        isinstance(head, Sequence)
        and not isinstance(head, str)
        and head
        and all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in head)
    ):
        return tuple(head)
    raise SettingError(f"unknown head {head!r}; expected 'linear' or a list of hidden widths such as [256]")


def classifier(b: Builder, name: str, x: str, features: int, classes: int, head: Head) -> str:
    """Add the classifier called `name` on `x` of shape `(features,)`; returns the node with the logits.

    With hidden widths the layers are numbered as torch.nn.Sequential does: `name.0`, `name.1` ...
    """
    if head == "linear":
        return b.linear(name, x, features, classes)
    widths = [features, *(int(width) for width in head)]
    for i, (fin, fout) in enumerate(pairwise(widths)):
        x = b.linear(f"{name}.{2 * i}", x, fin, fout)
        x = b.add(f"{name}.{2 * i + 1}", "relu", x)
    return b.linear(f"{name}.{2 * len(widths) - 2}", x, widths[-1], classes)
