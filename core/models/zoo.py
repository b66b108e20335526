"""The list of architectures: every family's rows, by name."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.errors import UnknownNameError
from headstart.models import lenet, resnet
from headstart.models.architecture import Architecture

FAMILIES = (resnet, lenet)
ARCHITECTURES: Mapping[str, Architecture] = {row.name: row for family in FAMILIES for row in family.ARCHITECTURES}


def architecture(name: str) -> Architecture:
    """The row called `name`; UnknownNameError lists the known ones."""
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnknownNameError("model", name, ARCHITECTURES)
    return ARCHITECTURES[name]
