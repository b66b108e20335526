"""The list of architectures: every family's, by name."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.common.errors import UnknownNameError
from headstart.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    googlenet,
    inception,
    lenet,
    mobilenet,
    resnet,
    vgg,
    vit,
)
from headstart.models.architecture import Architecture

FAMILIES = (
    *(resnet, alexnet, vgg, googlenet, inception, mobilenet, densenet),
    *(efficientnet, efficientnet_lite, convnext, vit, lenet),
)
ARCHITECTURES: Mapping[str, Architecture] = {
    arch.name: arch for family in FAMILIES for arch in family.ARCHITECTURES
}


def architecture(name: str) -> Architecture:
    """The architecture called `name`; UnknownNameError lists the known ones."""
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnknownNameError("model", name, ARCHITECTURES)
    return ARCHITECTURES[name]
