"""Rows without a label, or with one of no class that is known: said with their number and places, or left out
where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.errors import DataError
from headstart.common.text import first_few
from headstart.data.annotations import SINGLE
from headstart.data.columns import NO_NUMBER, is_missing, label_lists, number_of
from headstart.data.label_texts import spelt_as
from headstart.data.labels import MISSING
from headstart.data.left_out import SKIP, Skipped
from headstart.data.names import class_list, normal, shown

SHOWN = 3
AS_TEXT = frozenset(MISSING)
"""what programs write where a value is missing, which among names may be a name"""


def labelled_rows(
    name: str,
    columns: Mapping[str, Sequence[Any]],
    place: Callable[[int], str],
    on_error: str,
    is_nothing: Callable[[Any], bool],
    may_be_several: bool = False,
) -> tuple[list[int] | None, list[Skipped]]:
    """The rows that have a label in all of `columns`, None for all rows, and what was left out. `name`, `place`:
    what messages call the table, and a row. `may_be_several`: nobody has said of what task the labels are, and
    they look like several a sample. DataError with `on_error="raise"` where a row has none, and where none has
    one."""
    without = sorted({i for values in columns.values() for i, value in enumerate(values) if is_nothing(value)})
    if not without:
        return None, []
    count, which = len(next(iter(columns.values()))), ", ".join(map(repr, list(columns)[:SHOWN]))
    what = f"{len(without):,} of {count:,} rows have no label in {which}"
    if on_error == "raise":
        raise DataError(
            f"{name}: {what}, the first: {', '.join(map(place, without[:SHOWN]))}. Fill them in, or leave these "
            f"rows out: {SKIP}"
            + "; if these are samples without any of the labels, say task='multi' (--task)"
            * may_be_several
        )
    left = set(without)
    rows = [i for i in range(count) if i not in left]
    if not rows:
        raise DataError(f"{name}: no row has a label in {which}")
    return rows, [Skipped(name, what)]


def rows_of_classes(
    name: str,
    values: Sequence[Any],
    rows: Sequence[int] | None,
    classes: Sequence[str] | None,
    task: str | None,
    separator: str | None,
    noun: str = "rows",
) -> tuple[list[int] | None, list[Skipped]]:
    """Of `rows`, None for all, those whose label is one of `classes`, and what was left out: of a table of more
    classes than a run knows. `values`: of all rows. Where labels are not one class a row, and where not one of
    them is among `classes`, all are kept: the error for those is better."""
    given = range(len(values)) if rows is None else rows
    cells = [values[i] for i in given]
    if classes is None or task not in (None, SINGLE) or separator is not None or not all(map(_is_name, cells)):
        return None if rows is None else list(rows), []
    names, texts = class_list(classes), [str(cell).strip() for cell in cells]
    spelling = spelt_as(names, {text: normal(text) for text in texts})
    others = {text for text, called in spelling.items() if called not in names}
    several = task is None and bool(others) and label_lists(texts, None, several=False) is not None
    if several or len(others) in (0, len(spelling)):
        return None if rows is None else list(rows), []
    kept = [i for i, text in zip(given, texts, strict=True) if text not in others]
    which = first_few([shown(other) for other in sorted(others)], SHOWN)
    reason = f"{len(texts) - len(kept):,} of {len(values):,} {noun} are of none of the classes: {which}"
    return kept, [Skipped(name, reason)]


def _is_name(cell: Any) -> bool:
    return isinstance(cell, str | int | np.integer | np.bool_)


def without_any(
    column: Sequence[Any], separator: str | None, is_nothing: Callable[[Any], bool], several: bool
) -> list[list[str]] | None:
    """A column of several labels a sample, each cell as a list, in which a cell that holds nothing is a sample
    without a label. None where every cell holds something, or none does, or they are not names. `several`: as of
    `label_lists`. What stands for nothing and is one of the labels in other cells, as in "nan;cat", is that label
    alone, too."""
    empty = [is_nothing(value) for value in column]
    if not any(empty) or all(empty):
        return None
    filled = label_lists(
        [value for value, nothing in zip(column, empty, strict=True) if not nothing], separator, several
    )
    if filled is None:
        return None
    lists, names = iter(filled), {label for labels in filled for label in labels}
    return [
        ([value.strip()] if type(value) is str and value.strip() in names else []) if nothing else next(lists)
        for value, nothing in zip(column, empty, strict=True)
    ]


def no_label(classes: Sequence[str] | None, columns: Iterable[Sequence[Any]] = ()) -> Callable[[Any], bool]:
    """What holds no label: nothing, and "nan", what a missing number is as text, unless that is the name of one of
    `classes`. `columns`: of labels; among numbers alone "NA" and its like are none either."""
    nothing = NO_NUMBER | (AS_TEXT if any(map(_is_numbers_with_gaps, columns)) else frozenset())
    nothing -= set(classes or ())
    return lambda value: is_missing(value) or (type(value) is str and value.strip() in nothing)


def _is_numbers_with_gaps(column: Sequence[Any]) -> bool:
    texts = {value.strip() for value in column if isinstance(value, str)} - {""} - NO_NUMBER
    rest = texts - AS_TEXT
    return len(rest) < len(texts) and bool(rest) and all(number_of(text) is not None for text in rest)
