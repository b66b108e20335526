"""Successive halving: the better half of the heads goes on, and is what it is without the others' end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from numpy.testing import assert_allclose

import headstart as hs
from headstart.common.errors import SettingError
from headstart.data import Dataset
from headstart.models import Model
from headstart.training import side_by_side
from headstart.training.halving import Race, rungs_of
from headstart.training.history import Record, Seconds
from headstart.training.stopping import Best, Monitor

CLASSES = ["dim", "red", "green"]
RATES = [3.0, 0.00001, 0.03, 0.001]
SETTINGS: dict[str, Any] = {"max_epochs": 16, "patience": 6, "batch_size": 8, "dtype": "float32"}


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (90, 32, 32, 3), np.uint8)
    labels = np.arange(90) % 3
    for k in (1, 2):
        images[labels == k, :, :, k - 1] += 40
    return hs.data.arrays(images, labels, classes=CLASSES).split(0.6)


def made(head: Any = "linear") -> Model:
    return hs.model("resnet18_half", classes=CLASSES, size=32, head=head)


def record(epoch: int, loss: float, score: float = 0.0) -> Record:
    return Record(epoch, loss, 0.0, loss, score, Seconds(), 0.1, (loss,), val_score=score)


def race(losses: list[list[float]], monitor: Monitor, epochs: int = 16) -> Race:
    heads = {}
    for k, of_head in enumerate(losses):
        heads[k] = Best(monitor)
        for epoch, loss in enumerate(of_head):
            heads[k].better(record(epoch + 1, loss))
    return Race(heads, epochs, halving=True)


@pytest.mark.neutral
def test_when_heads_are_compared() -> None:
    assert rungs_of(64, 16) == (4, 8, 16, 32)
    assert rungs_of(100, 16) == (6, 12, 25, 50)
    assert rungs_of(100, 5) == rungs_of(100, 8) == (12, 25, 50)
    assert rungs_of(5, 64) == (1, 2), "no head is compared before its first epoch"
    assert rungs_of(100, 2) == (50,)
    assert rungs_of(100, 1) == rungs_of(1, 8) == ()


@pytest.mark.neutral
def test_the_better_half_by_the_best_figure_goes_on() -> None:
    smaller = Monitor("val_loss", "val_loss", smaller_is_better=True)
    losses = [[0.5, 0.9], [0.6, 0.4], [0.7, 0.7], [np.nan, np.nan], [0.8, 0.6]]
    of_five = race(losses, smaller)
    assert of_five.rungs == (2, 4, 8)
    assert of_five.losers(1) == of_five.losers(3) == []
    assert sorted(of_five.losers(2)) == [2, 3], "the better three of five, by 0.5, 0.4, 0.7, none and 0.6"
    assert of_five.losers(4) == [4]
    assert of_five.losers(8) == [0]
    assert list(of_five.heads) == [1]
    larger = Monitor("accuracy", "val_loss", smaller_is_better=False)
    assert sorted(race([[0.5], [0.6], [0.7], [np.nan]], larger, 4).losers(1)) == [0, 3]
    assert sorted(race([[0.5], [0.5], [0.5], [0.5]], smaller, 4).losers(1)) == [2, 3], "of equals the first"
    accuracy = Monitor("val_accuracy", "val_score", smaller_is_better=False)
    alike = race([[0.9], [np.nan], [0.7], [0.8], [0.6]], accuracy, 8)
    assert sorted(alike.losers(1)) == [0, 1], "of one accuracy those of a higher loss"
    assert Race({0: Best(smaller), 1: Best(smaller)}, 4, halving=False).rungs == ()


def check(plain: hs.Sweep, halved: hs.Sweep, tolerance: float) -> None:
    """Of the one with halving each history is the beginning of the other's; all that it is until its end."""
    assert halved.halving and not plain.halving
    assert not any(plain.pruned)
    expected = dict(zip((json.dumps(point) for point in plain.points), plain.runs, strict=True))
    lengths = []
    for run, point, pruned in zip(halved.runs, halved.points, halved.pruned, strict=True):
        whole, epochs = expected[json.dumps(point)], len(run.history)
        lengths.append(epochs)
        assert epochs in (2, 4, 8) if pruned else epochs == len(whole.history)
        for name in ("loss", "val_loss", "val_accuracy"):
            assert_allclose(run.history[name], whole.history[name][:epochs], rtol=tolerance, atol=tolerance)
        best = int(np.argmin(whole.history["val_loss"][:epochs])) + 1
        assert run.best_epoch == best
        if best == whole.best_epoch:
            for name, value in whole.model.params.items():
                assert_allclose(run.model.params[name], value, rtol=10 * tolerance, atol=tolerance, err_msg=name)
    assert sum(length > 8 for length in lengths) <= 1
    assert sum(halved.pruned) >= len(lengths) // 2
    assert [row["pruned"] for row in halved.table()] == list(halved.pruned)
    assert [row["epochs"] for row in halved.table()] == lengths


@pytest.mark.slow("keras", "jax")  # core chooses
def test_side_by_side_the_winner_is_that_of_a_sweep_without(
    data: tuple[Dataset, Dataset], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, grid = made(), {"lr": RATES}
    plain = hs.sweep(model, *data, grid=grid, backend=backend, **SETTINGS)
    monkeypatch.setattr(side_by_side, "WORTH", 0)  # the product becomes narrower with each that is ended
    halved = hs.sweep(model, *data, grid=grid, halving=True, backend=backend, **SETTINGS)
    assert plain.at_once == halved.at_once == 4
    check(plain, halved, 2e-4)
    assert halved.points[0] == plain.points[0]
    assert not halved.pruned[0]


@pytest.mark.slow("keras", "jax")  # core chooses
def test_one_after_the_other_they_are_the_same_to_the_bit(data: tuple[Dataset, Dataset], backend: str) -> None:
    """With a convolution, and dropout, whose random numbers go on where they were."""
    model, grid = hs.model("lenet", classes=CLASSES), {"lr": [0.03, 0.00001]}
    settings: dict[str, Any] = {**SETTINGS, "max_epochs": 8, "patience": 8, "batch_size": 16, "device": "cpu"}
    settings["cut"] = "pool1"
    plain = hs.sweep(model, *data, grid=grid, backend=backend, **settings)
    halved = hs.sweep(model, *data, grid=grid, halving=True, backend=backend, **settings)
    assert plain.at_once == halved.at_once == 1
    check(plain, halved, 0 if backend != "keras" else 1e-6)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_what_goes_with_halving_and_what_does_not(data: tuple[Dataset, Dataset], backend: str) -> None:
    model = made()
    for sets, options, message in (
        (data, {"halving": True, "monitor": None}, "halving=True with monitor=None: nothing says"),
        (data, {"halving": "yes"}, "halving='yes'; expected True or False"),
        (data[:1], {"halving": True, "folds": 3}, "halving=True with folds=3: heads are ended by"),
    ):
        with pytest.raises(SettingError, match=message):
            hs.sweep(model, *sets, grid={"lr": [0.1, 0.01]}, backend=backend, **options)
    grid = {"lr": [0.01, 1e-6], "seed": [0, 1]}
    found = hs.sweep(model, *data, grid=grid, halving=True, epochs=4, monitor="accuracy", backend=backend)
    ended = zip(
        (point["seed"] for point in found.points), map(len, (run.history for run in found.runs)), strict=True
    )
    assert sorted(ended) == [(0, 2), (0, 4), (1, 2), (1, 4)], "by hand as many epochs, and a winner of each seed"


@pytest.mark.of("torch")
def test_the_command(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--lr", "0.1,0.01,0.001,0.000001", "--epochs", "8", "--size", "32", "--json", str(figures)]
    result = headstart("sweep", "--data", "digits", *options, "--halving", "--backend", "torch")
    assert result.code == 0, result.err
    assert "4 heads, 4 at once; 3 ended early" in result.out
    assert "* pruned: ended early" in result.out
    record = json.loads(figures.read_text())
    assert record["halving"] is True
    assert sorted((row["epochs"], row["pruned"]) for row in record["rows"]) == [
        (2, True), (2, True), (4, True), (8, False)
    ]  # fmt: skip
    for row in record["rows"]:
        assert f"{'*' if row['pruned'] else ' '}{row['epochs']}" in result.out
