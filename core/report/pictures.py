"""Small pictures for the report, as data URIs: samples, and the kernels of a convolution.

A picture holds a pixel for a pixel or a weight and is small; the page enlarges it, PNGs in hard squares.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import DataError
from headstart.data import Dataset

LONGEST = 112  # pixels of a thumbnail's longer side
TINY = 64  # up to so many, a picture is kept as it is
SHEET = 4096  # weights of one channel in a picture of kernels; larger kernels are shown fewer of
GAP = 1  # pixels between kernels

# What is not finite; grey and the colours of differences hold no such colour.
BROKEN = (255, 0, 255)
# The colours of differences, from the largest decrease over none to the largest increase.
DECREASE, NONE, INCREASE = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], np.float64)


def thumbnails(dataset: Dataset, indices: Iterable[int], longest: int = LONGEST) -> dict[str, str]:
    """Sample id -> picture, of the samples at these positions, of `longest` pixels at most. What is no image, and
    files that can no longer be read or have changed, are left out."""
    pictures: dict[str, str] = {}
    if dataset.entries is not None:
        return pictures
    for index in indices:
        try:
            image, id = dataset.load(int(index))
        except (DataError, OSError):
            continue
        pictures[id] = _thumbnail(image, longest)
    return pictures


def _thumbnail(image: Image.Image, longest: int = LONGEST) -> str:
    small = image.convert("RGB")
    if max(small.size) <= min(TINY, longest):
        red, green, blue = (channel.tobytes() for channel in small.split())
        return _png(small.convert("L") if red == green == blue else small)
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def kernels(node: str, before: np.ndarray, after: np.ndarray, most: int = 64) -> dict[str, Any]:
    """A convolution's kernels before and after training, and their difference, as pictures.

    `before`, `after`: `(out, in, kh, kw)`. Three input channels are drawn as red, green and blue; of any other
    number the mean is drawn, in grey, its difference in blue (less) and red (more). Mid-grey, or white where a
    difference is drawn in colours, is zero. `before` and `after` share one scale, which ends where all but 0.5 %
    of the weights before do (after, where those are half as large again or more); the difference has its own, up
    to the largest. The first kernels are shown, at most `most`; `max_difference` is exact, over all of them.
    """
    old, new = (np.asarray(kernels, np.float32) for kernels in (before, after))
    change = new.astype(np.float64) - old.astype(np.float64)
    of, _, height, width = old.shape
    shown = max(1, min(of, most, SHEET // (height * width)))
    drawn = [_drawn(kernels[:shown]) for kernels in (old, new, change)]
    colour = old.shape[1] == 3
    scales = [_largest(picture, share=0.995) for picture in drawn[:2]]
    # Of the kernels before, if it will do: then all runs from the same weights have the same picture of them.
    scale = scales[0] if scales[1] <= 1.5 * scales[0] else scales[1]
    return {
        "node": node,
        "shown": shown,
        "of": of,
        "max_difference": float(np.abs(change).max()),
        "before": _sheet(_grey(drawn[0], scale)),
        "after": _sheet(_grey(drawn[1], scale)),
        "difference": _sheet((_grey if colour else _diverging)(drawn[2], _largest(drawn[2], share=1.0))),
    }


def _drawn(weights: np.ndarray) -> np.ndarray:
    """(n, in, kh, kw) -> (n, kh, kw, 3 or 1)"""
    weights = weights.astype(np.float64)
    if weights.shape[1] != 3:
        weights = weights.mean(1, keepdims=True)
    return weights.transpose(0, 2, 3, 1)


def _largest(values: np.ndarray, share: float) -> float:
    """The size within which this share of the finite values lies; 1 where there is nothing to scale by."""
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.size or sizes.max() == 0:
        return 1.0
    return float(np.quantile(sizes, share)) or float(sizes.max())


def _grey(values: np.ndarray, scale: float) -> np.ndarray:
    """Zero is mid-grey, of each channel: `(n, kh, kw, 3)` uint8."""
    shade = 128 + 127 * np.clip(np.nan_to_num(values / scale), -1, 1)
    return _marked(np.broadcast_to(shade, (*shade.shape[:3], 3)), values)


def _diverging(values: np.ndarray, scale: float) -> np.ndarray:
    """Blue below zero, white at it, red above: `(n, kh, kw, 3)` uint8."""
    share = np.clip(np.nan_to_num(values / scale), -1, 1)  # (n, kh, kw, 1)
    shade = NONE + np.abs(share) * (np.where(share < 0, DECREASE, INCREASE) - NONE)
    return _marked(shade, values)


def _marked(shade: np.ndarray, values: np.ndarray) -> np.ndarray:
    broken = ~np.isfinite(values).all(-1, keepdims=True)
    marked: np.ndarray = np.where(broken, BROKEN, np.rint(shade)).astype(np.uint8)
    return marked


def _sheet(tiles: np.ndarray) -> str:
    """Tiles `(n, kh, kw, 3)` in rows, transparent between them."""
    n, height, width, _ = tiles.shape
    square = math.ceil(math.sqrt(n))
    # A full rectangle, if one is not much wider than high: 32 kernels as 8 by 4.
    columns = next((c for c in range(square, 2 * square) if n % c == 0), square)
    rows = math.ceil(n / columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    return _png(Image.fromarray(sheet))


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
