"""Ridge regression for a whole path of penalties from one eigendecomposition, with exact held-out predictions.

Minimised is `sum(w * |y - W x - b|^2) / sum(w) + penalty * |W|^2` over standardised features x, b free. It is
scikit-learn's `Ridge(alpha=penalty * sum(w))`. For classes the targets are 1 for a sample's class and -1 for the
others, as in `RidgeClassifier`; the class of the largest output is predicted.

The algebra, with S = X^T X / n = V diag(s) V^T of centred rows: the weights are V (V^T X^T y / n) / (s + penalty),
and how much a sample decides its own output is h = (1 + sum_j (x V)_j^2 / (s_j + penalty)) / n, for all penalties
from the one product x V. Without sample i its error is e_i / (1 - h_i), exactly (Allen 1974,
https://doi.org/10.1080/00401706.1974.10489157). With fewer rows than features, the n x n products x x^T take the
place of S. Sums over a fold's rows, taken off the sums of all, are those of the others, so folds need no more
passes over the rows either, only an eigendecomposition each.

Held-out *predictions* take a second pass: h needs the decomposition of all rows, so no row can be done with before
the last one is read. `hold_out=False` does without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DataError
from headstart.common.machine import cpus
from headstart.training.moments import Moments
from headstart.training.solvers.eigen import decomposed, each_decomposed
from headstart.training.solvers.linear import (
    HeldOut,
    LinearPath,
    checked_penalties,
    checked_weights,
    fold_list,
)
from headstart.training.solvers.products import Products, summed
from headstart.training.solvers.rows import Rows, finite, rows_of

PENALTIES = 20
DECOMPOSING = 5
"""matrices as large as the one that is decomposed: it, its copy, the eigenvectors and LAPACK's two"""
Floats = NDArray[np.float64]


def ridge_penalties(d: int, count: int = PENALTIES) -> Floats:
    """float64 `(count,)`, falling: for d features, from 10 d (the output is nearly the mean) to 1e-6 d."""
    return max(d, 1) * np.logspace(1, -6, count)


def working_nbytes(n: int, d: int, folds: int = 0) -> int:
    """What `ridge` needs beside the rows, of which a part as large as a block is in memory at least. `folds`: how
    many; 0: each sample is held out by itself."""
    if n < d:
        return 8 * (6 * n**2 + 3 * n * d)
    at_once = DECOMPOSING * max(1, min(folds, cpus()))
    return 8 * d**2 * (at_once + (folds + 2 if folds else 1))


def ridge(
    rows: np.ndarray | Iterable[np.ndarray] | Rows,
    targets: np.ndarray,
    penalties: object = None,
    *,
    weights: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    hold_out: bool = True,
    keep: bool = True,
    on_held_out: HeldOut | None = None,
) -> LinearPath:
    """The linear layers for all penalties, and predictions for each sample by weights that have not seen it.

    `rows`: `(n, d)`, or blocks of them that can be read again and again, see `Rows`. `targets`: float `(n, k)`.
    `penalties`: `(p,)`, above 0; None: `ridge_penalties(d)`. `weights`: `(n,)`, 0 or more: how much a sample
    counts. `folds`: int `(n,)`, which samples are held out together, -1 for never; None: each sample by itself,
    exactly. Features are standardised by all samples. `keep`: whether `held_out`, float32 `(p, n, k)`, is in the
    result (NaN for what was never held out); `on_held_out` is told of it block by block in any case. `losses`: the
    weighted mean of the squared error, in the mean over targets.

    DataError for rows that are not finite, or fewer than two; SettingError for other arguments.
    """
    targets = np.asarray(targets, np.float64)
    if targets.ndim != 2 or len(targets) < 2:
        raise DataError(f"targets of shape {targets.shape}; expected (n, k) of two samples or more")
    n = len(targets)
    rows, w = rows_of(rows, n), checked_weights(weights, n)
    groups = fold_list(folds, n) if folds is not None and hold_out else []
    d = _width(rows)
    path = checked_penalties(ridge_penalties(d) if penalties is None else penalties)
    solve = _dual if n < d else _primal
    solved = solve(rows, targets, path, w, groups, hold_out and folds is None, d)
    told = _Told(targets, w, len(path), keep and hold_out, on_held_out)
    if hold_out:
        for where, outputs in solved.held_out:
            told(where, outputs)
    return LinearPath(path, solved.weight, solved.bias, told.losses if hold_out else None, told.kept)


def _width(rows: Rows) -> int:
    if isinstance(rows.source, np.ndarray):
        return int(rows.source.shape[1])
    for _, block in rows.blocks():
        return int(block.shape[1])
    raise DataError("no rows to solve for")


class _Told:
    """Adds up the squared errors of what was held out, and keeps it if it is asked for."""

    def __init__(self, targets: Floats, weights: Floats, p: int, keep: bool, tell: HeldOut | None) -> None:
        self.targets, self.weights, self.tell = targets, weights, tell
        self.kept = np.full((p, *targets.shape), np.nan, np.float32) if keep else None
        self._errors, self._count = np.zeros(p), 0.0

    def __call__(self, where: NDArray[np.intp], outputs: np.ndarray) -> None:
        w = self.weights[where]
        self._errors += ((outputs - self.targets[where]) ** 2).mean(2) @ w
        self._count += float(w.sum())
        made = outputs.astype(np.float32, copy=False)
        if self.kept is not None:
            self.kept[:, where] = made
        if self.tell is not None:
            self.tell(where, made)

    @property
    def losses(self) -> Floats:
        return self._errors / self._count if self._count else np.full(len(self._errors), np.nan)


@dataclass(frozen=True)
class _Solved:
    weight: Floats
    """`(p, k, d)`, for features as they were given"""
    bias: Floats
    held_out: Iterator[tuple[NDArray[np.intp], np.ndarray]]
    """positions and outputs `(p, b, k)`, computed as they are asked for"""


def _primal(
    rows: Rows, y: Floats, path: Floats, w: Floats, groups: list[NDArray[np.intp]], each: bool, d: int
) -> _Solved:
    """By the d x d covariances. `each`: every sample is held out by itself."""
    part_of = np.zeros(len(y), np.intp)  # part 0: never held out
    for number, group in enumerate(groups, 1):
        part_of[group] = number
    sums = summed(rows, y, w, part_of, len(groups) + 1)
    total, standard = sums.total, sums.standard
    offset = (sums.start.mean - standard.mean) / standard.deviation

    def layers(products: Products, s: Floats, v: Floats, rotated: Floats) -> tuple[Floats, Floats]:
        """Weight `(p, k, d)` and bias `(p, k)` for standardised features, of a decomposition."""
        weight = np.einsum("pjk,dj->pkd", rotated / (s[:, None] + path[:, None, None]), v, optimize=True)
        mean = products.x / products.count / sums.scale + offset
        return weight, products.y / products.count - weight @ mean

    s, v = decomposed(total.covariance(sums.scale))
    s = np.maximum(s, 0)
    rotated = v.T @ total.with_targets(sums.scale)  # (d, k)
    weight, bias = layers(total, s, v, rotated)

    def held_out_each() -> Iterator[tuple[NDArray[np.intp], np.ndarray]]:
        shrink = 1 / (s + path[:, None])  # (p, d)
        turned = (rotated * shrink[..., None]).transpose(1, 0, 2).reshape(d, -1)  # (d, p * k)
        share = w / w.sum()
        centre = y.T @ share
        for where, block in rows.blocks():
            x = standard.applied(block)
            z = x @ v.astype(x.dtype)
            h = share[where] * (1 + (z**2 @ shrink.T.astype(x.dtype)).T)  # (p, b)
            outputs = (z @ turned.astype(x.dtype)).reshape(len(x), len(path), -1).transpose(1, 0, 2) + centre
            yield _positions(where), y[where] - (y[where] - outputs) / np.maximum(1 - h, 1e-12)[..., None]

    def held_out_groups() -> Iterator[tuple[NDArray[np.intp], np.ndarray]]:
        without = each_decomposed((total - part).covariance(sums.scale) for part in sums.parts[1:])
        others = []
        for part, (values, vectors) in zip(sums.parts[1:], without, strict=True):
            rest = total - part
            turned = vectors.T @ rest.with_targets(sums.scale)
            others.append(layers(rest, np.maximum(values, 0), vectors, turned))
        for where, block in rows.blocks():
            x, of = standard.applied(block), part_of[where]
            for number in np.unique(of[of > 0]):
                here = np.flatnonzero(of == number)
                layer, shift = others[number - 1]
                outputs = np.einsum("bd,pkd->pbk", x[here], layer.astype(x.dtype), optimize=True)
                yield here + where.start, outputs + shift[:, None]

    return _Solved(*standard.folded_layer(weight, bias), held_out_each() if each else held_out_groups())


def _dual(
    rows: Rows, y: Floats, path: Floats, w: Floats, groups: list[NDArray[np.intp]], each: bool, d: int
) -> _Solved:
    """By the n x n products of rows with each other; the rows, fewer than their features, are in memory."""
    x = finite(np.concatenate([block.astype(np.float64) for _, block in rows.blocks()]))
    standard = Moments.of(x, w).standard()
    x = standard.applied(x)
    solved = _Dual(x, y, path, w)

    def held_out() -> Iterator[tuple[NDArray[np.intp], np.ndarray]]:
        if each:
            yield np.arange(len(x)), solved.without_each()
        for group in groups:
            counting = w.copy()
            counting[group] = 0
            yield group, _Dual(x, y, path, counting).outputs(group)

    return _Solved(*standard.folded_layer(solved.weight, solved.bias), held_out())


class _Dual:
    """Ridge regression of a few rows of many features, `x` `(n, d)` standardised."""

    def __init__(self, x: Floats, y: Floats, path: Floats, w: Floats) -> None:
        self.x, self.y = x, y
        root = np.sqrt(w / w.sum())
        self.mean, centre = root**2 @ x, root**2 @ y
        rows = (x - self.mean) * root[:, None]
        products = rows @ rows.T
        # Centred rows add up to 0 with these weights: that direction is the intercept's. It is made the largest,
        # so that it can be told from the others, and left out.
        products += (2 * products.trace() + 1) * np.outer(root, root)
        s, q = decomposed(products)
        s, q = np.maximum(s[:-1], 0), q[:, :-1]
        shrink = 1 / (s + path[:, None])  # (p, j)
        rotated = q.T @ ((y - centre) * root[:, None])  # (j, k)
        coefficients = np.einsum("nj,pjk->pnk", q, rotated * shrink[..., None], optimize=True)
        self.weight = np.einsum("pnk,nd->pkd", coefficients, rows, optimize=True)
        self.bias = centre - self.weight @ self.mean
        left = shrink @ (q**2).T * path[:, None]  # 1 - h, (p, n)
        self._counts = counts = root > 0
        self._errors = np.zeros_like(coefficients)
        factor = path[:, None] / root[counts] / np.maximum(left[:, counts], 1e-300)  # (p, n)
        self._errors[:, counts] = coefficients[:, counts] * factor[..., None]

    def outputs(self, positions: NDArray[np.intp]) -> Floats:
        """`(p, b, k)`"""
        outputs = np.einsum("bd,pkd->pbk", self.x[positions], self.weight, optimize=True)
        return np.asarray(outputs + self.bias[:, None])

    def without_each(self) -> Floats:
        """`(p, n, k)`: each sample's output, had it not been there."""
        outputs: Floats = self.y - self._errors
        absent = np.flatnonzero(~self._counts)  # they have not been there
        outputs[:, absent] = self.outputs(absent)
        return outputs


def _positions(where: slice) -> NDArray[np.intp]:
    return np.arange(where.start, where.stop)
