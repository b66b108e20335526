"""The logistic path beside scikit-learn's LogisticRegression, to the same optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_problems import Blocks, problem, standardised
from scalers import scaler_of
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from headstart.common.errors import DataError, SettingError
from headstart.training.solvers import logistic as solver
from headstart.training.solvers.logistic import LogisticPath, logistic, logistic_penalties

pytestmark = pytest.mark.neutral

PATH = np.array([0.5, 0.05, 0.005])
BAR = 1e-7
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def peer(x: np.ndarray, labels: np.ndarray, penalty: float, weights: np.ndarray) -> LogisticRegression:
    c = 1 / (penalty * weights.sum())
    return LogisticRegression(C=c, tol=1e-8, max_iter=10000).fit(x, labels, weights)


def probabilities(path: LogisticPath, i: int, rows: np.ndarray) -> np.ndarray:
    z = rows @ path.weight[i].T + path.bias[i]
    z = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(z / z.sum(1, keepdims=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(90, 6), (25, 60)], ids=["tall", "wide"])
def test_layers_are_scikit_learns(n: int, d: int, weighted: bool) -> None:
    rows, labels, weights = problem(n, d)
    weights = weights if weighted else np.ones(n)
    path = logistic(rows, np.eye(3)[labels], PATH, weights=weights, bar=BAR)
    assert (path.gradients <= BAR).all()
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        expected = peer(x, labels, penalty, weights)
        np.testing.assert_allclose(probabilities(path, i, rows), expected.predict_proba(x), **CLOSE)
        losses = -np.log(expected.predict_proba(x)[np.arange(n), labels])
        objective = np.average(losses, weights=weights) + penalty / 2 * (expected.coef_**2).sum()
        assert path.objectives[i] == pytest.approx(objective, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_folds_are_held_out_together(weighted: bool) -> None:
    rows, labels, weights = problem()
    weights = weights if weighted else np.ones(len(rows))
    folds = np.arange(len(rows)) % 3
    folds[5:8] = -1
    path = logistic(rows, np.eye(3)[labels], PATH, weights=weights, folds=folds, bar=BAR)
    assert path.held_out is not None and path.losses is not None
    assert np.isnan(path.held_out[:, 5:8]).all()
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        expected = np.full((len(rows), 3), np.nan)
        for fold in range(3):
            out = folds == fold
            expected[out] = peer(x[~out], labels[~out], penalty, weights[~out]).predict_proba(x[out])
        held_out = np.exp(path.held_out[i] - path.held_out[i].max(1, keepdims=True))
        np.testing.assert_allclose(held_out / held_out.sum(1, keepdims=True), expected, **CLOSE)
        told = np.flatnonzero(folds >= 0)
        losses = -np.log(expected[told, labels[told]])
        assert path.losses[i] == pytest.approx(np.average(losses, weights=weights[told]), rel=1e-4)
    assert path.best == path.losses.argmin()


def test_two_classes_have_half_of_the_penalty_that_scikit_learn_has() -> None:
    """It has one vector of weights there, softmax has two, which are half of it and half of its opposite."""
    rows, labels, weights = problem(classes=2)
    path = logistic(rows, np.eye(2)[labels], PATH, weights=weights, bar=BAR)
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        model = LogisticRegression(C=2 / (penalty * weights.sum()), tol=1e-8, max_iter=10000)
        expected = model.fit(x, labels, weights).decision_function(x)
        outputs = rows @ path.weight[i].T + path.bias[i]
        np.testing.assert_allclose(outputs[:, 1] - outputs[:, 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pos_weight", [None, [1.0, 3.0, 0.5]])
def test_labels_are_each_a_regression(pos_weight: list[float] | None) -> None:
    rows, labels, weights = problem()
    targets = np.stack([labels == 0, labels > 0, labels % 2 == 0], 1).astype(np.float32)
    counts = None if pos_weight is None else np.array(pos_weight)
    path = logistic(rows, targets, PATH, labels=True, pos_weight=counts, weights=weights, bar=BAR)
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        outputs = rows @ path.weight[i].T + path.bias[i]
        for label in range(3):
            of = weights * (1 if counts is None else np.where(targets[:, label], counts[label], 1))
            model = LogisticRegression(C=1 / (penalty * weights.sum()), tol=1e-8, max_iter=10000)
            expected = model.fit(x, targets[:, label], of).decision_function(x)
            np.testing.assert_allclose(outputs[:, label], expected, rtol=1e-3, atol=1e-4)


def test_labels_held_out_are_scored_without_what_training_weighs() -> None:
    rows, labels, _ = problem()
    targets = np.eye(3)[labels]
    folds = np.arange(len(rows)) % 4
    path = logistic(rows, targets, PATH, labels=True, pos_weight=np.full(3, 2.0), folds=folds)
    assert path.held_out is not None and path.losses is not None
    losses = np.logaddexp(0, path.held_out) - targets * path.held_out
    np.testing.assert_allclose(path.losses, losses.mean((1, 2)), rtol=1e-5)


def test_smoothed_targets() -> None:
    """Labels that are shared out over the classes: the optimum is where the gradient of that loss is 0."""
    rows, labels, _ = problem()
    targets = np.eye(3)[labels] * 0.7 + 0.1
    path = logistic(rows, targets, [0.05], bar=BAR)
    x = standardised(rows, np.ones(len(rows)))
    scale = scaler_of(rows).scale_
    gradient = (probabilities(path, 0, rows) - targets).T @ x / len(x) + 0.05 * path.weight[0] * scale
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("wide", [False, True])
def test_streamed_is_in_memory(wide: bool) -> None:
    rows, labels, weights = problem(50, 80 if wide else 6)
    targets, folds = np.eye(3)[labels], np.arange(50) % 4
    whole = logistic(rows, targets, PATH, weights=weights, folds=folds, bar=BAR)
    streamed = logistic(Blocks(rows, 7), targets, PATH, weights=weights, folds=folds, bar=BAR)
    for i in range(len(PATH)):
        np.testing.assert_allclose(probabilities(streamed, i, rows), probabilities(whole, i, rows), atol=1e-4)
    np.testing.assert_allclose(streamed.losses, whole.losses, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_and_single_precision_reach_the_bar(dtype: type) -> None:
    rows, labels, _ = problem()
    rows = ((rows - rows.mean(0)) / 10).astype(dtype)
    path = logistic(rows, np.eye(3)[labels], PATH)
    assert (path.gradients <= 1e-4).all()
    same = logistic(rows.astype(np.float64), np.eye(3)[labels], PATH, bar=BAR)
    np.testing.assert_allclose(path.objectives, same.objectives, atol=1e-4)


def test_features_that_do_not_vary_are_left_alone() -> None:
    rows, labels, _ = problem()
    rows[:, 3] = 1234.567
    path = logistic(rows.astype(np.float32), np.eye(3)[labels], PATH)
    rest = logistic(np.delete(rows, 3, 1).astype(np.float32), np.eye(3)[labels], PATH)
    assert not path.weight[:, :, 3].any()
    np.testing.assert_allclose(path.objectives, rest.objectives, atol=1e-5)


def test_units_do_not_matter() -> None:
    rows, labels, _ = problem()
    rows = standardised(rows, np.ones(len(rows)))
    plain = logistic(rows, np.eye(3)[labels], PATH, bar=BAR)
    moved = logistic((rows * 0.001 + 10).astype(np.float32), np.eye(3)[labels], PATH, bar=1e-5)
    np.testing.assert_allclose(moved.objectives, plain.objectives, atol=1e-4)


def test_separable_data_end() -> None:
    """Without a penalty there is no optimum; with a small one it is far away, and reached."""
    rows = np.concatenate([np.full((20, 2), -1.0), np.full((20, 2), 1.0)]) + np.random.default_rng(0).normal(
        0, 0.1, (40, 2)
    )
    path = logistic(rows, np.eye(2)[np.arange(40) // 20], [1e-6])
    assert path.gradients[0] <= 1e-4 and path.objectives[0] < 1e-3


def test_a_class_that_no_sample_has_is_not_predicted() -> None:
    rows, labels, _ = problem()
    folds = np.where(labels == 2, 0, 1 + np.arange(len(labels)) % 2)
    path = logistic(rows, np.eye(4)[labels], PATH, folds=folds)
    assert path.held_out is not None and np.isfinite(path.losses).all()  # type: ignore[arg-type]
    assert (path.gradients <= 1e-4).all()
    assert (path.held_out[:, folds == 0].argmax(2) != 2).all()
    assert path.losses.max() < 2  # type: ignore[union-attr]  # those that nobody could have known are not in it
    assert (probabilities(path, 0, rows)[:, 3] < 1e-3).all()


def test_what_is_held_out_is_not_known() -> None:
    """Of labels that nothing says, and more features than samples: weights that fit every sample are far below
    the bar without some of them as well, so a fold that began there would end there, and know all."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 200)).astype(np.float32), rng.integers(0, 3, 60)
    path = logistic(rows, np.eye(3)[labels], [1.0, 1e-3, 1e-5], folds=np.arange(60) % 5)
    assert path.held_out is not None and path.losses is not None
    assert ((path.held_out.argmax(2) == labels).mean(1) < 0.5).all()
    assert path.best == 0 and (path.losses[1:] > np.log(3)).all()


@given(st.integers(6, 15), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_weights_are_repetitions(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(n, d)), rng.integers(0, 2, n)
    counts = rng.integers(1, 4, n)
    of = np.repeat(np.arange(n), counts)
    once = logistic(rows, np.eye(2)[labels], PATH, weights=counts, folds=np.arange(n) % 3, bar=BAR)
    many = logistic(rows[of], np.eye(2)[labels[of]], PATH, folds=of % 3, bar=BAR)
    np.testing.assert_allclose(once.weight, many.weight, atol=1e-4)
    np.testing.assert_allclose(once.losses, many.losses, rtol=1e-3, atol=1e-4)


def test_many_heads_are_solved_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, _ = problem()
    folds = np.arange(len(rows)) % 3
    at_once = logistic(rows, np.eye(3)[labels], PATH, folds=folds, bar=BAR)
    monkeypatch.setattr("headstart.training.solvers.logistic.COLUMNS", 6)  # two penalties
    monkeypatch.setattr("headstart.training.solvers.logistic.NBYTES", 1000)  # and no preconditioner
    grouped = logistic(rows, np.eye(3)[labels], PATH, folds=folds, bar=BAR)
    np.testing.assert_allclose(grouped.weight, at_once.weight, atol=1e-4)
    np.testing.assert_allclose(grouped.losses, at_once.losses, rtol=1e-4)


def test_scipys_threads_are_out_of_numpys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """While products of both take turns; before and after, as the user has them."""

    def threads(pool: str) -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if f"/{pool}" in one["filepath"]}

    seen = []
    minimised = solver.minimised

    def looked_at(*arguments: Any) -> Any:
        seen.append((threads("numpy"), threads("scipy")))
        return minimised(*arguments)

    monkeypatch.setattr(solver, "minimised", looked_at)
    rows, labels, _ = problem()
    with threadpool_limits(3, "blas"):
        if threads("scipy") != {3} or threads("numpy") != {3}:
            pytest.skip("NumPy and SciPy do not each have a BLAS of their own here")
        logistic(rows, np.eye(3)[labels], PATH)
        assert seen == [({3}, {1})] and threads("scipy") == {3}


def test_the_bar_that_was_not_reached_is_said() -> None:
    rows, labels, _ = problem()
    path = logistic(rows, np.eye(3)[labels], [1e-6], evaluations=2)
    assert path.gradients[0] > 1e-4


def test_paths_follow_the_number_of_features() -> None:
    np.testing.assert_allclose(logistic_penalties(512)[[0, -1]], [51.2, 5.12e-5])


def test_what_cannot_be_solved_is_refused() -> None:
    rows, labels, _ = problem()
    with pytest.raises(SettingError, match="add up to 1"):
        logistic(rows, np.eye(3)[labels] * 2, PATH)
    with pytest.raises(DataError, match="a generator does not"):
        logistic(iter([rows]), np.eye(3)[labels], PATH)
    rows[2, 1] = np.inf
    with pytest.raises(DataError, match="not finite"):
        logistic(rows, np.eye(3)[labels], PATH)
