"""Memory as other programs want it.

Some frameworks take over an array's memory where it begins at a multiple of 64 bytes, and copy it, or abort,
where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any], alignment: int = ALIGNMENT) -> NDArray[Any]:
    """As `np.empty`, beginning at a multiple of so many bytes."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes].view(dtype).reshape(tuple(shape))
