"""Learned positions for images of another size than the one they were trained with: the grid is resized as an
image, bicubic and antialiased, as timm does it. Tokens that stand before the grid, such as the class token's
place, are kept."""

from __future__ import annotations

import math

import numpy as np

from headstart.errors import WeightsError
from headstart.graph import Shape


def resample(positions: np.ndarray, shape: Shape) -> np.ndarray:
    """`(..., t, c)` positions of a square grid -> `shape`, `(t', c)` of another one."""
    channels = positions.shape[-1]
    rows = positions.reshape(-1, channels)
    prefix, old, new = _grids(len(rows), shape[0])
    if channels != shape[1] or prefix is None:
        raise WeightsError(
            f"positions of shape {positions.shape} cannot be resized to {shape}; expected square grids with as "
            "many channels and as many tokens before them"
        )
    grid = rows[prefix:].reshape(old, old, channels).astype(np.float64)
    along = _bicubic(old, new)
    resized = np.einsum("ih,jw,hwc->ijc", along, along, grid, optimize=True)
    return np.concatenate([rows[:prefix], resized.reshape(new * new, channels)]).astype(np.float32)


def _grids(old: int, new: int) -> tuple[int | None, int, int]:
    """How many tokens stand before both grids, and the grids' sides."""
    for prefix in (1, 0):
        sides = math.isqrt(old - prefix), math.isqrt(new - prefix)
        if sides[0] ** 2 == old - prefix and sides[1] ** 2 == new - prefix:
            return prefix, *sides
    return None, 0, 0


def _bicubic(old: int, new: int) -> np.ndarray:
    """`(new, old)` weights of antialiased bicubic resizing, Keys's kernel with a = -0.5, half-pixel centres: what
    Pillow, and torch's interpolate with antialias=True, compute."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres[:, None]) / support
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    result: np.ndarray = weights / weights.sum(1, keepdims=True)
    return result
