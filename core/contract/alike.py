"""How far apart two outputs are that should be one, so that what cannot be rounding is seen.

Invariant: no channel hides behind a larger one. Some networks have channels a thousand times as large as the rest
(Sun et al. 2024, arXiv:2402.17762), next to which the others would be no more than rounding.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from headstart.contract.devices import CPU
from headstart.contract.recipe import FLOAT32, Place
from headstart.graph import NativePart

CHANNEL = 0.1  # of what a channel holds at most, rounding moves less
TINY = 2.0**-126  # below float32's normal numbers fewer digits are left, and some processors take them for 0
FLOOR = 0.1  # of what is allowed of the largest number: what sums of large terms leave in a small channel
# What sums in another order may move, by precision; and in float32 on a device that takes other kernels for
# batches of other sizes.
ALLOWED = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 0.05}
ELSEWHERE = 1e-3
ROUNDINGS = 8  # so many steps of a module's own numbers may two outputs of it differ


def allowed_among(place: Place, parts: Iterable[NativePart]) -> float:
    """What rounding may move where batches differ in size, of the largest number. `parts`: users' modules, which
    may compute in coarser numbers than the place does."""
    on_device = place.precision == FLOAT32 and place.kind != CPU
    allowed = ELSEWHERE if on_device else ALLOWED[place.precision]
    return max([allowed, *(ROUNDINGS * part.rounding for part in parts)])


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
