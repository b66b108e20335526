"""Learned positions for images of another size than the one they were trained with: the grid is resized as an
image, bicubic and antialiased, as timm does it. Tokens that stand before the grid, such as the class token's
place, are kept."""

from __future__ import annotations

import math

import numpy as np

from headstart.common.errors import WeightsError
from headstart.graph import Shape


def resizable(old: Shape, new: Shape) -> bool:
    """Whether positions of shape `old`, `(..., t, c)`, can be brought to `new`, `(t', c)`: both are square grids
    with as many channels, and with as many tokens before them (one or none)."""
    return _grids(old, new) is not None


def resample(positions: np.ndarray, shape: Shape) -> np.ndarray:
    """`(..., t, c)` positions -> float32 `(t', c)`, which is `shape`. Raises WeightsError if not `resizable`."""
    if (grids := _grids(positions.shape, shape)) is None:
        raise WeightsError(
            f"positions of shape {positions.shape} cannot be resized to {shape}; expected square grids with as "
            "many channels and as many tokens before them"
        )
    prefix, old, new = grids
    rows = positions.reshape(-1, shape[1])
    grid = rows[prefix:].reshape(old, old, shape[1]).astype(np.float64)
    along = _bicubic(old, new)
    resized = np.einsum("ih,jw,hwc->ijc", along, along, grid, optimize=True)
    return np.concatenate([rows[:prefix], resized.reshape(new * new, shape[1])]).astype(np.float32)


def _grids(old: Shape, new: Shape) -> tuple[int, int, int] | None:
    """How many tokens stand before both grids, and the grids' sides; None: see `resizable`."""
    if len(old) < 2 or old[-1] != new[-1]:
        return None
    counts = math.prod(old[:-1]), new[0]
    for prefix in (1, 0):
        a, b = (math.isqrt(max(count - prefix, 0)) for count in counts)
        if min(a, b) > 0 and counts == (a * a + prefix, b * b + prefix):
            return prefix, a, b
    return None


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
