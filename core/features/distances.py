"""How far a stored row may be from the same row computed anew, and which rows are farther."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Relative distances of a row from the one computed anew. Two backends' float32 sums differ by about 1e-6; what
# resnet50, mobilenet_v2, vit_b_16 and convnext_tiny give on an H100 differs from a CPU's by up to 1.2e-6 in
# float32, 8e-4 in TF32, 1e-3 in float16 and 1.5e-2 in bfloat16.
STRICT_LIMITS = {"float32": 5e-3, "float16": 5e-3, "bfloat16": 1e-2, "uint8": 2e-2}
# Below these a row is right: rounding to the stored type gives as much.
ROUNDING = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 8e-3, "uint8": 5e-3}
# At least so far, by the precision of the trunk; half of it is rounding.
ARITHMETIC = {"float32": 0.0, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 0.05}


def limit_of(dtype: str, precision: str) -> float:
    """How far a row stored as `dtype` may be, where the trunk computes in `precision`."""
    return max(STRICT_LIMITS[dtype], ARITHMETIC[precision])


def distances(fresh: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.float64]:
    """`(n,)`: how far each stored row is from the one computed anew, as a share of its length. Not a number counts
    as infinitely far."""
    fresh, stored = _flat(fresh), _flat(stored)
    length = np.maximum(np.linalg.norm(fresh, axis=1), 1e-6)
    return np.asarray(np.nan_to_num(np.linalg.norm(fresh - stored, axis=1) / length, nan=np.inf), np.float64)


def wrong_rows(
    fresh: NDArray[Any], stored: NDArray[Any], limit: float, dtype: str, precision: str
) -> NDArray[np.bool_]:
    """`(n,)` bool: which stored rows are not those of their samples. A row is wrong where it is farther than
    `limit`. Some trunks give all images nearly the same features, so a row is also wrong where rounding does not
    explain its distance and other samples' rows are no farther from the right one."""
    far = distances(fresh, stored)
    fresh, stored = _flat(fresh), _flat(stored)
    wrong = ~(far <= limit)
    if len(fresh) > 1:
        apart = np.linalg.norm(fresh[:, None] - fresh[None], axis=2)[np.triu_indices(len(fresh), 1)]
        explained = max(ROUNDING[dtype], ARITHMETIC[precision] / 2)
        wrong |= (far > explained) & (np.linalg.norm(fresh - stored, axis=1) > np.median(apart) / 2)
    return wrong


def _flat(rows: NDArray[Any]) -> NDArray[np.float64]:
    return rows.reshape(len(rows), -1).astype(np.float64)
