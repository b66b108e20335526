"""How far apart two outputs are that should be one, so that what cannot be rounding is seen.

Invariant: no channel hides behind a larger one. Some networks have channels a thousand times as large as the rest
(Sun et al. 2024, arXiv:2402.17762), next to which the others would be no more than rounding.
"""

from __future__ import annotations

import numpy as np

CHANNEL = 0.1  # of what a channel holds at most, rounding moves less
TINY = 2.0**-126  # below float32's normal numbers fewer digits are left, and some processors take them for 0
FLOOR = 0.1  # of what is allowed of the largest number: what sums of large terms leave in a small channel


def excess(a: np.ndarray, b: np.ndarray, allowed: float) -> float | None:
    """The largest difference of two float64 arrays of one shape `(..., channels)` if it is more than rounding;
    None if it is not. `allowed`: what rounding moves, of the largest number."""
    apart = np.abs(a - b)
    apart = np.where(apart < TINY, 0.0, apart)
    scale = max(_most(a), _most(b))
    if not _most(apart) <= allowed * scale:  # NaN is more
        return _most(apart)
    if not a.ndim or not a.size:
        return None
    axes = tuple(range(a.ndim - 1))
    moved = apart.max(axes)
    most = np.maximum(np.abs(a).max(axes), np.abs(b).max(axes))
    beyond = moved > max(CHANNEL, allowed) * most + FLOOR * allowed * scale
    return _most(moved[beyond]) if beyond.any() else None


def _most(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))
