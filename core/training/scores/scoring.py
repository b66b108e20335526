"""From a task to the function that scores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headstart.common.errors import DataError, UnknownNameError
from headstart.training.scores.multi import THRESHOLD, best_threshold, multi_scores
from headstart.training.scores.regression import regression_scores
from headstart.training.scores.result import TASKS, Scores
from headstart.training.scores.single import single_scores


def scores_of(
    task: str,
    outputs: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    weights: Any = None,
    *,
    threshold: float | str = THRESHOLD,
    deviation: Sequence[float] | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Scores:
    """How well `outputs` fit `labels`.

    `task` "single": logits `(n, k)` and int `(n,)` class numbers; "multi": logits `(n, k)` and 0 or 1 `(n, k)`;
    "regression": predictions and targets `(n, d)`, both in the units of the targets. `classes`: names of the k
    classes or labels, or of the d targets. `weights`: `(n,)`, how much each sample counts; None: all the same.
    `threshold`: of "multi", from 0 to 1, or "best" for the one with the largest micro F1 on these very samples.
    `deviation`: of "regression", `(d,)`, what the errors of several targets are divided by; None: the labels' own.
    `seed`: of the interval's resamples. `groups`: `(n,)`, numbers or names: samples of one are drawn together for
    the interval; None: each by itself.

    Raises UnknownNameError for another task, DataError for arrays that do not fit each other.
    """
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    outputs, labels, names = np.asarray(outputs), np.asarray(labels), tuple(classes)
    expected = (len(outputs),) if task == "single" else outputs.shape
    if outputs.ndim != 2 or outputs.shape[1] != len(names) or labels.shape != expected:
        raise DataError(
            f"outputs have the shape {outputs.shape}, labels {labels.shape}, and there are {len(names)} classes; "
            f"expected (n, {len(names)}) and {'(n,)' if task == 'single' else f'(n, {len(names)})'}"
        )
    about = {}
    if groups is not None:
        if groups.shape != (len(outputs),):
            raise DataError(f"groups have the shape {groups.shape}; expected one a sample, ({len(outputs)},)")
        distinct, groups = np.unique(groups, return_inverse=True)
        about = {"groups": len(distinct)}
    scores = _of_task(task, outputs, labels, names, weights, threshold, deviation, seed, groups)
    return replace(scores, settings={**scores.settings, **about}) if about else scores


def _of_task(
    task: str,
    outputs: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    weights: Any,
    threshold: float | str,
    deviation: Sequence[float] | None,
    seed: int,
    groups: np.ndarray | None,
) -> Scores:
    if task == "single":
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise DataError(f"labels reach from {labels.min()} to {labels.max()}; there are {len(names)} classes")
        return single_scores(outputs, labels.astype(np.int64, copy=False), names, weights, seed, groups)
    if task == "regression":
        return regression_scores(outputs, labels, names, weights, seed, deviation, groups)
    if not isinstance(threshold, str):
        return multi_scores(outputs, labels, names, weights, float(threshold), seed, groups)
    if threshold != "best":
        raise UnknownNameError("threshold", threshold, ("best",), " (or a number from 0 to 1)")
    return multi_scores(outputs, labels, names, weights, best_threshold(outputs, labels, weights), seed, groups)
