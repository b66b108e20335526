"""What an epoch's record says of the validation data: a loss, an accuracy, and the score that the task is known
by. They are computed after every epoch, so they are the cheap ones; `scores` has the others.

Invariant: where samples have weights, each of them is weighted, as the scores are: a sample of weight 2 is there
twice, one of weight 0 not at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.training.metrics import named_labels, right_classes
from headstart.training.objective import Objective
from headstart.training.scores.per_class import weighted_mean


class Measured(NamedTuple):
    """None: there are no validation data, or the task has no such figure."""

    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None
    """the headline score of the task"""


def measure_heads(objective: Objective, outputs: np.ndarray, targets: np.ndarray, data: Any) -> list[Measured]:
    """Of each of `h` heads: `outputs` float32 `(n, h, k)`, the others as of `measure`. Of classes for all heads at
    once: of few samples a call for each takes longer than what is computed."""
    n, h, k = outputs.shape
    if objective.task != SINGLE:
        return [measure(objective, outputs[:, head], targets, data) for head in range(h)]
    weights = None if data.weights is None else data.weights.astype(np.float64)
    of_heads, classes = outputs.swapaxes(0, 1).reshape(h * n, k), np.tile(targets, h)
    losses = objective.validation_losses(of_heads, classes).reshape(h, n)
    right = right_classes(of_heads, classes).reshape(h, n)
    shares = [weighted_mean(of_head, weights) for of_head in right]
    return [
        Measured(weighted_mean(of_head, weights), share, share)
        for of_head, share in zip(losses, shares, strict=True)
    ]


def measure(objective: Objective, outputs: np.ndarray, targets: np.ndarray, data: Any) -> Measured:
    """`outputs`: float32 `(n, k)` as a trainer gives them, for `targets` as its loss takes them; `data`: the
    samples with their labels and weights, of which one at least counts."""
    weights = None if data.weights is None else data.weights.astype(np.float64)
    loss = weighted_mean(objective.validation_losses(outputs, targets), weights)
    if objective.task == REGRESSION:
        errors = objective.errors(objective.predictions(outputs), data.labels)
        return Measured(loss, None, weighted_mean(errors, weights))
    if objective.task == MULTI:
        there = targets != 0
        predicted, terms = named_labels(outputs, targets, objective.decided(outputs, data))
        share = weighted_mean((predicted == there).all(1) & ~np.isnan(outputs).any(1), weights)
        counted = np.ones(len(terms)) if weights is None else weights
        hits, both = (counted @ terms).tolist()
        return Measured(loss, share, hits / both if counted @ there.any(1) else None)
    share = weighted_mean(right_classes(outputs, targets), weights)
    return Measured(loss, share, share)
