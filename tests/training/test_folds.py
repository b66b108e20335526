"""Cross-validation: each fold is scored by a head that has not seen it, and the model is trained on all of
them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError, WeightsError
from headstart.data.annotations import PARTS
from headstart.features.feature_set import FeatureSet
from headstart.models import Model
from headstart.testing import small_data, tiny_model
from headstart.training.comparison import read_comparison
from headstart.training.fit import fit
from headstart.training.fold_heads import cross_validated_heads
from headstart.training.folds import CrossValidated
from headstart.training.job import job_of
from headstart.training.scores.fold_scores import FoldScores
from headstart.training.settings import settings_of

TASKS = {"single": ("dark", "light", "striped"), "multi": ("bright", "red"), "regression": ("lux", "metres")}
QUICK: dict[str, Any] = {"batch_size": 16, "max_epochs": 12, "lr": 0.03}
ALONE: dict[str, Any] = {"lr_scale": {"fc3": 1.0}}
"""Where parameters have rates of their own heads are trained one after the other; this is the rate there is."""


def images(task: str, count: int = 60, **about: Any) -> hs.data.Dataset:
    """Pictures with labels that can be seen in them, now and then."""
    rng = np.random.default_rng(0)
    light, striped = rng.uniform(20, 220, count), rng.random(count) < 0.4
    pictures = np.repeat(light[:, None, None, None], 16, 1).repeat(16, 2).repeat(3, 3)
    pictures[striped, ::4] = 0
    pictures = (pictures + rng.uniform(-20, 20, pictures.shape)).clip(0, 255).astype(np.uint8)
    labels: Any = {
        "single": np.where(striped, 2, light + 60 * rng.standard_normal(count) > 120),
        "multi": np.stack([light > 120, striped], 1).astype(np.uint8),
        "regression": np.stack([1000 + light, striped + light / 1000], 1),
    }[task]
    return hs.data.arrays(pictures, labels, TASKS[task], task=task, **about)


def noise(groups: int, size: int, classes: int = 2) -> hs.data.Dataset:
    """`size` pictures of each of `groups` things, whose labels are drawn: what has been seen can be learnt by
    heart, and of what has not, nothing is known."""
    rng = np.random.default_rng(3)
    things = rng.integers(0, 256, (groups, 1, 32, 32, 3))
    pictures = (things + rng.integers(-4, 5, (groups, size, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(groups) % classes, size)
    names = [f"thing {i // size}" for i in range(len(labels))]
    return hs.data.arrays(pictures.reshape(-1, 32, 32, 3), labels, ["a", "b"], groups=names)


@pytest.fixture(scope="module")
def of(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a data set: a model, and its features."""
    cache = tmp_path_factory.mktemp("cache")

    def made(data: hs.data.Dataset, cut: str = "dropout2") -> tuple[Model, FeatureSet]:
        # behind the dropout, a linear layer alone: folds are trained side by side
        model = hs.model("lenet", classes=data.classes)
        return model, hs.extract(model, data, [cut], backend=backend, cache=cache, dtype="float32")

    return made


@pytest.fixture(scope="module")
def single(of: Any, backend: str) -> tuple[Model, FeatureSet, Any]:
    """And the run of five folds."""
    model, features = of(images("single"))
    return model, features, hs.fit(model, features, folds=5, seed=3, backend=backend, **QUICK)


# --- the scores


@pytest.mark.neutral
def test_the_interval_is_students() -> None:
    values = (0.8, 0.9, 0.85, 0.7)
    scores = FoldScores("accuracy", values, (0.5, 0.4, 0.3, 0.2), (3, 9, 4, 5), (10, 11, 12, 13), 2)
    assert scores.mean == pytest.approx(np.mean(values))
    assert scores.loss == pytest.approx(0.35)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(scores.interval, expected)
    assert scores.median_epoch == 4, "of an even number the lower one"
    assert not scores.diverged
    assert FoldScores.from_dict(json.loads(json.dumps(scores.as_dict()))) == scores


@pytest.mark.neutral
def test_scores_that_tell_less() -> None:
    def of(score: str, *values: float | None) -> FoldScores:
        n = len(values)
        return FoldScores(score, values, (None, *[1.0] * (n - 1)), (1,) * n, (5,) * n)

    assert of("accuracy", 0.5, None, 0.7).mean == pytest.approx(0.6)
    assert of("accuracy", 0.5, None).interval is None
    assert of("accuracy", 0.5, 0.5).interval is None, "all the same: no spread to tell it by"
    assert of("accuracy", None, None).mean is None
    assert of("accuracy", 1.0, 0.9).interval[1] == 1.0  # type: ignore[index]
    assert of("mae", 30.0, 10.0).interval[1] > 30 and of("mae", 30.0, 10.0).interval[0] == 0  # type: ignore[index]
    assert of("mae", 1.0, 2.0).diverged


# --- a run


@pytest.mark.slow("keras", "jax")  # core divides
def test_what_comes_back(single: tuple[Model, FeatureSet, Any]) -> None:
    _, features, run = single
    folds = run.folds
    numbers = features.fold_numbers(5, 3)
    assert (folds.score, folds.seed) == ("accuracy", 3)
    assert folds.sizes == tuple(np.bincount(numbers)) and sum(folds.sizes) == len(features)
    assert folds.mean == pytest.approx(np.mean(folds.values))
    assert len(run.history) == run.best_epoch == folds.median_epoch == np.median(folds.best_epochs)
    assert run.history.best.val_loss is None, "the last training has nothing to validate on"
    assert run.settings["folds"] == 5
    right = run.validation.right_of_each()
    for fold, value in enumerate(folds.values):
        assert right[numbers == fold].mean() == pytest.approx(value)
    assert run.scores["accuracy"] == pytest.approx(right.mean())
    assert f"accuracy over 5 folds {folds.mean:.1%}" in repr(run)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_model_is_trained_on_all_of_the_data_at_the_folds_rates(
    single: tuple[Model, FeatureSet, Any], backend: str
) -> None:
    model, features, run = single
    epochs = run.folds.median_epoch
    assert epochs < QUICK["max_epochs"], "the test is of no use where the folds are trained to the end"
    settings = {**QUICK, "max_epochs": None, "epochs": QUICK["max_epochs"]}
    whole = hs.fit(model, features, seed=3, backend=backend, **settings)
    np.testing.assert_allclose(run.history["step_losses"], whole.history["step_losses"][:epochs], rtol=1e-4)
    assert run.history["learning_rate"] == whole.history["learning_rate"][:epochs]
    stage = run.settings["stages"]["head"]
    assert (stage["max_epochs"], stage["ended_after"]) == (QUICK["max_epochs"], epochs)
    constant = {**settings, "epochs": epochs, "schedule": "constant", "warmup": 0.0}
    folded = {**QUICK, "schedule": "constant", "warmup": 0.0}
    run = hs.fit(model, features, folds=3, backend=backend, **folded)
    alone = hs.fit(model, features, backend=backend, **{**constant, "epochs": run.folds.median_epoch})
    np.testing.assert_allclose(run.predict(features), alone.predict(features), rtol=1e-3, atol=1e-4)


@pytest.mark.slow("keras", "jax")  # core divides
def test_a_fold_is_what_fit_gives_with_its_validation_data(of: Any, backend: str) -> None:
    """Where it is solved, nothing depends on the order of the samples."""
    model, features = of(images("single", weights=np.linspace(0.5, 2, 60)))
    run = hs.fit(model, features, folds=4, solver="ridge", backend=backend)
    for (train, val), value, loss in zip(features.folds(4), run.folds.values, run.folds.losses, strict=True):
        alone = hs.fit(model, train, val, solver="ridge", backend=backend)
        assert (value, loss) == pytest.approx((alone.history[-1].val_score, alone.history[-1].val_loss), rel=1e-4)
    whole = hs.fit(model, features, solver="ridge", backend=backend)
    np.testing.assert_allclose(run.predict(features), whole.predict(features), rtol=1e-5, atol=1e-5)


@pytest.mark.slow("keras", "jax")  # core scores
@pytest.mark.parametrize("solver", [None, pytest.param("logistic", marks=pytest.mark.of("torch"))])
def test_the_scores_are_those_of_scikit_learns_cross_validation(of: Any, backend: str, solver: Any) -> None:
    model, features = of(images("single", 240))
    run = hs.fit(model, features, folds=4, seed=1, backend=backend, solver=solver)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    split = PredefinedSplit(features.fold_numbers(4, 1))
    expected = cross_val_score(peer, features.numpy().astype(np.float64), features.labels, cv=split)
    assert abs(run.folds.mean - expected.mean()) < 0.03
    np.testing.assert_allclose(run.folds.values, expected, atol=0.08)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize(
    ("cut", "count", "settings"),
    [("dropout2", 50, {"lr": 0.1}), pytest.param("pool2", 80, {"lr": 0.003, **ALONE}, marks=pytest.mark.slow)],
)
def test_drawn_labels_are_not_foreseen(
    of: Any, backend: str, cut: str, count: int, settings: dict[str, Any]
) -> None:
    """They can be learnt by heart: a head that had seen a fold would know it."""
    model, features = of(noise(count, 1), cut)
    run = hs.fit(model, features, folds=4, backend=backend, batch_size=16, monitor=None, **settings)
    assert run.history[-1].accuracy > 0.95
    assert abs(run.folds.mean - 0.5) < 0.15


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("settings", [{}, {"class_weights": "balanced"}])
def test_labels_that_are_held_out_are_not_seen(of: Any, backend: str, settings: dict[str, Any]) -> None:
    """What is predicted of a fold is the same to the bit, whatever its labels are."""
    data, predicted = images("single"), []
    for shift in (0, 1):
        out = data.fold_numbers(3) == 1
        labels = np.where(out, (data.labels + shift) % 3, data.labels)
        model, features = of(hs.data.arrays(data._source.images, labels, TASKS["single"]))
        options: Any = {"folds": 3, "epochs": 2, "monitor": None, "backend": backend, "batch_size": 16, "lr": 0.03}
        job = job_of(model, features, None, settings_of("fit", {**options, **settings}))
        heads = cross_validated_heads(job, [job])
        assert heads is not None
        predicted.append(heads[0][0].predictions)
    np.testing.assert_array_equal(predicted[0][out], predicted[1][out])
    assert not np.allclose(predicted[0][~out], predicted[1][~out], atol=0.01)


@pytest.mark.of("torch")
def test_copies_in_several_groups_are_told(of: Any, backend: str) -> None:
    """Groups are what is drawn for, and a picture in two of them may be on both sides."""
    data = images("single", 20)
    twice = np.concatenate([data._source.images] * 2)
    labels = np.concatenate([data.labels] * 2)
    grouped = hs.data.arrays(twice, labels, TASKS["single"], groups=[f"group {i}" for i in range(40)])
    model, features = of(grouped)
    folds = grouped.fold_numbers(3)
    crossing = int((folds[:20] != folds[20:]).sum())
    assert crossing > 5
    for call in (fit, partial(hs.sweep, grid={"seed": [0]})):
        with pytest.warns(DataWarning, match=f"{crossing} of 40 samples are exact copies of samples in another"):
            call(model, features, folds=3, epochs=1, backend=backend)
    model, features = of(hs.data.arrays(twice, labels, TASKS["single"]))  # without groups: copies are one
    hs.fit(model, features, folds=3, epochs=1, backend=backend)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_groups_are_not_cut(of: Any, backend: str) -> None:
    """Of a thing that was seen once, the other pictures are known."""
    data = noise(24, 4)
    model, features = of(data)
    run = hs.fit(model, features, folds=4, backend=backend, batch_size=16, lr=0.03, monitor=None)
    assert run.history[-1].accuracy > 0.95
    assert abs(run.folds.mean - 0.5) < 0.2
    numbers = features.fold_numbers(4)
    assert all(len(set(numbers[4 * i : 4 * i + 4])) == 1 for i in range(24))


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("task", ["multi", "regression"])
def test_other_tasks(of: Any, backend: str, task: str) -> None:
    model, features = of(images(task))
    settings = {"threshold": "best"} if task == "multi" else {}
    run = hs.fit(model, features, folds=3, backend=backend, **QUICK, **settings)
    assert run.folds.score == {"multi": "micro_f1", "regression": "standardised_mae"}[task]
    assert run.validation.samples == run.scores.samples == 60
    if task == "multi":
        assert run.model.threshold == run.scores.settings["threshold"] != 0.5
        assert run.folds.mean > 0.6
    else:
        assert run.folds.mean < 0.8, "what the mean would have is about 0.85"
        assert 0 < run.scores["mae"] < 100, "in units"


@pytest.mark.of("torch")
@pytest.mark.parametrize(("cut", "settings"), [("dropout2", {}), ("pool2", ALONE)])
def test_all_folds_have_the_runs_threshold(
    of: Any, backend: str, cut: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of drawn labels a threshold that each fold chose for itself would say too much."""
    drawn = images("multi")
    labels = (np.random.default_rng(5).random((60, 2)) < 0.4).astype(np.uint8)
    model, features = of(hs.data.arrays(drawn._source.images, labels, TASKS["multi"], task="multi"), cut)
    results, completed = [], CrossValidated.completed

    def noted(self: CrossValidated, *args: Any) -> Any:
        results.append(self.predictions)
        return completed(self, *args)

    monkeypatch.setattr(CrossValidated, "completed", noted)
    run = hs.fit(
        model, features, folds=5, threshold="best", backend=backend, **{**QUICK, "max_epochs": 3, **settings}
    )
    numbers, predicted = features.fold_numbers(5), expit(results[0]) > run.model.threshold
    for fold, value in enumerate(run.folds.values):
        expected = f1_score(labels[numbers == fold], predicted[numbers == fold], average="micro")
        assert value == pytest.approx(expected)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_fold_without_its_weights_is_another(of: Any, backend: str) -> None:
    """Samples that do not count are neither learnt from nor scored."""
    labels = images("single").labels.copy()
    weights = np.ones(60, np.float32)
    weights[40:] = 0
    wrong = images("single", weights=weights)
    model, features = of(wrong)
    run = hs.fit(model, features, folds=3, backend=backend, **QUICK)
    numbers = features.fold_numbers(3)
    right = run.validation.right_of_each()
    for fold, value in enumerate(run.folds.values):
        assert right[(numbers == fold) & (weights > 0)].mean() == pytest.approx(value)
    assert len(labels) == run.validation.samples


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("mode", ["staged", "frozen", "scratch"])
def test_other_modes(backend: str, tmp_path: Path, mode: str) -> None:
    train, _ = small_data()
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": tmp_path, "batch_size": 20}
    run = hs.fit(tiny_model(), train, mode=mode, folds=2, max_epochs=3, **settings)
    assert len(run.folds.values) == 2 and run.validation.samples == len(train)
    assert len(run.history) == run.folds.median_epoch
    assert run.history.best.val_loss is None
    if mode == "staged":
        assert run.extraction.extracted == len(train), "once, by all folds and the last training together"
        assert 1 <= len(run.head_history) <= 3 and run.head_history.best.val_loss is None


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("more", [{"augment": "flip", "views": 2}, {"memory": 84 * 4 * 50}])
def test_folds_side_by_side_of_views_and_of_streamed_features(backend: str, more: dict[str, Any]) -> None:
    """What is held out is seen as it is; of what is read from the disk a part at a time."""
    data = images("single", weights=np.linspace(1, 2, 60))
    model = hs.model("lenet", classes=data.classes)
    settings: dict[str, Any] = {"cut": "dropout2", "folds": 3, "dtype": "float32", "backend": backend, **QUICK}
    run = hs.fit(model, data, **{**settings, "batch_size": 4, **more})
    assert run.extraction.reused == 0 and (run.settings["features"]["where"] == "disk") == ("memory" in more)
    right, numbers = run.validation.right_of_each(), data.fold_numbers(3)
    for fold, value in enumerate(run.folds.values):
        counts = data.weights[numbers == fold]
        assert np.average(right[numbers == fold], weights=counts) == pytest.approx(value)
    assert run.folds.mean > 0.5


@pytest.mark.slow("keras", "jax")  # core writes
def test_a_run_is_saved_with_its_folds(single: tuple[Model, FeatureSet, Any], tmp_path: Path) -> None:
    _, features, run = single
    folder = run.save(tmp_path / "run")
    loaded = hs.load(folder, backend=run.backend)
    assert loaded.folds == run.folds
    assert loaded.history.best.val_loss is None
    assert loaded.scores["accuracy"] == run.scores["accuracy"]
    np.testing.assert_allclose(loaded.predict(features), run.predict(features), rtol=1e-5)
    about = json.loads((folder / "run.json").read_text())
    assert about["folds"]["mean"] == pytest.approx(run.folds.mean)
    for wrong in ({"values": [0.5]}, {"score": "luck"}, {"best_epochs": [0] * 5}):
        (folder / "run.json").write_text(json.dumps({**about, "folds": {**about["folds"], **wrong}}))
        with pytest.raises(WeightsError, match="not a saved run"):
            hs.load(folder, backend=run.backend)
    del about["folds"], about["checksum"]
    (folder / "run.json").write_text(json.dumps(about))
    assert hs.load(folder, backend=run.backend).folds is None


# --- shown


def test_a_comparison_has_the_folds_figures(single: tuple[Model, FeatureSet, Any], tmp_path: Path) -> None:
    *_, run = single
    figures = hs.comparison([run])
    (entry,) = figures.rows
    assert entry["folds"] == json.loads(json.dumps(run.folds.as_dict()))
    assert entry["val_accuracy"] == entry["val_score"] == run.folds.mean
    (table,) = figures.as_tables()
    half = (run.folds.interval[1] - run.folds.interval[0]) / 2
    assert table.columns[1] == "acc, 5 folds"
    assert f"trained for {run.best_epoch} of 12 epochs, the median of the folds' best" == table.note
    assert table.rows[0][1] == f"{run.folds.mean:.1%}±{100 * half:.1f}"
    page = figures.html()
    assert "<h2>Folds</h2>" in page and f"for {run.best_epoch} epochs, the folds&#39; median best" in page
    for value, loss in zip(run.folds.values, run.folds.losses, strict=True):
        assert f"<td>{100 * value:.1f}\N{NO-BREAK SPACE}%</td><td>{loss:.4f}</td>" in page
    (tmp_path / "compare.json").write_text(json.dumps(figures))
    assert read_comparison(tmp_path / "compare.json").rows == figures.rows


@pytest.mark.of("torch")
def test_the_command(tmp_path: Path) -> None:
    options = ["--data", "digits", "--model", "lenet", "--solver", "ridge", "--backend", "torch", "--folds", "3"]
    report = tmp_path / "figures.json"
    result = headstart("fit", *options, "--json", str(report))
    assert result.code == 0, result.err
    folds = json.loads(report.read_text())["folds"]
    assert sum(folds["sizes"]) == 1797
    low, high = folds["interval"]
    assert f"accuracy over 3 folds {folds['mean']:.1%} (95 %: {low:.1%} to {high:.1%})" in result.out
    assert "trained on all 1,797\nsamples" in result.out
    for more in (["--split", "0.5"], ["--val", "digits"], ["--split-by", "position"]):
        refused = headstart("fit", *options, *more)
        assert refused.code == 2 and "Traceback" not in refused.err
        assert f"{' '.join(more)} (" in refused.err and "with --folds 3" in refused.err


# --- what cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "an integer of 2 or more"),
        ({"folds": 5, "checkpoint": "kept"}, "checkpoint='kept' with folds=5"),
        ({"folds": 5, "resume": "kept"}, "resume='kept' with folds=5"),
        ({"folds": 5, "debug_nans": True}, "debug_nans=True with folds=5"),
    ],
)
def test_options_that_do_not_go_with_folds(backend: str, settings: dict[str, Any], message: str) -> None:
    data = images("single")
    with pytest.raises(SettingError, match=message):
        hs.fit(hs.model("lenet", classes=data.classes), data, backend=backend, **settings)


def test_data_that_are_not_one_set(backend: str) -> None:
    data = images("single")
    model = hs.model("lenet", classes=data.classes)
    with pytest.raises(SettingError, match="val= with folds=3: each fold is held out in turn"):
        hs.fit(model, *data.split(0.8), folds=3, backend=backend)
    for names, message in ((["train", "val"], "came in the parts train, val"), (["train", "test"], None)):
        codes = np.where(np.arange(60) < 40, *[PARTS.index(name) for name in names]).astype(np.int8)
        in_parts = hs.data.Dataset(data._source, replace(data.annotations, parts=codes), "pictures")
        if message is not None:
            with pytest.raises(SettingError, match=message):
                hs.fit(model, in_parts, folds=3, backend=backend)
        else:
            run = hs.fit(model, in_parts, folds=2, solver="ridge", backend=backend)
            assert sum(run.folds.sizes) == 40
    with pytest.raises(DataError, match="cannot be cut into 61 folds"):
        hs.fit(model, data, folds=61, backend=backend)


# --- many settings


GRID: dict[str, Any] = {"lr": [0.003, 0.03], "seed": [0, 3]}


@pytest.fixture(scope="module")
def swept(single: tuple[Model, FeatureSet, Any], backend: str) -> Any:
    model, features, _ = single
    settings = {name: value for name, value in QUICK.items() if name != "lr"}
    return hs.sweep(model, features, grid=GRID, folds=4, backend=backend, **settings)


@pytest.mark.slow("keras", "jax")  # core ranks
def test_a_sweep_ranks_by_the_mean_over_folds(swept: Any, single: tuple[Model, FeatureSet, Any]) -> None:
    assert len(swept.runs) == 4 and swept.at_once == 8, "two rates and four folds, of one seed at once"
    entries = swept.table()
    means = [run.folds.mean for run in swept.runs]
    assert means == [entry["val_score"] for entry in entries] == [entry["val_accuracy"] for entry in entries]
    assert [(-entry["val_score"], entry["val_loss"]) for entry in entries] == sorted(
        (-run.folds.mean, run.folds.loss) for run in swept.runs
    )
    for run in swept.runs:
        assert run.folds.sizes == swept.best.folds.sizes, "the same folds for all, whatever their seed"
        assert len(run.history) == run.folds.median_epoch and run.history.best.val_loss is None
    columns = swept.as_table().columns
    assert columns[2:4] == ("acc, 4 folds", "val loss")
    json.dumps(swept.as_dict(), allow_nan=False)


@pytest.mark.slow("keras", "jax")  # core divides
def test_a_point_of_a_sweep_is_what_fit_gives(
    swept: Any, single: tuple[Model, FeatureSet, Any], backend: str
) -> None:
    model, features, _ = single
    run = next(r for r, p in zip(swept.runs, swept.points, strict=True) if p == {"lr": 0.03, "seed": 0})
    alone = hs.fit(model, features, folds=4, backend=backend, **QUICK)
    assert alone.folds.values == run.folds.values
    np.testing.assert_allclose(alone.folds.losses, run.folds.losses, rtol=1e-3)
    assert alone.folds.best_epochs == run.folds.best_epochs
    np.testing.assert_allclose(alone.predict(features), run.predict(features), rtol=2e-2, atol=2e-3)


@pytest.mark.slow("keras", "jax")  # the suite has heads side by side and alone
def test_side_by_side_or_alone_makes_no_difference(
    single: tuple[Model, FeatureSet, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features, _ = single
    settings = {"folds": 2, "seed": 3, "backend": backend, **QUICK}
    together = hs.fit(model, features, **settings)
    monkeypatch.setattr("headstart.training.side_by_side.MAX_NBYTES", 1)
    alone = hs.fit(model, features, **settings)
    assert alone.folds.best_epochs == together.folds.best_epochs
    np.testing.assert_allclose(alone.folds.losses, together.folds.losses, rtol=1e-3)
    assert alone.folds.values == together.folds.values


@pytest.mark.of("torch")
def test_the_command_of_a_sweep(tmp_path: Path) -> None:
    options = ["--data", "digits", "--size", "32", "--backend", "torch", "--folds", "3", "--lr", "0.003,0.03"]
    report = tmp_path / "figures.json"
    result = headstart("sweep", *options, "--epochs", "2", "--json", str(report), "--out", str(tmp_path / "best"))
    assert result.code == 0, result.err
    assert "2 heads x 3 folds, 6 at once" in result.out
    best = json.loads(report.read_text())["rows"][0]
    assert f"{best['folds']['mean']:.1%}" in result.out and "trained on all 1,797 samples" in result.out
    assert hs.load(tmp_path / "best").folds.mean == best["folds"]["mean"]
