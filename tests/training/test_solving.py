"""Heads that are solved: runs as any other, beside scikit-learn on the same features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from scalers import scaler_of
from sklearn.linear_model import LogisticRegression, Ridge

import headstart as hs
from headstart.common.errors import DataError, DataWarning, HeadstartError, SettingError
from headstart.contract.losses import Sigmoid, Softmax, per_sample
from headstart.contract.losses import mean as mean_loss
from headstart.features.feature_set import FeatureSet
from headstart.models import Model
from headstart.training import solving
from headstart.training.solvers.ridge import working_nbytes
from headstart.training.solving import FOLDS

pytestmark = pytest.mark.of("torch")  # heads are solved in core

TASKS = {"single": ("dark", "light", "striped"), "multi": ("bright", "red"), "regression": ("lux", "metres")}


def images(task: str, count: int = 48, groups: bool = False, weights: bool = False) -> hs.data.Dataset:
    """Pictures with labels that can be seen in them."""
    rng = np.random.default_rng(0)
    light, striped = rng.uniform(20, 220, count), rng.random(count) < 0.4
    pictures = np.repeat(light[:, None, None, None], 16, 1).repeat(16, 2).repeat(3, 3)
    pictures[striped, ::4] = 0
    pictures = (pictures + rng.uniform(-20, 20, pictures.shape)).clip(0, 255).astype(np.uint8)
    labels: Any = {
        "single": np.where(striped, 2, light > 120),
        "multi": np.stack([light > 120, striped], 1).astype(np.uint8),
        "regression": np.stack([1000 + light, striped + light / 1000], 1),
    }[task]
    about: dict[str, Any] = {}
    if groups:
        about["groups"] = [f"g{i // 4}" for i in range(count)]
    if weights:
        about["weights"] = rng.uniform(0.1, 3, count)
    return hs.data.arrays(pictures, labels, TASKS[task], task=task, **about)


@pytest.fixture(scope="module", params=[*TASKS])
def features(
    request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, FeatureSet, FeatureSet]:
    data = images(request.param, weights=True)
    model = hs.model("lenet", classes=data.classes)
    made = hs.extract(model, data, backend=backend, cache=tmp_path_factory.mktemp("cache"), dtype="float32")
    return model, *made.split(0.75)


def standardised(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaler = scaler_of(rows, weights)
    return scaler.mean_, scaler.scale_


def numbers(features: FeatureSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = features.weights
    assert weights is not None
    return features.numpy().astype(np.float64), features.labels, weights.astype(np.float64)


@pytest.mark.each
def test_ridge_is_scikit_learns(features: tuple[Model, FeatureSet, FeatureSet], backend: str) -> None:
    model, train, val = features
    run = hs.fit(model, train, val, solver="ridge", backend=backend)
    rows, labels, weights = numbers(train)
    solved = run.settings["solved"]
    mean, deviation = standardised(rows, weights)
    targets = labels.astype(np.float64)
    if train.task == "single":
        targets = np.where(np.eye(3)[labels] > 0, 1.0, -1.0)
    elif train.task == "multi":
        targets = np.where(labels > 0, 1.0, -1.0)
    peer = Ridge(alpha=solved["penalty"] * weights.sum()).fit((rows - mean) / deviation, targets, weights)
    expected = peer.predict((numbers(val)[0] - mean) / deviation)
    np.testing.assert_allclose(run.predict(val), expected * solved["scale"], rtol=1e-3, atol=1e-3)
    assert solved["held_out"] == "leave-one-out"
    assert solved["penalty"] == solved["penalties"][int(np.argmin(solved["losses"]))]
    assert len(run.history) == 1 and run.best_epoch == 1
    assert run.settings["solver"] == "ridge" and run.settings["optimizer"] == {}


def test_logistic_is_scikit_learns(features: tuple[Model, FeatureSet, FeatureSet], backend: str) -> None:
    model, train, val = features
    if train.task == "regression":
        with pytest.raises(SettingError, match="use solver='ridge'"):
            hs.fit(model, train, val, solver="logistic", backend=backend)
        return
    run = hs.fit(model, train, val, solver="logistic", backend=backend)
    rows, labels, weights = numbers(train)
    solved = run.settings["solved"]
    mean, deviation = standardised(rows, weights)
    x, c = (rows - mean) / deviation, 1 / (solved["penalty"] * weights.sum())
    own = labels if labels.ndim == 2 else labels[:, None]
    peers = [LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, of, weights) for of in own.T]
    outputs = np.concatenate([peer.decision_function(x).reshape(len(x), -1) for peer in peers], 1)
    squares = sum((peer.coef_**2).sum() for peer in peers)
    loss = Softmax() if labels.ndim == 1 else Sigmoid()
    count = 1 if labels.ndim == 1 else labels.shape[1]  # each label is a regression of its own

    def objective(outputs: np.ndarray, squares: float) -> float:
        return count * mean_loss(per_sample(loss, outputs, labels), weights) + solved["penalty"] / 2 * squares

    layer = next(name for name in run.model.params if run.model.params[name].shape == (len(train.classes), 84))
    ours = objective(run.predict(train), float(((run.model.params[layer] * deviation) ** 2).sum()))
    # the penalty is a millionth of the curvature, so a gradient at its bar is still a little away
    assert ours == pytest.approx(objective(outputs, squares), abs=1e-3)
    assert solved["held_out"] == f"{FOLDS} folds" and solved["gradient"] <= 1e-4


@pytest.mark.of("torch")  # core solves
@pytest.mark.parametrize("task", ["single", "multi"])
def test_where_all_is_right_nothing_is_certain(task: str, backend: str) -> None:
    """The least cross-entropy has an infinite factor then, and every probability was 1. The factor is that of
    Platt (1999), by Laplace's rule: beside n samples that are right one of n + 2 is taken to be wrong."""
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    pictures = np.clip(y[:, None, None, None] * 200 + rng.integers(0, 50, (60, 28, 28, 1)), 0, 255)
    labels = y if task == "single" else np.stack([y, 1 - y], 1)
    data = hs.data.arrays(pictures.repeat(3, 3).astype(np.uint8), labels, ["dark", "light"], task=task)
    made = hs.extract(hs.model("lenet", classes=data.classes), data, backend=backend, dtype="float32")
    run = hs.fit(hs.model("lenet", classes=data.classes), made, solver="ridge", backend=backend)
    solved, rows = run.settings["solved"], made.numpy().astype(np.float64)
    mean, deviation = standardised(rows, np.ones(60))
    x, aims = (rows - mean) / deviation, 2.0 * np.stack([y == 0, y == 1], 1) - 1
    aims = aims if task == "single" else -aims
    margins = []
    for out in range(60):
        left = np.arange(60) != out
        # held out is its own share of the mean loss, too
        peer = Ridge(alpha=solved["penalty"] * 59).fit(x[left], aims[left]).predict(x[out : out + 1])[0]
        margins += [peer @ aims[out]] if task == "single" else list(peer * aims[out])
    z = np.array(margins)
    assert (z > 0).all() and solved["scale"] < 100
    probabilities = 1 / (1 + np.exp(-solved["scale"] * z))
    # of the derivative by the factor nothing is left
    assert abs((z * (probabilities - 61 / 62)).mean()) < 0.002
    assert run.probabilities(made).max() < 0.9999


@pytest.mark.of("torch")  # core solves
def test_classes_of_one_sample_are_not_solved_for_by_what_is_held_out(backend: str) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), np.uint8)
    data = hs.data.arrays(pictures, np.arange(6), list("abcdef"))
    with pytest.raises(DataError, match=r"no class has samples in two of them, so .* use solver='ridge'"):
        hs.fit(hs.model("lenet", classes=data.classes), data, solver="logistic", backend=backend)


@pytest.mark.slow("keras", "jax")  # core solves; ridge is above, in each
@pytest.mark.each
@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_a_solved_run_is_a_run(solver: str, backend: str, tmp_path: Path) -> None:
    """Trained on pictures; saved, loaded, evaluated, shown; watched."""
    train, val = images("single").split(0.75)
    model, seen = hs.model("lenet", classes=train.classes), []
    run = hs.fit(
        model, train, val, solver=solver, backend=backend, on_epoch=lambda stage, record: seen.append(record)
    )
    assert seen == list(run.history) and run.scores is not None
    assert run.history.best.val_accuracy == run.scores["accuracy"] == run.evaluate(val).accuracy
    with pytest.warns(DataWarning, match="exact copies"):
        fitted = run.evaluate(train)
    assert (fitted.loss, fitted.accuracy) == pytest.approx(
        (run.history.best.loss, run.history.best.accuracy), rel=1e-2
    )
    loaded = hs.load(run.save(tmp_path / "run"), backend=backend)
    np.testing.assert_allclose(loaded.predict(val), run.predict(val), rtol=1e-5, atol=1e-5)
    assert loaded.settings["solved"] == run.settings["solved"]
    page = run.report(tmp_path / "report.html").read_text()
    assert f"{backend} cached {solver}" in page and "solved.penalty" in page


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_validation_data_choose_nothing(solver: str, backend: str) -> None:
    train, val = images("single").split(0.75)
    model = hs.model("lenet", classes=train.classes)
    runs = [hs.fit(model, train, held, solver=solver, backend=backend) for held in (None, val)]
    for name, values in runs[0].model.params.items():
        np.testing.assert_array_equal(values, runs[1].model.params[name])
    assert runs[0].validation is None and runs[0].history.best.val_loss is None


def test_streamed_is_in_memory(backend: str, tmp_path: Path) -> None:
    """From the disk, in the order in which rows lie there, a few at a time."""
    train, val = images("single", 60, weights=True).split(0.75)
    model = hs.model("lenet", classes=train.classes)
    for solver in ("ridge", "logistic"):
        whole = hs.fit(model, train, val, solver=solver, backend=backend, batch_size=4)
        streamed = hs.fit(model, train, val, solver=solver, backend=backend, batch_size=4, memory="6KB")
        assert streamed.settings["features"]["where"] == "disk"
        np.testing.assert_allclose(streamed.probabilities(val), whole.probabilities(val), atol=1e-3)
        penalties = [run.settings["solved"]["penalty"] for run in (whole, streamed)]
        assert penalties[0] == penalties[1]


def test_groups_are_held_out_whole(backend: str) -> None:
    train, val = images("single", groups=True).split(0.75)
    model = hs.model("lenet", classes=train.classes)
    for solver in ("ridge", "logistic"):
        solved = hs.fit(model, train, val, solver=solver, backend=backend).settings["solved"]
        assert solved["held_out"] == f"{FOLDS} folds of groups"


def test_copies_are_not_known_by_each_other(backend: str) -> None:
    """Every picture is there twice, with labels that nothing says: held out one by one, each would be known."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (40, 16, 16, 3), np.uint8).repeat(2, 0)
    data = hs.data.arrays(pictures, rng.integers(0, 2, 40).repeat(2), ("a", "b"))
    run = hs.fit(hs.model("lenet", classes=data.classes), data, solver="ridge", backend=backend)
    solved = run.settings["solved"]
    assert solved["held_out"] == f"{FOLDS} folds" and min(solved["losses"]) > 0.9


def test_maps_are_averaged_as_the_head_does(backend: str) -> None:
    data = images("single", 24)
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes, size=32)
    maps = hs.fit(model, data, solver="ridge", cut="layer4", backend=backend, dtype="float32")
    vectors = hs.fit(model, data, solver="ridge", cut="avgpool", backend=backend, dtype="float32")
    np.testing.assert_allclose(maps.predict(data), vectors.predict(data), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "svm"}, "expected one of steps, ridge, logistic"),
        ({"mode": "frozen"}, "mode 'cached'"),
        ({"mode": "staged"}, "mode 'cached'"),
        ({"mode": "full"}, "mode 'cached'"),
        ({"epochs": 3}, "takes no steps"),
        ({"standardize": False}, "solved on standardised features"),
        ({"lr": 0.1}, "takes no steps"),
        ({"optimizer": "sgd"}, "takes no steps"),
        ({"schedule": "constant", "warmup": 0.5}, "takes no steps"),
        ({"label_smoothing": 0.1}, "use solver='logistic'"),
        ({"augment": "flip", "views": 2}, "takes every sample once"),
        ({"cut": "flatten"}, "cut behind it"),
    ],
    ids=str,
)
def test_what_a_solver_is_not_for_is_refused(backend: str, options: dict[str, Any], message: str) -> None:
    data = images("single", 12)
    model = hs.model("lenet", classes=data.classes)
    with pytest.raises(HeadstartError, match=message):
        hs.fit(model, data, **{"solver": "ridge", "backend": backend, **options})


def test_smoothing_and_what_labels_count(backend: str) -> None:
    train, val = images("multi").split(0.75)
    model = hs.model("lenet", classes=train.classes)
    plain = hs.fit(model, train, val, solver="logistic", backend=backend)
    counting = hs.fit(model, train, val, solver="logistic", pos_weight={"red": 20.0}, backend=backend)
    assert counting.probabilities(train)[:, 1].mean() > plain.probabilities(train)[:, 1].mean()
    single = images("single")
    model = hs.model("lenet", classes=single.classes)
    runs = [
        hs.fit(model, single, solver="logistic", label_smoothing=share, backend=backend) for share in (0.0, 0.3)
    ]
    assert runs[1].probabilities(single).max(1).mean() < runs[0].probabilities(single).max(1).mean()


def test_the_command(backend: str, tmp_path: Path) -> None:
    train = images("single", 24)
    saved = hs.extract(hs.model("lenet", classes=train.classes), train, backend=backend).save(tmp_path / "saved")
    common = ("fit", "--features", saved, "--model", "lenet", "--backend", backend, "--solver", "logistic")
    result = headstart(*common, "--json", tmp_path / "run.json", "--out", tmp_path / "run")
    assert result.code == 0 and "cached logistic" in result.out, result.err
    figures = json.loads((tmp_path / "run.json").read_text())
    assert figures["settings"]["solved"]["loss"] == "cross-entropy"
    refused = headstart(*common, "--epochs", 7)
    assert refused.code == 2 and "takes no steps" in refused.err


@pytest.mark.parametrize("groups", [False, True], ids=["each", "folds"])
def test_products_that_do_not_fit_are_refused(groups: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds keep the products of each, and several are decomposed at once."""
    data = images("single", 400, groups=groups)
    features = hs.extract(hs.model("lenet", classes=data.classes), data, backend=backend)
    needed = working_nbytes(400, 84, FOLDS if groups else 0)
    assert needed > 8 * 84**2 * (FOLDS if groups else 3)
    model = hs.model("lenet", classes=data.classes)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(solving, "available_memory", lambda free=free: free)
        if fits:
            hs.fit(model, features, solver="ridge", backend=backend)
        else:
            with pytest.raises(SettingError, match="use solver='logistic', or a cut with fewer features"):
                hs.fit(model, features, solver="ridge", backend=backend)
