"""A row of scores for each class: precision, recall and F1 from counts, AUC and average precision from a ranking.

Single and multi alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headstart.common.errors import DataError
from headstart.training.scores.ranking import ranking

NO_SAMPLES = "no sample has it"
UNCOUNTED = "no sample that has it counts"
NEVER_PREDICTED = "no sample was taken for it"
ONLY_ITS_OWN = "every sample has it"


def weights_of(weights: Any, count: int) -> np.ndarray | None:
    """float64 `(count,)`; None where every sample counts the same. DataError for weights that are none."""
    if weights is None:
        return None
    array = np.asarray(weights, np.float64)
    if array.shape != (count,):
        raise DataError(f"weights have the shape {array.shape}; expected one a sample, ({count},)")
    if not np.isfinite(array).all() or (array < 0).any():
        raise DataError("weights must be finite and not negative")
    return array


def why_none_counts(count: int, weights: np.ndarray | None) -> str | None:
    """Why nothing can be told of `count` samples; None where one of them counts."""
    if not count:
        return "there is no sample"
    return None if weights is None or weights.any() else "no sample has a weight above 0"


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Over the samples that count. One of weight 0 may have any value, infinity as well."""
    if weights is None:
        return float(values.mean())
    counted = weights > 0
    return float(np.average(values[counted], weights=weights[counted]))


def rows_of_classes(
    classes: tuple[str, ...], samples: np.ndarray, right: np.ndarray, actual: np.ndarray, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """A row a class. `samples`: `(k,)` numbers of its samples; `right`, `actual`, `predicted`: `(k,)` weights of
    the samples that have it and were taken for it, that have it, and that were taken for it.

    F1 of a class that nothing was taken for is 0 by its own definition, 2 TP / (2 TP + FP + FN); its precision is
    0 / 0. A class without samples has no recall, so no F1 either, though FP alone would make it 0.
    """
    rows = []
    for name, count, hit, had, taken in zip(
        classes, samples.tolist(), right.tolist(), actual.tolist(), predicted.tolist(), strict=True
    ):
        row: dict[str, Any] = {"class": name, "samples": count}
        undefined: dict[str, str] = {}
        if had > 0 and taken > 0:
            row["precision"] = hit / taken
        else:
            undefined["precision"] = _lacking(row) if had <= 0 else NEVER_PREDICTED
        if had > 0:
            row["recall"] = hit / had
            row["f1"] = 2 * hit / (had + taken)
        else:
            undefined["recall"] = undefined["f1"] = _lacking(row)
        if undefined:
            row["undefined"] = undefined
        rows.append(row)
    return rows


def add_ranking(row: dict[str, Any], scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None) -> None:
    """AUC and average precision of a class. `scores`, `positive`, `weights`: as of `ranking`."""
    auc, precision = ranking(scores, positive, weights)
    if auc is not None:
        row["auc"] = auc
    else:
        leave_out(row, "auc", _lacking(row) if precision is None else ONLY_ITS_OWN)
    if precision is not None:
        row["average_precision"] = precision
    else:
        leave_out(row, "average_precision", _lacking(row))


def _lacking(row: Mapping[str, Any]) -> str:
    """Why a class has no positives: it has no samples, or these weigh nothing."""
    return UNCOUNTED if row["samples"] else NO_SAMPLES


def leave_out(row: dict[str, Any], name: str, reason: str) -> None:
    """Say why a class has no such score."""
    row.setdefault("undefined", {})[name] = reason
