"""What a cut's features tell before anything is trained on them: how well simple learners do on held-out samples,
how that grows with the samples, and how the classes lie.

Invariant: every score is of held-out samples, and no group is on both sides, but `seen`, which says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headstart.common.errors import DataError
from headstart.data.annotations import MULTI, SINGLE
from headstart.data.samples import Samples
from headstart.training.advice.held_out import Positions, Solved, Target, neighbours, solved, standardised
from headstart.training.advice.logme import logme
from headstart.training.scores import scores_of
from headstart.training.scores.result import Scores

FOLDS = 5
FEW = 1000
"""samples, of which each can be held out by itself"""
LEAST = 10
"""samples, or groups of such, below which held-out scores say nothing"""
SHARES = (0.25, 0.5, 1.0)
"""of the learning curve"""
SILHOUETTE_SAMPLES = 1000


@dataclass(frozen=True)
class CutFigures:
    """One cut of one trunk. Scores are the task's headline: accuracy, micro F1, mean absolute error."""

    cut: str
    shape: tuple[int, ...]
    """of a sample's features as they are stored for training"""
    score: float
    """of a ridge regression on held-out samples"""
    interval: tuple[float, float] | None
    """95 %, by bootstrap over samples, or over groups where they have such"""
    error: float
    """the same as an error from 0: the share of wrong answers, 1 - F1; of targets the mean absolute error as a
    share of what the mean target has. 1 is no better than knowing nothing, and may be exceeded"""
    seen: float
    """score of a ridge regression on the samples that it has learnt from"""
    knn: float
    """score of the nearest neighbours among the other folds' samples"""
    curve: tuple[tuple[int, float], ...]
    """(samples that were learnt from, score) at a quarter, half and all of them"""
    silhouette: float | None
    """of the classes, -1 to 1, by cosine (Rousseeuw 1987): how much nearer samples are to their own class than to
    the next; None of several labels and of targets. Samples count alike, whatever their weights"""
    logme: float
    """see `headstart.training.advice.logme`"""
    spread: float
    """how many directions the features spread in evenly, as a share of their number: (sum of variances)^2 /
    (number * sum of squared variances)"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "shape": list(self.shape),
            "interval": None if self.interval is None else list(self.interval),
            "curve": [list(point) for point in self.curve],
        }


def folds_for(data: Samples, seed: int) -> list[Positions] | None:
    """Five folds, fewer of few groups; no group is in two, nor are equal samples. None, of few samples without
    groups: each is held out by itself, since a fifth of them is too many to do without. DataError where there are
    too few to hold any out."""
    groups = data.groups
    distinct = len(set(data.ids if groups is None else groups))
    what = "different samples" if groups is None else "groups"
    least = LEAST if groups is None else 2
    if distinct < least:
        raise DataError(
            f"{data.name} has {distinct} {what} to train on; expected at least {least}, as a part of them is held "
            "out to see what could be learnt of the others"
        )
    if groups is None and distinct == len(data) <= FEW:
        return None
    count = min(FOLDS, distinct)
    numbers = data.without_folds().fold_numbers(count, seed)
    return [np.flatnonzero(numbers == fold) for fold in range(count)]


def measure(
    cut: str, shape: tuple[int, ...], x: np.ndarray, data: Samples, folds: Sequence[Positions] | None, seed: int
) -> CutFigures:
    """`x`: features `(n, d)` of the samples of `data`; `folds`: as of `folds_for`; `shape`: of the cut itself."""
    target = Target.of(data)
    fitted = {share: solved(x, target, folds, data.weights, share, seed) for share in SHARES}
    whole = _scores(target.outputs(fitted[1.0].held_out), data, target)
    headline = whole.headline
    learnt = len(data) - 1 if folds is None else len(data) * (len(folds) - 1) / len(folds)

    def of_share(of: Solved) -> float:
        return _scores(target.outputs(of.held_out), data.subset(of.rows), target)[headline]

    return CutFigures(
        cut=cut,
        shape=shape,
        score=whole[headline],
        interval=whole.interval,
        error=error_of(whole[headline], data),
        seen=_scores(target.outputs(fitted[1.0].seen), data, target)[headline],
        knn=_scores(target.outputs(neighbours(x, target, folds)), data, target)[headline],
        curve=tuple((round(share * learnt), of_share(of)) for share, of in fitted.items()),
        silhouette=_silhouette(x, data, seed) if data.task == SINGLE else None,
        logme=logme(x, target.columns, target.weights),
        spread=_spread(x, target.weights),
    )


def error_of(score: float, data: Samples) -> float:
    """A headline score as an error, see `CutFigures.error`."""
    return 1 - score if data.task in (SINGLE, MULTI) else score / max(of_the_median(data), 1e-30)


def score_of(error: float, data: Samples) -> float:
    """The inverse of `error_of`; no share is outside of 0 to 1."""
    return min(max(1 - error, 0.0), 1.0) if data.task in (SINGLE, MULTI) else error * of_the_median(data)


def of_the_median(data: Samples) -> float:
    """The headline score of always saying the targets' median, of samples by their weights."""
    labels, target = data.labels.astype(np.float64), Target.of(data)
    order = labels.argsort(0)
    passed = target.weights[order].cumsum(0)
    middle = (passed >= passed[-1] / 2).argmax(0)
    median = np.take_along_axis(np.take_along_axis(labels, order, 0), middle[None], 0)
    scores = _scores(np.broadcast_to(median, labels.shape), data, target)
    return scores[scores.headline]


def _scores(outputs: np.ndarray, data: Samples, target: Target) -> Scores:
    deviation = None if data.task in (SINGLE, MULTI) else target.scale.tolist()
    groups = data.annotations.groups
    return scores_of(
        data.task, outputs, data.labels, data.classes, data.weights, deviation=deviation, groups=groups
    )


def _silhouette(x: np.ndarray, data: Samples, seed: int) -> float | None:
    from sklearn.metrics import silhouette_score

    rows = np.random.default_rng(seed).permutation(len(x))[:SILHOUETTE_SAMPLES]
    labels = data.labels[rows]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(standardised(x)[rows], labels, metric="cosine"))


def _spread(x: np.ndarray, weights: np.ndarray) -> float:
    x = x.astype(np.float64)
    x = (x - np.average(x, 0, weights)) * np.sqrt(weights / weights.mean())[:, None]
    gram = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    squares = float((gram**2).sum())
    return float(np.trace(gram)) ** 2 / (x.shape[1] * squares) if squares else 0.0
