"""What has diverged to NaN is right about nothing, and best at nothing: `argmax` gives class 0 for NaN, which is
most of many data sets."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DivergedWarning, SettingError
from headstart.data import Dataset
from headstart.report.build import build
from headstart.training import metrics
from headstart.training.prediction import LogitBatches, told

RATES = [0.003, 1e20]


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """Noise, of which nine in ten are of class 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 10 == 0
    images = rng.integers(0, 255, (80, 8, 8, 3), dtype=np.uint8)
    return hs.data.arrays(images, labels.astype(int), ["usual", "rare"]).split(0.5, seed=0)


@pytest.fixture(scope="module")
def settings(backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    return {"backend": backend, "device": "cpu", "cache": cache, "batch_size": 8, "epochs": 3}


@pytest.fixture(scope="module")
def model(data: tuple[Dataset, Dataset]) -> Any:
    return hs.model("resnet18_half", weights="tinyimagenet", classes=data[0].classes, size=32)


@pytest.fixture(scope="module")
def swept(model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]) -> Any:
    return hs.sweep(model, *data, grid={"lr": RATES[::-1]}, **settings)


@pytest.fixture(scope="module")
def lost(model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]) -> Any:
    """A run that diverged, by itself."""
    with pytest.warns(DivergedWarning, match="has diverged"):
        return hs.fit(model, *data, mode="frozen", lr=1e20, **settings)


def test_accuracy_of_no_numbers() -> None:
    logits = np.array([[np.nan, 0.0], [0.0, np.nan], [np.inf, 0.0], [0.0, -np.inf], [1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.accuracy(logits, np.zeros(5, int)) == 2 / 5
        assert np.isnan(metrics.softmax(logits)[:3]).all()
        assert metrics.softmax(logits)[3].tolist() == [1.0, 0.0]
        metrics.cross_entropy(logits, np.zeros(5, int))


def test_a_sweep_ranks_it_last(swept: Any) -> None:
    first, last = swept.table()
    assert (first["lr"], last["lr"]) == tuple(RATES)
    assert (first["diverged"], last["diverged"]) == (False, True)
    assert last["val_accuracy"] == 0
    assert last["accuracy"] < 0.5, "nine in ten were of class 0"
    assert np.isfinite(swept.best.history[-1].val_loss)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_sweep_of_which_every_head_diverged(model: Any, data: tuple[Dataset, Dataset], settings: Any) -> None:
    with pytest.warns(DivergedWarning, match="every one of the 2 heads diverged"):
        swept = hs.sweep(model, *data, grid={"lr": [1e20, 1e21]}, **settings)
    with pytest.raises(SettingError, match="every one of the 2 heads diverged"):
        swept.best  # noqa: B018


@pytest.mark.slow("keras", "jax")  # core looks
def test_a_run_says_it(lost: Any, data: tuple[Dataset, Dataset], tmp_path: Path, backend: str) -> None:
    last = lost.history[-1]
    assert lost.diverged
    assert (last.val_accuracy, lost.validation.not_finite, last.accuracy) == (0, len(data[1]), 0)
    again = hs.load(lost.save(tmp_path / "run"), backend=backend)
    assert again.diverged
    with pytest.warns(DivergedWarning, match=f"of {len(data[1])} samples"):
        assert again.evaluate(data[1]).accuracy == 0
    with pytest.warns(DivergedWarning, match=f"of {len(data[1])} samples"):
        assert np.isnan(again.probabilities(data[1])).all()


def test_trunks_that_look_sound(data: tuple[Dataset, Dataset], backend: str) -> None:
    """A rectifier may make 0 of NaN, and the logits be as those of any other model."""
    model = hs.model("lenet", classes=data[0].classes, size=32)
    params = dict(model.params)
    params["conv1.bias"] = np.full_like(params["conv1.bias"], np.nan)
    with pytest.warns(DivergedWarning, match=r"conv1.bias of node 'conv1' \(conv\) holds NaN|not finite"):
        hs.predict(replace(model, params=params), data[1], backend=backend)
    logits = np.zeros((1, 2))
    assert told(model, logits, LogitBatches(1, iter(()), None, {})) is logits
    with pytest.warns(DivergedWarning, match="lenet gives logits that mean nothing: bias holds NaN. Its training"):
        assert told(model, logits, LogitBatches(1, iter(()), "bias holds NaN", {})) is logits


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_report_says_it(swept: Any, lost: Any) -> None:
    runs = {"lost by 1e20": lost, **{f"lr {lr}": run for lr, run in zip(RATES, swept.runs, strict=True)}}
    comparison = hs.comparison(runs)
    text = json.dumps(json.loads(json.dumps(comparison)))  # NaN
    for content in (comparison, json.loads(text), json.loads(text.replace("NaN", "null"))):
        page = build(content)
        assert "Take lr 0.003: accuracy" in page
        names = (", ".join(order) for order in (("lost by 1e20", "lr 1e+20"), ("lr 1e+20", "lost by 1e20")))
        assert any(f"Losses that are not finite leave gaps: {both}" in page for both in names)  # the faster first
        count = len(lost.val)
        assert f"{count} of {count} wrong" in page
        for row in content["rows"]:
            row.pop("diverged")  # as before there was such a mark
        assert "Take lr 0.003: accuracy" in build(content)
    assert "Take none of these runs: every one diverged" in build(hs.comparison({"a": lost, "b": lost}))
