"""How well scores rank the samples that have a class before those that have not: the area under the ROC curve, and
average precision, both from one sort.

Definitions are those of scikit-learn's `roc_auc_score` (ties count half, Fawcett 2006) and
`average_precision_score` (the sum of precision times the gain in recall, over the distinct scores, not
interpolated).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """Each None where it cannot be told."""

    auc: float | None
    """needs samples on both sides"""
    average_precision: float | None
    """needs samples that have the class"""


def ranking(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None) -> Ranking:
    """Of one class. `scores`: float `(n,)`, without NaN; `positive`: bool `(n,)`; `weights`: float64 `(n,)`."""
    if weights is None:
        ordered, passed = np.sort(scores), np.arange(len(scores) + 1.0)
        mine = np.ones(int(np.count_nonzero(positive)))
    else:
        order = np.argsort(scores)
        ordered, passed = scores[order], np.concatenate([[0.0], np.cumsum(weights[order])])
        mine = weights[positive]
    # `passed[i]`: weight of the i smallest
    thresholds, place = np.unique(scores[positive], return_inverse=True)
    at = np.bincount(place, mine, minlength=len(thresholds))  # weight of the positives with just that score
    below = np.cumsum(at) - at
    positives = float(at.sum())
    left, right = (passed[np.searchsorted(ordered, thresholds, side)] for side in ("left", "right"))
    total = float(passed[-1])
    negatives = total - positives if weights is None else float(weights[~positive].sum())
    auc = precision = None
    if positives > 0 and negatives > 0:
        won = (left - below) + 0.5 * (right - left - at)
        auc = float((at * won).sum() / (positives * negatives))
    if positives > 0:
        counted = at > 0
        precisions = (positives - below[counted]) / (total - left[counted])
        precision = float((at[counted] * precisions).sum() / positives)
    return Ranking(auc, precision)
