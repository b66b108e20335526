"""Logistic regression to convergence, for a whole path of penalties side by side.

Minimised is `sum(w * loss) / sum(w) + penalty / 2 * |W|^2` over standardised features, the intercept free:
softmax's cross-entropy of classes, or for labels that are there or not each label's own, added up. It is
scikit-learn's `LogisticRegression(C=1 / (penalty * sum(w)))`, for labels one a label; for two classes, of which
it has one vector of weights and softmax two, its `C=2 / (penalty * sum(w))`.

All penalties, and all folds, are columns of one matrix product with the rows, so that a pass over them costs what
reading them costs; each goes its own way in `descent` and leaves the product as it arrives. The features'
covariance, estimated from some of the rows, preconditions them: over features as a network gives them, whose
variances differ by orders of magnitude in most directions, that takes a fifth of the passes (measured, 4,000 x
512:
11 where 55 were needed without).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from headstart.common.errors import DataError, SettingError
from headstart.training.moments import Moments, Standard, computed_in
from headstart.training.solvers.descent import REMEMBERED, Minimum, minimised
from headstart.training.solvers.linear import (
    HeldOut,
    LinearPath,
    checked_penalties,
    checked_weights,
    fold_list,
)
from headstart.training.solvers.rows import Rows, finite, rows_of

PENALTIES = 10
BAR = 1e-4
EVALUATIONS = 1000
COLUMNS = 4096
"""outputs that are computed at once, of all penalties and folds, so that a block's stay small beside the rows"""

NBYTES = 1 << 30
"""of what is remembered of steps, and of factors of covariances"""

LEAST = 1e-5
"""the share of a class that no sample has, whose intercept stays there: at the optimum it were infinite, and what
it costs to be held out would only say how early the descent ended"""

SURE = -69.0
"""where an output below the greatest one counts as no lower, at a probability of 1e-30: numbers below 1e-38 a CPU
multiplies up to forty times slower than others"""

SAMPLED = 4
"""rows for each feature that the covariance is estimated from"""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticPath(LinearPath):
    """Beside the layers, how far they are from the optimum."""

    objectives: NDArray[np.float64]
    """`(p,)`: what was minimised, of all samples"""
    gradients: NDArray[np.float64]
    """`(p,)`: the largest entry of its gradient; above the bar where it was not reached"""
    passes: int
    """over the rows"""


def logistic_penalties(d: int, count: int = PENALTIES) -> Floats:
    """float64 `(count,)`, falling: for d features, from 0.1 d to 1e-7 d."""
    return max(d, 1) * np.logspace(-1, -7, count)


def logistic(
    rows: np.ndarray | Iterable[np.ndarray] | Rows,
    targets: np.ndarray,
    penalties: object = None,
    *,
    labels: bool = False,
    pos_weight: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    keep: bool = True,
    on_held_out: HeldOut | None = None,
    bar: float = BAR,
    evaluations: int = EVALUATIONS,
) -> LogisticPath:
    """The linear layers for all penalties; with `folds`, predictions for each sample by weights that have not seen
    it.

    `rows`: `(n, d)`, or blocks of them that can be read again and again, see `Rows`. `targets`: float `(n, k)`,
    each row a distribution over the classes, 1 for a sample's class; with `labels` 1 or 0 for each label by
    itself. `penalties`: `(p,)`, above 0; None: `logistic_penalties(d)`. `pos_weight`: `(k,)`, with `labels`: how
    much more there being one counts. `weights`: `(n,)`, 0 or more. `folds`: int `(n,)`, which samples are held out
    together, -1 for never; features are standardised by all samples. `keep`, `on_held_out`: as `ridge` has them.
    `bar`: the largest entry of the gradient at the end, unless `evaluations` of it were not enough. `losses`: the
    weighted mean of what is held out's cross-entropy, of labels in the mean over them; without samples of a class
    that no other fold has, which no penalty can know.

    Rows in memory are standardised once, into a copy; streamed ones in every pass.
    DataError for rows that are not finite; SettingError for other arguments.
    """
    targets = np.asarray(targets, np.float32)
    if targets.ndim != 2 or not len(targets):
        raise DataError(f"targets of shape {targets.shape}; expected (n, k) of one sample or more")
    if not labels and np.abs(targets.sum(1) - 1).max() > 1e-4:
        raise SettingError("targets whose rows do not add up to 1; expected the classes' shares, or labels=True")
    rows, w = rows_of(rows, len(targets)), checked_weights(weights, len(targets))
    groups = [] if folds is None else fold_list(folds, len(targets))
    problem = _Problem(rows, targets, w, _Labels(pos_weight) if labels else _Classes())
    path = checked_penalties(logistic_penalties(problem.d) if penalties is None else penalties)
    parts = [np.zeros(0, np.intp), *groups]  # in the first nothing is held out
    minimum = problem.solved(path, parts, bar, evaluations)
    points = minimum.points.reshape(len(parts), len(path), -1, problem.d + 1)
    losses = held_out = None
    if groups:
        held_out = np.full((len(path), *targets.shape), np.nan, np.float32) if keep else None
        losses, counted = np.zeros(len(path)), 0.0
        for where, outputs, known in problem.outputs(points, parts):
            each = problem.curve.losses(outputs.transpose(1, 0, 2), targets[where][:, None], plain=True)
            losses += w[where][known] @ (each[known] / (targets.shape[1] if labels else 1))
            counted += float(w[where][known].sum())
            if held_out is not None:
                held_out[:, where] = outputs
            if on_held_out is not None:
                on_held_out(where, outputs)
        losses = losses / counted if counted else np.full(len(path), np.nan)
    weight, bias = problem.standard.folded_layer(points[0, ..., :-1], points[0, ..., -1])
    values, gradients = minimum.values[: len(path)], minimum.gradients[: len(path)]
    return LogisticPath(path, weight, bias, losses, held_out, values, gradients, problem.passes)


class _Classes:
    """Softmax's cross-entropy."""

    def losses(self, z: np.ndarray, targets: np.ndarray, plain: bool = False) -> np.ndarray:
        """`(b, h)` of outputs `(b, h, k)` and targets `(b, 1, k)`."""
        top = z.max(2, keepdims=True)
        return np.asarray(np.log(np.exp(z - top).sum(2)) + top[..., 0] - (z * targets).sum(2))

    def with_slopes(self, z: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The losses, and their derivatives by the outputs `(b, h, k)`, in the place of `z`."""
        z -= z.max(2, keepdims=True)
        own = np.einsum("bhk,bk->bh", z, targets[:, 0])
        np.maximum(z, SURE, out=z)
        np.exp(z, out=z)
        total = z.sum(2, keepdims=True)
        z /= total
        z -= targets
        return np.log(total[..., 0]) - own, z

    def start(self, shares: Floats) -> Floats:
        """The intercepts that give the classes' shares `(..., k)`."""
        return np.asarray(np.log(np.maximum(shares, LEAST)))


class _Labels:
    """Cross-entropy of each label by itself, added up."""

    def __init__(self, pos_weight: np.ndarray | None) -> None:
        self._there = np.float32(1) if pos_weight is None else np.asarray(pos_weight, np.float32)

    def _counting(self, targets: np.ndarray, plain: bool) -> tuple[np.ndarray, np.ndarray]:
        there = np.float32(1) if plain else self._there
        return 1 + (there - 1) * targets, there * targets

    def losses(self, z: np.ndarray, targets: np.ndarray, plain: bool = False) -> np.ndarray:
        """As `_Classes` has it; `plain`: without pos_weight."""
        both, there = self._counting(targets, plain)
        return np.asarray((both * np.logaddexp(0, z) - there * z).sum(2))

    def with_slopes(self, z: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        losses = self.losses(z, targets)
        both, there = self._counting(targets, False)
        z = np.tanh(z / 2, out=z)
        z += 1
        z *= both / 2
        z -= there
        return losses, z

    def start(self, shares: Floats) -> Floats:
        shares = shares * self._there / (1 + (self._there - 1) * shares)
        shares = shares.clip(LEAST, 1 - LEAST)
        return np.asarray(np.log(shares / (1 - shares)))


class _Problem:
    """The rows, standardised, with what is to be learned of them."""

    def __init__(self, rows: Rows, targets: np.ndarray, w: Floats, curve: _Classes | _Labels) -> None:
        self.rows, self.targets, self.w, self.curve = rows, targets, w, curve
        self.standard, some = _standard_of(rows, w)
        self.passes = 1
        self.d = len(self.standard.mean)
        self.dtype = computed_in(some.dtype)
        like = self.standard.applied(some)
        self._covariance: NDArray[Any] = like.T @ like / len(like)
        self._copy: np.ndarray | None = None
        if isinstance(rows.source, np.ndarray):
            self._copy = np.empty(rows.source.shape, self.dtype)
            for where, block in rows.blocks():
                self._copy[where] = self.standard.applied(block)

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        self.passes += 1
        if self._copy is not None:
            yield from Rows(self._copy, len(self._copy)).blocks()
        else:
            for where, block in self.rows.blocks():
                yield where, self.standard.applied(block)

    def solved(self, path: Floats, parts: Sequence[NDArray[np.intp]], bar: float, evaluations: int) -> Minimum:
        """The minimum of each penalty of the path without the samples of each part, part after part. Points are
        `(k, d + 1)`, the last column the intercepts.

        Each begins without weights. Where all samples led to would be nearer, but weights that fit every sample
        have a small gradient on most of them as well: they would be at the bar at once, and still know the others.
        """
        of_fold, shares = self._counting(parts)
        fold_of, penalties = np.repeat(np.arange(len(parts)), len(path)), np.tile(path, len(parts))
        lost = _lost(shares)[fold_of]
        start = np.zeros((len(penalties), shares.shape[1], self.d + 1))
        start[..., -1] = self.curve.start(shares)[fold_of]
        of_fold = of_fold.astype(self.dtype)
        k = start.shape[1]
        at_once = int(max(1, min(COLUMNS // k, NBYTES // (2 * REMEMBERED * start[0].nbytes))))
        noise = 1e-6 if self.dtype == np.float32 else 1e-12
        groups: list[Minimum] = []
        for first in range(0, len(penalties), at_once):
            part = slice(first, first + at_once)
            evaluator = self._evaluator(penalties[part], of_fold, fold_of[part], lost[part])
            preconditioner = self._preconditioner(penalties[part])
            with _scipy_in_one_thread():
                groups.append(minimised(evaluator, start[part], preconditioner, bar, evaluations, noise))
        return Minimum(
            np.concatenate([group.points for group in groups]),
            np.concatenate([group.values for group in groups]),
            np.concatenate([group.gradients for group in groups]),
        )

    def _counting(self, groups: Sequence[NDArray[np.intp]]) -> tuple[Floats, Floats]:
        """How much each sample counts where a fold is left out, `(n, folds)`, and the classes' shares `(folds,
        k)`; without folds as if there were one, of no sample."""
        of_fold = np.repeat(self.w[:, None], max(1, len(groups)), 1)
        for number, group in enumerate(groups):
            of_fold[group, number] = 0
        of_fold /= of_fold.sum(0)
        return of_fold, of_fold.T @ self.targets

    def _evaluator(
        self, penalties: Floats, of_fold: np.ndarray, fold_of: NDArray[np.intp], lost: NDArray[np.bool_]
    ) -> Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]]:
        def evaluate(points: Floats, heads: NDArray[np.intp]) -> tuple[Floats, Floats]:
            h, k, d = len(points), points.shape[1], self.d
            weight = points[..., :-1].reshape(h * k, d)
            right = np.ascontiguousarray(weight.T, self.dtype)
            bias = points[..., -1].astype(self.dtype)
            values = np.zeros(h)
            gradient = np.zeros(points.shape)
            for where, x in self._blocks():
                counts = of_fold[where][:, fold_of[heads]]  # (b, h)
                z = (x @ right).reshape(len(x), h, k)
                z += bias
                losses, slopes = self.curve.with_slopes(z, self.targets[where][:, None])
                values += np.einsum("bh,bh->h", losses, counts, dtype=np.float64)
                slopes *= counts[..., None]
                slopes = slopes.reshape(len(x), h * k)
                gradient[..., :-1] += (slopes.T @ x).reshape(h, k, d)
                gradient[..., -1] += slopes.sum(0, dtype=np.float64).reshape(h, k)
            gradient[..., -1][lost[heads]] = 0
            of = penalties[heads]
            values += of / 2 * (weight**2).sum(1).reshape(h, k).sum(1)
            gradient[..., :-1] += of[:, None, None] * points[..., :-1]
            return values, gradient

        return evaluate

    def _preconditioner(self, penalties: Floats) -> Callable[[Floats, NDArray[np.intp]], Floats]:
        """About the inverse of the Hessian: of the curvature that the losses have where nothing is known of a
        sample, times the features' covariance, plus the penalty. Where there are so many features that its factors
        would not fit, their variances."""
        from scipy.linalg import cho_factor, cho_solve  # a tenth of a second, for those who need it

        shares = (self.w @ self.targets / self.w.sum()).clip(LEAST, 1 - LEAST)
        curvature = float((shares * (1 - shares)).mean())
        distinct, which = np.unique(penalties, return_inverse=True)
        variances, factors = self._covariance.diagonal().astype(np.float64), None
        if len(distinct) * self._covariance.nbytes <= NBYTES:
            # what rounding may have made negative
            slack = (1e-6 if self.dtype == np.float32 else 1e-12) * variances.sum()
            eye: NDArray[Any] = np.eye(self.d, dtype=self.dtype)
            factors = [
                cho_factor(curvature * (self._covariance + slack * eye) + of * eye, overwrite_a=True)
                for of in distinct
            ]

        def precondition(gradients: Floats, heads: NDArray[np.intp]) -> Floats:
            result = gradients / curvature
            for number in np.unique(which[heads]):
                here = which[heads] == number
                columns = gradients[here][..., :-1].reshape(-1, self.d)
                if factors is None:
                    made = columns / (curvature * variances + distinct[number])
                else:
                    made = cho_solve(factors[number], columns.T.astype(self.dtype), overwrite_b=True).T
                result[here, ..., :-1] = made.reshape(-1, gradients.shape[1], self.d)
            return result

        return precondition

    def outputs(
        self, points: Floats, parts: list[NDArray[np.intp]]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]]:
        """Positions of one fold `(b,)`, their outputs `(p, b, k)` by its layers, `points[fold]` `(p, k, d + 1)`,
        and whether the other folds have each one's classes."""
        shares = self._counting(parts)[1]
        fold_of = np.full(len(self.w), -1)
        for number, part in enumerate(parts):
            fold_of[part] = number
        for where, x in self._blocks():
            of = fold_of[where]
            for number in np.unique(of[of >= 0]):
                here = np.flatnonzero(of == number)
                layers = points[number]
                made = np.einsum("bd,pkd->pbk", x[here], layers[..., :-1].astype(self.dtype), optimize=True)
                outputs = np.asarray(made + layers[:, None, :, -1], np.float32)
                share = shares[number]
                unlike = (np.abs(self.targets[here + where.start] - share) > 0.5) & _lost(share)
                yield here + where.start, outputs, ~unlike.any(1)


@contextmanager
def _scipy_in_one_thread() -> Iterator[None]:
    """While SciPy's products take turns with NumPy's. As packages of the index each has an OpenBLAS of its own,
    whose threads spin on after every product, on the CPUs that the other's are about to need: 1.6 times the
    seconds on two cores. What SciPy computes in a descent is small."""
    loaded = ThreadpoolController()
    paths = [one["filepath"] for one in loaded.info()]
    own = [path for path in paths if {"scipy", "scipy.libs"} & {*Path(path).parts}]
    with loaded.select(filepath=own).limit(limits=1, user_api="blas"):
        yield


def _lost(shares: Floats) -> NDArray[np.bool_]:
    """Which classes no sample has, or all have."""
    return np.asarray((shares <= 0) | (shares >= 1 - 1e-9))


def _standard_of(rows: Rows, weights: Floats) -> tuple[Standard, np.ndarray]:
    """What standardises the features, and some of the rows as they are, at even distances and of weight above 0:
    about `SAMPLED` for each feature. One pass over the rows. DataError for rows that are not finite."""
    moments, counting, takes = Moments(), np.flatnonzero(weights > 0), np.zeros(len(weights), bool)
    some = []
    for where, block in rows.blocks():
        moments.add(finite(block), weights[where])
        if not where.start:
            takes[counting[:: max(1, len(counting) // (SAMPLED * block.shape[1]))]] = True
        some.append(block[takes[where]])
    return moments.standard(), np.concatenate(some)
