"""The columns of a table beside its labels: the part that a row is in, its group, its fold, how much it counts.

Invariant: a row that lacks one is an error, and never quietly of a part, a group, a fold or a weight that others
have.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DataError, DataWarning
from headstart.common.numbers import FLOAT32_LARGEST
from headstart.common.text import listed
from headstart.data.annotations import NO_FOLD, PARTS
from headstart.data.columns import NO_NUMBER, TRUTHS, Place, is_missing, number_of, whole_of
from headstart.data.label_texts import first_comma, warn_of_points
from headstart.data.labels import MISSING
from headstart.data.layouts import role_of
from headstart.data.names import bare, in_order, kin, normal, shown
from headstart.data.rounded_ids import warn_of_rounded

IS = re.compile(r"is[ _-]+", re.IGNORECASE)
YES_AND_NO = {**TRUTHS, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
LEAST_WEIGHT = 2.0**-100
"""beside a largest weight between 1 and 2"""


def part_words(column: str, values: Sequence[Any]) -> Sequence[Any]:
    """What a column says of parts in words: of `is_valid`, `is_test` and their like, of 1 and 0 or true and false,
    "val" or "test", and "train". What is anything else, or `is_train`, whose others may be either, as it is."""
    yes = role_of(IS.sub("", column.strip()))
    if yes not in PARTS[1:]:
        return values
    truths = [YES_AND_NO.get(value.strip(), value) if isinstance(value, str) else value for value in values]
    if not all(
        is_missing(value) or (isinstance(value, int | float | np.generic) and value in (0, 1)) for value in truths
    ):
        return values
    return [value if is_missing(value) else yes if value else PARTS[0] for value in truths]


def parts_in(column: str, values: Sequence[Any], place: Place) -> np.ndarray | None:
    """int8 `(n,)`, positions in `PARTS`; None where all rows are of one part. DataError for another word."""
    roles: dict[Any, int] = {}
    for i, value in enumerate(values):
        if not isinstance(value, str) or value not in roles:
            role = None if is_missing(value) or not isinstance(value, str) else role_of(value.strip())
            if role not in PARTS:
                what = "empty" if is_missing(value) else repr(value)[:60]
                raise DataError(
                    f"the part of {place(i)} in column {column!r} is {what}; expected train, val or test (or "
                    "training, valid, validation, dev, testing), or 0 and 1 in a column called is_valid or is_test"
                )
            roles[value] = PARTS.index(role)
    parts = np.array([roles[value] for value in values], np.int8)
    return parts if len(np.unique(parts)) > 1 else None


def groups_in(column: str, values: Sequence[Any], place: Place) -> np.ndarray:
    """Object `(n,)`, strings. DataError where one is missing; DataWarning where some are `kin`, which a split may
    part, and for one that is called as a missing one is written."""
    missing = (
        i
        for i, value in enumerate(values)
        if is_missing(value) or (isinstance(value, str) and value.strip() in NO_NUMBER)
    )
    if (bad := next(missing, None)) is not None:  # else all that lack one would be one group
        raise DataError(
            f"{place(bad)} has no group in column {column!r}; expected one in every row, one of its own if need be"
        )
    warn_of_rounded(values, column, "group")
    groups = np.empty(len(values), object)
    groups[:] = [normal(_text(value).strip()) for value in values]
    names = sorted(set(groups.tolist()))
    if unknown := [name for name in names if name in MISSING]:
        warnings.warn(
            f"a group in column {column!r} is called {shown(unknown[0])}, which is what a missing one becomes as "
            "text, and all samples of it stay together: if they have none, write a group of its own for each",
            DataWarning,
            stacklevel=6,
        )
    if alike_groups := kin(names):
        warnings.warn(
            f"the groups {alike_groups}, and a split may put one to train on and the other to validate: if they "
            "are one, write them alike",
            DataWarning,
            stacklevel=6,
        )
    return groups


def folds_in(
    column: str, values: Sequence[Any], place: Place, parts: NDArray[np.int8] | None = None
) -> np.ndarray:
    """Object `(n,)`, strings: the fold that each row is held out in, as it is written; -1: in none. `parts`: the
    part that each row is in, where there are such; folds are of those to train on, and others need none.

    DataError where one is missing, and where the column says train, val or test; DataWarning where some are `kin`,
    as each is a fold.
    """
    folds = np.full(len(values), NO_FOLD, object)
    for i in range(len(values)) if parts is None else np.flatnonzero(parts == 0).tolist():
        text = _fold(values[i])
        if text is None:
            raise DataError(
                f"{place(i)} has no fold in column {column!r}; expected one in every row, {NO_FOLD} where a "
                "sample is never held out and always trained on"
            )
        folds[i] = text
    names = sorted(set(folds.tolist()) - {NO_FOLD})
    if names and all(role_of(name) in PARTS for name in names):
        raise DataError(
            f"column {column!r} says {' and '.join(map(shown, names[:3]))}, which are parts, and no folds; say "
            "split= (--split-column) in place of fold= (--fold-column)"
        )
    warn_of_rounded(values, column, "fold")
    if alike_folds := kin(names):
        warnings.warn(
            f"the folds {alike_folds}, and each is held out by itself: if they are one, write them alike",
            DataWarning,
            stacklevel=6,
        )
    return folds


def _fold(value: Any) -> str | None:
    """A fold's name; None where it is missing, or called as a missing one is written."""
    return _fold_called(value if isinstance(value, str) else "" if is_missing(value) else _text(value))


@lru_cache(maxsize=4096)
def _fold_called(text: str) -> str | None:
    text = normal(text.strip())
    if not text or text in NO_NUMBER or text in MISSING:
        return None
    return NO_FOLD if number_of(text) == float(NO_FOLD) else text


def folds_named(values: Sequence[Any]) -> set[str]:
    """The folds that a column names, of whatever rows."""
    return {name for value in values if (name := _fold(value)) is not None} - {NO_FOLD}


def warn_of_lost_folds(folds: Set[str], left: Sequence[str], name: str) -> None:
    """DataWarning where no sample of some folds is left, as there are then fewer than the column has."""
    if lost := in_order(folds - set(left)):
        warnings.warn(
            f"{name}: no sample of the fold{'s' * (len(lost) > 1)} {listed([*map(shown, lost)])} is left, as "
            f"all their rows are left out, so there are {len(left)} folds and not {len(folds)}",
            DataWarning,
            stacklevel=4,
        )


def _text(value: Any) -> str:
    """A group's name; of bytes, as arrays and Parquet have text, what they say."""
    with contextlib.suppress(UnicodeDecodeError):
        return value.decode() if isinstance(value, bytes) else str(whole_of(bare(value)))
    return str(value)


def weights_in(column: str, values: Sequence[Any], place: Place) -> np.ndarray:
    """float32 `(n,)`, 0 or more. DataError for anything else."""
    warn_of_points([value.strip() for value in values if isinstance(value, str)], column)
    weights = np.zeros(len(values), np.float64)
    for i, value in enumerate(values):
        number = None if is_missing(value) or isinstance(value, list | bytes) else number_of(str(value))
        if number is None or not 0 <= number <= FLOAT32_LARGEST:
            raise DataError(
                f"the weight of {place(i)} in column {column!r} is {value!r:.40}; expected a number of 0 or more"
                f"{', with a decimal point' if first_comma([str(value).strip()]) is not None else ''}"
            )
        weights[i] = number
    if not weights.any():
        raise DataError(f"all weights in column {column!r} are 0; nothing would be learned")
    in_range, lost = weights_in_range(weights)
    if lost:
        warnings.warn(
            f"{lost:,} of {len(weights):,} weights in column {column!r} are less than {LEAST_WEIGHT:.0e} of the "
            "largest, and count as 0",
            DataWarning,
            stacklevel=6,
        )
    return in_range


def weights_in_range(weights: np.ndarray) -> tuple[NDArray[np.float32], int]:
    """Weights, float64 `(n,)` of 0 or more, as float32, and how many of them became 0. Only how they stand beside
    each other counts, so where the losses and gradients that they are multiplied with would leave the range of
    float32 all are divided by one power of two, and what is then next to nothing is 0: in a batch of such alone,
    the sum that a loss is divided by would be 0 as well."""
    positive = weights[weights > 0]
    if not len(positive) or LEAST_WEIGHT <= positive.min() <= positive.max() <= 1 / LEAST_WEIGHT:
        return weights.astype(np.float32), 0
    scaled = np.ldexp(weights, 1 - int(np.frexp(positive.max())[1]))
    is_lost = (scaled > 0) & (scaled < LEAST_WEIGHT)
    return np.where(is_lost, 0, scaled).astype(np.float32), int(is_lost.sum())
