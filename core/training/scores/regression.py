"""Scores of one or several numbers a sample, in the user's own units."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.training.scores.per_class import leave_out, weights_of, why_none_counts
from headstart.training.scores.resampling import interval, ratio
from headstart.training.scores.result import Scores, finished, mean_of, nothing

NAMES = ("mae", "rmse", "r2")


def regression_scores(
    predictions: np.ndarray, labels: np.ndarray, targets: tuple[str, ...], weights: Any = None, seed: int = 0
) -> Scores:
    """`predictions`, `labels`: float `(n, d)`; `weights`: `(n,)` or None. `seed`: of the interval.

    Mean absolute error, root of the mean squared error, and R2; of several targets the mean over those that have
    it, whatever their units. R2 of a target that does not vary cannot be told, so that of one sample neither.
    DataError for weights that are negative or not finite.
    """
    n = len(labels)
    w = weights_of(weights, n)
    if uncounted := why_none_counts(n, w):
        return nothing("regression", n, NAMES, uncounted)
    for what, numbers in (("predictions", predictions), ("targets", labels)):
        if lost := int((~np.isfinite(numbers)).any(1).sum()):
            return nothing("regression", n, NAMES, f"the {what} of {lost} of {n} samples are not finite")
    truth = labels.astype(np.float64)
    errors = predictions.astype(np.float64) - truth
    counted = slice(None) if w is None else w > 0
    mean = np.average(truth, axis=0, weights=w)
    mae, mse, spread = (
        np.average(of, axis=0, weights=w) for of in (np.abs(errors), errors**2, (truth - mean) ** 2)
    )
    varies = truth[counted].min(0) < truth[counted].max(0)
    rows: list[dict[str, Any]] = []
    for j, name in enumerate(targets):
        row: dict[str, Any] = {"class": name, "samples": n, "mae": float(mae[j]), "rmse": float(mse[j] ** 0.5)}
        if varies[j]:
            row["r2"] = float(1 - mse[j] / spread[j])
        else:
            leave_out(row, "r2", "the target is the same in every sample" if n > 1 else "there is one sample only")
        rows.append(row)
    values = {name: mean_of(rows, name) for name in NAMES}
    weight = np.ones(n) if w is None else w
    ends = interval(np.stack([weight * np.abs(errors).mean(1), weight], 1), ratio, seed)
    return finished("regression", n, values, lambda name: rows[0]["undefined"][name], ends, rows)
