"""The neighbours' scores beside scikit-learn's KNeighborsClassifier."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from headstart.common.errors import DataError, SettingError
from headstart.training.solvers import knn as module
from headstart.training.solvers.knn import knn

pytestmark = pytest.mark.neutral


def problem(n: int = 60, d: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    return rng.normal(0, 1, (classes, d))[labels] + rng.normal(0, 1, (n, d)), labels


def peer(rows: np.ndarray, labels: np.ndarray, out: np.ndarray, k: int) -> np.ndarray:
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(rows[~out], labels[~out])
    return np.asarray(classifier.predict_proba(rows[out]))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_each_sample_by_the_others(dtype: type, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES", 17)
    rows, labels = problem()
    rows = rows.astype(dtype)
    scores = knn([rows[:25], rows[25:26], rows[26:]], np.eye(3)[labels], k)
    for out in np.eye(len(rows), dtype=bool):
        np.testing.assert_allclose(scores[out], peer(rows.astype(np.float64), labels, out, k), atol=1e-6)
    np.testing.assert_array_equal(scores, knn(rows, np.eye(3)[labels], k))


def test_a_fold_is_no_neighbour_of_itself() -> None:
    rows, labels = problem()
    folds = np.arange(60) // 20
    labels[folds > 0] = np.maximum(labels[folds > 0], 1)  # class 0 has no neighbours to vote for it in fold 0
    scores = knn(rows, np.eye(3)[labels], 7, folds=folds)
    for fold in range(3):
        out = folds == fold
        np.testing.assert_allclose(scores[out][:, np.unique(labels[~out])], peer(rows, labels, out, 7), atol=1e-6)


def test_of_equally_near_ones_the_first_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five samples lie alike; however the rows are cut into blocks, the two that come first are the neighbours."""
    rows = np.array([[1.0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5]])
    targets = np.arange(6.0)[:, None]
    for blocks in ([rows], [rows[:1], rows[1:4], rows[4:]], list(rows[:, None])):
        scores = knn(blocks, targets, 2)
        np.testing.assert_array_equal(scores[:, 0], [1.5, 2.5, 2, 1.5, 1.5, 1.5])


def test_weights_and_numbers() -> None:
    rows = np.array([[1.0, 0], [1, 0.1], [1, 0.2], [1, 0.3]])
    targets = np.array([[0.0, 1], [10, 2], [20, 3], [70, 4]])
    np.testing.assert_allclose(knn(rows, targets, 2, weights=[1, 3, 1, 0])[0], [12.5, 2.25])
    np.testing.assert_allclose(knn(rows, targets, 9, weights=[1, 3, 1, 0])[3], [10, 2])  # fewer than nine
    assert np.isnan(knn(rows, targets, 2, folds=np.zeros(4, int))).all()


def test_what_has_no_neighbours_is_refused() -> None:
    rows, labels = problem()
    with pytest.raises(SettingError, match="k=0"):
        knn(rows, np.eye(3)[labels], 0)
    rows[3] = np.inf
    with pytest.raises(DataError, match="not finite"):
        knn(rows, np.eye(3)[labels])
