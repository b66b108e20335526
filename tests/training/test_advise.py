"""Advice from end to end: the command and the function, and what they refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, SettingError
from headstart.training import advise as advising
from headstart.training.advice.costs import epochs_of
from headstart.training.advice.rule import MODES


def pixels(label: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(40 * label, 40 * label + 150, (28, 28, 3), np.uint8)


def photos(root: Path) -> Path:
    """36 images in 3 classes, dark to light."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "dusk", "light's")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(pixels(label, rng)).save(root / name / f"{i}.png")
    return root


@pytest.mark.of("torch")  # what backends do of it, pooled features and plans, is tested in each
def test_the_command_says_what_to_run_and_that_runs(backend: str, tmp_path: Path) -> None:
    folder, figures, page = photos(tmp_path / "my photos"), tmp_path / "advice.json", tmp_path / "advice.html"
    how = ["--backend", backend, "--device", "cpu", "--batch-size", 8, "--workers", 1]
    result = headstart(
        *("advise", "--data", folder, "--models", "lenet:none", "--cuts", "pool2", "--budget", 3600),
        *(*how, "--json", figures, "--report", page),
    )
    assert result.code == 0, result.err
    known = json.loads(figures.read_text())
    assert "(68 %: " in known["sentence"] and "(95 %: " in known["sentence"]  # two kinds of ranges
    assert known["command"] in result.out and known["sentence"][1:40] in " ".join(result.out.split())
    words = shlex.split(known["command"])
    assert words[:6] == ["headstart", "fit", "--data", str(folder), "--model", "lenet"]
    assert words[words.index("--weights") + 1] == "none"
    assert {row["what"] for row in known["rows"]} == set(MODES)
    assert [cut["cut"] for cut in known["trunks"][0]["cuts"]] == ["pool2", "relu4"]
    assert all(row["seconds"] > 0 and row["within_budget"] for row in known["rows"])
    assert [row["score"] for row in known["rows"]] == sorted((row["score"] for row in known["rows"]), reverse=True)
    assert known["best"] in known["rows"] and any(row["pareto"] for row in known["rows"])
    assert "<script" in page.read_text() and "dusk" in page.read_text()

    spent = headstart("advise", "--data", folder, "--models", "lenet:none", "--budget", "0.00001", *how)
    assert (spent.code, spent.out) == (2, "")
    assert "nothing can be trained within it; the quickest, lenet, random with mode" in spent.err

    if "--epochs" in words:
        words[words.index("--epochs") + 1] = "1"
    done = headstart(*words[1:], *how)
    assert done.code == 0, done.err


@pytest.mark.of("torch")  # what differs is arithmetic
def test_several_labels_and_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = np.arange(30) % 3
    images = np.stack([pixels(level, rng) for level in levels])
    model = hs.model("lenet", classes=["value"])
    common: dict[str, Any] = {"backend": "torch", "device": "cpu", "batch_size": 8, "cache": tmp_path}
    numbers = hs.data.arrays(images, 100.0 + 10 * levels, ["value"], task="regression")
    advice = hs.advise(numbers, model, **common)
    assert repr(advice) == f"Advice({numbers.name!r}: {advice.sentence})"
    assert advice.headline == "mae" and advice.choices[0].score == min(choice.score for choice in advice.choices)
    linear = next(choice for choice in advice.choices if choice.what == "linear")
    assert linear.score == pytest.approx(advice.trunks[0].last.score) and linear.score < 9  # of 0 to 20
    assert advice.model is not model and advice.model.classes == ("value",)
    several = hs.data.arrays(images, np.eye(3, dtype=int)[levels], ["a", "b", "c"], task="multi")
    advice = hs.advise(several, "lenet:none", **common)
    assert advice.headline == "micro_f1" and advice[advice.best.trunk].last.silhouette is None
    run = hs.fit(advice.model, several, **advice.best.options | {"epochs": 1}, **common)
    assert run.mode == advice.best.mode


@pytest.mark.neutral
def test_few_steps_an_epoch_take_more_epochs() -> None:
    assert [epochs_of("full", samples, 64) for samples in (20, 640, 6400, 640_000)] == [20, 10, 5, 5]
    assert epochs_of("linear", 640, 64) == 100


@pytest.mark.of("torch")
def test_a_module_of_ones_own_on_inputs_that_are_no_images(tmp_path: Path) -> None:
    import torch

    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    data = hs.data.arrays(rng.normal(size=(40, 5)).astype(np.float32) + labels[:, None], labels, ["a", "b"])
    layers = (torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
    model = hs.wrap(torch.nn.Sequential(*layers), classes=["a", "b"], example=data, name="mine")
    advice = hs.advise(data, model, backend="torch", device="cpu", cache=tmp_path)
    assert advice.best.trunk == "mine" and advice.command().startswith("hs.fit(model, train, val, mode=")
    assert "cut" not in {choice.what for choice in advice.choices} and advice.trunks[0].familiarity is None
    assert "A map of the features" in advice.report(tmp_path / "advice.html").read_text()


@pytest.mark.neutral
@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), True, "soon", "0"])
def test_a_budget_that_is_none(budget: Any) -> None:
    with pytest.raises(SettingError, match="budget="):
        hs.advise(hs.data.digits(), budget=budget)


@pytest.mark.neutral
def test_data_that_nothing_can_be_learnt_of() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="all 20 samples of arrays are of one class"):
        hs.advise(hs.data.arrays(images, np.zeros(20, int), ["a", "b"]))
    with pytest.raises(DataError, match="have the same numbers"):
        hs.advise(hs.data.arrays(images, np.full(20, 2.5), ["size"], task="regression"))
    half = [0] * 10 + [1] * 10  # of weight 0: as if they were not there
    labelled: list[tuple[Any, ...]] = [
        (half, ["a", "b"], "single", "are of one class"),
        (np.stack([half, half], 1), ["a", "b"], "multi", "have the same labels"),
        (np.array(half) / 2, ["size"], "regression", "have the same numbers"),
    ]
    for labels, names, task, said in labelled:
        with pytest.raises(DataError, match=f"all 10 samples of arrays that count {said}"):
            hs.advise(hs.data.arrays(images, labels, names, task=task, weights=half))
    with pytest.raises(DataError, match="arrays has 4 different samples to train on; expected at least 10"):
        hs.advise(hs.data.arrays(images[:4], np.arange(4) % 2))
    with pytest.raises(SettingError, match="data is"):
        hs.advise(7)  # type: ignore[arg-type]


@pytest.mark.neutral
def test_of_many_samples_some_are_looked_at_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "MOST", 12)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    order = np.random.default_rng(1).permutation(40)
    some, _ = advising._looked_at(hs.data.arrays(images, np.arange(40) % 2), 0)
    others, _ = advising._looked_at(hs.data.arrays(images[order], order % 2), 0)
    assert len(some) == 12 and set(some.ids) == set(others.ids)
