"""The nearest neighbours' labels as scores: how well classes lie apart, with nothing trained.

Neighbours are those of the largest cosine. It is exact, a product of blocks at a time, so memory is bounded by the
blocks and the scores; the rows are read once for every `QUERIES` samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError
from headstart.training.solvers.rows import Rows, finite, rows_of

QUERIES = 4096
"""samples whose neighbours are looked for in one pass over the rows"""


def knn(
    rows: np.ndarray | Iterable[np.ndarray] | Rows,
    targets: np.ndarray,
    k: int = 10,
    *,
    folds: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> NDArray[np.float32]:
    """float32 `(n, t)`: the mean of the targets of each sample's k nearest others; of 0 and 1 for classes, the
    share of the neighbours that are of each class.

    `rows`: float `(n, d)`, or blocks that can be read again and again, see `Rows`. `targets`: `(n, t)`. `folds`:
    int `(n,)`; no sample of the same fold (0 or more) is a neighbour. `weights`: `(n,)`, how much a neighbour
    counts; of 0: it is none. Of equally near ones the first are taken. A row of zeros is equally far from all. NaN
    where a sample has no neighbour at all. SettingError for k below 1, DataError for rows that are not finite."""
    targets = np.asarray(targets, np.float32)
    n = len(targets)
    rows = rows_of(rows, n)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise SettingError(f"k={k!r}; expected a whole number of 1 or more neighbours")
    w = np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32)
    scores = np.empty(targets.shape, np.float32)
    for start in range(0, n, QUERIES):
        queries = _unit(np.concatenate(list(_between(rows, start, start + QUERIES))))
        scores[start : start + len(queries)] = _scores(rows, queries, start, targets, int(k), folds, w)
    return scores


def _between(rows: Rows, start: int, stop: int) -> Iterable[np.ndarray]:
    for where, block in rows.blocks():
        yield block[max(start - where.start, 0) : max(stop - where.start, 0)]


def _unit(block: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(finite(block).astype(np.float64, copy=False), axis=1, keepdims=True)
    return (block / np.where(length > 0, length, 1)).astype(block.dtype, copy=False)


def _scores(
    rows: Rows,
    queries: np.ndarray,
    start: int,
    targets: np.ndarray,
    k: int,
    folds: np.ndarray | None,
    weights: np.ndarray,
) -> np.ndarray:
    here = np.arange(start, start + len(queries))
    near = np.full((len(queries), 0), -np.inf, queries.dtype)
    who = np.zeros((len(queries), 0), np.intp)
    for where, block in rows.blocks():
        there = np.arange(where.start, where.stop)
        cosines = queries @ _unit(block).T
        barred = here[:, None] == there
        if folds is not None:
            barred |= (folds[here][:, None] == folds[there]) & (folds[there] >= 0)
        cosines[barred | (weights[there] == 0)] = -np.inf
        before = near.shape[1]
        near = np.concatenate([near, cosines], 1)
        kept = _largest(near, min(k, near.shape[1]))
        earlier = np.take_along_axis(who, np.minimum(kept, before - 1), 1) if before else kept
        who = np.where(kept < before, earlier, kept - before + where.start)
        near = np.take_along_axis(near, kept, 1)
    counts = np.where(np.isneginf(near), 0, weights[who])  # (q, k)
    total = counts.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.einsum("qk,qkt->qt", counts, targets[who]) / total)


def _largest(near: np.ndarray, k: int) -> NDArray[np.intp]:
    """The positions of the k largest of each row, ascending; of equal ones the first."""
    bar = np.partition(near, near.shape[1] - k, axis=1)[:, -k, None]
    above, equal = near > bar, near == bar
    taken = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdims=True)))
    return np.nonzero(taken)[1].reshape(len(near), k)
