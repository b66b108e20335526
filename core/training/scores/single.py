"""Scores of one class a sample, from logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.common.slices import slices
from headstart.training.scores.calibration import calibration_error
from headstart.training.scores.per_class import (
    add_ranking,
    rows_of_classes,
    weighted_mean,
    weights_of,
    why_none_counts,
)
from headstart.training.scores.resampling import exact_share, interval, ratio
from headstart.training.scores.result import Scores, finished, mean_of, nothing

TOP = 5
CLASSES_FOR_TOP = 20
"""with more classes than these, a label among the five likeliest is a score of its own"""
NAMES = (
    *("accuracy", "top5_accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1"),
    *("macro_auc", "macro_average_precision", "calibration_error", "log_loss"),
)


@dataclass(frozen=True)
class _Rows:
    """What is kept of each sample's logits."""

    total: np.ndarray
    """float64 `(n,)`: log of the sum of their exponentials; not finite where they name no class"""
    predicted: np.ndarray
    """int64 `(n,)`"""
    confidence: np.ndarray
    """float64 `(n,)`: probability of the predicted class"""
    loss: np.ndarray
    """float64 `(n,)`: cross-entropy"""
    place: np.ndarray
    """int64 `(n,)`: of the label among the classes, from 0, the likeliest first; of equal ones the first class, as
    in `predicted`"""


def single_scores(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    weights: Any = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Scores:
    """`logits`: float `(n, k)`; `labels`: int64 `(n,)`; `weights`: `(n,)` or None. `seed`, `groups`: of the
    interval.

    Averages ("macro") are over the classes that have the score: those with samples, and for precision those that
    some sample was taken for. DataError for weights that are negative or not finite.
    """
    n, k = logits.shape
    weights = weights_of(weights, n)
    names = tuple(name for name in NAMES if k > CLASSES_FOR_TOP or name != "top5_accuracy")
    if uncounted := why_none_counts(n, weights):
        return nothing("single", n, names, uncounted)
    rows = _rows(logits, labels)
    if lost := int((~np.isfinite(rows.total)).sum()):
        return nothing("single", n, names, f"the logits of {lost} of {n} samples are not finite")

    right = rows.predicted == labels
    samples = np.bincount(labels, minlength=k)
    per_class = rows_of_classes(
        classes,
        samples,
        np.bincount(labels, right if weights is None else right * weights, minlength=k),
        np.bincount(labels, weights, minlength=k),
        np.bincount(rows.predicted, weights, minlength=k),
    )
    _add_rankings(per_class, logits, rows.total, labels, weights)
    values = {
        "accuracy": weighted_mean(right, weights),
        **({"top5_accuracy": weighted_mean(rows.place < TOP, weights)} if k > CLASSES_FOR_TOP else {}),
        "balanced_accuracy": mean_of(per_class, "recall"),
        **{f"macro_{name}": mean_of(per_class, name) for name in ("precision", "recall", "f1")},
        "macro_auc": mean_of(per_class, "auc"),
        "macro_average_precision": mean_of(per_class, "average_precision"),
        "calibration_error": calibration_error(rows.confidence, right, weights),
        "log_loss": weighted_mean(rows.loss, weights),
    }

    def reason(name: str) -> str:
        # There are samples, so some class has recall and F1.
        if name == "log_loss":
            return f"infinite: the class of {np.isinf(rows.loss).sum()} of {n} samples is ruled out"
        return "all samples are of one class" if "auc" in name else "no class that has samples was predicted"

    return finished("single", n, values, reason, _interval(right, weights, seed, groups), per_class)


def _rows(logits: np.ndarray, labels: np.ndarray) -> _Rows:
    n, k = logits.shape
    rows = _Rows(np.empty(n), np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n, np.int64))
    for part in slices(n, 8 * k):
        z, label = logits[part].astype(np.float64), labels[part, None]
        mine, largest = np.take_along_axis(z, label, 1), z.max(1, keepdims=True)
        rows.predicted[part] = z.argmax(1)
        # Of equal logits the first class comes first.
        rows.place[part] = (z > mine).sum(1) + ((z == mine) & (np.arange(k) < label)).sum(1)
        with np.errstate(invalid="ignore"):  # logits that are not finite: the caller looks
            np.exp(np.subtract(z, largest, out=z), out=z)
            sums = z.sum(1)
            rows.total[part] = largest[:, 0] + np.log(sums)
            rows.confidence[part] = 1 / sums
            rows.loss[part] = rows.total[part] - mine[:, 0]
    return rows


def _add_rankings(
    per_class: list[dict[str, Any]],
    logits: np.ndarray,
    total: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
) -> None:
    """AUC and average precision of each class against the rest. Samples are ranked by the logarithm of the class's
    probability, in 32 bits: probabilities near 0 stay apart, and those that only rounding keeps apart do not."""
    n, k = logits.shape
    for part in slices(k, 8 * n):
        with np.errstate(over="ignore"):  # of logits as large as float32 has them: ruled out
            columns = (logits[:, part] - total[:, None]).T.astype(np.float32, order="C")
        for number, column in enumerate(columns, part.start):
            add_ranking(per_class[number], column, labels == number, weights)


def _interval(
    right: np.ndarray, weights: np.ndarray | None, seed: int, groups: np.ndarray | None
) -> tuple[float, float] | None:
    """Of the accuracy."""
    if weights is None and right.all() == right.any():
        return exact_share(bool(right[0]), len(right if groups is None else np.unique(groups)))
    w = np.ones(len(right)) if weights is None else weights
    return interval(np.stack([w * right, w], 1), ratio, seed, groups)
