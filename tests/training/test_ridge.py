"""Ridge regression's path beside scikit-learn's Ridge and RidgeCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_problems import Blocks, standardised
from linear_problems import problem as labelled
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV

from headstart.common.errors import DataError, SettingError
from headstart.training.solvers.ridge import ridge, ridge_penalties
from headstart.training.solvers.rows import BLOCK

pytestmark = pytest.mark.neutral

PATH = np.array([10.0, 1.0, 0.1, 0.01])
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def problem(n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With 1 and -1 for the classes."""
    rows, labels, weights = labelled(n, d)
    return rows, np.where(np.eye(3)[labels] > 0, 1.0, -1.0), weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)], ids=["primal", "dual"])
def test_layers_are_scikit_learns(n: int, d: int, weighted: bool) -> None:
    rows, targets, weights = problem(n, d)
    weights = weights if weighted else np.ones(n)
    path = ridge(rows, targets, PATH, weights=weights)
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        peer = Ridge(alpha=penalty * weights.sum()).fit(x, targets, weights)
        np.testing.assert_allclose(rows @ path.weight[i].T + path.bias[i], peer.predict(x), **CLOSE)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)], ids=["primal", "dual"])
def test_leave_one_out_is_exact(n: int, d: int, weighted: bool) -> None:
    """Each sample's prediction is that of a ridge regression on the others."""
    rows, targets, weights = problem(n, d)
    weights = weights if weighted else np.ones(n)
    path = ridge(rows, targets, PATH, weights=weights)
    assert path.held_out is not None and path.losses is not None
    x = standardised(rows, weights)
    for i, penalty in enumerate(PATH):
        expected = np.empty_like(targets)
        for out in range(n):
            others = np.arange(n) != out
            peer = Ridge(alpha=penalty * weights.sum()).fit(x[others], targets[others], weights[others])
            expected[out] = peer.predict(x[out, None])[0]
        np.testing.assert_allclose(path.held_out[i], expected, **CLOSE)
        loss = np.average(((expected - targets) ** 2).mean(1), weights=weights)
        assert path.losses[i] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)], ids=["primal", "dual"])
def test_the_best_penalty_is_that_of_ridge_cv(n: int, d: int) -> None:
    rows, targets, _ = problem(n, d)
    penalties = ridge_penalties(d)
    path = ridge(rows, targets, penalties)
    x = standardised(rows, np.ones(n))
    peer = RidgeCV(penalties * n, store_cv_results=True).fit(x, targets)
    assert path.losses is not None
    np.testing.assert_allclose(path.losses, peer.cv_results_.mean((0, 1)), rtol=1e-4)
    assert penalties[path.best] * n == pytest.approx(peer.alpha_)
    expected = RidgeClassifier(peer.alpha_).fit(x, targets.argmax(1)).predict(x)
    assert ((rows @ path.weight[path.best].T + path.bias[path.best]).argmax(1) == expected).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (40, 50)], ids=["primal", "dual"])
def test_folds_are_held_out_together(n: int, d: int, weighted: bool) -> None:
    """A class is absent in the others of fold 0, and some samples are never held out."""
    rows, targets, weights = problem(n, d)
    weights = weights if weighted else np.ones(n)
    folds = np.arange(n) % 3
    folds[targets.argmax(1) == 0] = 0
    folds[5:8] = -1
    path = ridge(rows, targets, PATH, weights=weights, folds=folds)
    x = standardised(rows, weights)
    assert path.held_out is not None and np.isnan(path.held_out[:, 5:8]).all()
    for i, penalty in enumerate(PATH):
        for fold in range(3):
            out = folds == fold
            alpha = penalty * weights[~out].sum()
            peer = Ridge(alpha=alpha).fit(x[~out], targets[~out], weights[~out])
            np.testing.assert_allclose(path.held_out[i, out], peer.predict(x[out]), **CLOSE)


@pytest.mark.parametrize("folds", [None, np.arange(50) % 4], ids=["each", "folds"])
@pytest.mark.parametrize("d", [6, 80], ids=["primal", "dual"])
def test_streamed_is_in_memory(d: int, folds: np.ndarray | None) -> None:
    rows, targets, weights = problem(50, d)
    whole = ridge(rows, targets, PATH, weights=weights, folds=folds)
    streamed = ridge(Blocks(rows, 7), targets, PATH, weights=weights, folds=folds)
    assert whole.held_out is not None and streamed.held_out is not None
    np.testing.assert_allclose(streamed.weight, whole.weight, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(streamed.held_out, whole.held_out, rtol=1e-5, atol=1e-6)


def test_blocks_of_an_array_are_all_of_it() -> None:
    rows, targets, _ = problem(BLOCK + 3, 3)
    path = ridge(rows.astype(np.float32), targets, [0.1])
    x = standardised(rows, np.ones(len(rows)))
    peer = Ridge(alpha=0.1 * len(rows)).fit(x, targets)
    np.testing.assert_allclose(rows @ path.weight[0].T + path.bias[0], peer.predict(x), **CLOSE)


def test_half_precision_rows_are_what_they_hold() -> None:
    rows, targets, _ = problem(80, 9)
    half = ((rows - rows.mean(0)) / 10).astype(np.float16)
    path, same = ridge(half, targets, PATH), ridge(half.astype(np.float64), targets, PATH)
    assert path.held_out is not None and same.held_out is not None
    np.testing.assert_allclose(path.weight, same.weight, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(path.held_out, same.held_out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)], ids=["primal", "dual"])
def test_features_that_do_not_vary_are_left_alone(n: int, d: int) -> None:
    rows, targets, _ = problem(n, d)
    rows[:, 3] = 1234.567
    path = ridge(rows.astype(np.float32), targets, PATH)
    rest = ridge(np.delete(rows.astype(np.float32), 3, 1), targets, PATH)
    assert np.abs(path.weight[:, :, 3]).max() < 1e-12
    np.testing.assert_allclose(path.held_out, rest.held_out, **CLOSE)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)], ids=["primal", "dual"])
def test_units_do_not_matter(n: int, d: int) -> None:
    """Scaled and shifted, as float32 holds it, the features say the same."""
    rows, targets, _ = problem(n, d)
    rows = standardised(rows, np.ones(n))
    plain = ridge(rows, targets, PATH)
    moved = ridge((rows * 0.001 + 10).astype(np.float64), targets, PATH)
    np.testing.assert_allclose(moved.held_out, plain.held_out, **CLOSE)


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_weights_are_repetitions(n: int, d: int, seed: int) -> None:
    """A sample of weight 2 is one that is there twice; and sums over folds are those of rows one by one."""
    rng = np.random.default_rng(seed)
    rows, targets = rng.normal(size=(n, d)), rng.normal(size=(n, 2))
    counts = rng.integers(1, 4, n)
    twice, of = np.repeat(rows, counts, 0), np.repeat(np.arange(n), counts)
    once = ridge(rows, targets, PATH, weights=counts, folds=np.arange(n))
    many = ridge(twice, targets[of], PATH, folds=of)
    assert once.held_out is not None and many.held_out is not None
    np.testing.assert_allclose(once.weight, many.weight, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(once.held_out[:, of], many.held_out, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(once.losses, many.losses, rtol=1e-4)


def test_what_is_held_out_is_told_and_need_not_be_kept() -> None:
    rows, targets, _ = problem(60, 7)
    told = np.full((len(PATH), *targets.shape), np.nan, np.float32)

    def tell(where: np.ndarray, outputs: np.ndarray) -> None:
        told[:, where] = outputs

    assert ridge(rows, targets, PATH, keep=False, on_held_out=tell).held_out is None
    np.testing.assert_array_equal(told, ridge(rows, targets, PATH).held_out)
    nothing = ridge(Blocks(rows, 60), targets, PATH, hold_out=False)
    assert nothing.losses is None
    with pytest.raises(SettingError, match="nothing was held out"):
        nothing.best  # noqa: B018


def test_what_cannot_be_solved_is_refused() -> None:
    rows, targets, weights = problem(30, 4)
    with pytest.raises(DataError, match="a generator does not"):
        ridge(iter([rows]), targets, PATH)
    with pytest.raises(DataError, match="29 rows of features and 30 targets"):
        ridge(rows[1:], targets, PATH)
    broken = rows.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ridge(broken, targets, PATH)
    with pytest.raises(DataError, match="not finite"):
        ridge(np.pad(broken, ((0, 0), (0, 90))), targets, PATH)
    for penalties in ([], [0.0], [-1.0], [np.inf]):
        with pytest.raises(SettingError, match="penalties"):
            ridge(rows, targets, penalties)
    with pytest.raises(SettingError, match="weights"):
        ridge(rows, targets, PATH, weights=-weights)
    with pytest.raises(SettingError, match="in one fold"):
        ridge(rows, targets, PATH, folds=np.zeros(30, int))
