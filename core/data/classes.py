"""What two data sets, or a data set and a model, call their classes. Labels are compared by name, and numbered
anew where the names are in another order or some are missing, so that no accuracy is of shifted labels.

Invariant: numbers are no names. The classes "0", "1", ... of labels to which nobody gave names are positions among
the other side's names if both have as many, and an error otherwise; an error, too, where they may be these names.
Where people count these names in another order than that of their text ("1", "2", "10"), the positions are said.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import DataError, DataWarning
from headstart.data.annotations import REGRESSION, SINGLE
from headstart.data.names import MOST_DIGITS, shown

SHOWN = 5
DIGITS = re.compile(rf"(\d{{1,{MOST_DIGITS}}})")
NAME_THEM = "hs.data.arrays(x, y, classes=[...])"


class Classes(NamedTuple):
    """Names of classes, in the order of their numbers."""

    names: tuple[str, ...]
    named: bool  # False where they are only numbers that nobody chose
    owner: str  # whose they are, for messages: "the model", "the training data"


def aligned(data: Any, what: str, to: Classes) -> Any:
    """`data`, a Dataset or a FeatureSet, with its labels numbered as in `to`; itself where they are
    already. `what` names it in messages, e.g. "the validation data".

    A class that has no sample is no matter. Raises DataError for one that `to` does not have, and where names
    stand against numbers.
    """
    mine = Classes(data.classes, data.named_classes, what)
    if mine.names == to.names or not len(data):
        return data
    used = data.annotations.used()
    if data.task == REGRESSION and (len(mine.names) < len(to.names) or mine.named == to.named):
        _check_targets(mine, to)
    if mine.named == to.named:
        if not mine.named:
            return _as_many(data, to, used)
        if data.annotations.by_column:
            _warn_of_columns(mine, to)
        return data.renumbered(to.names, _by_name(mine, to, used), True)
    if len(mine.names) == len(to.names):
        _check_one_meaning(mine, to, used)
        _warn_of_positions(mine, to)
        return data.renumbered(to.names, np.arange(len(to.names)), to.named)
    # Names that are numbers, of folders "1" and "2", say the same as numbers do.
    place = {name: k for k, name in enumerate(to.names)}
    numbers = np.array([place.get(name, -1) for name in mine.names])
    if all(str(numbers[k]) == mine.names[k] for k in used.tolist()):
        return data.renumbered(to.names, numbers, to.named)
    raise DataError(
        f"{_differ(mine, to, used)}: numbers are no names, and there are {len(mine.names)} and {len(to.names)} of "
        f"them. {_mend(mine, to)}"
    )


def _as_many(data: Any, to: Classes, used: np.ndarray) -> Any:
    """With as many classes as `to` has, of which the last ones may have no sample. Itself where there are more:
    whether there may be is the model's to say."""
    if data.task != SINGLE or used.max() >= len(to.names):
        return data
    numbers = np.arange(len(data.classes))
    numbers[len(to.names) :] = -1
    return data.renumbered(to.names, numbers, False)


def _check_one_meaning(mine: Classes, to: Classes, used: np.ndarray) -> None:
    """DataError where the classes that have samples could be those of their names as well as those at their
    positions: one side has names that are numbers, such as "2" and "4", and the other numbers without names."""
    names = [mine.names[k] for k in used.tolist()]
    two = next(((name, to.names[k]) for k, name in zip(used, names, strict=True) if name != to.names[k]), None)
    if two is not None and set(names) <= set(to.names):
        raise DataError(
            f"{_differ(mine, to, used)}: numbers, once as names and once as positions, so that {two[0]} could be "
            f"{two[0]!r} or {two[1]!r}. {_mend(mine, to)}"
        )


def _warn_of_positions(mine: Classes, to: Classes) -> None:
    """DataWarning where one side has positions in names that stand in the order of their text, as folders do, and
    whose numbers count otherwise: of folders "1" to "102", as of flowers, 1 is "10", and elsewhere the second."""
    names = list((mine if mine.named else to).names)
    counted = sorted(
        names, key=lambda name: [int(part) if k % 2 else part for k, part in enumerate(DIGITS.split(name))]
    )
    if names != sorted(names) or counted == names:
        return
    k = next(k for k, (name, other) in enumerate(zip(names, counted, strict=True)) if name != other)
    numbers, owner = (to, mine.owner) if mine.named else (mine, to.owner)
    warnings.warn(
        f"{numbers.owner}'s classes are numbers, taken as positions in {owner}'s, which are in the order of their "
        f"text: {k} is {shown(names[k])}. If {k} means {shown(counted[k])}, name the classes of these numbers: "
        f"{NAME_THEM}",
        DataWarning,
        stacklevel=4,
    )


def _warn_of_columns(mine: Classes, to: Classes) -> None:
    """DataWarning for labels of `to` that have no column here, where each label has one: they are taken for absent
    in every sample, as in lists of labels, and whoever names the columns may have left one out."""
    if lost := [name for name in to.names if name not in mine.names]:
        warnings.warn(
            f"{mine.owner} has no column of {few(lost)}, which {to.owner} has: no sample is taken to have "
            f"{'it' if len(lost) == 1 else 'these'}. Name its column, too, if there is one",
            DataWarning,
            stacklevel=4,
        )


def _check_targets(mine: Classes, to: Classes) -> None:
    """DataError unless every target of `to` is here: a class without samples is one that has none, but a number
    that is not there is not 0."""
    lost = [name for name in to.names if name not in mine.names] if mine.named else to.names[len(mine.names) :]
    if lost:
        raise DataError(
            f"{mine.owner} has no {few(lost)}, which {to.owner} has: its targets are {few(mine.names)}; expected "
            f"{few(to.names)}"
        )


def _by_name(mine: Classes, to: Classes, used: np.ndarray) -> np.ndarray:
    """For each class of `mine` its number in `to`, -1 where it has none."""
    place = {name: k for k, name in enumerate(to.names)}
    numbers = np.array([place.get(name, -1) for name in mine.names])
    if (numbers[used] < 0).any():
        raise DataError(f"{_differ(mine, to, used)}. {_mend(mine, to)}")
    return numbers


def _differ(mine: Classes, to: Classes, used: np.ndarray) -> str:
    """What only one of them has."""
    here = [mine.names[k] for k in used.tolist() if mine.names[k] not in set(to.names)]
    there = [name for name in to.names if name not in set(mine.names)]
    return (
        f"{mine.owner}'s classes {few(mine.names)} are not {to.owner}'s {few(to.names)}: "
        f"only here {few(here) if here else 'none'}, only there {few(there) if there else 'none'}"
    )


def _mend(mine: Classes, to: Classes) -> str:
    if mine.named and to.owner == "the model":
        return f"Make the model with classes=data.classes{', or rename the folders' if to.named else ''}"
    if not mine.named or not to.named:
        return f"Name the classes of labels that are numbers: {NAME_THEM}"
    return "Rename or leave out what the other does not have, e.g. with data.only([...])"


def few(names: Collection[str] | Sequence[str]) -> str:
    """Names in brackets, the first few of many."""
    return f"[{', '.join(list(names)[:SHOWN])}{', ...' if len(names) > SHOWN else ''}]"
