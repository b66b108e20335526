"""What a loss means, by numpy: beside torch's own functions and scikit-learn's; its slope beside differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from headstart.common.errors import SettingError
from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError, mean, per_sample, right
from headstart.testing.known import slope

pytestmark = pytest.mark.neutral
CASES = 200


def case(seed: int) -> tuple[np.random.Generator, np.ndarray, int, int]:
    """Outputs `(n, k)`: of one sample or many, small or large, with ties now and then."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 9)), int(rng.integers(2, 7))
    outputs = rng.standard_normal((n, k)) * rng.choice([0.1, 1.0, 30.0])
    return rng, np.round(outputs) if seed % 5 == 0 else outputs, n, k


def drawn_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    weights = rng.uniform(0, 3, n).astype(np.float32)
    weights[rng.random(n) < 0.2] = 0
    weights[0] = 1
    return weights


def losses_and_targets(rng: np.random.Generator, n: int, k: int) -> list[tuple[Loss, np.ndarray]]:
    classes, labels = rng.integers(0, k, n), rng.integers(0, 2, (n, k)).astype(np.uint8)
    numbers = rng.standard_normal((n, k)).astype(np.float32)
    weight = tuple(rng.uniform(0.1, 5, k).tolist())
    return [
        (Softmax(), classes),
        (Softmax(float(rng.uniform(0, 0.9))), classes),
        (Sigmoid(), labels),
        (Sigmoid(weight), labels),
        (SquaredError(), numbers),
        (Huber(float(rng.uniform(0.1, 2))), numbers),
    ]


def test_losses_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional  # noqa: N806

    def theirs(loss: Loss, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        z, y = torch.from_numpy(outputs), torch.from_numpy(targets)
        if isinstance(loss, Softmax):
            return np.asarray(F.cross_entropy(z, y, label_smoothing=loss.smoothing, reduction="none"))
        if isinstance(loss, Sigmoid):
            weight = None if loss.pos_weight is None else torch.tensor(loss.pos_weight, dtype=torch.float64)
            each = F.binary_cross_entropy_with_logits(z, y.double(), pos_weight=weight, reduction="none")
        elif isinstance(loss, SquaredError):
            each = F.mse_loss(z, y.double(), reduction="none")
        else:
            each = F.huber_loss(z, y.double(), delta=loss.delta, reduction="none")
        return np.asarray(each.mean(1))

    for seed in range(CASES):
        rng, outputs, n, k = case(seed)
        for loss, targets in losses_and_targets(rng, n, k):
            assert_allclose(
                per_sample(loss, outputs, targets), theirs(loss, outputs, targets), rtol=1e-9, atol=1e-12
            )


def test_the_weighted_mean_is_torchs_and_scikit_learns() -> None:
    """With a weight a class, and with a weight a sample."""
    torch = pytest.importorskip("torch")
    from sklearn.metrics import log_loss

    for seed in range(CASES):
        rng, outputs, n, k = case(seed)
        labels, by_class = rng.integers(0, k, n), rng.uniform(0.1, 3, k)
        losses = per_sample(Softmax(), outputs, labels)
        theirs = torch.nn.functional.cross_entropy(
            torch.from_numpy(outputs), torch.from_numpy(labels), weight=torch.from_numpy(by_class)
        )
        assert mean(losses, by_class[labels]) == pytest.approx(float(theirs), rel=1e-9)
        weights = drawn_weights(rng, n)
        gentle = outputs / np.abs(outputs).max(initial=1.0)  # scikit-learn clips probabilities at 2e-16
        shares = np.exp(gentle) / np.exp(gentle).sum(1, keepdims=True)
        expected = log_loss(labels, shares, sample_weight=weights, labels=range(k))
        assert mean(per_sample(Softmax(), gentle, labels), weights) == pytest.approx(expected, rel=1e-9)


def test_slopes_are_those_of_differences() -> None:
    for seed in range(CASES):
        rng, outputs, n, k = case(seed)
        weights = drawn_weights(rng, n) if seed % 2 else None
        outputs = outputs / np.abs(outputs).max(initial=1.0)
        direction = rng.standard_normal(outputs.shape)
        for loss, targets in losses_and_targets(rng, n, k):
            ends = [
                mean(per_sample(loss, outputs + sign * 1e-6 * direction, targets), weights) for sign in (1, -1)
            ]
            expected = float((slope(loss, outputs, targets, weights) * direction).sum())
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_what_is_right_and_what_names_nothing() -> None:
    nan, inf = np.nan, np.inf
    logits = np.array([[1, 2], [2, 2], [nan, 1], [inf, 0], [-inf, 0]], np.float32)
    assert right(Softmax(), logits, np.array([1, 0, 1, 0, 1])).tolist() == [True, True, False, False, True]
    labels = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
    assert right(Sigmoid(), np.array([[-1, 0.5], [1, 0], [-1, nan]]), labels).tolist() == [True, False, False]
    assert not right(SquaredError(), np.zeros((2, 1)), np.zeros((2, 1))).any()


def test_nothing_comes_of_nothing() -> None:
    losses = per_sample(Softmax(), np.array([[1.0, 2.0], [np.nan, 0.0]]), np.array([0, 1]))
    assert np.isnan(losses).tolist() == [False, True]
    assert mean(losses[:1], np.zeros(1, np.float32)) == 0.0
    assert per_sample(Sigmoid(), np.array([[1000.0, -1000.0]]), np.array([[1, 0]], np.uint8)).tolist() == [0.0]
    with pytest.raises(SettingError, match=r"delta is 0; expected a number above 0"):
        Huber(0)
