"""What the version before the restructuring made is still read: its store, a run, a feature set, a comparison.

`made.tar.xz` and `expected.json` were written by that version (`record.py`), with torch where nothing else is
said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from before.recorded import HERE, Stored, command, digests, extracted, own_weights, stored, unpack, wrapped

import headstart as hs
from headstart.data.order import epoch_order

EXPECTED = json.loads((HERE / "expected.json").read_text())
ENTRIES = ("published weights", "random weights", "own weights", "float32", "bfloat16", "views", "pixels")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recorded files; the cache is the recorded store, which may be written to."""
    folder = unpack(tmp_path / "made")
    monkeypatch.setenv("HEADSTART_CACHE", str(folder / "store"))
    return folder


def store_files(made: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (made / "store").rglob("*.safetensors")}


# --- the store


@pytest.mark.neutral
def test_sample_ids_stay(made: Path) -> None:
    images = hs.data.folder(made / "images")
    assert [Path(images.source_name(i)).relative_to(made / "images").as_posix() for i in range(len(images))] == (
        EXPECTED["run"]["files"]
    )
    assert [*images.ids, *hs.data.digits().subset(range(24)).ids] == EXPECTED["ids"]


@pytest.mark.neutral
def test_the_store_lists_and_verifies(made: Path, tmp_path: Path) -> None:
    assert command("cache", "verify").code == 0
    assert command("cache", "ls", "--json", tmp_path / "ls.json").code == 0
    keys = [row["key"] for row in json.loads((tmp_path / "ls.json").read_text())]
    assert sorted(keys) == sorted(key for digests in EXPECTED["keys"].values() for key in digests)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_store_is_hit(made: Path, backend: str, name: str) -> None:
    before = store_files(made)
    entry = stored(made)[name]
    assert_hit(entry, backend, name, "torch" if name != "pixels" else "pillow")
    assert store_files(made) == before, "nothing was written, and nothing set aside"


def test_the_store_is_hit_by_a_wrapped_module(made: Path, backend: str) -> None:
    assert_hit(wrapped(backend), backend, f"wrapped, {backend}", backend)


def assert_hit(entry: Stored, backend: str, name: str, maker: str) -> None:
    """All of its rows are read, under the keys of before, and are the ones that the trunk computes."""
    features = extracted(entry, backend)
    assert digests(entry, features) == EXPECTED["keys"][name]
    assert (features.stats.extracted, features.stats.reused) == (0, len(entry.data) * features.views)
    assert features.stats.made_by == (maker,)
    for cut in features.cuts:
        assert np.isfinite(features.numpy(cut).astype(np.float32)).all()


def test_training_on_the_store_extracts_nothing(made: Path, backend: str) -> None:
    train, val = hs.data.folder(made / "images").split(0.5, seed=1)
    run = hs.fit(own_weights(made), train, val, epochs=1, batch_size=4, backend=backend, device="cpu")
    assert run.extraction is not None
    assert (run.extraction.extracted, run.extraction.reused, run.extraction.made_by) == (0, 18, ("torch",))


# --- a run


def test_a_run_predicts_what_it_did(made: Path, backend: str) -> None:
    about, expected = json.loads((made / "run/run.json").read_text()), EXPECTED["run"]
    run = hs.load(made / "run", backend=backend)
    assert (run.backend, run.mode, run.cut) == (backend, "cached", "relu4")
    assert run.model.classes == ("dark", "light", "striped")
    assert [{key: epoch[key] for key in about["history"][0]} for epoch in run.history.as_list()] == about[
        "history"
    ]
    assert run.history["val_score"] == run.history["val_accuracy"]
    assert run.history[-1].val_accuracy == expected["val_accuracy"]
    assert run.validation is not None and run.validation.as_dict() == about["validation"]
    images = hs.data.folder(made / "images")
    np.testing.assert_allclose(run.predict(images), expected["logits"], rtol=1e-4, atol=1e-4)
    evaluated = run.evaluate(images.split(0.5, seed=1)[1])
    assert evaluated.accuracy == expected["evaluated"]["accuracy"]
    assert evaluated.loss == pytest.approx(expected["evaluated"]["loss"], rel=1e-2)  # float16 features then


def test_a_run_of_a_wrapped_module(made: Path, backend: str) -> None:
    """Its structure is told as it was, so the same module is taken for it."""
    entry = wrapped(backend)
    run = hs.load(made / f"run-{backend}", backend=backend, model=entry.model)
    assert (run.mode, len(run.history)) == ("cached", 3)
    np.testing.assert_allclose(run.predict(entry.data), EXPECTED["wrapped runs"][backend], rtol=1e-4, atol=1e-4)


@pytest.mark.neutral
def test_a_runs_report_is_made_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a version that may have no framework at hand."""
    monkeypatch.setenv("HEADSTART_BACKEND", "torch")
    assert hs.weights_file(made / "run").parent == made / "run"
    try:
        run = hs.load(made / "run")
    except hs.HeadstartError:
        pytest.skip("no torch is installed, which the run is of")
    run.report(tmp_path / "run.html")
    assert "cached" in (tmp_path / "run.html").read_text()


# --- a comparison


@pytest.mark.neutral
def test_a_comparison_opens(made: Path, tmp_path: Path) -> None:
    result = command("report", made / "compare/compare.json", "--out", tmp_path / "page.html")
    assert (result.code, result.err) == (0, "")
    page = (tmp_path / "page.html").read_text()
    assert len(EXPECTED["rows"]) == 2
    for label, accuracy, loss in EXPECTED["rows"]:
        assert f'data-value="{loss}"' in page
        assert label in page
        assert f'data-value="{accuracy}"' in page
    for text in ("the keras process ended with exit code", "broken/dark/7.png", "torch 2.14.1", "AMD EPYC"):
        assert text in page, text


@pytest.mark.neutral
def test_a_comparison_opens_by_its_folder_and_a_run_does_not(made: Path, tmp_path: Path) -> None:
    result = command("report", made / "compare", "--out", tmp_path / "page.html")
    assert (result.code, result.err) == (0, "")
    result = command("report", made / "run")
    assert (result.code, result.out) == (2, "")
    assert "run is a saved run; expected the compare.json of a comparison, or its folder" in result.err


def test_a_comparisons_figures_are_a_comparison(made: Path, tmp_path: Path) -> None:
    """What a program of before did with the file: `hs.Comparison` of it has rows and a report."""
    report = hs.Comparison(json.loads((made / "compare/compare.json").read_text()))
    assert [[row["label"], row["val_accuracy"], row["val_loss"]] for row in report.rows] == EXPECTED["rows"]
    assert report.report(tmp_path / "page.html").stat().st_size > 10_000


# --- a feature set


def test_a_feature_set_trains(made: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it did then, when full batches were taken, and the samples that were left over went without, and when the
    last layer's weights were drawn."""

    def then_order(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return epoch_order(count, 1, seed, epoch)[: count // batch_size * batch_size].reshape(-1, batch_size)

    monkeypatch.setattr("headstart.training.feature_feeds.epoch_order", then_order)
    monkeypatch.setattr("headstart.training.job.output_layer", lambda graph, output: set())
    monkeypatch.setattr("headstart.training.stage.epoch_shape", lambda count, size: (count // size, size))
    features = hs.load_features(made / "features")
    assert features.cuts == ("pool2", "relu4")
    assert list(features.ids) == EXPECTED["ids"][:18]
    assert features.classes == ("dark", "light", "striped")
    for cut, mean in EXPECTED["features"]["means"].items():
        assert features.numpy(cut).astype(np.float64).mean() == pytest.approx(mean, rel=1e-6)
    train, val = features.split(0.5, seed=1)
    settings: dict[str, Any] = {"batch_size": 4, "lr": 0.01, "backend": backend, "device": "cpu"}
    settings |= {"epochs": 4, "schedule": "cosine", "warmup": 0.0, "label_smoothing": 0.1, "standardize": False}
    run = hs.fit(own_weights(made), train, val, cut="relu4", **settings)
    then = hs.load(made / "run", backend=backend)
    # the head has dropout, which was the framework's own then
    np.testing.assert_allclose(run.history["loss"], then.history["loss"], rtol=0.1)
    assert run.history[-1].loss < run.history[0].loss


@pytest.mark.neutral
def test_a_feature_sets_split_is_the_images(made: Path) -> None:
    images, features = hs.data.folder(made / "images"), hs.load_features(made / "features")
    for mine, theirs in zip(features.split(0.5, seed=1), images.split(0.5, seed=1), strict=True):
        assert list(mine.ids) == list(theirs.ids)
