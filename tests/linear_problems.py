"""What the tests of solvers solve: rows that are hard to keep apart and harder to scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scalers import scaler_of


def problem(n: int = 90, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of unlike scales and far from 0, labels, and weights of which one is 0."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = rng.normal(0, 1, (classes, d))
    rows = (centres[labels] + rng.normal(0, 2, (n, d))) * rng.uniform(0.01, 30, d) + rng.normal(0, 50, d)
    weights = rng.uniform(0.2, 3, n)
    weights[1] = 0
    return rows, labels, weights


def standardised(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(scaler_of(rows, weights).transform(rows.astype(np.float64)))


class Blocks:
    """Rows that are read again and again, in blocks of odd sizes."""

    def __init__(self, rows: np.ndarray, size: int) -> None:
        self.rows, self.size = rows, size

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.rows), self.size):
            yield self.rows[start : start + self.size]
