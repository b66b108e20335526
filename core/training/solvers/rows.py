"""Rows of features, read from front to back, a block at a time, as often as a solver asks.

Invariant: every pass gives the same rows in the same order, and all of them; a source that does not is an error,
since a solver would otherwise solve for fewer samples than it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from headstart.common.errors import DataError
from headstart.training.moments import computed_in

BLOCK = 4096
"""rows at once, so that a block and what is computed of it stay small beside the rows"""


@dataclass(frozen=True)
class Rows:
    """`count` rows of features, `(count, d)`."""

    source: np.ndarray | Iterable[np.ndarray]
    """`(n, d)` of any float dtype, or something that can be iterated over again and again (a list, an object with
    `__iter__`; no generator), which gives such arrays, blocks of any size one after the other"""
    count: int
    """how many rows there are in all"""

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows these are, and they: `(at most size, d)`, float64 if the source's are, else float32.
        DataError where the source does not have `count` rows, or another width than before."""
        start, width = 0, None
        arrays = (self.source,) if isinstance(self.source, np.ndarray) else self.source
        for array in arrays:
            if array.ndim != 2 or (width is not None and array.shape[1] != width):
                raise DataError(f"a block of rows has the shape {array.shape}; expected (rows, {width or 'd'})")
            width = array.shape[1]
            for at in range(0, len(array), size):
                part = array[at : at + size]
                yield slice(start, start + len(part)), part.astype(computed_in(part.dtype), copy=False)
                start += len(part)
        if start != self.count:
            raise DataError(
                f"a pass over the rows gave {start} of them for {self.count} targets; every pass has to give "
                "all of them, as a list of blocks does and a generator does not"
            )


def rows_of(source: np.ndarray | Iterable[np.ndarray] | Rows, count: int) -> Rows:
    """As `Rows`; DataError where an array has another number of rows than `count`."""
    if isinstance(source, Rows):
        return source
    if isinstance(source, np.ndarray) and len(source) != count:
        raise DataError(f"{len(source)} rows of features and {count} targets; expected as many of both")
    return Rows(source, count)


def finite(block: np.ndarray) -> np.ndarray:
    """The block; DataError for a number that is none."""
    if not np.isfinite(block).all():
        raise DataError("features that are not finite: nothing can be solved for them")
    return block
