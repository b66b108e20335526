"""The sums over samples that ridge regression needs, from one pass over the rows.

The rows are shifted and scaled by what the first block has, which keeps float64 sums exact for features far from 0
without a pass to find their means; `centred` takes the rest of the mean off.

Invariant: sums of disjoint samples add up to the sums of all, so what is held out can be taken off again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.training.solvers.linear import Standard
from headstart.training.solvers.rows import Rows, finite


@dataclass(frozen=True)
class Moments:
    """Weighted sums over some samples: of 1, x, y, x x^T, x y^T and y^2, x as it is shifted and scaled."""

    count: float
    x: NDArray[np.float64]
    """`(d,)`"""
    y: NDArray[np.float64]
    """`(k,)`"""
    xx: NDArray[np.float64]
    """`(d, d)`"""
    xy: NDArray[np.float64]
    """`(d, k)`"""

    @classmethod
    def zeros(cls, d: int, k: int) -> Moments:
        return cls(0.0, np.zeros(d), np.zeros(k), np.zeros((d, d)), np.zeros((d, k)))

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Moments:
        """With the samples of a block, `x` `(b, d)`, `y` `(b, k)`, `weights` `(b,)`; the large sum in place."""
        root = np.sqrt(weights)[:, None]
        xw, yw = x * root, y * root
        xx = self.xx
        xx += xw.T @ xw  # one array and its transpose: BLAS computes half of it
        return Moments(
            self.count + weights.sum(), self.x + weights @ x, self.y + weights @ y, xx, self.xy + xw.T @ yw
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.count - other.count, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy
        )

    def centred(self, scale: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The covariances of x, in units of `scale` `(d,)`, `(d, d)`, and of x with y, `(d, k)`."""
        x = self.x / self.count
        xx = self.xx / self.count
        xx -= np.outer(x, x)
        xx /= scale
        xx /= scale[:, None]
        return xx, (self.xy / self.count - np.outer(x, self.y / self.count)) / scale[:, None]


@dataclass(frozen=True)
class Summed:
    """The sums of each part of the samples, and how x was shifted and scaled for them."""

    parts: tuple[Moments, ...]
    start: Standard
    """what x was shifted and scaled by"""
    standard: Standard
    """what standardises the features, of all samples"""

    @property
    def total(self) -> Moments:
        total = self.parts[0]
        for part in self.parts[1:]:
            total = total + part
        return total

    @property
    def scale(self) -> NDArray[np.float64]:
        """`(d,)`: the deviation of x as it is shifted and scaled."""
        return self.standard.deviation / self.start.deviation


def summed(
    rows: Rows, targets: NDArray[np.float64], weights: NDArray[np.float64], part_of: NDArray[np.intp], parts: int
) -> Summed:
    """The sums of each of `parts` disjoint parts of the samples; `part_of`: int `(n,)`, 0 to parts - 1.

    One pass over the rows. DataError for rows that are not finite.
    """
    start: Standard | None = None
    sums: list[Moments] = []
    for where, block in rows.blocks():
        block = finite(block).astype(np.float64, copy=False)
        if start is None:
            start = spread(block, np.ones(len(block)))
            sums = [Moments.zeros(block.shape[1], targets.shape[1]) for _ in range(parts)]
        x = (block - start.mean) / start.deviation
        of, y, w = part_of[where], targets[where], weights[where]
        for part in np.unique(of):
            chosen = slice(None) if parts == 1 else of == part
            sums[part] = sums[part].add(x[chosen], y[chosen], w[chosen])
    assert start is not None
    count, x = sum(part.count for part in sums), sum((part.x for part in sums), np.zeros_like(start.mean))
    xx = sum((part.xx.diagonal() for part in sums), np.zeros_like(start.mean))
    return Summed(tuple(sums), start, _standard_of(count, x, xx, start))


def standard_of(rows: Rows, weights: NDArray[np.float64], kept: int) -> tuple[Standard, np.ndarray]:
    """What standardises the features, and some of the rows as they are, at even distances and of weight above 0:
    about `kept` for each feature.

    One pass over the rows. DataError for rows that are not finite.
    """
    start: Standard | None = None
    count, x1, x2 = 0.0, np.zeros(0), np.zeros(0)
    some = []
    takes = np.zeros(len(weights), bool)
    for where, block in rows.blocks():
        finite(block)
        if start is None:
            start = spread(block.astype(np.float64, copy=False), np.ones(len(block)))
            x1, x2 = np.zeros_like(start.mean), np.zeros_like(start.mean)
            counting = np.flatnonzero(weights > 0)
            takes[counting[:: max(1, len(counting) // (kept * block.shape[1]))]] = True
        x = (block - start.mean) / start.deviation
        w = weights[where]
        count, x1, x2 = count + w.sum(), x1 + w @ x, x2 + w @ x**2
        some.append(block[takes[where]])
    assert start is not None
    return _standard_of(count, x1, x2, start), np.concatenate(some)


def spread(block: NDArray[np.float64], weights: NDArray[np.float64]) -> Standard:
    """The weighted mean and deviation of rows that are at hand; exactly 0, and so 1, for a feature that does not
    vary among those that count."""
    counting = block[weights > 0]
    same = (counting == counting[0]).all(0)
    mean = np.where(same, counting[0], np.average(block, 0, weights))
    deviation = np.sqrt(np.average((block - mean) ** 2, 0, weights))
    return Standard(mean, np.where(same | (deviation == 0), 1.0, deviation))


def _standard_of(count: float, x: NDArray[np.float64], xx: NDArray[np.float64], start: Standard) -> Standard:
    """From the sums of x and x^2, `(d,)`, x as `start` shifted and scaled it."""
    x, xx = x / count, xx / count
    variance = xx - x**2
    # what is left of a feature that does not vary is rounding
    varies = variance > 1e-12 * np.maximum(xx, np.finfo(np.float64).tiny)
    deviation = np.where(varies, np.sqrt(np.where(varies, variance, 1.0)), 1.0)
    return Standard(start.mean + x * start.deviation, deviation * start.deviation)
