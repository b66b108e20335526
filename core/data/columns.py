"""Columns of a table become labels of a task.

Invariant: a task is taken from the values only where they can mean one thing, and is said; whatever could mean two
(whole numbers with a decimal point, a one-hot row) is refused with what to write. Names are numbered in the order
of their text, as folders are, so that the same pictures are the same data set from a folder and from a table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from headstart.common.errors import DataError, DataWarning, UnknownNameError
from headstart.common.text import counted
from headstart.data.annotations import MULTI, REGRESSION, SINGLE, TASKS, Annotations
from headstart.data.class_labels import Named
from headstart.data.label_texts import (
    WITH_POINT,
    check_separator,
    cut,
    first_comma,
    is_whole,
    may_be_written,
    refuse_decimal_commas,
    refuse_paths,
    spelt_as,
    warn_of_amounts,
    warn_of_commas,
    warn_of_names_of_names,
    warn_of_points,
    without_point,
)
from headstart.data.labels import warn_of_missing
from headstart.data.left_out import SKIP
from headstart.data.names import bare, check_told_apart, class_list, normal, shown, twins, warn_of_kin
from headstart.data.rounded_ids import warn_of_rounded
from headstart.data.written_lists import refuse_ranges, warn_of_brackets, written_lists

NO_NUMBER = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT"})
"""what a missing number, or a missing time, is as text"""

OWN_LABELS = 20  # rows of which nearly each has a label of its own: that is a column of ids, or of numbers
NEARLY = 0.9
TRUTHS = {"True": 1, "False": 0, "TRUE": 1, "FALSE": 0, "true": 1, "false": 0}  # of pandas, spreadsheets, JSON
SHOWN = 3
ROUNDED = 0.01
SCALARS = frozenset({"text", "whole", "number", "truth"})
"""of `_kind`, what a label may be"""
PLAIN = frozenset({str, int, float, bool})
SAY_TASK = "say which it is: task='single' for classes, task='regression' for numbers (--task)"

Place = Callable[[int], str]
"""what messages call a row"""


def check_task(task: str | None) -> None:
    if task is not None and task not in TASKS:
        raise UnknownNameError("task", task, TASKS)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA, text without a character."""
    if type(value) is str:
        return not value or value.isspace()
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if isinstance(value, str | bytes | list | tuple | dict | np.ndarray) or getattr(value, "ndim", None):
        return False  # a tensor of several numbers is no truth
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA
        return True


def labels_in(
    columns: Sequence[tuple[str, Sequence[Any]]],
    *,
    task: str | None,
    classes: Sequence[str] | None,
    separator: str | None,
    place: Place,
) -> Annotations:
    """Labels from one column or several, name -> values, of which none is missing."""
    check_task(task)
    if separator is not None:
        check_separator(separator, task, len(columns))
        task = MULTI  # also where no cell happens to have several
    names = None if classes is None else class_list(classes)
    if len(columns) > 1:
        return _of_several(columns, task, names, place)
    column, values = columns[0][0], _read(*columns[0], place)
    if isinstance(values, Named):
        if names is None:
            names = tuple(sorted(set(map(normal, values))))
            check_told_apart(names)
            warn_of_missing(names)
        return _single(values, column, SINGLE, names, place)
    if all(isinstance(value, list | tuple | np.ndarray) for value in values):
        return _of_lists([list(value) for value in values], column, task, names, place)
    kinds = {_kind(value) for value in values}
    if kinds == {"truth", "whole"}:
        values = [int(value) for value in values]
    if not kinds <= SCALARS:
        odd = next(i for i, value in enumerate(values) if not _is_scalar(value))
        raise DataError(
            f"the labels in column {column!r} hold a {type(values[odd]).__name__} in {place(odd)}; expected "
            "names, "
            "numbers or lists of names"
        )
    if kinds == {"text"}:
        texts = [str(value).strip() for value in values]
        if (
            task != SINGLE
            and may_be_written(separator)
            and (members := written_lists(texts)) is not None
            and not _are_classes(texts, names)
        ):
            of_names = any(isinstance(member, str) for row in members for member in row)
            if task is None and names is None and not of_names:
                refuse_ranges(members, texts, column)
            return _of_lists(members, column, MULTI if of_names and task is None else task, names, place)
        whole = task is None and _are_classes(texts, names)  # "wolf|dog" may be the name of one class
        if task in (None, MULTI) and not whole and (lists := cut(texts, separator, task == MULTI)) is not None:
            if task is None and separator is None:
                refuse_paths(lists, texts, column)
            return _of_lists(lists, column, MULTI, names, place)
        return _of_texts(texts, column, task, names, place)
    if "text" in kinds:
        if task != SINGLE:
            _mixed(values, column, [_kind(value) != "text" for value in values], place)
        return _of_texts([str(whole_of(value)).strip() for value in values], column, task, names, place)
    texts = [str(whole_of(value)) for value in values]
    if task == REGRESSION or (task is None and kinds & {"number"} and not _are_classes(texts, names)):
        return _regression([(column, np.array(list(map(_float, values))))], task, names, place)
    if names is None:
        warn_of_rounded(values, column, "class")
    if task == MULTI:
        return _of_lists([[text] for text in texts], column, task, names, place)
    return _single(texts, column, task, names, place)


def _read(column: str, values: Sequence[Any], place: Place) -> Sequence[Any]:
    """The values, with bytes as the text that they are, and members of an Enum as what they stand for."""
    if set(map(type, values)) <= PLAIN:
        return values
    texts = []
    for i, value in enumerate(values):
        try:
            texts.append(_decoded(value))
        except UnicodeDecodeError:
            raise DataError(
                f"the label in column {column!r}, {place(i)}, is {value!r:.40}, no text in UTF-8; decode them"
            ) from None
    if (missing := next((i for i, value in enumerate(texts) if is_missing(value)), None)) is not None:
        raise DataError(f"the label in column {column!r}, {place(missing)}, is empty; leave out what has none")
    return texts


def _decoded(value: Any) -> Any:
    """A label, or several in a list."""
    if isinstance(value, list | tuple):
        return [_decoded(one) for one in value]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "tolist"):  # an array, or a tensor, of one number
        value = value.tolist()
    return value.decode() if isinstance(value, bytes) else bare(value)


def label_lists(values: Sequence[Any], separator: str | None, several: bool = True) -> list[list[str]] | None:
    """The labels in each cell, of a column of several labels a sample (task "multi"); None where the cells are
    not names, or mix them with numbers. `several`: somebody said that they are such; else None also where the
    cells do not tell."""
    if all(isinstance(value, list | tuple) for value in values):
        names = all(isinstance(name, str) for value in values for name in value)
        return [list(value) for value in values] if names else None
    kinds = {_kind(value) for value in values}
    if kinds == {"text"}:
        return cut([str(value).strip() for value in values], separator, several)
    if not several or not kinds <= {"whole", "truth", "number"}:
        return None
    wholes = [whole_of(value) for value in values]  # a frame with gaps has 3.0 for a 3
    return [[str(value)] for value in wholes] if all(_kind(value) != "number" for value in wholes) else None


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth"
    if isinstance(value, int | np.integer):
        return "whole"
    return "number" if isinstance(value, float | np.floating | Decimal) else type(value).__name__


def _is_scalar(value: Any) -> bool:
    return _kind(value) in SCALARS


def whole_of(value: Any) -> Any:
    """A whole number for one with a point, as a frame with gaps has 3.0 for a 3; anything else as it is."""
    return int(value) if isinstance(value, float | np.floating | Decimal) and float(value).is_integer() else value


def _mixed(values: Sequence[Any], column: str, are_numbers: Sequence[bool], place: Place) -> None:
    number, name = are_numbers.index(True), are_numbers.index(False)
    parts = str(values[name]).split()
    several = len(parts) > 1 and all(number_of(part) is not None for part in parts)
    mend = ", or, if spaces stand between several labels, separator=' ' (--separator ' ')" * several
    raise DataError(
        f"the labels in column {column!r} mix numbers and names: {values[number]!r:.40} in {place(number)}, "
        f"{values[name]!r:.40} in {place(name)}; make them one "
        f"kind, or, if all are names, say task='single' (--task){mend}"
    )


def _of_texts(
    texts: Sequence[str], column: str, task: str | None, names: tuple[str, ...] | None, place: Place
) -> Annotations:
    """Of names, or of numbers written as text."""
    distinct = dict.fromkeys(texts)
    if task == REGRESSION or (task is None and names is None):
        refuse_decimal_commas(texts, column, place(first_comma(texts) or 0))
    if task is None and names is None:
        warn_of_commas(texts, column)
    numeric = {text: number_of(text) for text in distinct}
    are_numbers = [number is not None for number in numeric.values()]
    if task == REGRESSION and not all(are_numbers):
        bad = next(i for i, text in enumerate(texts) if numeric[text] is None)
        raise DataError(f"the target in column {column!r}, {place(bad)}, is {texts[bad]!r:.40}; expected a number")
    with_point = task is None and all(are_numbers) and not all(map(is_whole, distinct))
    if task == REGRESSION or (with_point and not _are_classes(texts, names)):
        warn_of_points(texts, column)
        numbers = np.array([numeric[text] for text in texts], np.float64)
        return _regression([(column, numbers)], task, names, place)
    if names is None and task is None and any(are_numbers) and not all(are_numbers):
        _mixed(texts, column, [numeric[text] is not None for text in texts], place)
    if names is None and all(number is not None and number.is_integer() for number in numeric.values()):
        # 3.0, as a spreadsheet or a frame with gaps writes a 3; 1e3 stays the name that it is
        texts = [without_point(text) for text in texts]
    about = _single(texts, column, task, names, place)
    if names is None:
        warn_of_rounded(distinct, column, "class")
    if task is None and names is None:
        warn_of_amounts(texts, column)
        warn_of_names_of_names(texts, column)
        warn_of_brackets(texts, column)
    return about


def number_of(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    if "_" in text:  # 1_0 is a number to Python alone, and a name to everybody else
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _float(value: Any) -> float:
    """A number of any kind; one that is too large as infinity. TypeError and ValueError for anything else."""
    if isinstance(value, str) and number_of(value) is None:
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _truth(value: Any) -> Any:
    """0 and 1 for what programs write for them; anything else as it is."""
    return TRUTHS.get(value, value) if isinstance(value, str) else value


def _single(
    texts: Sequence[str], column: str, task: str | None, names: tuple[str, ...] | None, place: Place
) -> Annotations:
    spelling = spelt_as(names, {text: normal(text) for text in dict.fromkeys(texts)})
    present = sorted(set(spelling.values()))
    if task is None and names is None and len(texts) >= OWN_LABELS and len(present) > NEARLY * len(texts):
        each = "each" if len(present) == len(texts) else "nearly each"
        raise DataError(
            f"{each} of the {len(texts):,} rows has a label of its own in column {column!r}, such as "
            f"{shown(texts[0])}: is that the column of labels? Name another with label= (--label), or {SAY_TASK}"
        )
    skip = f"; leave such out: {SKIP}" if names is not None and set(present) & set(names) else ""
    numbers = _numbered(present, names, column, lambda name: place(_first(texts, spelling, name)), skip)
    codes = {text: numbers[name] for text, name in spelling.items()}
    return Annotations(np.array([codes[text] for text in texts], np.int64), tuple(numbers))


def _are_classes(texts: Sequence[str], names: tuple[str, ...] | None) -> bool:
    """Whether all are among classes that somebody named."""
    return names is not None and set(spelt_as(names, {text: normal(text) for text in texts}).values()) <= set(
        names
    )


def _first(texts: Sequence[str], spelling: dict[str, str], name: str) -> int:
    return next(i for i, text in enumerate(texts) if spelling[text] == name)


def _numbered(
    present: Sequence[str],
    names: tuple[str, ...] | None,
    column: str,
    where: Callable[[str], str],
    mend: str = "",
) -> dict[str, int]:
    """Class -> its number. `mend`: how to go on where one is not among `names`."""
    if names is None:
        if same := twins(present):
            raise DataError(
                f"the labels {', '.join(map(ascii, same[:5]))} in column {column!r} look the same; make them "
                "one, or "
                "name the classes: classes=[...]"
            )
        warn_of_missing(present)
        warn_of_kin(present)
        return {name: k for k, name in enumerate(present)}
    if unknown := [name for name in present if name not in set(names)]:
        others = f", nor {counted(len(unknown) - 1, 'other')}" if len(unknown) > 1 else ""
        raise DataError(
            f"the label {shown(unknown[0])} in column {column!r}, {where(unknown[0])}, is not among "
            f"classes={others}: {', '.join(map(shown, names[:5]))}{' ...' if len(names) > 5 else ''}{mend}"
        )
    return {name: k for k, name in enumerate(names)}


def _of_lists(
    lists: Sequence[list[Any]], column: str, task: str | None, names: tuple[str, ...] | None, place: Place
) -> Annotations:
    """Of several labels a row, as names; or as 0 and 1, or targets, in rows of one length."""
    flat = [value for row in lists for value in row]
    numeric = bool(flat) and all(_kind(value) in ("number", "whole", "truth") for value in flat)
    rows = numeric and len({len(row) for row in lists}) == 1
    if len(flat) == len(lists) and task != REGRESSION and all(_kind(value) == "whole" for value in flat):
        rows = False  # one number each is that of a label
    if rows and (task in (None, REGRESSION) or set(flat) <= {0, 1}):
        columns = [(f"{column}[{k}]", [row[k] for row in lists]) for k in range(len(lists[0]))]
        return _of_several(columns, task, names, place)
    if names is None and task != REGRESSION:
        warn_of_rounded(flat, column, "class")
    if task == SINGLE and all(len(row) == 1 for row in lists):
        return _single([str(whole_of(row[0])).strip() for row in lists], column, task, names, place)
    if task not in (None, MULTI):
        raise DataError(
            f"column {column!r} holds several labels a row, which is no task {task!r}; expected 'multi'"
        )
    if bad := [i for i, row in enumerate(lists) if any(is_missing(value) for value in row)]:
        raise DataError(f"a label in the list of column {column!r}, {place(bad[0])}, is missing")
    if odd := [i for i, row in enumerate(lists) if not all(map(_is_scalar, row))]:
        kind = next(type(value).__name__ for value in lists[odd[0]] if not _is_scalar(value))
        raise DataError(
            f"the lists in column {column!r} hold a {kind} in {place(odd[0])}; expected lists of names or numbers"
        )
    texts = [[str(whole_of(value)).strip() for value in row] for row in lists]  # 3 also where a frame has 3.0
    if names is None and all(map(is_whole, {without_point(text) for row in texts for text in row})):
        texts = [list(map(without_point, row)) for row in texts]
    spelling = spelt_as(names, {text: normal(text) for row in texts for text in row})
    spelt = [[spelling[text] for text in row] for row in texts]
    present = sorted({name for row in spelt for name in row})
    if not present:
        raise DataError(f"no row has a label in column {column!r}")
    numbers = _numbered(
        present, names, column, lambda name: place(next(i for i, row in enumerate(spelt) if name in row))
    )
    labels = np.zeros((len(spelt), len(numbers)), np.uint8)
    for i, row in enumerate(spelt):
        labels[i, [numbers[name] for name in row]] = 1
    return Annotations(labels, tuple(numbers), MULTI)


def _of_several(
    columns: Sequence[tuple[str, Sequence[Any]]], task: str | None, classes: tuple[str, ...] | None, place: Place
) -> Annotations:
    """Of a column a label, of 0 and 1, or a column a target."""
    numbers = []
    for column, values in columns:
        try:
            numbers.append((column, np.array([_float(_truth(value)) for value in values], np.float64)))
        except (TypeError, ValueError):
            bad = next(i for i, value in enumerate(values) if number_of(str(_truth(value))) is None)
            if first_comma([str(values[bad]).strip()]) is not None:
                raise DataError(
                    f"column {column!r} holds {values[bad]!r:.40} in {place(bad)}, a number with a comma: "
                    f"{WITH_POINT}"
                ) from None
            raise DataError(
                f"column {column!r} holds {values[bad]!r:.40} in {place(bad)}; of several label columns each "
                "holds "
                "0 and 1, whether a sample has that label, or a target's numbers"
            ) from None
    table = np.stack([values for _, values in numbers], 1)
    zero_one = np.isin(table, (0, 1)).all()
    if task == REGRESSION or (task is None and not zero_one and (table != table.round()).any()):
        for column, values in columns:
            warn_of_points([value.strip() for value in values if isinstance(value, str)], column)
        return _regression(numbers, task, classes, place)
    if not zero_one:
        row, k = np.argwhere(~np.isin(table, (0, 1)))[0].tolist()
        raise DataError(
            f"column {columns[k][0]!r} holds {table[row, k]:g} in {place(row)}; of several label columns each "
            "holds "
            "0 and 1, or say that they are targets: task='regression' (--task)"
        )
    one_each = bool((table.sum(1) == 1).all())
    labels = _chosen(tuple(column for column, _ in columns), classes)
    if task is None and one_each:
        raise DataError(
            f"every row has exactly one 1 in the columns {', '.join(column for column, _ in columns[:5])}: say "
            "whether these are classes, task='single', or labels that may come together, task='multi' (--task)"
        )
    if task == SINGLE:
        if not one_each:
            row = int(np.flatnonzero(table.sum(1) != 1)[0])
            raise DataError(f"{place(row)} has {table[row].sum():g} classes; of task 'single' every row has one")
        return Annotations(table[:, labels].argmax(1), tuple(columns[k][0] for k in labels))
    names = tuple(columns[k][0] for k in labels)
    return Annotations(table[:, labels].astype(np.uint8), names, MULTI, by_column=True)


def _chosen(columns: tuple[str, ...], names: tuple[str, ...] | None) -> list[int]:
    """The columns in the order of classes=."""
    if names is None:
        return list(range(len(columns)))
    columns = tuple(map(normal, columns))
    if set(names) != set(columns):
        raise DataError(
            f"classes= names {', '.join(names[:5])}, and the label columns are {', '.join(columns[:5])}; if they "
            "mean the same, give the columns these names, else these are labels of another task"
        )
    return [columns.index(name) for name in names]


def _regression(
    columns: Sequence[tuple[str, np.ndarray]], task: str | None, names: tuple[str, ...] | None, place: Place
) -> Annotations:
    values = np.stack([numbers for _, numbers in columns], 1)
    if (bad := np.argwhere(~np.isfinite(values))).size:
        row, k = bad[0].tolist()
        more = f" (and {len(bad) - 1:,} more are none)" if len(bad) > 1 else ""
        raise DataError(
            f"the target in column {columns[k][0]!r}, {place(row)}, is {values[row, k]}{more}; leave out what has "
            "no value"
        )
    if task is None and (values == values.round()).all():
        raise DataError(
            f"the labels in column {columns[0][0]!r} are whole numbers with a decimal point; {SAY_TASK}"
        )
    chosen = _chosen(tuple(column for column, _ in columns), names)
    with np.errstate(over="ignore"):
        targets = values[:, chosen].astype(np.float32)
    if not np.isfinite(targets).all():
        raise DataError(f"the targets in column {columns[0][0]!r} are too large for 32 bits")
    _warn_of_rounding(values[:, chosen], targets, [columns[k][0] for k in chosen])
    return Annotations(targets, tuple(columns[k][0] for k in chosen), REGRESSION)


def _warn_of_rounding(values: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> None:
    """DataWarning for targets that 32 bits round by more than `ROUNDED` of what they vary by, such as seconds
    since 1970. `values`, `targets`: float64 and float32 `(n, d)`."""
    off, deviation = np.abs(values - targets).max(0), values.std(0)
    varies = values.min(0) < values.max(0)
    if (lost := np.flatnonzero((off > ROUNDED * deviation) & varies)).size:
        k = int(lost[0])
        warnings.warn(
            f"the targets in column {names[k]!r} reach to {np.abs(values[:, k]).max():.6g} and deviate by "
            f"{deviation[k]:.3g}, and 32 bits, in which they are kept, round them by up to {off[k]:.3g}: take off "
            "what they have in common",
            DataWarning,
            stacklevel=6,
        )
