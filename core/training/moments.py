"""Mean and deviation of features by channel, and the map that standardises them: one for heads that are trained
step by step, for those that are solved, and for what advice measures.

Each block of rows is summed around its own mean, and the blocks' sums are put together as Chan, Golub and LeVeque
have it (1983, https://doi.org/10.1080/00031305.1983.10483115): features far from 0 lose no digits, whatever comes
first.

How much a channel varies beside the others is knowledge too: a trunk that was trained has its wide channels where
they tell classes apart, and divided each by its own deviation they lose up to three points (docs/defaults.md): of
a head that is trained or solved, and of nearest neighbours. So all are divided by one number, unless they are
further apart than trunks leave them.

Invariant: a channel that does not vary among the samples that count is mapped to 0, never blown up by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from ml_dtypes import finfo
from numpy.typing import NDArray

from headstart.common.machine import cpus

T = TypeVar("T")
Floats = NDArray[np.float64]
BLOCK_NBYTES = 1 << 20  # of float32: what is worked on at once stays in a core's cache
MOST_ROWS = 1024  # of a block, as squares are added up in float32
SPREAD = 0.5
"""of the logarithms of the channels' deviations. Trained trunks leave 0.3 to 0.6 on photographs, random ones 0.8;
on digits, of which many channels see nothing, it is 2"""
SMALLEST = 1e-72  # of a variance; 1 / deviation and what it makes of weights are to be numbers of float32
LEAST_SQUARES = 1e-30  # added up in float32: below, what is lost of the smallest of them shows
DIGITS = 4  # a channel varies if its deviation is more than so many times what its mean is rounded by
TRUNK_DIGITS = 64  # and tells samples apart if it is more than so many times that: a trunk's roundings add up


def computed_in(dtype: np.dtype[Any]) -> type[np.float32] | type[np.float64]:
    """What rows of this dtype are computed in; half precision is only how they are stored."""
    return np.float64 if dtype == np.float64 else np.float32


@dataclass(frozen=True, eq=False)
class Standard:
    """The map that standardises features: x -> (x - mean) / deviation, by channel."""

    mean: Floats
    """`(channels,)`"""
    deviation: Floats
    """`(channels,)`, above 0"""

    def map(self, rows: np.ndarray) -> np.ndarray:
        """`rows`, contiguous `(n, ..., channels)` of any float dtype, are overwritten with what the map makes of
        them, and returned. What float16 does not hold becomes its largest number."""
        assert rows.flags.c_contiguous
        self._write(rows, rows)
        return rows

    def applied(self, rows: np.ndarray) -> np.ndarray:
        """What the map makes of `rows` `(n, ..., channels)`: new ones, float64 if the rows are, else float32."""
        made = np.empty(rows.shape, computed_in(rows.dtype))
        self._write(rows, made)
        return made

    def _write(self, rows: np.ndarray, into: np.ndarray) -> None:
        rows, into = (array.reshape(-1, array.shape[-1]) for array in (rows, into))
        dtype = computed_in(rows.dtype)
        centre, factor = self.mean.astype(dtype), (1 / self.deviation).astype(dtype)
        most = float(np.finfo(np.float16).max) if into.dtype == np.float16 else None

        def write(part: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                # of features far from 0 `x * factor + shift` loses digits, and the difference does not
                x = np.subtract(rows[part], centre, dtype=dtype)
                x *= factor
                if most is not None:
                    np.clip(x, -most, most, out=x)
                into[part] = x

        _each(write, _blocks(len(rows), rows.shape[-1]))

    def folded_layer(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """A layer for standardised features, weight `(..., k, channels)` and bias `(..., k)`, as one for the
        features."""
        weight = weight / self.deviation
        return weight, bias - weight @ self.mean


@dataclass(frozen=True)
class _Sums:
    """Of some rows: how many, their mean, and the squares of what they are off it, added up."""

    count: float
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, x: np.ndarray, weights: Floats | None) -> _Sums | None:
        """`x`: `(n, channels)`; None where no row counts."""
        count = float(len(x) if weights is None else weights.sum())
        if not count:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            near = x.mean(0) if weights is None else (weights @ x / count).astype(x.dtype)
            off = x - near
            weighted = off if weights is None else off * weights[:, None].astype(x.dtype)
            shift = weighted.sum(0, dtype=np.float64) / count
            squares = np.einsum("nc,nc->c", weighted, off).astype(np.float64)
            # of numbers above 1e19 or below 1e-19 float32 holds no squares, or only some of their digits
            beyond = ~np.isfinite(squares) | (squares < LEAST_SQUARES) if x.dtype == np.float32 else None
            if beyond is not None and beyond.any():
                pair = (array[:, beyond].astype(np.float64) for array in (weighted, off))
                squares[beyond] = np.einsum("nc,nc->c", *pair)
            squares -= count * shift**2
            return cls(count, near + shift, squares.clip(0))

    def __add__(self, other: _Sums) -> _Sums:
        count = self.count + other.count
        with np.errstate(invalid="ignore", over="ignore"):
            apart = other.mean - self.mean
            mean = self.mean + apart * (other.count / count)
            squares = self.squares + other.squares + apart**2 * (self.count * other.count / count)
        return _Sums(count, mean, squares)


class Moments:
    """Mean and deviation by channel, from blocks of rows."""

    def __init__(self, averaged: bool = False) -> None:
        """`averaged`: it is the means over each sample's positions that count."""
        self.averaged = averaged
        self._sums: _Sums | None = None
        self._dtype: type[np.floating[Any]] = np.float64
        self._stored: np.dtype[Any] = np.dtype(np.float64)

    @classmethod
    def of(cls, rows: np.ndarray, weights: np.ndarray | None = None) -> Moments:
        """Of rows `(n, channels)` that are at hand."""
        moments = cls()
        moments.add(rows, weights)
        return moments

    def add(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        """`rows`: `(n, ..., channels)`, contiguous, of any float dtype. `weights`: `(n,)`; a sample of weight 2 is
        there twice, one of weight 0 not at all."""
        if not len(rows):
            return
        self._dtype, self._stored = computed_in(rows.dtype), rows.dtype
        positions = math.prod(rows.shape[1:-1])
        if not self.averaged:
            rows = rows.reshape(-1, rows.shape[-1])
        counts = None if weights is None else weights.astype(np.float64)
        if counts is not None and len(rows) > len(counts):
            counts = np.repeat(counts, positions)

        def summed(part: slice) -> _Sums | None:
            x = rows[part].astype(self._dtype, copy=False)
            if x.ndim > 2:
                x = x.reshape(len(x), -1, x.shape[-1]).mean(1)
            return _Sums.of(x, None if counts is None else counts[part])

        for sums in _each(summed, _blocks(len(rows), math.prod(rows.shape[1:]))):
            if sums is not None:
                self._sums = sums if self._sums is None else self._sums + sums

    def rounding(self) -> float | None:
        """The share of its mean by which computing in float32 and storing in the rows' dtype round a channel,
        where none deviates by more than that: all samples that count are alike then, as far as can be told. None
        where some channel varies, none is finite, or one sample counts."""
        if self._sums is None or self._sums.count <= 1:
            return None
        mean, variance = self._sums.mean, self._sums.squares / self._sums.count
        finite = np.isfinite(mean) & np.isfinite(variance)
        stored = float(finfo(self._stored).eps)  # type: ignore[no-untyped-call]  # numpy's knows no bfloat16
        computed = float(np.finfo(np.float32).eps)
        share = max(DIGITS * stored, TRUNK_DIGITS * computed)
        alike = np.sqrt(variance[finite]) <= share * np.abs(mean[finite])
        return share if len(alike) and alike.all() else None

    def standard(self, centred: bool = True) -> Standard:
        """The map that standardises these rows, in numbers that their dtype holds. `centred`: whether a mean can
        be taken off; if not, the deviation is that around 0. Channels whose deviations are no further apart than
        `SPREAD`, the deviation of their logarithms, are all divided by one number; others are drawn together to
        that, and none stays further than three times it off the median. The mean of their variances becomes 1.

        A channel that does not vary, or is not finite, keeps its scale."""
        assert self._sums is not None, "no row counts"
        mean, variance = self._sums.mean, self._sums.squares / self._sums.count
        with np.errstate(invalid="ignore", over="ignore"):
            if not centred:
                variance = variance + mean**2
            usable = np.isfinite(variance) & np.isfinite(mean) & (variance > SMALLEST)
            usable &= variance > (DIGITS * np.finfo(self._dtype).eps * mean) ** 2
        mean = np.where(np.isfinite(mean), mean, 0) * centred
        deviation = np.sqrt(np.where(usable, variance, 1))
        if usable.any():
            beside = np.log(deviation[usable] / np.median(deviation[usable]))
            beside *= SPREAD / max(SPREAD, float(beside.std()))
            beside = np.exp(beside.clip(-3 * SPREAD, 3 * SPREAD))
            # steps are as large as of channels that each have a variance of 1
            deviation[usable] *= np.sqrt((beside**2).mean()) / beside
        return Standard(*(values.astype(self._dtype).astype(np.float64) for values in (mean, deviation)))


def _blocks(count: int, size: int) -> list[slice]:
    """Of so many rows, each of so many numbers."""
    rows = min(MOST_ROWS, max(1, BLOCK_NBYTES // (4 * max(1, size))))
    return [slice(start, start + rows) for start in range(0, count, rows)]


def _each(work: Callable[[slice], T], blocks: list[slice]) -> list[T]:
    """What comes of each block, in order, whichever thread it was done by."""
    if len(blocks) == 1:
        return [work(blocks[0])]
    with ThreadPoolExecutor(cpus(), thread_name_prefix="headstart-standardize") as pool:
        return list(pool.map(work, blocks))
