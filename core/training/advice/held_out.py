"""What linear regressions and nearest neighbours say of samples that they have not seen: each fold by what was
learnt of the others.

Ridge regression to the labels as numbers (a column a class) is solved, not trained, and its accuracy on held-out
samples is close to a trained linear head's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.data.annotations import MULTI, SINGLE
from headstart.data.samples import Samples
from headstart.training.class_columns import class_columns
from headstart.training.moments import Moments
from headstart.training.solvers.knn import knn
from headstart.training.solvers.ridge import ridge

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

PENALTIES = np.logspace(1, -3.5, 10)
"""multiples of the number of features"""
NEIGHBOURS = 5
MANY = 600
"""features, or samples if these are fewer, from which a decomposition takes a second: then a learning curve is of
fewer folds"""
FOLDS_OF_MANY = 2


@dataclass(frozen=True)
class Target:
    """Labels as numbers, and what is wrong with a prediction of them."""

    task: str
    labels: np.ndarray
    columns: Floats
    """`(n, k)`: a column a class or label, 0 or 1; or the targets, standardised"""
    mean: Floats
    scale: Floats
    """`(k,)`: the units of targets, for `outputs`"""
    weights: Floats
    """`(n,)`: how much each sample counts"""

    @classmethod
    def of(cls, data: Samples) -> Target:
        labels, count = np.asarray(data.labels), len(data.classes)
        columns = class_columns(labels, count) if data.task == SINGLE else labels.astype(np.float64)
        mean, scale, weights = np.zeros(count), np.ones(count), np.ones(len(labels))
        if data.weights is not None and data.weights.any():
            weights = data.weights.astype(np.float64)
        if data.task not in (SINGLE, MULTI):
            mean = np.average(columns, 0, weights)
            scale = np.sqrt(np.average((columns - mean) ** 2, 0, weights))
            scale[scale == 0] = 1
        return cls(data.task, labels, (columns - mean) / scale, mean, scale, weights)

    def outputs(self, predicted: np.ndarray) -> Floats:
        """Predictions of the columns `(..., k)` as `scores_of` takes them: logits, or targets in their units."""
        return predicted.astype(np.float64) * self.scale + self.mean - (0.5 if self.task == MULTI else 0.0)

    def error(self, predicted: np.ndarray) -> float:
        """The share of wrong answers; of targets the mean absolute error. Samples count by their weights."""
        if self.task == SINGLE:
            wrong = predicted.argmax(1) != self.labels
        elif self.task == MULTI:
            wrong = ((predicted > 0.5) != self.labels).mean(1)
        else:
            wrong = np.abs(predicted - self.columns).mean(1)
        return float(np.average(wrong, weights=self.weights))


@dataclass(frozen=True)
class Solved:
    """Predictions of a ridge regression, of the penalty with the least error on held-out samples."""

    held_out: np.ndarray
    """`(m, k)`, of the samples at `rows`"""
    rows: Positions
    """all of them, but where a curve is of fewer folds"""
    seen: np.ndarray
    """`(n, k)`: of a regression that has learnt from these samples, too"""


def solved(
    x: np.ndarray,
    target: Target,
    folds: Sequence[Positions] | None,
    weights: np.ndarray | None = None,
    share: float = 1.0,
    seed: int = 0,
) -> Solved:
    """`x`: `(n, d)`. `folds`: positions, each sample in one of them; None: each by itself. `weights`: of samples.
    `share`: of the samples those that are learnt from, of every fold about as many; a smaller share is part of a
    larger one."""
    n, d = x.shape
    part = fold_numbers(folds, n)
    counting: Floats = np.ones(n) if weights is None else np.array(weights, np.float64)
    if share < 1:
        draw: Floats = np.asarray(np.random.default_rng(seed).random(n))
        for fold in [np.arange(n)] if folds is None else folds:
            count = max(2, round(share * len(fold)))
            counting[fold[np.argsort(draw[fold], kind="stable")[count:]]] = 0
        if min(n, d) > MANY and part is not None:
            part[part >= FOLDS_OF_MANY] = -1
    if not counting.any():
        counting[:] = 1
    path = ridge(x, target.columns, PENALTIES * d, weights=counting, folds=part)
    assert path.held_out is not None
    rows = np.arange(n) if part is None else np.flatnonzero(part >= 0)
    held_out = path.held_out[:, rows]
    errors = [_of(target, rows).error(predicted) for predicted in held_out]
    best = int(np.argmin(errors))  # of equal ones the largest penalty, which comes first
    seen = x @ path.weight[best].T + path.bias[best]
    return Solved(held_out[best], rows, seen)


def _of(target: Target, rows: Positions) -> Target:
    labels, columns, weights = (of[rows] for of in (target.labels, target.columns, target.weights))
    return Target(target.task, labels, columns, target.mean, target.scale, weights)


def fold_numbers(folds: Sequence[Positions] | None, count: int) -> Positions | None:
    """int64 `(count,)`: which fold each sample is in; None: each in one of its own."""
    if folds is None:
        return None
    part = np.full(count, -1, np.int64)
    for number, fold in enumerate(folds):
        part[fold] = number
    return part


def standardised(x: np.ndarray, weights: np.ndarray | None = None) -> NDArray[np.float32]:
    """By mean and deviation, of samples by their weights; what does not vary is 0."""
    return np.asarray(Moments.of(x, weights).standard().applied(x), np.float32)


def neighbours(x: np.ndarray, target: Target, folds: Sequence[Positions] | None) -> np.ndarray:
    """`(n, k)`: for each sample the mean of the columns of its nearest samples of the other folds, by the cosine
    of their standardised features."""
    part, weights = fold_numbers(folds, len(x)), target.weights
    return knn(standardised(x, weights), target.columns, NEIGHBOURS, folds=part, weights=weights)
