"""Weights are stored in torchvision's layout; backends that compute on `(n, h, w, c)` want the channels
last. The two directions stand side by side here, so that they stay each other's inverse."""

from __future__ import annotations

import numpy as np


def to_channels_last(weight: np.ndarray) -> np.ndarray:
    """Convolution `(out, in, kh, kw)` -> `(kh, kw, in, out)`; linear `(out, in)` -> `(in, out)`; a vector
    stays."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T)


def from_channels_last(weight: np.ndarray) -> np.ndarray:
    """The inverse of `to_channels_last`."""
    return np.ascontiguousarray(weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T)
