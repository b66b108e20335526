"""Inputs that are no images: arrays which a wrapped model takes as they are. `Arrays` does for them what
`Preprocess` does for images, with the same verbs, so that the loader and what is behind it treat both alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.common.reading import ANY, ListOf, check
from headstart.common.text import shortened
from headstart.data.dataset import Dataset
from headstart.data.decode import WHOLE, Jpegs
from headstart.data.rows import ALONE, Rows, described, entries_of, unmasked

DTYPES = frozenset(np.dtype(kind).name for kind in "?bBhHiIlLqQf")
"""in which arrays reach a model"""
MOST_NUMBERS = 1 << 31
"""of one sample"""


@dataclass(frozen=True)
class Arrays:
    """What a model takes: one array a sample, or a dict of them."""

    entries: tuple[tuple[str, tuple[int, ...], str], ...]
    """(name, shape of one sample, dtype), by name; numbers with a fraction arrive as float32"""

    @classmethod
    def like(cls, rows: Any) -> Arrays:
        """What a batch such as `rows` needs."""
        named = rows if isinstance(rows, Mapping) else {ALONE: rows}
        made = []
        for name, value in sorted(named.items()):
            array = np.asarray(unmasked(value, "the inputs"))
            if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
                raise SettingError(f"inputs are {array.dtype}{_of(name)}; expected numbers or booleans")
            if array.ndim < (2 if name == ALONE else 1) or not len(array):
                raise SettingError(
                    f"inputs have the shape {array.shape}{_of(name)}; expected (n, ...), at least one sample"
                )
            dtype = array.dtype.name if array.dtype.kind in "biu" else "float32"
            made.append((name, tuple(array.shape[1:]), dtype))
        if not made:
            raise SettingError("inputs are an empty dict; expected at least one array")
        return cls(tuple(made))

    @property
    def alone(self) -> bool:
        """Whether it is one array, in no dict."""
        return self.entries[0][0] == ALONE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, for the graph; () for a dict."""
        return self.entries[0][1] if self.alone else ()

    def allocate(self, n: int) -> Rows:
        """Room for `n` samples."""
        rows = {name: np.empty((n, *shape), dtype) for name, shape, dtype in self.entries}
        return rows[ALONE] if self.alone else rows

    def fill(self, rows: Any, k: int, sample: Any, crop: Any = None) -> None:
        """Write a loaded sample to row `k`."""
        for name, _, _ in self.entries:
            (rows if self.alone else rows[name])[k] = sample if self.alone else sample[name]

    def jpegs(self, part: float | None = None) -> Jpegs:
        """Nothing is decoded."""
        return WHOLE

    def check(self, data: Dataset) -> None:
        """DataError unless the data set yields what the model takes."""
        if data.entries is None:
            raise DataError(
                f"the data set {data.name!r} yields images, and the model takes {self}; wrap it with preprocess= "
                "for images, or pass arrays: hs.data.arrays(x, y)"
            )
        self._fit(data.entries, f"the data set {data.name!r} yields")

    def prepared(self, rows: Any) -> Rows:
        """A batch that a caller gave, as the model takes it; SettingError where it is another."""
        if isinstance(rows, Mapping):
            rows = {str(name): np.asarray(unmasked(array, "the inputs")) for name, array in rows.items()}
        elif not isinstance(rows, np.ndarray):
            raise SettingError(f"received {type(rows).__name__}; the model takes {self}: arrays of n samples each")
        try:
            self._fit(entries_of(rows), "received")
        except DataError as error:
            raise SettingError(str(error)) from None
        if isinstance(rows, dict) and len({len(array) for array in rows.values()}) > 1:
            lengths = {name: len(array) for name, array in rows.items()}
            raise SettingError(f"the arrays hold differing numbers of samples: {lengths}")
        if self.alone:
            return np.asarray(unmasked(rows, "the inputs"), self.entries[0][2])
        return {name: rows[name].astype(dtype, copy=False) for name, _, dtype in self.entries}

    def _fit(self, entries: Any, what: str) -> None:
        mine = {name: (shape, dtype) for name, shape, dtype in self.entries}
        fits = mine.keys() == entries.keys() and all(
            entries[name][0] == shape and _castable(entries[name][1], dtype)
            for name, (shape, dtype) in mine.items()
        )
        if not fits:
            raise DataError(f"{what} {described(entries)} a sample, and the model takes {self}")

    def affine(self) -> None:
        """There is nothing to normalise."""
        return

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values. Part of a trunk's key."""
        return {"arrays": [[name, list(shape), dtype] for name, shape, dtype in self.entries]}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Arrays:
        """The inverse of `as_dict`. ValueError for settings that this does not give."""
        check(settings["arrays"], ListOf(ListOf(ANY, 3)), "arrays")
        for name, shape, dtype in settings["arrays"]:
            check([name, dtype], ListOf(str), "the name and dtype of an array")
            check(shape, ListOf(int), "the shape of an array")
            if min(shape, default=0) < 0 or math.prod(shape) > MOST_NUMBERS or dtype not in DTYPES:
                raise ValueError(f"an array of a sample is {shortened(dtype)} of shape {shortened(str(shape))}")
        if not settings["arrays"]:
            raise ValueError("there are no arrays")
        return cls(tuple((name, tuple(shape), dtype) for name, shape, dtype in settings["arrays"]))

    def __str__(self) -> str:
        return described({name: (shape, dtype) for name, shape, dtype in self.entries})


def _castable(given: str, wanted: str) -> bool:
    if wanted == "float32":
        return given in ("float16", "bfloat16", "float32", "float64")
    return bool(np.can_cast(given, wanted, "safe")) if given != "bfloat16" else False


def _of(name: str) -> str:
    return f" in {name!r}" if name != ALONE else ""
