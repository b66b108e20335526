"""Images resized without a filter against aliasing, as TensorFlow's `tf.image.resize` does by default and with it
Keras's layers: each pixel is interpolated from the few next to its centre, however many lie between.

The kernels are those of Pillow's names; at an edge, the weights of the pixels that are there are made to sum to
one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image


def _bilinear(x: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.maximum(0, 1 - np.abs(x))
    return weights


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys's, with a slope of -1/2."""
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bilinear": (_bilinear, 1),
    "bicubic": (_bicubic, 2),
    "lanczos": (_lanczos, 3),
}
"""interpolation -> weight by the distance in pixels, and up to which distance there is one"""


def sampled(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """`image` (RGB) at the `size` (width, height), interpolated between the pixels next to each centre, rounded to
    bytes."""
    width, height = size
    if interpolation not in KERNELS:  # in whole numbers, since centres often are where two pixels meet
        down, across = (
            (2 * np.arange(made) + 1) * given // (2 * made)
            for made, given in ((height, image.height), (width, image.width))
        )
        return Image.fromarray(np.asarray(image)[down[:, None], across])
    rows = _along_rows(np.asarray(image), height, interpolation)
    columns = _along_rows(rows.transpose(1, 0, 2), width, interpolation)
    return Image.fromarray(np.clip(np.rint(columns.transpose(1, 0, 2)), 0, 255).astype(np.uint8))


def _along_rows(pixels: np.ndarray, side: int, interpolation: str) -> np.ndarray:
    """`(side, w, 3)` float32 of `(h, w, 3)`."""
    kernel, reach = KERNELS[interpolation]
    centres = (np.arange(side) + 0.5) * (len(pixels) / side) - 0.5
    taken = np.floor(centres).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    weights = kernel(centres[:, None] - taken) * ((taken >= 0) & (taken < len(pixels)))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    made = np.zeros((side, *pixels.shape[1:]), np.float32)
    for place in range(taken.shape[1]):
        made += pixels[taken[:, place].clip(0, len(pixels) - 1)] * weights[:, place, None, None]
    return made
