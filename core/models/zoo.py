"""The list of architectures: for each name the function that builds it, the preprocessing it was made for,
and the published weights there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headstart.data.preprocess import Preprocess
from headstart.errors import UnknownNameError
from headstart.graph import Graph
from headstart.models.heads import Head
from headstart.models.lenet import lenet
from headstart.models.resnet import resnet


def _imagenet(size: int, resize: int) -> Preprocess:
    return Preprocess(size, resize, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Architecture:
    """One row of the zoo."""

    name: str
    build: Callable[[str, int, Head], Graph]
    """(name, number of classes, head) -> graph"""
    classifier: str
    """name of the final layer, which new classes replace"""
    preprocess: Preprocess
    """used where the weights bring none of their own"""
    weights: Mapping[str, str] = field(default_factory=dict)
    """name of published weights -> file in this package"""

    def graph(self, classes: int, head: Head = "linear") -> Graph:
        return self.build(self.name, classes, head)


ARCHITECTURES: Mapping[str, Architecture] = {
    row.name: row
    for row in (
        *(Architecture(name, resnet, "fc", _imagenet(224, 256)) for name in ("resnet18", "resnet34", "resnet50")),
        Architecture(
            "resnet18_half",
            resnet,
            "fc",
            _imagenet(96, 96),
            {"tinyimagenet": "resnet18_half-tinyimagenet.safetensors"},
        ),
        Architecture("lenet", lenet, "fc3", Preprocess(32, 32, "bilinear", (0.5,) * 3, (0.5,) * 3)),
    )
}


def architecture(name: str) -> Architecture:
    """The row called `name`; UnknownNameError lists the known ones."""
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnknownNameError("model", name, ARCHITECTURES)
    return ARCHITECTURES[name]
