"""What features are standardised by, told by scikit-learn's StandardScaler: an independent reference."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

SPREAD = 0.5
"""as docs/defaults.md and docs/training.md say; not read from the code that is tested"""


def scaler_of(rows: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """A StandardScaler of `(n, channels)` of which the scales are evened: how many times wider than the middle one
    a channel is, is raised to the power that leaves its logarithms a spread of at most `SPREAD`, and bounded by
    three times that; the mean variance is 1. A constant channel keeps its scale. `weights`: of the rows."""
    rows = rows.astype(np.float64)
    scaler = StandardScaler().fit(rows, sample_weight=weights)
    counting = rows if weights is None else rows[weights > 0]
    varying = np.flatnonzero((counting != counting[0]).any(0))
    if len(varying):
        middle = statistics.median(scaler.scale_[varying])
        times = [math.log(scaler.scale_[channel] / middle) for channel in varying]
        power = min(1.0, SPREAD / statistics.pstdev(times)) if len(set(times)) > 1 else 1.0
        for channel, logarithm in zip(varying, times, strict=True):
            kept = max(-3 * SPREAD, min(3 * SPREAD, power * logarithm))
            scaler.scale_[channel] /= math.exp(kept)
        mapped = ((rows - scaler.mean_) / scaler.scale_)[:, varying]
        scaler.scale_[varying] *= np.sqrt(np.average(mapped**2, 0, weights).mean())
    return scaler
