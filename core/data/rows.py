"""A batch is one array `(n, ...)`, or for models with several inputs a dict of such arrays. What is done with rows
wherever they come by stands here, so that only what makes a batch and what runs it need to know which it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Set, ValuesView
from typing import Any

import numpy as np

from headstart.common.errors import DataError, DataWarning

Rows = np.ndarray | dict[str, np.ndarray]
Entries = Mapping[str, tuple[tuple[int, ...], str]]
"""name -> shape and dtype of one sample's array; the name "" stands for the only one, which is in no dict"""

ALONE = ""


def each(change: Callable[[Any], Any], rows: Any) -> Any:
    """The same with `change` applied to every array."""
    return {name: change(array) for name, array in rows.items()} if isinstance(rows, dict) else change(rows)


def count(rows: Any) -> int:
    """How many samples there are."""
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def with_one_more(rows: Any) -> Any:
    """The samples, and the first of them once more."""
    return each(lambda array: np.concatenate([array, array[:1]]), rows)


def nbytes(rows: Any) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in (rows.values() if isinstance(rows, dict) else [rows]))


def window(rows: Any, start: int, stop: int) -> Any:
    """The samples from `start` to before `stop`."""
    return each(lambda array: array[start:stop], rows)


def pad(rows: Any, size: int) -> Any:
    """The batch with exactly `size` rows, filled up with zeros: compiled code sees one shape."""

    def fill(array: np.ndarray) -> np.ndarray:
        if len(array) == size:
            return array
        return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])

    return each(fill, rows)


def unmasked(values: Any, what: str) -> Any:
    """The values as they came, but of a masked array that masks nothing the array in it. DataError where it masks
    something: what is behind a mask must not be taken for a value."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if np.ma.is_masked(values):
        masked = int(np.ma.getmaskarray(values).sum())
        raise DataError(
            f"{what}: {masked} of {values.size} values are masked; leave those samples out, or fill them: "
            "values.filled(...)"
        )
    return np.ma.getdata(values)


def ordered(values: Any, what: str) -> Any:
    """The values as they came: an array, a sequence, or what can be read once. DataError for what has no order of
    its own, and for what is read from its beginning each time without places to ask for: a set of tf.data that is
    shuffled, or a loader, gives images in one order and labels in another."""
    if hasattr(values, "__array__") or isinstance(values, Iterator | ValuesView):
        return values
    if isinstance(values, Set | Mapping):
        raise DataError(f"{what} are a {type(values).__name__}; expected a list, in the order of the samples")
    if hasattr(values, "__iter__") and not (hasattr(values, "__getitem__") and hasattr(values, "__len__")):
        raise DataError(
            f"{what} are a {type(values).__name__}, which may come in another order each time that it is read; "
            "make lists of images and labels in one pass: images, labels = zip(*pairs)"
        )
    return values


def warn_of_order(columns: Mapping[str, Any]) -> None:
    """DataWarning where columns of pandas have one index in two orders: they are taken as they stand, and pandas
    puts them side by side by their index."""
    every: list[tuple[str, Any]] = [(name, getattr(values, "index", None)) for name, values in columns.items()]
    indexed = [(name, index) for name, index in every if hasattr(index, "equals")]
    for name, index in indexed[1:]:
        first, other = indexed[0]
        if len(index) == len(other) and not index.equals(other) and set(index) == set(other):
            warnings.warn(
                f"{first} and {name} have one index in two orders, and are taken in the order in which each "
                "stands: if their rows belong together by the index, take both from one frame",
                DataWarning,
                stacklevel=5,
            )
            return


def entries_of(rows: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """What one sample of `rows` is."""
    named = rows if isinstance(rows, Mapping) else {ALONE: rows}
    return {name: (tuple(array.shape[1:]), array.dtype.name) for name, array in named.items()}


def described(entries: Entries) -> str:
    """For messages: "float32 (16, 8)", "{'ids': int64 (32,), 'mask': bool (32,)}"."""
    if ALONE in entries:
        shape, dtype = entries[ALONE]
        return f"{dtype} {shape}"
    return "{" + ", ".join(f"{name!r}: {dtype} {shape}" for name, (shape, dtype) in sorted(entries.items())) + "}"
