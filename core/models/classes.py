"""Names of the classes that published classifiers tell apart.

`imagenet_classes.txt` has ImageNet's thousand (ILSVRC 2012, in the order of their WordNet ids, which is that of
every published classifier's outputs), one a line, as torchvision names them (`torchvision.models._meta`).

Invariant: names are distinct, since predictions are told apart by them. WordNet calls two classes "crane" and two
"maillot"; torchvision's names, and so ours, tell them apart: "crane bird" (134) and "crane" (517, the machine),
"maillot" (638, tights) and "maillot tank suit" (639).
"""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def imagenet() -> tuple[str, ...]:
    """The thousand classes of ImageNet, in the order of a classifier's outputs."""
    return tuple(resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8").splitlines())
