"""Training on several labels a sample, and on numbers; other tests have one class a sample."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import wrapped
from PIL import Image
from scalers import scaler_of

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import (
    DataError,
    DataWarning,
    DivergedWarning,
    SettingError,
    UnknownNameError,
    WeightsError,
)
from headstart.contract.losses import SquaredError
from headstart.data import Dataset
from headstart.models import Model
from headstart.training.comparison import read_comparison
from headstart.training.evaluate import labelled
from headstart.training.objective import Objective, Scale, pos_weights, scale_of
from headstart.training.predictions import classify

LABELS = ("bright", "red", "striped")
TARGETS = ("year", "metres")
BEHIND_DROPOUT = "dropout2"
"""where a loss of training is one that can be told without the backend's random numbers"""
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "optimizer": "adamw", "lr": 0.01}


def images(count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, 0 and 1 for each of `LABELS`, and numbers for each of `TARGETS`, which can be seen in them."""
    rng = np.random.default_rng(0)
    light, red = rng.uniform(40, 200, count), rng.uniform(0, 50, count)
    striped = rng.random(count) < 0.3
    pictures = np.repeat(light[:, None, None, None], 16, 1).repeat(16, 2).repeat(3, 3)
    pictures[..., 0] += red[:, None, None]
    pictures[striped, ::4] = 0
    pictures += rng.uniform(-5, 5, pictures.shape)
    labels = np.stack([light > 120, red > 30, striped], 1).astype(np.uint8)
    return pictures.clip(0, 255).astype(np.uint8), labels, np.stack([1900 + light, red / 1000], 1)


def data_of(task: str) -> Dataset:
    pictures, labels, numbers = images()
    if task == "multi":
        return hs.data.arrays(pictures, labels, LABELS, task=task)
    return hs.data.arrays(pictures, numbers, TARGETS, task=task)


def model_for(data: Dataset) -> Model:
    return hs.model("lenet", classes=data.classes)


def losses(run: hs.Run) -> list[float]:
    return [loss for record in run.history for loss in record.step_losses]


@pytest.fixture(scope="module", params=["multi", "regression"])
def parts(request: pytest.FixtureRequest) -> tuple[Dataset, Dataset]:
    return data_of(request.param).split(0.8)


@pytest.fixture(scope="module")
def trained(
    parts: tuple[Dataset, Dataset], backend: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, hs.Run]:
    model = model_for(parts[0])
    cache = tmp_path_factory.mktemp("cache")
    settings = {"cut": BEHIND_DROPOUT, "backend": backend, "cache": cache, "dtype": "float32", **SETTINGS}
    return model, hs.fit(model, *parts, **settings)


@pytest.fixture(scope="module")
def numbers_run(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = data_of("regression")
    cache = tmp_path_factory.mktemp("cache")
    run = hs.fit(model_for(data), data, backend=backend, cache=cache, epochs=1, batch_size=40)
    return run.save(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.slow("keras", "jax")  # the suite has each loss and each way; here torch has them together
def test_every_way_of_feeding_learns_the_same(
    parts: tuple[Dataset, Dataset], trained: tuple[Model, hs.Run], backend: str
) -> None:
    model, cached = trained
    frozen = hs.fit(model, *parts, mode="frozen", backend=backend, cut=BEHIND_DROPOUT, **SETTINGS)
    np.testing.assert_allclose(losses(frozen), losses(cached), rtol=1e-4)
    np.testing.assert_allclose(frozen.history["val_score"], cached.history["val_score"], rtol=1e-4)
    settings = {"cut": BEHIND_DROPOUT, **{name: value for name, value in SETTINGS.items() if name != "lr"}}
    swept = hs.sweep(model, *parts, grid={"lr": [0.01, 1e-6]}, backend=backend, dtype="float32", **settings)
    assert swept.at_once == 2
    scores = [run.history[-1].val_score for run in swept.runs]
    assert scores == sorted(scores, reverse=parts[0].task == "multi"), "the best comes first: most F1, least error"
    same = swept.runs[swept.points.index({"lr": 0.01})]
    np.testing.assert_allclose(losses(same), losses(cached), rtol=1e-3)
    np.testing.assert_allclose(same.predict(parts[1]), cached.predict(parts[1]), rtol=1e-3, atol=1e-3)


@pytest.mark.slow("keras", "jax")  # test_feeds streams in each
def test_rows_from_the_disk_are_learnt_by_their_own_targets(parts: tuple[Dataset, Dataset], backend: str) -> None:
    """Another order, the same mean loss of an epoch whose steps move nothing."""
    # not fresh: a head that starts at zero has scores that hang on its last bits
    model = replace(model_for(parts[0]), fresh=frozenset())
    runs = [
        hs.fit(
            model, *parts, memory=memory, backend=backend, dtype="float32", cut=BEHIND_DROPOUT,
            epochs=1, batch_size=3, lr=1e-9,
        )
        for memory in (11_000, None)
    ]  # fmt: skip
    assert [run.settings["features"]["where"] == "disk" for run in runs] == [True, False]
    streamed, resident = (run.history[0] for run in runs)
    assert streamed.loss == pytest.approx(resident.loss, rel=1e-4)
    assert streamed.val_loss == pytest.approx(resident.val_loss, rel=1e-4)
    assert streamed.val_score == pytest.approx(resident.val_score, rel=1e-4)


def test_scores_are_scikit_learns(parts: tuple[Dataset, Dataset], trained: tuple[Model, hs.Run]) -> None:
    from sklearn.metrics import f1_score, mean_absolute_error

    (train, val), (_, run) = parts, trained
    predictions, last = run.predict(val), run.history.best
    evaluation = run.evaluate(val)
    if train.task == "multi":
        expected = f1_score(val.labels, predictions > 0, average="micro")
        assert last.accuracy is not None
        assert last.val_accuracy == (val.labels == (predictions > 0)).all(1).mean()
    else:
        unit = train.labels.std(0, dtype=np.float64)
        expected = mean_absolute_error(val.labels / unit, predictions / unit)
        assert last.accuracy is None
        assert last.val_accuracy is None
        assert evaluation.accuracy is None
    assert last.score == evaluation.scores.headline
    assert last.val_score == pytest.approx(expected, rel=1e-4)
    assert evaluation.scores[last.score] == pytest.approx(expected, rel=1e-4)
    assert run.scores is not None
    assert run.scores[last.score] == pytest.approx(expected, rel=1e-4)
    assert evaluation.loss == pytest.approx(last.val_loss, rel=1e-3)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_what_is_learnt_survives_a_file(
    parts: tuple[Dataset, Dataset], trained: tuple[Model, hs.Run], tmp_path: Path, backend: str
) -> None:
    _, run = trained
    loaded = hs.load(run.save(tmp_path / "run"), backend=backend)
    np.testing.assert_array_equal(loaded.predict(parts[1]), run.predict(parts[1]))
    assert (loaded.model.task, loaded.model.threshold) == (run.model.task, run.model.threshold)
    assert loaded.history.as_list() == run.history.as_list()
    assert loaded.validation == run.validation
    assert loaded.evaluate(parts[1]).loss == pytest.approx(run.evaluate(parts[1]).loss)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_predictions_are_written_as_the_task_says(
    trained: tuple[Model, hs.Run], tmp_path: Path, backend: str, capsys: Any, monkeypatch: Any
) -> None:
    _, run = trained
    files = []
    for i, pixels in enumerate(images(7)[0]):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(files[-1])
    outputs = run.predict(files, device="cpu")
    for path in (run.save(tmp_path / "run"), None):
        if path is None:
            written = run.write_predictions(files, tmp_path / "out.csv", device="cpu", batch_size=3)
            assert written.images == 7
        else:
            line = ["--run", path, *files, "--csv", tmp_path / "out.csv", "--device", "cpu", "--backend", backend]
            monkeypatch.setattr("sys.argv", ["headstart", "predict", *map(str, line)])
            cli.main()
            said = " ".join(capsys.readouterr().out.split())
        with (tmp_path / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == files
        if run.model.task == "regression":
            assert list(rows[0]) == ["file", *TARGETS]
            found = np.array([[float(row[name]) for name in TARGETS] for row in rows])
            np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-6)
            assert found[:, 0].min() > 1800, "years, as the user has them"
            assert f"year {outputs[:, 0].min():.6g}"[:8] in said
        else:
            assert list(rows[0]) == ["file", "labels", *(f"probability_{name}" for name in LABELS)]
            p = run.probabilities(files, device="cpu")
            found = np.array([[float(row[f"probability_{name}"]) for name in LABELS] for row in rows])
            np.testing.assert_allclose(found, p, rtol=1e-4)
            over = [[name for name, of in zip(LABELS, row, strict=True) if of > run.model.threshold] for row in p]
            assert [row["labels"] for row in rows] == [";".join(names) for names in over]
    with pytest.raises(SettingError, match="top is 2"):
        run.write_predictions(files, tmp_path / "out.csv", top=2)
    shown = classify(run.model, files, backend=backend, device="cpu")
    listed = shown.as_list()[0]
    if run.model.task == "regression":
        assert dict(listed["values"]) == pytest.approx(
            dict(zip(TARGETS, outputs[0].tolist(), strict=True)), rel=1e-5
        )
    else:
        assert listed["probabilities"] == pytest.approx(dict(zip(LABELS, p[0].tolist(), strict=True)), rel=1e-5)
        assert [name for name, _ in listed["labels"]] == over[0]
    assert shown.as_table().columns[1] == ("target" if run.model.task == "regression" else "label")
    lost = run.model.with_params({name: np.full_like(value, np.nan) for name, value in run.model.params.items()})
    with pytest.warns(DivergedWarning):
        written = hs.write_predictions(lost, files, tmp_path / "out.csv", backend=backend, device="cpu")
    assert (written.not_finite, written.counts, written.ranges) == (7, {}, {})


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_comparison_shows_what_the_run_says(
    parts: tuple[Dataset, Dataset], trained: tuple[Model, hs.Run], tmp_path: Path, backend: str
) -> None:
    """In the table, for people, in the file and in the report, of a saved run too."""
    (train, _), (_, run) = parts, trained
    multi = train.task == "multi"
    compared = hs.comparison({"one": run, "same": run})
    one, same = compared.rows
    assert one["against_best"] is None and same["against_best"]["noise"] and same["against_best"]["best"] == "one"
    assert run.validation is not None and run.scores is not None
    assert {miss.id for miss in run.validation.misses} == set(compared["pictures"])
    (table,) = compared.as_tables()
    low, high = run.scores.interval or (0, 0)
    value = run.history.best.val_score
    half = f"{50 * (high - low):.1f}" if multi else f"{(high - low) / 2:.2g}"
    text = f"{value:.1%}±{half}" if multi else f"{value:.4g}±{half}"
    assert table.columns[1] == ("val F1" if multi else "val MAE/sd")
    assert [row[1] for row in table.rows] == [text, f"={text}"]
    assert ("val_micro_f1" if multi else "val_standardised_mae") in repr(run)
    compared.report(tmp_path / "report.html")
    (tmp_path / "compare.json").write_text(json.dumps(compared))
    assert read_comparison(tmp_path / "compare.json").html() == (tmp_path / "report.html").read_text("utf-8")
    page = hs.load(run.save(tmp_path / "run"), backend=backend).report(tmp_path / "loaded.html").read_text("utf-8")
    words = "Micro F1" if multi else "Mean absolute error in deviations"
    said = f"{value:.1%}".removesuffix("%") if multi else f"{value:.4g}"
    assert f"<h3>{words} per epoch</h3>" in page
    assert f"cached: {words[0].lower()}{words[1:]} {said}" in page
    assert all(name in page for name in train.classes)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_training_goes_on_where_it_ended(
    parts: tuple[Dataset, Dataset], trained: tuple[Model, hs.Run], backend: str
) -> None:
    """The first loss of a second run is that of what the first one learnt: units are taken off again."""
    _, run = trained
    settings = {**SETTINGS, "epochs": 1, "batch_size": len(parts[0]), "lr": 1e-9, "cut": BEHIND_DROPOUT}
    again = hs.fit(run.model, *parts, mode="frozen", backend=backend, **settings)
    with pytest.warns(DataWarning, match="exact copies of what the run was trained on"):
        expected = run.evaluate(parts[0]).loss
    assert again.history[0].loss == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(again.predict(parts[1]), run.predict(parts[1]), rtol=1e-4, atol=1e-4)


def test_the_frameworks_own_model_gives_units(backend: str) -> None:
    """One step down the gradient of the squared error of standardised numbers on standardised features, and both
    scales in the layer."""
    data = data_of("regression")
    model = model_for(data)
    settings: dict[str, Any] = {"epochs": 1, "batch_size": len(data), "dtype": "float32", "backend": backend}
    run = hs.fit(model, data, cut=BEHIND_DROPOUT, optimizer=hs.SGD(lr=0.1, momentum=0.0), **settings)
    x = hs.extract(model, data, backend=backend, dtype="float32").numpy().astype(np.float64)
    x = scaler_of(x).transform(x)
    weight, bias = (np.zeros(shape) for shape in model.graph[model.graph.output].param_shapes().values())
    mean, deviation = data.labels.mean(0, dtype=np.float64), data.labels.std(0, dtype=np.float64)
    targets = (data.labels - mean) / deviation
    off = x @ weight.T + bias - targets
    assert run.history[0].loss == pytest.approx((off**2).mean(), rel=1e-3)
    weight -= 0.1 * 2 / off.size * off.T @ x
    bias -= 0.1 * 2 / off.size * off.sum(0)
    expected = (x @ weight.T + bias) * deviation + mean
    np.testing.assert_allclose(run.predict(data), expected, rtol=1e-4)
    assert run.settings["targets"]["mean"] == pytest.approx(mean.tolist())


@pytest.mark.parametrize(
    "mode", ["full", *(pytest.param(mode, marks=pytest.mark.of("torch")) for mode in ("scratch", "staged"))]
)
def test_everything_can_be_trained(parts: tuple[Dataset, Dataset], mode: str, backend: str) -> None:
    run = hs.fit(model_for(parts[0]), *parts, mode=mode, backend=backend, **{**SETTINGS, "epochs": 1})
    assert run.scores is not None
    assert np.isfinite(run.scores[run.history[-1].score])
    assert run.model.task == parts[0].task


@pytest.mark.neutral
class TestObjectives:
    def test_a_scale_is_scikit_learns(self) -> None:
        from sklearn.preprocessing import StandardScaler

        data = data_of("regression")
        reference = StandardScaler().fit(data.labels.astype(np.float64))
        scale = scale_of(data)
        np.testing.assert_allclose(scale.mean, reference.mean_)
        np.testing.assert_allclose(scale.deviation, reference.scale_)
        np.testing.assert_allclose(scale.standardised(data.labels), reference.transform(data.labels), atol=1e-6)
        np.testing.assert_allclose(scale.in_units(scale.standardised(data.labels)), data.labels, rtol=1e-6)
        assert Scale.from_dict(scale.as_dict(), 2) == scale

    def test_a_sample_of_weight_2_is_there_twice(self) -> None:
        pictures, _, numbers = images()
        weights = np.tile([0.0, 2.0, 1.0, 1.0], 10)
        numbers[::4] = 1e12  # what marks a number that is not known, in samples that do not count
        weighted = hs.data.arrays(pictures, numbers, TARGETS, task="regression", weights=weights)
        times = np.repeat(np.arange(40), weights.astype(int))
        scale = scale_of(weighted)
        expected = numbers.astype(np.float32)[times].astype(np.float64)
        np.testing.assert_allclose(scale.mean, expected.mean(0))
        np.testing.assert_allclose(scale.deviation, expected.std(0))
        numbers[::4] = 1e38
        weighted = hs.data.arrays(pictures, numbers, TARGETS, task="regression", weights=weights)
        aims = Objective("regression", SquaredError(), scale_of(weighted)).targets(weighted)
        assert np.isfinite(aims**2).all(), "what does not count is not to make a NaN"
        numbers[weights > 0] = 7
        constant = hs.data.arrays(pictures, numbers, TARGETS, task="regression", weights=weights)
        with pytest.raises(DataError, match="all 30 training samples that count have the same 'year', 7"):
            scale_of(constant)

    def test_every_output_gives_units(self) -> None:
        """The auxiliary classifiers' too, from which a training may go on."""
        model = hs.model("googlenet", classes=TARGETS, size=64, auxiliary=True)
        assert len(model.graph.outputs) == 3
        objective = Objective("regression", SquaredError(), Scale((1900.0, -2.0), (30.0, 1e-3)))
        finished = objective.trained(model.with_params(model.params))
        for layer in model.graph.outputs:
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            np.testing.assert_allclose(finished.params[weight], model.params[weight] * [[30.0], [1e-3]], rtol=1e-6)
            np.testing.assert_allclose(finished.params[bias], model.params[bias] * [30.0, 1e-3] + [1900.0, -2.0])
        again = objective.before(finished, scratch=False)
        for name, value in model.params.items():
            np.testing.assert_allclose(again.params[name], value, rtol=1e-6, atol=2e-4)

    def test_rare_labels_count_more(self) -> None:
        data = data_of("multi")
        there = data.labels.sum(0).astype(float)
        assert pos_weights(data, "balanced") == pytest.approx((len(data) - there) / there)
        copies = np.arange(len(data)) % 4  # of weight 0: not there
        weighted = hs.data.arrays(images()[0], data.labels, LABELS, task="multi", weights=copies)
        there = np.repeat(data.labels, copies, 0).sum(0).astype(float)
        assert pos_weights(weighted, "balanced") == pytest.approx((copies.sum() - there) / there)
        assert pos_weights(data, {"red": 3.0}) == (1.0, 3.0, 1.0)
        assert pos_weights(data, None) is None
        with pytest.raises(UnknownNameError, match=r"reed.*red"):
            pos_weights(data, {"reed": 3.0})

    @pytest.mark.parametrize(
        ("task", "options", "said"),
        [
            ("multi", {"class_weights": "balanced"}, "class_weights='balanced' goes with the task 'single'"),
            ("multi", {"huber": 1.0}, "huber=1.0 goes with the task 'regression'"),
            ("regression", {"label_smoothing": 0.1}, "goes with the task 'single'"),
            ("regression", {"threshold": 0.4}, "goes with the task 'multi', and the labels .* task 'regression'$"),
            ("multi", {"threshold": "best"}, "there are none; pass val="),
        ],
    )
    def test_options_of_other_tasks_are_refused(self, task: str, options: Any, said: str) -> None:
        data = data_of(task)
        with pytest.raises(SettingError, match=said):
            hs.fit(model_for(data), data, **options)

    @pytest.mark.parametrize(
        "options", [{"pos_weight": {"red": 0}}, {"threshold": 1.5}, {"threshold": "good"}, {"huber": 0}]
    )
    def test_values_are_checked_before_anything_is_read(self, options: Any) -> None:
        with pytest.raises(SettingError, match=next(iter(options))):
            hs.fit(None, object(), **options)

    def test_labels_that_cannot_be_learnt_are_refused(self) -> None:
        multi, numbers = data_of("multi"), data_of("regression")
        with pytest.raises(DataError, match="3 labels a sample, and the model 2 outputs"):
            hs.fit(hs.model("lenet", classes=2), multi)
        with pytest.raises(DataError, match="'multi', those of the validation data 'regression'"):
            hs.fit(model_for(multi), multi, numbers)
        pictures, labels, targets = images()
        labels[:] = labels[0]
        with pytest.raises(DataError, match="the same labels"):
            hs.fit(model_for(multi), hs.data.arrays(pictures, labels, LABELS, task="multi"))
        targets[:, 1] = 7
        with pytest.raises(DataError, match="the same 'metres', 7, as 32 bits hold it; there is nothing to learn"):
            hs.fit(model_for(numbers), hs.data.arrays(pictures, targets, TARGETS, task="regression"))

    def test_a_target_that_is_missing_is_not_zero(self) -> None:
        numbers = data_of("regression")
        with pytest.raises(DataError, match=r"has no \[metres\]"):
            hs.fit(model_for(numbers), numbers, numbers.only(["year"]))
        swapped = numbers.only(["metres", "year"])
        model = model_for(numbers)
        from headstart.training.checks import alike

        _, val = alike(model, numbers, swapped)
        np.testing.assert_array_equal(val.labels, numbers.labels)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_best_threshold_is_kept(backend: str, tmp_path: Path) -> None:
    from sklearn.metrics import f1_score, precision_recall_curve

    train, val = data_of("multi").split(0.7)
    settings = {**SETTINGS, "pos_weight": {"striped": 30.0, "red": 30.0}}
    run = hs.fit(model_for(train), train, val, threshold="best", backend=backend, **settings)
    chances = run.probabilities(val)
    precision, recall, _ = precision_recall_curve(val.labels.ravel(), chances.ravel())
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
    assert run.scores is not None
    assert run.scores["micro_f1"] == pytest.approx(best, abs=1e-6)
    assert run.scores["micro_f1"] > f1_score(val.labels, chances > 0.5, average="micro"), (
        "0.5 is not the best here, so the test tells them apart"
    )
    assert run.settings["threshold"] == "best"
    assert run.history[-1].val_score == pytest.approx(run.scores["micro_f1"]), "what an epoch says is at it too"
    assert run.history[-1].val_score == pytest.approx(run.scores["micro_f1"])
    evaluation = run.evaluate(val)
    assert evaluation.accuracy == run.history[-1].val_accuracy == evaluation.scores["subset_accuracy"]
    assert hs.load(run.save(tmp_path / "run")).evaluate(val).scores["micro_f1"] == run.scores["micro_f1"]


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_head_that_diverged_is_not_the_best_where_none_has_a_score(backend: str) -> None:
    """Without any label in the validation data there is no F1, of no head."""
    train = data_of("multi")
    pictures = np.random.default_rng(1).integers(0, 255, (4, 16, 16, 3), np.uint8)
    val = hs.data.arrays(pictures, np.zeros((4, 3), np.uint8), LABELS, task="multi")
    settings = {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "backend": backend}
    with np.errstate(all="ignore"):
        swept = hs.sweep(model_for(train), train, val, grid={"lr": [1e30, 0.01, 1e-3]}, **settings)
    assert [run.diverged for run in swept.runs] == [False, False, True]
    assert [run.history[-1].val_score for run in swept.runs[:2]] == [None, None]


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (None, "targets are missing"),
        ({"mean": [1.0], "deviation": [1.0]}, "not of the 2"),
        ({"mean": [1.0, 2.0], "deviation": [1.0, 0.0]}, "not above 0"),
        ({"mean": [1.0, float("nan")], "deviation": [1.0, 1.0]}, "not finite"),
        ({"mean": "12", "deviation": [1.0, 1.0]}, "mean is a text"),
        ("1900", "targets is a text"),
    ],
)
def test_a_run_without_the_scale_of_its_targets_is_refused(
    saved: Any, said: str, numbers_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(numbers_run, folder)
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["targets"] = saved
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=said):
        hs.load(folder)


def test_half_precision_keeps_the_units(numbers_run: Path, backend: str) -> None:
    """A year is a multiple of 8 in bfloat16, which the outputs of the layers before it may well be."""
    run, data = hs.load(numbers_run, backend=backend), data_of("regression")
    features = hs.extract(run.model, data, backend=backend, dtype="float32")
    expected, deviation = run.predict(features), data.labels.std(0)
    for what in (data, features):
        off = np.abs(run.predict(what, precision="bfloat16") - expected) / deviation
        assert 0 < off.max() < 0.06  # bfloat16 also rounds features that vary little beside their mean


@pytest.mark.slow("keras", "jax")  # the suite trains wrapped modules, and by each loss
def test_a_wrapped_module_learns_numbers_by_a_fresh_head(backend: str) -> None:
    own = import_module(f"own_{backend}")
    rest, (pictures, _, numbers) = wrapped(own), images()
    many = np.repeat(numbers[:, :1], len(rest.classes), 1)
    with pytest.raises(SettingError, match="pass head='linear'"):
        hs.fit(rest, hs.data.arrays(pictures, many, list(rest.classes), task="regression"))
    data = data_of("regression")
    run = hs.fit(wrapped(own, head="linear", classes=TARGETS), data, **{**SETTINGS, "epochs": 1})
    mean, deviation = run.predict(data).mean(0), data.labels.std(0)
    assert (np.abs(mean - data.labels.mean(0)) < 3 * deviation).all(), "in their units"


@pytest.mark.slow("keras", "jax")  # the suite has each loss
def test_huber_losses_are_less_of_outliers(backend: str) -> None:
    data = data_of("regression")
    settings = {**SETTINGS, "epochs": 1, "batch_size": len(data)}
    squared = hs.fit(model_for(data), data, backend=backend, **settings).history[0].loss
    bounded = hs.fit(model_for(data), data, huber=0.5, backend=backend, **settings).history[0].loss
    assert bounded < squared / 2


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_run_knows_the_task_of_a_table_that_does_not_tell_it(
    numbers_run: Path, backend: str, tmp_path: Path
) -> None:
    pictures, _, numbers = images(24)
    files = [tmp_path / f"{i}.png" for i in range(24)]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(file)
    whole = [f"{file},{round(light)},{round(red)}" for file, (light, red) in zip(files, numbers, strict=True)]
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join([f"file,{','.join(TARGETS)}", *whole]))
    run = hs.load(numbers_run, backend)
    with pytest.raises(DataError, match="task='regression'"):
        hs.data.table(table, label=list(TARGETS))
    told = labelled(run, str(table), columns={"label": list(TARGETS)[::-1]})
    assert (told.task, told.classes) == ("regression", TARGETS)
    np.testing.assert_array_equal(labelled(run, str(table)).labels, told.labels)  # by the names of its targets

    data = data_of("multi")
    multi = hs.fit(model_for(data), data, backend=backend, cache=tmp_path / "cache", epochs=1, batch_size=40)
    one_each = [LABELS[i % len(LABELS)] for i in range(24)]
    table.write_text(
        "\n".join(["file,label", *(f"{f},{label}" for f, label in zip(files, one_each, strict=True))])
    )
    assert hs.evaluate(multi, table).scores.task == "multi"
    pandas = pytest.importorskip("pandas")
    assert hs.evaluate(multi, pandas.read_csv(table)).scores.task == "multi"
