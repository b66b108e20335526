"""Whole numbers as labels of samples whose classes somebody has named: they are names, or positions among these.

Invariant: where all are names of classes they are no positions (of 11 classes that are called by numbers, in the
order of their text, "10" is the third); and whichever they are taken for is said where it could be the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from headstart.common.errors import DataError, DataWarning
from headstart.common.text import first_few
from headstart.data.names import bare, normal, shown

SHOWN = 5


def names_of(
    values: list[Any], classes: Sequence[str], where: str, implied: bool, place: Callable[[int], str]
) -> tuple[list[Any], list[str]]:
    """The labels with names for positions, and what is to be said of that. `where`: what messages call the labels.
    `implied`: the classes are those of a run or of other data, and nobody has said that numbers are positions in
    them; where they are taken so, that is a DataWarning. So it is where classes in an order of somebody's own name
    the numbers, and could be numbered by them. DataError for a number that is neither."""
    if not all(map(_is_whole, values)):
        return values, []
    called, numbers = [str(bare(name)) for name in classes], sorted({int(value) for value in values})
    far = [i for i, value in enumerate(values) if not 0 <= int(value) < len(classes)]
    if set(map(str, values)) <= set(called):
        other = [k for k in numbers if not far and normal(called[k]) != str(k)]
        if not other:
            return values, []
        k, position = other[0], shown(called[other[0]])
        said = f"{where} are numbers, taken for the classes that are called so: {k} is '{k}', and not {position}"
        if implied or called == sorted(called):  # in the order that data give them
            return values, [said]
        mend = "if they are positions in classes=, write the classes' names in their place"
        warnings.warn(f"{said}; {mend}", DataWarning, stacklevel=4)
        return values, []
    if far and not set(called) & set(map(str, values)):
        raise DataError(
            f"the label of {place(far[0])} is {values[far[0]]}; classes= names {len(classes)}, numbered from 0"
        )
    if far:
        return values, []
    said = f"{where} are numbers, taken as positions in the classes: "
    said += first_few([f"{k} is {shown(called[k])}" for k in numbers], SHOWN)
    names = [classes[int(value)] for value in values]
    if not implied:
        return names, [said]
    mend = "if they mean others, hs.data.webdataset(path, classes=[...]) says which"
    warnings.warn(f"{said}; {mend}", DataWarning, stacklevel=4)
    return names, []


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.removeprefix("-").isdecimal())
