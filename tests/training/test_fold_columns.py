"""Cross-validation in folds that the data came in: just these are held out, in the fit of every kind."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, mean_absolute_error
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError, WeightsError
from headstart.data.annotations import PARTS
from headstart.testing import small_data, tiny_model
from headstart.training.advice.measuring import folds_for

STEPS: dict[str, Any] = {"batch_size": 16, "max_epochs": 8, "lr": 0.03}
QUICK: dict[str, Any] = {**STEPS, "dtype": "float32", "cut": "dropout2"}
ALONE: dict[str, Any] = {"lr_scale": {"fc3": 1.0}}
"""Where parameters have rates of their own heads are trained one after the other; this is the rate there is."""
N = 80
NAMES = ["A", "B", "fold 9", "fold 10"]
NUMBERS = np.random.default_rng(4).integers(-1, 4, N)
"""of each sample; -1: in none"""


def images(task: str = "single", folds: Any = None, **about: Any) -> hs.data.Dataset:
    """Pictures with labels that can be seen in them, now and then."""
    rng = np.random.default_rng(0)
    light, striped = rng.uniform(20, 220, N), rng.random(N) < 0.4
    pictures = np.repeat(light[:, None, None, None], 16, 1).repeat(16, 2).repeat(3, 3)
    pictures[striped, ::4] = 0
    pictures = (pictures + rng.uniform(-20, 20, pictures.shape)).clip(0, 255).astype(np.uint8)
    labels: Any = {
        "single": np.where(striped, 2, light + 60 * rng.standard_normal(N) > 120),
        "multi": np.stack([light > 120, striped], 1).astype(np.uint8),
        "regression": np.stack([1000 + light, striped + light / 1000], 1),
    }[task]
    classes = {"single": ("dark", "light", "striped"), "multi": ("bright", "red"), "regression": ("lux", "m")}
    return hs.data.arrays(pictures, labels, classes[task], task=task, folds=folds, **about)


def in_folds(task: str = "single", numbers: Any = NUMBERS, **about: Any) -> hs.data.Dataset:
    return images(task, [NAMES[k] if k >= 0 else -1 for k in numbers], **about)


def fit(data: Any, *val: Any, backend: str, **settings: Any) -> Any:
    usual = QUICK if "solver" not in settings else {name: QUICK[name] for name in QUICK if name not in STEPS}
    return hs.fit(hs.model("lenet", classes=data.classes), data, *val, backend=backend, **{**usual, **settings})


# --- the same as others


@pytest.mark.slow("keras", "jax")  # core divides
@pytest.mark.parametrize("settings", [{}, ALONE])
def test_folds_that_are_named_are_held_out_as_those_that_are_drawn(backend: str, settings: dict[str, Any]) -> None:
    drawn = images()
    same = in_folds(numbers=drawn.fold_numbers(4, 0))
    assert drawn.fold_names == ()
    ours, others = fit(same, backend=backend, **settings), fit(drawn, folds=4, backend=backend, **settings)
    assert replace(ours.folds, names=()) == others.folds and ours.folds.names == tuple(NAMES)
    assert ours.scores["accuracy"] == others.scores["accuracy"]
    np.testing.assert_array_equal(ours.predict(drawn), others.predict(drawn))
    assert fit(same, folds=4, backend=backend, **settings).folds == ours.folds, "a number that agrees"


def test_scores_are_those_of_scikit_learns_predefined_split(backend: str) -> None:
    data = in_folds()
    features = hs.extract(hs.model("lenet"), data, ["dropout2"], backend=backend, dtype="float32")
    run = fit(features, backend=backend, solver="ridge")
    assert features.fold_names == tuple(NAMES) == run.folds.names
    assert run.folds.sizes == tuple(np.bincount(NUMBERS[NUMBERS >= 0]).tolist())
    assert run.folds.always == (NUMBERS == -1).sum() and run.folds.samples == N
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    split = PredefinedSplit(NUMBERS)
    expected = cross_val_score(peer, features.numpy().astype(np.float64), features.labels, cv=split)
    assert abs(run.folds.mean - expected.mean()) < 0.1
    # and exactly those of the library itself on the indices that scikit-learn gives
    plain = features.without_folds()
    for fold, (train, test) in enumerate(split.split()):
        alone = fit(plain.subset(train), plain.subset(test), backend=backend, solver="ridge")
        assert run.folds.values[fold] == pytest.approx(alone.history[-1].val_score)
        assert run.folds.losses[fold] == pytest.approx(alone.history[-1].val_loss, rel=1e-4)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("settings", [{}, ALONE])
def test_samples_that_are_in_no_fold_are_trained_on_and_never_scored(backend: str, settings: Any) -> None:
    """The labels of those in folds are drawn, and those in none have the truth: where these are trained on, the
    truth is told of the others."""
    data = in_folds()
    labels = data.labels.copy()
    labels[NUMBERS >= 0] = np.random.default_rng(1).permutation(labels[NUMBERS >= 0])
    folds = [NAMES[k] if k >= 0 else -1 for k in NUMBERS]
    drawn = hs.data.arrays(data._source.images, labels, data.classes, folds=folds)
    run = fit(drawn, backend=backend, **settings)
    held_out = np.flatnonzero(NUMBERS >= 0)
    assert run.validation.samples == run.scores.samples == len(held_out)
    right = run.validation.right_of_each()
    for fold, value in enumerate(run.folds.values):
        assert right[NUMBERS[held_out] == fold].mean() == pytest.approx(value)
    alone = fit(
        drawn.without_folds().subset(np.flatnonzero(NUMBERS != 0)), backend=backend, epochs=3, max_epochs=None
    )
    assert len(alone.history) == 3
    assert run.val.ids == drawn.subset(held_out).ids


# --- of every kind


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("settings", [{}, ALONE])
@pytest.mark.parametrize("task", ["multi", "regression"])
def test_other_tasks(backend: str, task: str, settings: dict[str, Any]) -> None:
    data = in_folds(task)
    more = {"threshold": "best"} if task == "multi" else {}
    run = fit(data, backend=backend, **more, **settings)
    assert run.folds.names == tuple(NAMES) and run.folds.always == (NUMBERS == -1).sum()
    held_out = NUMBERS >= 0
    assert run.validation.samples == run.scores.samples == held_out.sum()
    assert all(value is not None and np.isfinite(value) for value in run.folds.values)
    json.dumps(run.folds.as_dict(), allow_nan=False)
    predicted = run.outcome.outputs if hasattr(run.outcome, "outputs") else None
    if predicted is not None and task == "regression":
        assert run.scores["mae"] == pytest.approx(mean_absolute_error(data.labels[held_out], predicted), rel=1e-3)
    if predicted is not None and task == "multi":
        decided = 1 / (1 + np.exp(-predicted)) > run.model.threshold
        assert run.scores["micro_f1"] == pytest.approx(f1_score(data.labels[held_out], decided, average="micro"))


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize(
    "more", [{"augment": "flip", "views": 2}, {"memory": 84 * 4 * 50}, {"solver": "logistic"}]
)
def test_views_streamed_features_and_what_is_solved(backend: str, more: dict[str, Any]) -> None:
    of_steps = {} if "solver" in more else {"batch_size": 4}
    run = fit(in_folds(weights=np.linspace(1, 2, N)), backend=backend, **of_steps, **more)
    right, counts = run.validation.right_of_each(), np.linspace(1, 2, N)[NUMBERS >= 0]
    for fold, value in enumerate(run.folds.values):
        of_fold = NUMBERS[NUMBERS >= 0] == fold
        assert np.average(right[of_fold], weights=counts[of_fold]) == pytest.approx(value)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("mode", ["staged", "frozen"])
def test_other_modes(backend: str, tmp_path: Path, mode: str) -> None:
    train, _ = small_data()
    numbers = np.arange(len(train)) % 3 - 1
    folds = replace(train.annotations, folds=numbers.astype(str))
    named = train._derived(np.arange(len(train)), folds, ())
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": tmp_path, "batch_size": 20}
    run = hs.fit(tiny_model(), named, mode=mode, max_epochs=2, **settings)
    assert run.folds.names == ("0", "1") and run.validation.samples == (numbers >= 0).sum()


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize("settings", [{}, {"monitor": None}, ALONE])
def test_a_fold_of_one_class_and_one_that_lacks_some(backend: str, settings: dict[str, Any]) -> None:
    """They are scored, and it is told of which class nothing is trained on then. Rows that are standardised with
    those that are held out would tell them."""
    labels = images().labels
    with pytest.warns(DataWarning, match="the class 'striped' has samples in one fold alone"):
        run = fit(in_folds(numbers=np.where(labels == 2, 2, np.arange(N) % 2)), backend=backend, **settings)
    assert run.folds.values[2] == 0, "of a class that is not trained none is recognised"
    assert run.folds.sizes[2] == (labels == 2).sum() and run.folds.mean > 0.2


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_class_of_one_group_is_not_recognised_where_that_is_held_out(backend: str) -> None:
    """Of folds that are drawn, too."""
    labels = images().labels
    groups = ["striped" if label == 2 else f"place {k % 9}" for k, label in enumerate(labels)]
    with pytest.warns(DataWarning, match="the class 'striped' has one group, which is in one fold"):
        run = fit(images(groups=groups), folds=3, backend=backend)
    right = run.validation.right_of_each()
    assert not right[labels == 2].any() and right[labels != 2].mean() > 0.5


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_class_that_counts_in_one_fold_alone_is_not_recognised_there(backend: str) -> None:
    labels, numbers = images().labels, np.arange(N) % 3
    weights = np.where((labels == 2) & (numbers != 1), 0, 1)
    run = fit(in_folds(numbers=numbers, weights=weights), backend=backend)
    assert not run.validation.right_of_each()[(labels == 2) & (numbers == 1)].any()


def test_a_sweep(backend: str) -> None:
    """All settings in the same folds, whatever their seed."""
    data, model = in_folds(), hs.model("lenet", classes=("dark", "light", "striped"))
    settings = {name: value for name, value in QUICK.items() if name != "lr"}
    swept = hs.sweep(model, data, grid={"lr": [0.003, 0.03], "seed": [0, 3]}, backend=backend, **settings)
    assert swept.at_once == 8, "two rates and four folds, of one seed at once"
    for run in swept.runs:
        assert run.folds.names == tuple(NAMES) and run.folds.sizes == swept.best.folds.sizes
        assert run.validation.samples == (NUMBERS >= 0).sum()
    alone = fit(data, backend=backend)
    same = next(r for r, p in zip(swept.runs, swept.points, strict=True) if p == {"lr": 0.03, "seed": 0})
    assert alone.folds.values == same.folds.values
    with pytest.raises(SettingError, match="halving=True with folds=4"):
        hs.sweep(model, data, grid={"lr": [0.003, 0.03]}, halving=True, backend=backend, **settings)


# --- what is kept, and what is shown


@pytest.mark.of("torch")  # core writes
def test_a_run_and_its_report_call_folds_as_the_data_do(backend: str, tmp_path: Path) -> None:
    run = fit(in_folds(), backend=backend)
    loaded = hs.load(run.save(tmp_path / "run"), backend=backend)
    assert loaded.folds == run.folds and loaded.folds.called == tuple(NAMES)
    page = hs.comparison([loaded]).html()
    for name in NAMES:
        assert f'<th scope="row">{name}</th>' in page
    never = int((NUMBERS == -1).sum())
    assert f"trained on all {N} samples" in page and f"{never} of them are in no fold" in page
    strange = replace(run, folds=replace(run.folds, names=("<b>", *NAMES[1:])))
    assert '<th scope="row">&lt;b&gt;</th>' in hs.comparison([strange]).html()
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    for wrong in (
        {"names": NAMES[1:]},
        {"names": [NAMES[0], *NAMES[:3]]},
        {"names": [1, 2, 3, 4]},
        {"always": -1},
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "folds": {**about["folds"], **wrong}}))
        with pytest.raises(WeightsError):
            hs.load(tmp_path / "run", backend=backend)


@pytest.mark.of("torch")  # core writes
def test_saved_features_keep_the_folds(backend: str, tmp_path: Path) -> None:
    data = in_folds()
    features = hs.extract(hs.model("lenet"), data, ["dropout2"], backend=backend, dtype="float32")
    loaded = hs.load_features(features.save(tmp_path / "saved"))
    assert loaded.fold_names == tuple(NAMES)
    np.testing.assert_array_equal(loaded.fold_numbers(), NUMBERS)
    assert fit(loaded, backend=backend).folds == fit(features, backend=backend).folds
    pytest.importorskip("pyarrow")
    assert features.arrow()["fold"].to_pylist() == [NAMES[k] if k >= 0 else "-1" for k in NUMBERS]


# --- what is refused


@pytest.mark.of("torch")  # core checks
@pytest.mark.filterwarnings("ignore:.*have samples in one fold alone")
def test_what_does_not_go_with_folds(backend: str, tmp_path: Path) -> None:
    data = in_folds()
    with pytest.raises(SettingError, match="5 folds of arrays, which came in 4"):
        fit(data, backend=backend, folds=5)
    with pytest.raises(SettingError, match=r"val= with 'arrays', which came in folds \(fold=\)"):
        fit(data, data.subset([0, 1]), backend=backend)
    with pytest.raises(SettingError, match=r"checkpoint=.* with folds=4"):
        fit(data, backend=backend, checkpoint=tmp_path / "kept")
    with pytest.raises(SettingError, match=r"resume=.* with folds=4"):
        fit(data, backend=backend, resume=tmp_path / "kept")
    with pytest.raises(DataError, match="came in the fold '1' alone"):
        fit(images("single", [1, -1] * (N // 2)), backend=backend)
    for settings in ({}, ALONE, {"solver": "ridge"}):
        with pytest.raises(
            DataError, match="where the fold 'b' is held out: all 1 training samples are of one class"
        ):
            fit(images("single", ["a"] + ["b"] * (N - 1)), backend=backend, **settings)
        weights = (NUMBERS != 2).astype(np.float32)
        with pytest.raises(DataError, match="where the fold 'fold 9' is held out: no sample of 'arrays' counts"):
            fit(in_folds(weights=weights), backend=backend, **settings)
    train, val = data.folds()[0]
    assert fit(train, val, backend=backend).folds is None, "a pair is one split"
    for part, message in (("val", r"came in folds .* and in the parts train, val"), ("test", None)):
        codes = np.where(np.arange(N) < 60, 0, PARTS.index(part)).astype(np.int8)
        both = hs.data.Dataset(data._source, replace(data.annotations, parts=codes), "both")
        if message is None:
            assert fit(both, backend=backend).folds.samples == 60
        else:
            with pytest.raises(SettingError, match=message):
                fit(both, backend=backend)
            assert fit(both.train, backend=backend).folds.samples == 60


@pytest.mark.neutral
def test_advice_holds_out_folds_of_its_own() -> None:
    groups = [f"place {k % 9}" for k in range(N)]
    ours, others = (folds_for(images(groups=groups, folds=folds), 0) for folds in (NUMBERS, None))
    assert len(ours) == len(others) == 5
    for fold, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(fold, other)


@pytest.fixture
def listed(tmp_path: Path) -> list[str]:
    """Options of a table of pictures, a third of each class in each fold, and two pictures in none."""
    rng = np.random.default_rng(0)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "kind", "site", "side"])
        for k in range(38):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{k}.png")
            site = -1 if k >= 36 else ["north", "site 10", "site 9"][k // 2 % 3]
            rows.writerow([f"{k}.png", "ab"[k % 2], site, "test" if k % 6 == 5 else "train"])
    table = [str(tmp_path / "t.csv"), "--label", "kind", "--model", "lenet", "--backend", "torch"]
    return ["--data", *table, "--fold-column", "site"]


@pytest.mark.of("torch")
def test_the_command(listed: list[str], tmp_path: Path) -> None:
    run, report = tmp_path / "run", tmp_path / "figures.json"
    result = headstart("fit", *listed, "--epochs", "2", "--out", str(run), "--json", str(report))
    assert result.code == 0, result.err
    assert "; in 3 folds of 12, and 2 that are never held out" in result.err
    folds = json.loads(report.read_text())["folds"]
    assert folds["names"] == ["north", "site 9", "site 10"] and folds["sizes"] == [12, 12, 12]
    assert folds["always"] == 2
    shown = [line.strip().split("  ")[0] for line in result.out.splitlines()]
    assert [line for line in shown if line in folds["names"]] == folds["names"]
    assert "trained on all 38\nsamples" in result.out
    assert "In no fold, and in what each model is trained on: 2 samples." in result.out
    page = (run / "report.html").read_text("utf-8")
    assert '<th scope="row">site 10</th>' in page and "--fold-column site" in page
    predicted = headstart("predict", "--run", str(run), str(tmp_path / "0.png"), "--backend", "torch")
    assert predicted.code == 0, predicted.err


@pytest.mark.of("torch")
def test_other_commands(listed: list[str], tmp_path: Path) -> None:
    sweep = headstart("sweep", *listed, "--lr", "0.003,0.03", "--epochs", "2")
    assert sweep.code == 0, sweep.err
    assert "2 heads x 3 folds, 6 at once" in sweep.out and "trained on all 38 samples" in sweep.out
    tested = headstart("fit", *listed, "--split-column", "side", "--epochs", "2", "--test", listed[1])
    assert tested.code == 2 and "has a part 'test' of its own" in tested.err
    tested = headstart("fit", *listed, "--split-column", "side", "--epochs", "2")
    assert tested.code == 0, tested.err
    assert "; in 3 folds of 6 to 12" in tested.err, "half of a site's pictures are to test on"
    table = Path(listed[1])
    Path(of_val := str(tmp_path / "v.csv")).write_text(table.read_text().replace("test", "val"))
    for k in range(4):
        Image.fromarray(np.full((32, 32, 3), 50 * k, np.uint8)).save(tmp_path / f"new{k}.png")
    rows = [f"new{k}.png,{'ab'[k % 2]}\n" for k in range(4)]
    (tmp_path / "plain.csv").write_text("file,kind\n" + "".join(rows))
    tested = headstart("fit", *listed, "--epochs", "2", "--test", str(tmp_path / "plain.csv"))
    assert tested.code == 0, tested.err  # a table to test on has no folds
    both = headstart("fit", "--data", of_val, *listed[2:], "--split-column", "side")
    assert both.code == 2 and "--fold-column (fold=) with" in both.err
    assert "Name its training part alone, a table of those rows, or leave out --fold-column" in both.err
    saved = headstart("extract", *listed, "--save", str(tmp_path / "saved"), "--cuts", "dropout2")
    assert saved.code == 0, saved.err
    again = headstart("fit", "--features", str(tmp_path / "saved"), "--epochs", "2", "--backend", "torch")
    assert again.code == 0, again.err
    assert "3 folds" in again.out and "site 10" in again.out
    advice = headstart("advise", *listed[:4], *listed[6:], "--models", "lenet:none", "--cuts", "dropout2")
    assert "advice holds out folds of its own" in advice.err and "Traceback" not in advice.err


@pytest.mark.of("torch")
@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("fit", ["--split", "0.5"], "--split 0.5 (split=) with --fold-column (fold=), which holds out each fold"),
        ("fit", ["--val", "digits"], "--val digits (val=) with --fold-column (fold=)"),
        ("fit", ["--split-by", "position"], "--split-by position (split_by=) with --fold-column"),
        ("fit", ["--folds", "5"], "5 folds of t, which came in 3 (fold=, --fold-column)"),
        ("sweep", ["--folds", "5"], "5 folds of t, which came in 3 (fold=, --fold-column)"),
        ("compare", ["--modes", "cached"], "is asked for here holds out one part, and not each fold in turn"),
        ("plan", [], "is asked for here holds out one part, and not each fold in turn"),
        ("fit", ["--group", "site"], "both name the column 'site'"),
    ],
)
def test_what_the_command_refuses(listed: list[str], command: str, more: list[str], message: str) -> None:
    options = listed if command != "compare" else [o if o != "--backend" else "--backends" for o in listed]
    refused = headstart(command, *options, *more)
    assert refused.code == 2 and "Traceback" not in refused.err
    assert message in " ".join(refused.err.split())
