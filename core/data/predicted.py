"""Tables that `predict` wrote: what it found in pictures, read again as labels.

Invariant: a name of a class is that class, whatever it looks like ("wolf|dog", "1.5", "nan").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart.data.class_labels import Named
from headstart.data.columns import is_missing

PREDICTED = ("file", "class", "probability")
"""the first columns that `predict` writes of one class an image"""


def predicted(columns: Sequence[str], label: str, cells: Sequence[Any]) -> Named | None:
    """The cells of the column `label` where a table has the columns that `predict` writes of one class an image,
    each by its name; None of another table."""
    if label != PREDICTED[1] or tuple(columns[: len(PREDICTED)]) != PREDICTED:
        return None
    names = [None if is_missing(cell) else cell for cell in cells]
    of_texts = all(name is None or isinstance(name, str) for name in names)  # in a frame they may be numbers
    return Named(names) if of_texts else None


def predicted_several(columns: Sequence[str], label: str) -> bool:
    """Whether a table has the columns that `predict` writes of several labels an image, and `label` is theirs."""
    rest = [name for name in columns[2:] if name != "error"]
    of_labels = bool(rest) and all(name.startswith("probability_") for name in rest)
    return label == "labels" and list(columns[:2]) == ["file", label] and of_labels
