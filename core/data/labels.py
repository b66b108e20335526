"""Labels as people have them, lists, columns and tensors of numbers or names, become one class number a sample.

Invariant: no label is guessed. What could mean two things (floats, several classes a sample, ids) is refused with
what to write instead, and no advice loses a label.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import DataError, DataWarning
from headstart.data.names import bare, class_list, normal, normal_all, twins, warn_of_kin
from headstart.data.rows import ordered, unmasked

NO_CLASS = "-1"
MISSING = (
    *("nan", "NaN", "-nan", "None", "<NA>", "NaT", "NA", "N/A", "n/a", "NULL", "null", "(null)", "[NULL]", "\\N"),
    *("#N/A", "#NA", "#NV", "#REF!", "#BEZUG!", "#VALUE!", "#WERT!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!"),
)
"""what programs, databases and spreadsheets write where there is no value, or no one that can be computed"""
AS_CODE = re.compile(
    r"""b(['"]).*\1|(?:np\.\w+|array|tensor|Array|tf\.Tensor)\(.*\)|<tf\.Tensor: .*>""", re.DOTALL
)
"""how Python shows bytes, and arrays and tensors of one number"""
UNSEEN = 1000
"""classes that there may be without a sample; with many samples, ten times as many as those"""
SHOWN = 5


class Labels(NamedTuple):
    """Which class each sample is of."""

    numbers: np.ndarray  # (n,) int64, positions in `classes`
    classes: tuple[str, ...]
    named: bool  # False where the names are only numbers that nobody chose


def labels_of(labels: Any, classes: Any, count: int, what: str) -> Labels:
    """The labels of `count` samples, which errors call e.g. "image".

    `labels`: integers from 0, positions in `classes` (None: "0", "1", ... up to the largest), or booleans for 0
    and 1; or names, which are numbered as in `classes` (None: the names that are there, sorted). Raises DataError
    for anything else.
    """
    values = _flat(labels, what)
    if classes is None:
        names, numbers = None, False
    else:
        classes = list(classes) if isinstance(classes, Iterator) else classes
        names = class_list(classes)
        numbers = all(isinstance(name, Integral) for name in classes)
    if len(values) != count:
        raise DataError(f"there are {count} {what}s and {len(values)} labels; expected as many of each")
    if not count:
        raise DataError(f"there are no {what}s; expected at least one")
    if values.dtype.kind == "U":
        return _by_name(values, names)
    if values.dtype == bool:
        values = values.astype(np.int64)
        largest = 1
    else:
        largest = max(int(values.max()), 0)
    if names is not None:
        if numbers and len(values):
            _not_both(values, names)
        return Labels(_in_range(values, names, what), names, True)
    if largest >= max(UNSEEN, 10 * count):
        raise DataError(
            f"the largest label is {largest}, so there would be {largest + 1} classes for {count} {what}s; labels "
            "are the numbers of classes, from 0. Of ids make such: names, numbers = "
            "np.unique(labels, return_inverse=True), and pass numbers with classes=[str(name) for name in names]"
        )
    if values.min() == 1 < largest:
        warnings.warn(
            f"the labels are 1 to {largest}, and they are positions from 0 on: no {what} is of class 0. If they "
            "count from 1: labels - 1; if class 0 is only not there, name all: classes=[...]",
            DataWarning,
            stacklevel=5,
        )
    names = tuple(map(str, range(largest + 1)))
    return Labels(_in_range(values, names, what), names, False)


def _not_both(values: np.ndarray, names: tuple[str, ...]) -> None:
    """DataError where numbers as labels may be positions in `names`, which are numbers too, and may be names."""
    present = set(map(str, np.unique(values).tolist()))
    positions = tuple(map(str, range(len(names))))
    if names != positions and present <= set(names):
        as_text = (
            "name them in text: labels [str(label) for label in labels], classes [str(name) for name in classes]"
        )
        raise DataError(
            f"labels are positions in classes, and the classes {_few(names)} are numbers as well: label "
            f"{min(present)} could be either; {as_text}"
        )


def _in_range(values: np.ndarray, names: tuple[str, ...], what: str) -> np.ndarray:
    wrong = np.flatnonzero((values < 0) | (values >= len(names)))
    if wrong.size:
        raise DataError(
            f"label {values[wrong[0]]} of {what} {wrong[0]} is out of range; allowed are "
            f"0 to {len(names) - 1} ({len(names)} classes)"
        )
    return values.astype(np.int64)


def _by_name(values: np.ndarray, names: tuple[str, ...] | None) -> Labels:
    spelt, numbers = np.unique(values, return_inverse=True)
    present = [normal(str(name)) for name in spelt]
    if names is None:
        names = _names_among(spelt.tolist())
    place = {name: k for k, name in enumerate(names)}
    if unknown := [name for name in present if name not in place]:
        raise DataError(
            f"labels {_few(unknown)} are not in classes {_few(names)}; add them there, or leave classes= out"
        )
    return Labels(np.array([place[name] for name in present], np.int64)[numbers.reshape(-1)], names, True)


def _names_among(labels: list[str]) -> tuple[str, ...]:
    """The classes that labels name, where nobody said which there are."""
    names = normal_all(labels)
    if same := twins(names):
        raise DataError(
            f"the labels {', '.join(map(ascii, same[:SHOWN]))} look the same; make them one, e.g. with "
            "label.strip(), or name both: classes=[...]"
        )
    warn_of_missing(names)
    warn_of_kin(names)
    return names


def warn_of_missing(names: Iterable[str]) -> None:
    """DataWarning for a class that is called as a missing label is written: "nan", and -1 beside 0 and more; and
    for classes that are called as Python shows bytes and tensors."""
    names = list(names)
    if names and all(map(AS_CODE.fullmatch, names)):
        warnings.warn(
            f"a class is called {names[0]}, as Python shows what is no text: write the labels as text or numbers, "
            "label.decode() of bytes, label.item() of an array or a tensor, or name the classes: classes=[...]",
            DataWarning,
            stacklevel=6,
        )
    if missing := [name for name in names if name in MISSING]:
        warnings.warn(
            f"a class is called {missing[0]!r}, which is what a missing label becomes as text: leave out what has "
            "no label, or name the classes: classes=[...]",
            DataWarning,
            stacklevel=6,
        )
    if NO_CLASS in names and len(names) > 2 and all(name.isdecimal() for name in names if name != NO_CLASS):
        warnings.warn(
            f"a class is called {NO_CLASS!r} beside {len(names) - 1:,} with numbers from 0 on, which is how test "
            "sets write that a label is not known: leave those samples out, or name the classes: classes=[...]",
            DataWarning,
            stacklevel=6,
        )


def _flat(labels: Any, what: str) -> np.ndarray:
    """One array `(n,)` of integers, booleans or strings."""
    expectation = f"expected one class for each {what}, as an integer or a name"
    if labels is None or isinstance(labels, str | bytes | Mapping):
        raise DataError(f"labels are a {type(labels).__name__}; {expectation}")
    labels = ordered(unmasked(labels, "the labels"), "the labels")
    try:
        labels = labels if hasattr(labels, "__array__") else list(labels)
        values = np.asarray(labels)
    except ValueError:
        raise DataError(
            f"labels are lists of differing lengths; {expectation}. Several classes for one {what} "
            "(multi-label) are "
            "task='multi'"
        ) from None
    except Exception as error:  # a tensor on a GPU, or one that needs its gradient
        kind = type(labels).__name__
        raise DataError(f"labels are a {kind} that is no array ({error}); {expectation}") from None
    if values.dtype.kind == "U" and isinstance(labels, list):
        values = np.array(labels, object)  # numpy makes words of numbers and of what is missing
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "iubOSU":
        values = values[:, 0]
    if values.dtype.kind in "OSU" and values.ndim == 1:
        return _names_or_numbers(values, expectation)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iub"):
        raise DataError(f"labels are {values.dtype} of shape {values.shape}; {expectation}{_mend(values, what)}")
    return values


def _names_or_numbers(values: np.ndarray, expectation: str) -> np.ndarray:
    """Of a column of strings, or of objects such as pandas has them."""
    items = [bare(item) for item in values.tolist()]
    for i, item in enumerate(items):
        if isinstance(item, bytes):
            try:
                items[i] = item.decode()
            except UnicodeDecodeError:
                raise DataError(f"label {i} is {item!r:.80}, no text in UTF-8; decode the labels") from None
        if isinstance(item, str | bytes) and not item:
            raise DataError(f"label {i} is empty text; {expectation}, none missing")
    for kind, dtype in ((str, np.str_), (bool, np.bool_), (int, np.int64)):
        if all(isinstance(item, kind) for item in items):
            try:
                return np.array(items, dtype)
            except OverflowError:
                break
    odd = (i for i, item in enumerate(items) if not isinstance(item, type(items[0])) or _missing(item))
    first = next(odd, 0)
    raise DataError(
        f"label {first} is {items[first]!r}, a {type(items[first]).__name__}; {expectation}, all of one kind "
        "and none missing"
    )


def _missing(item: Any) -> bool:
    return not isinstance(item, str) and not (isinstance(item, int) and abs(item) < 1 << 63)


def _mend(values: np.ndarray, what: str) -> str:
    """What to do about it, where that is known."""
    many = f". Several classes for one {what} (multi-label) are task='multi'"
    if values.dtype.kind == "f" and values.ndim == 1:
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            return f". Label {bad[0]} is {values[bad[0]]}: leave out what has no label"
        if (values == values.round()).all():
            return ". They are whole numbers: if they are classes, np.asarray(labels).astype(int)"
        return ". Numbers with a fraction are no classes, but targets: task='regression'"
    if values.ndim != 2 or values.dtype.kind not in "iubf":
        return ""
    if values.shape[1] == 1 and (values == values.round()).all():
        return ". They are whole numbers: if they are classes, np.asarray(labels)[:, 0].astype(int)"
    if np.isin(values, (0, 1)).all():
        ones = values.astype(np.int64).sum(1)
        if (ones == 1).all():
            return ". They are one-hot, exactly one class a row: np.argmax(labels, axis=1)"
        row = int(np.flatnonzero(ones != 1)[0])
        return f"; row {row} names {ones[row]} classes, and no single number holds that{many}"
    return ". Shares or scores of several classes cannot be trained on" if values.dtype.kind == "f" else many


def _few(names: Iterable[str]) -> str:
    every = list(names)
    return f"[{', '.join(map(repr, every[:SHOWN]))}{', ...' if len(every) > SHOWN else ''}]"
