"""Rows that are streamed are never all in memory, whichever solver reads them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.linalg  # noqa: F401, so that what it takes itself is not counted

from headstart.training.solvers.logistic import logistic
from headstart.training.solvers.ridge import ridge

pytestmark = pytest.mark.neutral

N, D, BLOCK = 20_000, 96, 200
FOLDS = np.arange(N) % 3
SOLVERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "ridge": (ridge, {}),
    "ridge, folds": (ridge, {"folds": FOLDS}),
    "logistic, folds": (logistic, {"folds": FOLDS, "bar": 1e-2}),
}


class Made:
    """Float32 rows `(N, D)`, 7.7 MB, made anew a few at a time."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, N, BLOCK):
            rows = np.random.default_rng(start).standard_normal((BLOCK, D), np.float32)
            rows[:, 0] += self.labels[start : start + BLOCK]
            yield rows


@pytest.mark.parametrize("name", SOLVERS)
def test_a_part_of_the_rows_is_in_memory(name: str) -> None:
    solver, settings = SOLVERS[name]
    labels = np.random.default_rng(1).integers(0, 2, N)
    targets, rows = np.eye(2, dtype=np.float32)[labels], Made(labels)
    tracemalloc.start()
    try:
        path = solver(rows, targets, [1.0, 0.1], keep=False, **settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.isfinite(path.losses).all()
    assert peak < 4 * N * D / 2  # with targets, weights and folds, which are in memory: about a quarter
