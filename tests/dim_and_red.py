"""Pictures of two classes that a small head tells apart, dim ones and red ones."""

from __future__ import annotations

import numpy as np

import headstart as hs
from headstart.data import Dataset


def dim_and_red(count: int = 48, height: int = 32, width: int = 32) -> Dataset:
    """Noise, in turn of one class and of the other; the same at every call."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (count, height, width, 3), np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, :, :, 0] += 90
    return hs.data.arrays(images, labels, classes=["dim", "red"])
