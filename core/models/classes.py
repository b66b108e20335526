"""Names of the classes that published classifiers tell apart.

`imagenet_classes.txt` has ImageNet's thousand (ILSVRC 2012, in the order of their WordNet ids, which is that of
every published classifier's outputs), one a line, as torchvision names them (`torchvision.models._meta`).

Invariant: names are distinct, since predictions are told apart by them. WordNet calls two classes "crane" and two
"maillot"; torchvision's names, and so ours, tell them apart: "crane bird" (134) and "crane" (517, the machine),
"maillot" (638, tights) and "maillot tank suit" (639).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from headstart.data.names import normal

PLACEHOLDER = re.compile(r"(LABEL_)?\d+", re.IGNORECASE)
"""what transformers calls classes to which nobody gave names, and numbers"""


@cache
def imagenet() -> tuple[str, ...]:
    """The thousand classes of ImageNet, in the order of a classifier's outputs."""
    return tuple(resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8").splitlines())


def published(labels: Sequence[Any], outputs: int) -> tuple[str, ...] | None:
    """The names that a module itself has for its `outputs`, in normal form; None where some are missing, or none
    are names. Those that stand twice, as "crane" does in many lists of ImageNet's, get their number behind them.
    """
    names = [normal(label.strip()) if isinstance(label, str) else "" for label in labels]
    if len(names) != outputs or not all(names) or all(map(PLACEHOLDER.fullmatch, names)):
        return None
    times = Counter(names)
    told = tuple(name if times[name] == 1 else f"{name} ({k})" for k, name in enumerate(names))
    return told if len(set(told)) == outputs else None
