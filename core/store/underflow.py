"""Features that the stored dtype rounds to zero. float16 ends at 6e-8, and from 6e-5 down it holds ever fewer
digits: a trunk whose numbers are that small would be stored as noise or nothing.

A single number that becomes 0 beside larger ones of its channel is a rounding like any other, and zeros of a
rectifier are no loss. So two things count as a loss: a channel that was computed with numbers other than 0 and is
stored as zeros alone, and features that are all that small.

Invariant: the check takes two passes over a batch, which is in the processor's caches already.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import FeatureUnderflowError, UnderflowWarning

SERIOUS = 0.5  # of the channels
FEW = 0.01
ADVICE = 'Store them as float32 or bfloat16 (dtype="float32"), or scale what the trunk gives'


class Underflow:
    """What one writer's rows have lost so far."""

    def __init__(self) -> None:
        self._computed: NDArray[np.uint32] | None = None
        """of each channel, the bits that any of its numbers has, without the sign"""
        self._stored: NDArray[np.uint16] | None = None
        self._largest = 0

    def see(self, rows: NDArray[Any], magnitude: NDArray[np.uint16]) -> None:
        """`rows`: `(n, ..., channels)` float32 as they were computed, or float16 of which no channel was lost;
        `magnitude`: the bits of the same in float16, without the sign."""
        channels = rows.shape[-1] if rows.ndim > 1 else 1
        stored = np.bitwise_or.reduce(magnitude.reshape(-1, channels), axis=0)
        if rows.dtype == np.float32:
            bits = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, channels)
            computed = np.bitwise_or.reduce(bits, axis=0) & np.uint32(0x7FFFFFFF)
        else:
            computed = stored.astype(np.uint32)
        self._largest = max(self._largest, int(magnitude.max()))
        if self._computed is None or self._stored is None:
            self._computed, self._stored = computed, stored
        else:
            self._computed |= computed
            self._stored |= stored

    def _lost(self) -> tuple[int, int]:
        """(channels that were computed with numbers other than 0, those of them that are stored as zeros
        alone)."""
        if self._computed is None or self._stored is None:
            return 0, 0
        alive = self._computed != 0
        return int(alive.sum()), int((alive & (self._stored == 0)).sum())

    def check(self) -> None:
        """FeatureUnderflowError where the loss leaves the features with little meaning."""
        alive, lost = self._lost()
        if alive and self._largest < BARELY_THERE:
            raise FeatureUnderflowError(
                f"all features are below {BARELY_THERE * STEP:.0e}, of which float16 holds next to nothing: it "
                f"ends at 6e-08. {ADVICE}"
            )
        if alive and lost >= SERIOUS * alive:
            raise FeatureUnderflowError(
                f"{lost} of {alive} channels hold numbers that float16 rounds to zero, all of them: it ends at "
                f"6e-08. {ADVICE}"
            )

    def tell(self) -> None:
        """Warn of what was lost."""
        alive, lost = self._lost()
        if alive and self._largest < SMALLEST_NORMAL:
            warnings.warn(
                f"all features are below 6e-05, where float16 has fewer digits the smaller they are. {ADVICE}",
                UnderflowWarning,
                stacklevel=2,
            )
        elif lost > FEW * alive:
            warnings.warn(
                f"{lost} of {alive} channels of the features became zero in float16, which ends at 6e-08. "
                f"{ADVICE}",
                UnderflowWarning,
                stacklevel=2,
            )


STEP = float(np.finfo(np.float16).smallest_subnormal)
BARELY_THERE = 16  # steps above zero: four binary digits of the largest number
SMALLEST_NORMAL = int(np.array(np.finfo(np.float16).tiny, np.float16).view(np.uint16))
