"""Scores of one or several numbers a sample, in the user's own units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.training.scores.per_class import leave_out, weighted_mean, weights_of, why_none_counts
from headstart.training.scores.resampling import interval, ratio
from headstart.training.scores.result import Scores, finished, mean_of, nothing

NAMES = ("mae", "rmse", "r2")


def headline_errors(
    predictions: np.ndarray, labels: np.ndarray, deviation: Sequence[float] | None
) -> NDArray[np.float64]:
    """float64 `(n,)`: what each sample adds to the headline score, the mean over its targets of the absolute
    error. Of several targets each error is divided by the target's deviation, so that no unit rules; of one it has
    its unit. `predictions`, `labels`: float `(n, d)`, in units; `deviation`: `(d,)`, above 0."""
    off = np.abs(predictions.astype(np.float64) - labels)
    if off.shape[1] > 1 and deviation is not None:
        off /= np.array(deviation)
    return np.asarray(off.mean(1), np.float64)


def regression_scores(
    predictions: np.ndarray,
    labels: np.ndarray,
    targets: tuple[str, ...],
    weights: Any = None,
    seed: int = 0,
    deviation: Sequence[float] | None = None,
    groups: np.ndarray | None = None,
) -> Scores:
    """`predictions`, `labels`: float `(n, d)`; `weights`: `(n,)` or None. `seed`, `groups`: of the interval.
    `deviation`: `(d,)`, by which the errors of several targets are made comparable: that of the training data;
    None: that of `labels`, 1 where they do not vary.

    Mean absolute error, root of the mean squared error, and R2; of several targets the mean over those that have
    it, whatever their units, so these have a standardised mean absolute error first. R2 of a target that does not
    vary cannot be told, so that of one sample neither. DataError for weights that are negative or not finite.
    """
    n, several = len(labels), len(targets) > 1
    names = ("standardised_mae", *NAMES) if several else NAMES
    w = weights_of(weights, n)
    if uncounted := why_none_counts(n, w):
        return nothing("regression", n, names, uncounted)
    for what, numbers in (("predictions", predictions), ("targets", labels)):
        if lost := int((~np.isfinite(numbers)).any(1).sum()):
            return nothing("regression", n, names, f"the {what} of {lost} of {n} samples are not finite")
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
    own = np.where(varies, spread**0.5, 1.0)
    of_each = headline_errors(predictions, labels, own.tolist() if deviation is None else deviation)
    values: dict[str, float | None] = {"standardised_mae": weighted_mean(of_each, w)} if several else {}
    values |= {name: mean_of(rows, name) for name in NAMES}
    weight = np.ones(n) if w is None else w
    ends = interval(np.stack([weight * of_each, weight], 1), ratio, seed, groups)
    return finished("regression", n, values, lambda name: rows[0]["undefined"][name], ends, rows)
