"""Whether a model is right as often as it says it is."""

from __future__ import annotations

import numpy as np

BINS = 15


def calibration_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None) -> float:
    """The expected calibration error of Naeini, Cooper and Hauskrecht (2015) as Guo, Pleiss, Sun and Weinberger
    (2017, equation 3) have it: samples are put into 15 bins of equal width by the probability of the class that
    was predicted, and each bin's gap between mean probability and accuracy counts by its share of the samples.

    `confidence`: float64 `(n,)` from 0 to 1; `right`: bool `(n,)`; bins are (0, 1/15], (1/15, 2/15] ...
    """
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    gaps = confidence - right
    if weights is not None:
        gaps = gaps * weights
    # The gap of a bin's means times its weight is the gap of its sums.
    total = len(confidence) if weights is None else weights.sum()
    return float(np.abs(np.bincount(bins, gaps, BINS)).sum() / total)
