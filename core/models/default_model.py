"""Which model is taken where nobody names one: decided here, for every command.

For photographs it is efficientnet_lite0 if its ImageNet weights are on this machine, in an installed package or in
the hub's cache. Else, and for the bundled digits, it is the network whose weights lie in this package. So nothing
is downloaded that nobody asked for, and nothing fails for want of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headstart.models import imported, packaged
from headstart.models.architecture import Packaged, Published
from headstart.models.model import Model
from headstart.models.weights import is_here
from headstart.models.zoo import architecture

PHOTOGRAPHS = "efficientnet_lite0"
SHIPPED = "resnet18_half"
EXTRA = "headstart[weights]"
UNNAMED = "name another with --model"


class Default(NamedTuple):
    """The model of a command that may name none."""

    name: str
    why: str
    """What is said of the choice, and how to get a better one; "" where it was named."""


def default_model(*, photographs: bool, weights: str | None = None, cuts: Sequence[str] = ()) -> Default:
    """The model for a data set of `photographs`, or of something else. `weights`, `cuts`: what was asked for.

    Weights bring the model that has them: "imagenet" and "tinyimagenet" the one of these two, the name of imported
    weights the one they were imported for. "none" and the path of a file tell nothing. Cuts do so likewise:
    "layer4.0" is a node of one of the two only.
    """
    if weights is not None:
        named = (name for name in (PHOTOGRAPHS, SHIPPED) if _has(name, weights))
        return Default(next(named, SHIPPED), UNNAMED)
    if not photographs or not _cuts(SHIPPED).isdisjoint({*cuts} - _cuts(PHOTOGRAPHS)):
        return Default(SHIPPED, UNNAMED)
    published = next(iter(architecture(PHOTOGRAPHS).weights.values()))
    if is_here(published):
        return Default(PHOTOGRAPHS, UNNAMED)
    return Default(SHIPPED, f"{PHOTOGRAPHS} is better for photographs: {_how_to_get(published)}")


def defaults() -> dict[str, str]:
    """What data get -> the model's name, where none is named."""
    return {"photographs": default_model(photographs=True).name, "digits": default_model(photographs=False).name}


def default_line() -> str:
    """`defaults` in words, with how to get the better one where it is not here."""
    default = default_model(photographs=True)
    why = "" if default.name == PHOTOGRAPHS else f"; {default.why}"
    return f"where --model names none, photographs get {default.name}, and digits {SHIPPED}{why}"


def model_line(model: Model, why: str = "") -> str:
    """Which model, weights and preprocessing are taken, for logs."""
    return f"model: {model.line()}{why and f'; {why}'}"


def _cuts(name: str) -> frozenset[str]:
    return frozenset(architecture(name).graph(2).cuts())


def _how_to_get(published: Published) -> str:
    other = packaged.other_version(published) if isinstance(published, Packaged) else None
    return other or f"pip install '{EXTRA}'"


def _has(name: str, weights: str) -> bool:
    return weights in architecture(name).weights or imported.find(name, weights) is not None
