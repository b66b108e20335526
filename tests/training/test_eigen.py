"""Eigendecompositions side by side: they are NumPy's, in order, and BLAS has its threads back afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from headstart.training.solvers import eigen
from headstart.training.solvers.eigen import decomposed, each_decomposed

pytestmark = pytest.mark.neutral

LIMIT = 54
"""what is decomposed in threads here is larger than that; in earnest it is so large that it takes a while"""


def matrices(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [x @ x.T / size for x in rng.standard_normal((5, size, size))]


@pytest.mark.parametrize("size", [1, 7, LIMIT + 10])
def test_each_is_numpys(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigen, "SMALL", LIMIT)
    monkeypatch.setattr(eigen, "cpus", lambda: 2)
    threads = [library["num_threads"] for library in threadpool_info()]
    several = matrices(size)
    results = [*each_decomposed(iter(several)), decomposed(several[0])]
    for matrix, (values, vectors) in zip([*several, several[0]], results, strict=True):
        np.testing.assert_allclose(values, np.linalg.eigh(matrix)[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-9)
    assert [library["num_threads"] for library in threadpool_info()] == threads


def test_no_more_are_made_than_are_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigen, "cpus", lambda: 2)
    made = []
    source = (made.append(1) or matrix for matrix in matrices(3))
    next(each_decomposed(source))
    assert len(made) == 2
