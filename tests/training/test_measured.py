"""What an epoch's record says of validation data, beside scikit-learn: with weights, whatever the units are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, mean_squared_error

import headstart as hs
from headstart.common.text import epoch_line
from headstart.contract.losses import Sigmoid, Softmax, SquaredError
from headstart.training.history import Seconds
from headstart.training.loop import record_of
from headstart.training.measured import Measured, measure, measure_heads
from headstart.training.metrics import softmax
from headstart.training.objective import Objective, Scale
from headstart.training.scores import Scores, scores_of
from headstart.training.scores.multi import sigmoid

pytestmark = pytest.mark.neutral

N = 60
OBJECTIVES = {
    "single": Objective("single", Softmax(0.1)),
    "multi": Objective("multi", Sigmoid((2.0, 1.0, 1.0)), threshold=0.4),
    "regression": Objective("regression", SquaredError(), Scale((1950.0, 0.5, -3.0), (20.0, 1e-3, 1.0))),
}


def drawn(task: str, weights: Any) -> tuple[Objective, np.ndarray, Any]:
    """An objective, outputs as a trainer gives them, and the data that they are for."""
    rng = np.random.default_rng(7)
    objective, outputs = OBJECTIVES[task], rng.normal(size=(N, 3)).astype(np.float32)
    labels: np.ndarray = rng.integers(0, 3, N)
    if task == "multi":
        labels = (rng.random((N, 3)) < 0.4).astype(np.uint8)
    elif task == "regression":
        labels = objective.predictions(rng.normal(size=(N, 3)).astype(np.float32))
    pictures = rng.integers(0, 256, (N, 4, 4, 3), np.uint8)
    return objective, outputs, hs.data.arrays(pictures, labels, ["a", "b", "c"], task=task, weights=weights)


def expected_of(task: str, outputs: np.ndarray, data: Any, w: Any) -> Measured:
    """By scikit-learn."""
    if task == "single":
        share = accuracy_score(data.labels, outputs.argmax(1), sample_weight=w)
        return Measured(log_loss(data.labels, softmax(outputs), sample_weight=w), share, share)
    if task == "multi":
        guess, each = sigmoid(outputs) > 0.4, sigmoid(outputs.astype(np.float64))
        losses = [log_loss(data.labels[:, k], each[:, k], sample_weight=w) for k in range(3)]
        share = accuracy_score(data.labels, guess, sample_weight=w)
        return Measured(np.mean(losses), share, f1_score(data.labels, guess, average="micro", sample_weight=w))
    scale = OBJECTIVES[task].scale
    assert scale is not None
    standard = (data.labels.astype(np.float64) - scale.mean) / scale.deviation
    loss = mean_squared_error(standard, outputs, sample_weight=w)
    return Measured(loss, None, mean_absolute_error(standard, outputs, sample_weight=w))


def close(measured: Measured) -> list[Any]:
    return [None if value is None else pytest.approx(value, rel=1e-3) for value in measured]


def scored(task: str, objective: Objective, outputs: np.ndarray, data: Any) -> Scores:
    return scores_of(
        task,
        objective.predictions(outputs),
        data.labels,
        data.classes,
        data.weights,
        threshold=objective.threshold,
        deviation=objective.deviation,
    )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_all_of_it_is_weighted_as_scikit_learn_does(task: str, weighted: bool) -> None:
    """And the score is that of `run.scores`."""
    w = np.random.default_rng(1).choice([0.0, 0.5, 1.0, 3.0], N) if weighted else None
    objective, outputs, data = drawn(task, w)
    measured = measure(objective, outputs, objective.targets(data), data)
    assert list(measured) == close(expected_of(task, outputs, data, w))
    scores = scored(task, objective, outputs, data)
    assert scores[scores.headline] == pytest.approx(measured.score, rel=1e-4)
    record = record_of(objective, 0, np.ones((1, 1)), None, measured, Seconds(), np.ones(1))
    assert record.score == scores.headline


@pytest.mark.parametrize("task", OBJECTIVES)
def test_what_weighs_nothing_says_nothing(task: str) -> None:
    """Whatever the outputs for it are."""
    w = np.repeat([1.0, 0.0], N // 2)
    objective, outputs, data = drawn(task, w)
    outputs[N // 2 :] = np.nan
    half = data.subset(np.arange(N // 2))
    expected = measure(objective, outputs[: N // 2], objective.targets(half), half)
    assert list(measure(objective, outputs, objective.targets(data), data)) == close(expected)


def test_no_unit_rules_the_score_of_several_targets() -> None:
    """A model that is good at the years and bad at the metres is as good as one that is the other way round."""
    rng = np.random.default_rng(2)
    labels = np.stack([1950 + 20 * rng.normal(size=N), 1e-3 * rng.normal(size=N)], 1)
    off = {name: np.array(of) * [20, 1e-3] for name, of in {"years": (1.0, 0.1), "metres": (0.1, 1.0)}.items()}
    values = {
        name: scores_of("regression", labels + by, labels, ["year", "m"], deviation=(20.0, 1e-3))
        for name, by in off.items()
    }
    assert {scores.headline for scores in values.values()} == {"standardised_mae"}
    assert [scores["standardised_mae"] for scores in values.values()] == pytest.approx([0.55, 0.55])
    assert values["years"]["mae"] > 9 * values["metres"]["mae"]
    alone = scores_of("regression", labels[:, :1] + 3, labels[:, :1], ["year"], deviation=(20.0,))
    assert (alone.headline, alone["mae"]) == ("mae", pytest.approx(3))
    assert "standardised_mae" not in alone
    own = scores_of("regression", labels + 1e-3, labels, ["year", "m"])
    assert own["standardised_mae"] == pytest.approx((1e-3 / labels.std(0)).mean())


def test_an_epochs_line_says_which_accuracy_it_is() -> None:
    """Of several labels all are to be right, which is less than their F1."""
    of_task = {"single": Measured(0.1, 0.8, 0.8), "multi": Measured(0.1, 0.5, 0.8)}
    lines = [
        epoch_line("", record_of(OBJECTIVES[task], 0, np.ones((1, 1)), 0.4, measured, Seconds(), np.ones(1)))
        for task, measured in of_task.items()
    ]
    assert ", accuracy 40.0%, val_loss 0.1000, val_accuracy 80.0%" in lines[0]
    assert ", subset accuracy 40.0%, val_loss 0.1000, val_micro_f1 80.0%" in lines[1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_heads_are_measured_as_each_alone(task: str, weighted: bool) -> None:
    weights = np.random.default_rng(1).integers(0, 3, N).astype(np.float32) if weighted else None
    objective, outputs, data = drawn(task, weights)
    heads = np.stack([outputs, -outputs, outputs[:, ::-1]], 1)
    heads[3, 1, 0] = np.nan
    targets = objective.targets(data)
    alone = [measure(objective, heads[:, k], targets, data) for k in range(3)]
    for one, other in zip(measure_heads(objective, heads, targets, data), alone, strict=True):
        np.testing.assert_allclose(np.array(one, float), np.array(other, float), rtol=1e-12)
