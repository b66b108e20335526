"""A run's scores, `hs.evaluate` and `headstart evaluate`."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

import headstart as hs
from headstart.cli import main as cli
from headstart.errors import DataError, DataWarning, SettingError, UnknownNameError, WeightsError
from headstart.features.batch_features import BatchFeatures
from headstart.training.metrics import softmax
from headstart.training.sample_texts import weights_of_text
from headstart.training.validation import Validation

pytestmark = pytest.mark.of("torch")  # what is made of predictions is core's

CLASSES = ("dark", "light", "middle")


def pictures(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            # every fourth is one that nobody can tell from another class
            level = {"dark": 0, "light": 170, "middle": 60}[name] if i % 4 else 60
            Image.fromarray(rng.integers(level, level + 85, (20, 24, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, backend: str) -> tuple[Any, Path, Path]:
    """A run, the folder it is saved in, and a folder of test images without the class "light"."""
    root = tmp_path_factory.mktemp("made")
    data = hs.data.folder(pictures(root / "photos", dict.fromkeys(CLASSES, 12)))
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes, size=32)
    train, val = data.split(0.6)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": root / "cache", "batch_size": 8}
    run = hs.fit(model, train, val, epochs=4, **settings)
    return run, run.save(root / "run"), pictures(root / "test", {"dark": 7, "middle": 9}, seed=1)


@pytest.mark.slow("keras", "jax")  # core scores
@pytest.mark.each
def test_a_runs_scores_are_its_validations(made: Any) -> None:
    run, folder, _ = made
    predicted = run.predict(run.val, device="cpu").argmax(1)
    assert run.scores["accuracy"] == pytest.approx(run.history.best.val_accuracy)
    assert run.scores["accuracy"] == pytest.approx(accuracy_score(run.val.labels, predicted))
    assert run.scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(run.val.labels, predicted))
    assert run.scores["log_loss"] == pytest.approx(run.history.best.val_loss, rel=1e-6)
    low, high = run.scores.interval
    assert low < high
    assert [row["class"] for row in run.scores.per_class] == list(CLASSES)
    assert hs.load(folder, backend=run.backend).scores == run.scores


def test_a_run_without_validation_and_one_of_before_have_none(made: Any, tmp_path: Path) -> None:
    run, folder, _ = made
    about = json.loads((folder / "run.json").read_text())
    del about["scores"], about["checksum"]
    old = tmp_path / "run"
    old.mkdir()
    (old / about["weights"]["file"]).write_bytes((folder / about["weights"]["file"]).read_bytes())
    (old / "run.json").write_text(json.dumps(about))
    assert hs.load(old, backend=run.backend).scores is None
    about["scores"] = run.scores.as_dict() | {"task": "ordinal"}
    (old / "run.json").write_text(json.dumps(about))
    with pytest.raises(WeightsError, match="scores are of the task 'ordinal'"):
        hs.load(old, backend=run.backend)


def test_evaluate_takes_data_a_folder_and_features(made: Any) -> None:
    run, folder, test = made
    data = hs.data.folder(test, classes=CLASSES)
    predicted = run.predict(data, device="cpu").argmax(1)
    result = hs.evaluate(run, data, device="cpu")
    scores = result.scores
    assert (result.samples, scores.samples) == (16, 16)
    assert scores["accuracy"] == result.accuracy == pytest.approx(accuracy_score(data.labels, predicted))
    present = [0, 2]
    assert scores["macro_f1"] == pytest.approx(
        f1_score(data.labels, predicted, labels=present, average="macro", zero_division=0.0)
    )
    light = scores.per_class[1]
    assert (light["class"], light["samples"]) == ("light", 0)
    assert "recall" not in light
    assert light["undefined"]["recall"] == "no sample has it"
    assert sum(confusion["count"] for confusion in result.confusions) == round((1 - result.accuracy) * 16)
    again = hs.evaluate(folder, test, device="cpu") if run.backend == hs.load(folder).backend else result
    assert again.scores == scores
    table = folder.parent / "test.csv"
    rows = [f"{path.relative_to(test)},{path.parent.name}" for path in sorted(test.rglob("*.png"))]
    table.write_text("\n".join(["file,kind", *rows]))
    from headstart.training.evaluate import labelled

    named = labelled(run, str(table), columns={"label": "kind", "root": str(test)})
    assert run.evaluate(named, device="cpu").scores == scores
    features = hs.extract(run.model, data, backend=run.backend, device="cpu", dtype="float32")
    assert hs.evaluate(run, features, device="cpu").accuracy == result.accuracy


def test_a_folder_may_lack_classes_and_one_in_parts_is_tested_on_its_test(made: Any, tmp_path: Path) -> None:
    run, _, _ = made
    alone = hs.evaluate(run, pictures(tmp_path / "alone", {"middle": 5}, 2), device="cpu")
    assert alone.samples == 5 and "macro_auc" in alone.scores.undefined
    for part, count in (("train", 3), ("test", 4)):
        pictures(tmp_path / "parts" / part, {"dark": count, "light": count}, 3)
    assert hs.evaluate(run, tmp_path / "parts", device="cpu").samples == 8
    (tmp_path / "parts/test").rename(tmp_path / "parts/val")
    with pytest.raises(
        DataError, match=r"parts train, val, and no test part; name one of them, such as \S*parts/train$"
    ):
        hs.evaluate(run, tmp_path / "parts", device="cpu")


def test_a_table_in_parts_without_a_test_part_cannot_be_named_by_a_path(made: Any, tmp_path: Path) -> None:
    run, _, test = made
    table = tmp_path / "parts.csv"
    files = [path.relative_to(test) for path in sorted(test.rglob("*.png"))]
    rows = [f"{file},{file.parent.name},{'val' if i % 2 else 'train'}" for i, file in enumerate(files)]
    table.write_text("\n".join(["file,kind,split", *rows]))
    from headstart.training.evaluate import labelled

    with pytest.raises(DataError, match=r"run\.evaluate\(data\.train\), or a table of its rows alone"):
        labelled(run, str(table), columns={"label": "kind", "root": str(test)})


def test_the_backend_is_named_as_everywhere(made: Any) -> None:
    run, saved, test = made
    for of in (run, saved):
        with pytest.raises(UnknownNameError, match="mlx"):
            hs.evaluate(of, test, backend="mlx")
        assert hs.evaluate(of, test, backend=run.backend, device="cpu").samples > 0


def test_what_evaluate_refuses(made: Any, tmp_path: Path) -> None:
    run, _, test = made
    for option in ({"on_error": "skip"}, {"truncated": "keep"}):
        with pytest.raises(SettingError, match=r"about the files of a path, and data is a Dataset"):
            hs.evaluate(run, run.val, **option)
    with pytest.raises(SettingError, match="run is a Model; expected a Run"):
        hs.evaluate(run.model, test)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="does not exist"):
        hs.evaluate(run, tmp_path / "no" / "such")
    others = tmp_path / "others"
    for name in ("night", "noon"):
        pictures(others, {"dark": 1}).joinpath("dark").rename(others / name)
    with pytest.raises(DataError, match="night"):
        hs.evaluate(run, others)


def test_the_command(made: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    run, folder, test = made
    line = ["--run", folder, "--data", test, "--device", "cpu", "--backend", run.backend]
    monkeypatch.setattr("sys.argv", ["headstart", "evaluate", *map(str, line), "--json", str(tmp_path / "e.json")])
    cli.main()
    out = capsys.readouterr().out
    expected = hs.evaluate(run, test, device="cpu")
    for text in ("balanced accuracy", f"{expected.accuracy:.1%}", "middle", "average precision, macro", " to "):
        assert text in out, text
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["accuracy"] == expected.accuracy
    assert figures["scores"]["values"] == pytest.approx(dict(expected.scores))
    assert figures["confusions"] == expected.confusions


def test_what_the_run_was_trained_on_is_told(made: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    run, folder, test = made
    photos = test.parent / "photos"
    train, val = hs.data.folder(photos).split(0.6)
    assert run.evaluate(val, device="cpu").as_dict()["trained_on"] == {"samples": 0, "share": 0.0}
    text = f"{len(train)} of 36 samples .* are exact copies of what the run was trained on"
    for again in (run, hs.load(folder, backend=run.backend)):
        with pytest.warns(DataWarning, match=text):
            result = hs.evaluate(again, photos, device="cpu")
        assert result.trained_on == len(train)
        assert result.as_dict()["trained_on"] == {"samples": len(train), "share": pytest.approx(len(train) / 36)}
    features = hs.extract(run.model, train, backend=run.backend, device="cpu", dtype="float32")
    with pytest.warns(DataWarning, match="100.0%"):
        run.evaluate(features, device="cpu")
    line = ["--run", folder, "--data", photos, "--device", "cpu", "--backend", run.backend]
    monkeypatch.setattr("sys.argv", ["headstart", "evaluate", *map(str, line), "--json", str(tmp_path / "e.json")])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        cli.main()
    assert re.search(f"warning: {text}", capsys.readouterr().err)
    assert json.loads((tmp_path / "e.json").read_text())["trained_on"]["samples"] == len(train)
    about = json.loads((folder / "run.json").read_text())
    del about["checksum"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / about["weights"]["file"]).write_bytes((folder / about["weights"]["file"]).read_bytes())
    for of_before in (True, False):
        about["train_ids"] = {**about["train_ids"], "ids": "AAA="}
        if of_before:
            (tmp_path / "run/run.json").write_text(json.dumps({**about, "train_ids": None}))
            old = hs.load(tmp_path / "run", backend=run.backend).evaluate(train, device="cpu")
            assert old.trained_on is None and old.as_dict()["trained_on"] is None, "not known"
        else:
            (tmp_path / "run/run.json").write_text(json.dumps(about))
            with pytest.raises(WeightsError, match="ids are 2 bytes"):
                hs.load(tmp_path / "run")


def test_weights_of_validation_are_kept_with_the_run(made: Any, tmp_path: Path) -> None:
    run, _, test = made
    data = hs.data.folder(test, classes=CLASSES)
    images = [np.asarray(data.load(i)[0]) for i in range(len(data))]
    w = np.arange(1, len(data) + 1, dtype=np.float32)
    weighted = hs.data.arrays(images, data.labels, classes=CLASSES, weights=w)
    result = run.evaluate(weighted, device="cpu")
    np.testing.assert_array_equal(weights_of_text(result.validation.weights, len(data)), w)
    assert Validation.from_dict(result.validation.as_dict()) == result.validation
    assert "weights" not in run.evaluate(data, device="cpu").validation.as_dict()


def test_samples_that_weigh_more_count_more(made: Any) -> None:
    """In every figure."""
    run, _, test = made
    data = hs.data.folder(test, classes=CLASSES)
    images = [np.asarray(data.load(i)[0]) for i in range(len(data))]
    w = np.random.default_rng(0).random(len(data)).astype(np.float32)
    weighted = hs.evaluate(run, hs.data.arrays(images, data.labels, classes=CLASSES, weights=w), device="cpu")
    logits = run.predict(data, device="cpu")
    expected = accuracy_score(data.labels, logits.argmax(1), sample_weight=w)
    assert weighted.scores["accuracy"] == pytest.approx(expected)
    assert weighted.accuracy == pytest.approx(expected)
    assert expected != pytest.approx(accuracy_score(data.labels, logits.argmax(1)))
    expected = log_loss(data.labels, softmax(logits), sample_weight=w, labels=range(len(CLASSES)))
    assert weighted.loss == pytest.approx(expected, rel=1e-4)
    assert weighted.scores["log_loss"] == pytest.approx(expected, rel=1e-4)
    none = hs.data.arrays(images, data.labels, classes=CLASSES, weights=1.0 * (np.arange(len(data)) == 0))
    none = none.subset(np.arange(1, len(data)))
    with pytest.raises(DataError, match=r"no sample of .* counts: all of their weights are 0"):
        hs.evaluate(run, none, device="cpu")


def test_scores_are_computed_when_asked(made: Any, monkeypatch: Any) -> None:
    """And at once where the logits are too large to keep."""
    from headstart.training.scores import outcome

    asked: list[int] = []
    monkeypatch.setattr(outcome, "scores_of", lambda *of, **more: asked.append(len(of[1])) or "scores")
    run, _, test = made
    result = run.evaluate(hs.data.folder(test, classes=CLASSES), device="cpu")
    assert asked == []
    assert (result.scores, result.scores, asked) == ("scores", "scores", [16])
    monkeypatch.setattr(outcome, "KEPT_NBYTES", 0)
    run.evaluate(hs.data.folder(test, classes=CLASSES), device="cpu")
    assert asked == [16, 16]


def test_a_sweeps_heads_have_scores(made: Any) -> None:
    run, _, _ = made
    train, val = hs.data.folder(Path(made[2]).parent / "photos").split(0.6)
    grid = {"lr": [0.001, 0.01]}
    heads = hs.sweep(run.model, train, val, grid=grid, epochs=1, backend=run.backend, device="cpu", batch_size=8)
    assert heads.best.scores["accuracy"] == pytest.approx(heads.best.history[-1].val_accuracy)


def test_of_data_in_parts_the_test_part_is_taken(made: Any) -> None:
    """However they come: else what was trained on is scored as well."""
    run, _, test = made
    files = sorted(test.rglob("*.png"))
    columns = {"file": [str(file) for file in files], "label": [file.parent.name for file in files]}
    parts = ["test", "train", "val", "test"] * (len(files) // 4)
    data = hs.data.table({**columns, "split": parts})
    expected = run.evaluate(data.test, device="cpu")
    assert expected.samples == len(files) // 2
    for found in (run.evaluate(data, device="cpu"), hs.evaluate(run, data, device="cpu")):
        assert (found.samples, found.loss, found.scores) == (expected.samples, expected.loss, expected.scores)
    without = hs.data.table({**columns, "split": ["train", "val"] * (len(files) // 2)})
    with pytest.raises(DataError, match=r"has the parts train, val, and no test part; pass .* such as data\.val"):
        run.evaluate(without, device="cpu")


@pytest.mark.each
def test_evaluated_on_the_trunks_features(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache, which is filled by the first; the second runs no trunk, whatever its head."""
    run, folder, test = made
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    plain = hs.evaluate(folder, test, backend=run.backend, device="cpu")
    first = hs.evaluate(folder, test, backend=run.backend, device="cpu", cached=True)
    assert first.loss == pytest.approx(plain.loss, rel=2e-3)
    assert (first.accuracy, first.confusions) == (plain.accuracy, plain.confusions)
    data = hs.data.folder(test, classes=run.model.classes)
    stats = hs.extract(run.model, data, run.cut, backend=run.backend, device="cpu").stats
    assert (stats.extracted, stats.reused) == (0, len(data)), "where `fit` and `extract` keep theirs"
    with monkeypatch.context() as patched:
        patched.setattr(BatchFeatures, "trunk", property(lambda _: pytest.fail("a trunk was made")))
        again = hs.evaluate(run, test, device="cpu", cached=True)
    assert again.loss == pytest.approx(first.loss, rel=1e-6)
    with pytest.raises(SettingError, match="pass it, too"):
        run.evaluate(data, cache=tmp_path)


def test_the_command_evaluates_on_features(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder, test = made
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    where = ("--backend", run.backend, "--device", "cpu")
    arguments = ["evaluate", "--run", str(folder), "--data", str(test), *where]
    for further, told in (
        (["--cached"], "features: 16 extracted, 0 reused"),
        (["--cached"], "features: 0 extracted, 16 reused"),
        ([], ""),
    ):
        monkeypatch.setattr("sys.argv", ["headstart", *arguments, *further])
        cli.main()
        said = capsys.readouterr().err
        assert told in said
        assert ("features:" in said) == bool(further)
