"""The sums over samples that ridge regression needs, from one pass over the rows.

The rows are shifted and scaled by what the first block has, which keeps float64 sums exact for features far from 0
without a pass to find their means; covariances have the rest of the mean taken off.

Invariant: sums of disjoint samples add up to the sums of all, so what is held out can be taken off again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.training.moments import Moments, Standard
from headstart.training.solvers.rows import Rows, finite


@dataclass(frozen=True)
class Products:
    """Weighted sums over some samples: of 1, x, y, x x^T and x y^T, x as it is shifted and scaled."""

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
    def zeros(cls, d: int, k: int) -> Products:
        return cls(0.0, np.zeros(d), np.zeros(k), np.zeros((d, d)), np.zeros((d, k)))

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Products:
        """With the samples of a block, `x` `(b, d)`, `y` `(b, k)`, `weights` `(b,)`; the large sum in place."""
        root = np.sqrt(weights)[:, None]
        xw, yw = x * root, y * root
        xx = self.xx
        xx += xw.T @ xw  # one array and its transpose: BLAS computes half of it
        return Products(
            self.count + weights.sum(), self.x + weights @ x, self.y + weights @ y, xx, self.xy + xw.T @ yw
        )

    def __add__(self, other: Products) -> Products:
        return Products(
            self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy
        )

    def __sub__(self, other: Products) -> Products:
        return Products(
            self.count - other.count, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy
        )

    def covariance(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of x, in units of `scale` `(d,)`: `(d, d)`."""
        x = self.x / self.count
        xx = self.xx / self.count
        xx -= np.outer(x, x)
        xx /= scale
        xx /= scale[:, None]
        return xx

    def with_targets(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """The covariance of x, in units of `scale` `(d,)`, with y: `(d, k)`."""
        x, y = self.x / self.count, self.y / self.count
        return np.asarray((self.xy / self.count - np.outer(x, y)) / scale[:, None])


@dataclass(frozen=True)
class Summed:
    """The sums of each part of the samples, and how x was shifted and scaled for them."""

    parts: tuple[Products, ...]
    start: Standard
    """what x was shifted and scaled by"""
    standard: Standard
    """what standardises the features, of all samples"""

    @property
    def total(self) -> Products:
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
    sums: list[Products] = []
    moments = Moments()
    for where, block in rows.blocks():
        finite(block)
        moments.add(block, weights[where])
        block = block.astype(np.float64, copy=False)
        if start is None:
            start = Moments.of(block).standard()
            sums = [Products.zeros(block.shape[1], targets.shape[1]) for _ in range(parts)]
        x = start.applied(block)
        of, y, w = part_of[where], targets[where], weights[where]
        for part in np.unique(of):
            chosen = slice(None) if parts == 1 else of == part
            sums[part] = sums[part].add(x[chosen], y[chosen], w[chosen])
    assert start is not None
    return Summed(tuple(sums), start, moments.standard())
