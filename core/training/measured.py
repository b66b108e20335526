"""What an epoch's record says of the validation data: a loss, an accuracy, and the score that the task is known
by. They are computed after every epoch, so they are the cheap ones; `scores` has the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from headstart.data.annotations import MULTI, REGRESSION
from headstart.training.metrics import accuracy, named_labels
from headstart.training.objective import Objective


class Measured(NamedTuple):
    """None: there are no validation data, or the task has no such figure."""

    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None
    """the headline score of the task"""


def measure(objective: Objective, outputs: np.ndarray, targets: np.ndarray, data: Any) -> Measured:
    """`outputs`: float32 `(n, k)` as a trainer gives them, for `targets` as its loss takes them; `data`: the
    samples with their labels."""
    loss = objective.validation_loss(outputs, targets)
    if objective.task == REGRESSION:
        errors = np.abs(objective.predictions(outputs).astype(np.float64) - data.labels)
        return Measured(loss, None, float(errors.mean()))
    if objective.task == MULTI:
        there = targets != 0
        predicted, terms = named_labels(outputs, targets, objective.decided(outputs, data))
        share = float(((predicted == there).all(1) & ~np.isnan(outputs).any(1)).mean())
        hits, both = terms.sum(0).tolist()
        return Measured(loss, share, hits / both if there.any() else None)
    share = accuracy(outputs, targets)
    return Measured(loss, share, share)
