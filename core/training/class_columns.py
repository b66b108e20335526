"""Classes as columns, for what knows numbers only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def class_columns(
    labels: np.ndarray, count: int, *, there: float = 1.0, absent: float = 0.0, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """`(n, count)` of labels `(n,)`, positions of classes: `there` in the column of its class, else `absent`.
    Nothing of the size of count x count is made, which of 10,000 classes would be 800 MB."""
    columns = np.full((len(labels), count), absent, dtype)
    columns[np.arange(len(labels)), labels] = there
    return columns
