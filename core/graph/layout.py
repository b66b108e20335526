"""Weights are stored in torchvision's layout; backends that compute on `(n, h, w, c)` want the channels
last. The two directions stand side by side here, so that they stay each other's inverse."""

from __future__ import annotations

import numpy as np

ROWS = 16  # of 4 bytes: a line of a cache


def to_channels_last(weight: np.ndarray) -> np.ndarray:
    """Convolution `(out, in, kh, kw)` -> `(kh, kw, in, out)`; linear `(out, in)` -> `(in, out)`; a vector
    stays."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)) if weight.ndim == 4 else _transposed(weight)


def from_channels_last(weight: np.ndarray) -> np.ndarray:
    """The inverse of `to_channels_last`."""
    return np.ascontiguousarray(weight.transpose(3, 2, 0, 1)) if weight.ndim == 4 else _transposed(weight)


def _transposed(weight: np.ndarray) -> np.ndarray:
    """Contiguous, `(m, n)` -> `(n, m)`; a vector stays. A few rows at a time: numpy goes through a whole column
    for each row of the result, which for a matrix that no cache holds takes up to eight times as long."""
    if weight.ndim != 2:
        return np.ascontiguousarray(weight.T)
    transposed = np.empty(weight.shape[::-1], weight.dtype)
    for start in range(0, len(weight), ROWS):
        transposed[:, start : start + ROWS] = weight[start : start + ROWS].T
    return transposed
