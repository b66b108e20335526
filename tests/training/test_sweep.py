"""A grid of heads on one cache: each is the head that `fit` trains alone, ranked by what it reaches."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from numpy.testing import assert_allclose

import headstart as hs
from headstart.common.errors import SettingError
from headstart.contract.checked import CheckedHeads
from headstart.contract.heads import chain_of
from headstart.data import Dataset
from headstart.graph import Builder
from headstart.models import Model
from headstart.training import side_by_side

CLASSES = ["dim", "red", "green"]
GRID: dict[str, Any] = {"lr": [0.003, 0.03], "weight_decay": [0.0, 0.3], "seed": [0, 4]}


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (70, 32, 32, 3), np.uint8)
    labels = np.arange(70) % 3
    for k in (1, 2):
        images[labels == k, :, :, k - 1] += 60
    return hs.data.arrays(images, labels, classes=CLASSES).split(0.7)


def made(head: Any = "linear") -> Model:
    return hs.model("resnet18_half", classes=CLASSES, size=32, head=head)


@pytest.fixture(scope="module")
def model() -> Model:
    return made()


@pytest.fixture(scope="module")
def deep() -> Model:
    """With three linear layers behind the trunk, and dropout between them."""
    return made([12, 0.25, 10])


ONCE = pytest.mark.of("torch")
"""what core adds to two kinds of optimiser and of head, which every backend trains here"""


# Behind "layer4.1", where features are maps, there is a pooling first.
@pytest.mark.parametrize(
    ("cut", "kind", "settings"),
    [
        ("avgpool", hs.AdamW(), {"schedule": "cosine", "label_smoothing": 0.1}),
        pytest.param("avgpool", hs.SGD(nesterov=True), {"warmup": 0.3}, marks=[ONCE, pytest.mark.slow]),
        pytest.param("layer4.1", hs.AdamW(beta1=0.8), {}, marks=ONCE),
        pytest.param("layer4.1", hs.SGD(momentum=0.0), {}, marks=pytest.mark.slow("keras", "jax")),
        pytest.param("avgpool", hs.AdamW(), {"memory": 256 * 4 * 8 * 8}, marks=ONCE),
    ],
)
def test_each_head_is_the_one_trained_alone(
    model: Model,
    deep: Model,
    data: tuple[Dataset, Dataset],
    backend: str,
    cut: str,
    kind: Any,
    settings: dict[str, Any],
) -> None:
    model = model if cut == "avgpool" else deep
    common: dict[str, Any] = {"cut": cut, "epochs": 3, "batch_size": 8, "backend": backend, "dtype": "float32"}
    common |= settings
    found = hs.sweep(model, *data, grid=GRID, optimizer=kind, **common)
    assert len(found.runs) == 8
    assert found.at_once == 4  # those of one seed
    for run, point in list(zip(found.runs, found.points, strict=True))[::3]:
        optimizer = type(kind)(**{**vars(kind), "lr": point["lr"], "weight_decay": point["weight_decay"]})
        alone = hs.fit(model, *data, optimizer=optimizer, seed=int(point["seed"]), **common)
        for record, expected in zip(run.history, alone.history, strict=True):
            # a loss is a difference of numbers of about one, which round by 1e-7 in another order of sums
            assert_allclose(record.step_losses, expected.step_losses, rtol=2e-4, atol=2e-7)
            assert_allclose(record.val_loss, expected.val_loss, rtol=2e-4)
            assert_allclose(record.learning_rate, expected.learning_rate, rtol=1e-6)
            assert abs(record.accuracy - expected.accuracy) <= 1 / 40  # a sample on the border
        for name, value in alone.model.params.items():
            scale = np.abs(value).max()
            assert_allclose(run.model.params[name], value, atol=3e-3 * scale, err_msg=name)
        repeated = {key for key in alone.settings if key != "features"}
        assert {key: run.settings[key] for key in repeated} == {key: alone.settings[key] for key in repeated}


@pytest.mark.of("torch")  # as the command has it
def test_without_a_grid_the_usual_rates_are_tried(
    model: Model, data: tuple[Dataset, Dataset], backend: str
) -> None:
    found = hs.sweep(model, *data, epochs=1, batch_size=8, backend=backend)
    assert sorted(row["lr"] for row in found.table()) == [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_ranking(model: Model, data: tuple[Dataset, Dataset], backend: str) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "backend": backend, "dtype": "float32"}
    found = hs.sweep(model, *data, grid={"lr": [1e-6, 1e-4, 0.01]}, **settings)
    rows = found.table()
    keys = [(-row["val_accuracy"], row["val_loss"]) for row in rows]
    assert keys == sorted(keys)
    assert sorted(row["lr"] for row in rows) == [1e-6, 1e-4, 0.01]
    assert found.conclusion().take.startswith("Take lr 0.01: accuracy ")
    assert repr(found) == f"Sweep(3 heads, the first with lr 0.01: {found.best!r})"
    assert rows[0]["lr"] == 0.01 == found.best.settings["optimizer"]["head"]["lr"]
    for run, row in zip(found.runs, rows, strict=True):
        evaluation = run.evaluate(data[1])
        assert evaluation.accuracy == row["val_accuracy"]
        assert_allclose(evaluation.loss, row["val_loss"], rtol=1e-3)
    trunk = [name for name in model.params if not name.startswith("fc.")]
    assert len(trunk) == len(model.params) - 2
    assert all(np.array_equal(found.best.model.params[name], model.params[name]) for name in trunk)


@pytest.mark.slow("keras", "jax")  # the suite drops heads, test_halving in a sweep
def test_heads_that_have_stopped_are_dropped_from_the_product(
    model: Model, data: tuple[Dataset, Dataset], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which changes nothing of the others."""
    dropped: list[list[int]] = []
    keep = CheckedHeads.keep

    def spied(self: CheckedHeads, numbers: Any) -> None:
        dropped.append(list(numbers))
        keep(self, numbers)

    monkeypatch.setattr(CheckedHeads, "keep", spied)
    settings: dict[str, Any] = {"max_epochs": 14, "patience": 3, "batch_size": 8, "backend": backend}
    settings |= {"optimizer": hs.AdamW(), "grid": {"lr": [0.001, 0.3, 0.01, 0.1]}, "dtype": "float32"}
    with monkeypatch.context() as never:
        # torch drops at once what has stopped; elsewhere it is not worth a program of its own
        never.setattr(CheckedHeads, "compiles", True, raising=False)
        whole = hs.sweep(model, *data, **settings)
    assert not dropped
    if backend != "torch":
        monkeypatch.setattr(side_by_side, "WORTH", 0)
    narrowed = hs.sweep(model, *data, **settings)
    assert dropped
    if backend == "torch":
        lengths = [len(run.history) for run in whole.runs]
        left = [sum(of > stop for of in lengths) for stop in sorted(set(lengths))[:-1]]
        assert [len(numbers) for numbers in dropped] == left, "each when it stops"
    assert len({len(run.history) for run in whole.runs}) > 1
    assert narrowed.points == whole.points
    for run, expected in zip(narrowed.runs, whole.runs, strict=True):
        assert len(run.history) == len(expected.history)
        assert run.best_epoch == expected.best_epoch
        for name in ("loss", "val_loss", "accuracy"):
            assert_allclose(run.history[name], expected.history[name], rtol=1e-4, atol=1e-6)
        for name, value in expected.model.params.items():
            assert_allclose(run.model.params[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow("keras", "jax")  # core ranks
def test_one_that_diverges_comes_last(model: Model, data: tuple[Dataset, Dataset], backend: str) -> None:
    settings: dict[str, Any] = {"optimizer": hs.SGD(), "epochs": 4, "batch_size": 8, "backend": backend}
    # what random weights make is nearly one feature, 256 times: standardised, 0.01 diverges as well
    settings |= {"schedule": "constant", "warmup": 0.0, "standardize": False}
    with np.errstate(all="ignore"):
        found = hs.sweep(model, *data, grid={"lr": [1e30, 0.01]}, **settings)
        alone = hs.fit(model, *data, lr=0.01, **settings)
    assert found.points[0] == {"lr": 0.01}
    assert_allclose(found.best.history[-1].loss, alone.history[-1].loss, rtol=2e-4)  # its neighbour does no harm


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_heads_that_cannot_be_side_by_side(
    model: Model, data: tuple[Dataset, Dataset], backend: str, caplog: Any
) -> None:
    """A convolution behind the cut: one after the other, each by its name, and the same as alone."""
    grid = {"lr": [0.001, 0.01]}
    settings: dict[str, Any] = {"cut": "layer4.0", "epochs": 2, "batch_size": 8, "backend": backend, "seed": 3}
    with caplog.at_level(logging.INFO, "headstart"):
        found = hs.sweep(model, *data, grid=grid, optimizer="sgd", **settings)
    assert found.at_once == 1
    told = [text.partition(": loss")[0] for record in caplog.records if "loss" in (text := record.getMessage())]
    assert told == [f"lr {lr}: epoch {epoch}" for lr in grid["lr"] for epoch in (1, 2)]
    alone = hs.fit(model, *data, optimizer="sgd", lr=found.points[1]["lr"], **settings)
    assert_allclose(
        [record.loss for record in found.runs[1].history], [record.loss for record in alone.history], rtol=1e-5
    )


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_groups_of_as_many_as_there_is_room_for(
    model: Model, data: tuple[Dataset, Dataset], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"grid": {"lr": [0.001, 0.003, 0.01]}, "epochs": 1, "backend": backend}
    whole = hs.sweep(model, *data, **settings)
    monkeypatch.setattr("headstart.training.side_by_side.MAX_NBYTES", 2 * 4 * (256 * 3 + 3))
    halves = hs.sweep(model, *data, **settings)
    assert (whole.at_once, halves.at_once) == (3, 2)
    assert whole.points == halves.points
    for a, b in zip(whole.table(), halves.table(), strict=True):
        assert a.pop("score") == b.pop("score") == "accuracy"
        assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_which_heads_are_chains() -> None:
    b = Builder()
    x = b.add("fc1", "linear", b.add("flat", "flatten", "input", features=12), in_features=12, out_features=4)
    chain = chain_of(b.graph(b.add("fc2", "linear", b.add("act", "gelu", x), in_features=4, out_features=2)))
    assert chain is not None and chain.before is not None
    assert [node.name for node in chain.layers] == ["fc1", "act", "fc2"]
    assert chain.before.output == "flat"
    b = Builder()
    chain = chain_of(b.graph(b.add("fc", "linear", b.add("act", "relu", "input"), in_features=4, out_features=2)))
    assert chain is not None and chain.before is not None and chain.before.output == "act"
    b = Builder()
    chain = chain_of(b.graph(b.add("fc", "linear", "input", in_features=4, out_features=2)))
    assert chain is not None and chain.before is None
    b = Builder()
    x = b.add("fc", "linear", b.add("drop", "dropout", "input", rate=0.5), in_features=4, out_features=2)
    chain = chain_of(b.graph(x))
    assert chain is not None and chain.before is None
    assert [node.name for node in chain.layers] == ["drop", "fc"]
    b = Builder()
    x = b.add("flat", "flatten", b.add("drop", "dropout", "input", rate=0.5), features=12)
    assert chain_of(b.graph(b.add("fc", "linear", x, in_features=12, out_features=2))) is None
    b = Builder()
    assert chain_of(b.graph(b.add("drop", "dropout", "input", rate=0.5))) is None
    b = Builder()
    assert chain_of(b.graph(b.add("norm", "layer_norm", "input", channels=4))) is None


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "any of lr, weight_decay, seed"),
        ({"momentum": [0.9]}, "any of lr, weight_decay, seed"),
        ({"lr": 0.1}, "expected a list"),
        ({"lr": []}, "expected a list"),
        ({"lr": np.array(0.1)}, "expected a list"),
        ({"lr": [0.1, 0.1]}, "a value twice"),
        ({"lr": [-0.1]}, "lr=-0.1"),
        ({"weight_decay": [-1.0]}, "weight_decay=-1.0"),
        ({"seed": [0.5]}, "expected a list of integers"),
        ({"lr": ["0.1"]}, r"grid\['lr'\]=\['0.1'\]; expected a list of numbers"),
        ({"lr": [[0.1], [0.1, 0.2]]}, "expected a list of numbers"),
        ({"weight_decay": [True]}, r"grid\['weight_decay'\]=\[True\]; expected a list of numbers"),
        ({"seed": [-1]}, "seed=-1"),
    ],
)
def test_grids_that_are_none(
    model: Model, data: tuple[Dataset, Dataset], backend: str, grid: Any, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        hs.sweep(model, *data, grid=grid, backend=backend)
    with pytest.raises(SettingError, match="val=None"):
        hs.sweep(model, data[0], None, grid={"lr": [0.1]}, backend=backend)  # type: ignore[arg-type]


@pytest.mark.of("torch")
def test_each_head_has_a_name_of_its_own(model: Model, data: tuple[Dataset, Dataset], backend: str) -> None:
    """As one would type it: a seed whole, and of rates as many digits as differ."""
    grid = {"lr": [0.0012345678, 0.0012345679], "seed": [1234567, 1234568]}
    found = hs.sweep(model, *data, grid=grid, epochs=1, backend=backend)
    names = [f"lr {point['lr']}, seed {point['seed']}" for point in found.points]
    assert repr(found).startswith(f"Sweep(4 heads, the first with {names[0]}: ")
    take = found.conclusion().take
    assert take.startswith(f"Take {names[0]}: ")
    assert sum(name in take for name in names) >= 2  # what is next, or as good, by its name


@pytest.mark.slow("keras", "jax")  # core reads them
def test_on_features_without_images(
    model: Model, data: tuple[Dataset, Dataset], backend: str, tmp_path: Path
) -> None:
    whole = [hs.extract(model, part, backend=backend) for part in data]
    saved = [hs.load_features(features.save(tmp_path / str(k))) for k, features in enumerate(whole)]
    settings: dict[str, Any] = {"grid": {"lr": [0.001, 0.01]}, "epochs": 1, "backend": backend}
    expected = hs.sweep(model, *data, **settings)
    found = hs.sweep(model, *saved, **settings)
    assert found.points == expected.points
    assert_allclose(found.best.history[-1].loss, expected.best.history[-1].loss, rtol=1e-5)


@pytest.mark.of("torch")
def test_the_command(tmp_path: Path) -> None:
    arguments = ["sweep", "--data", "digits", "--epochs", "1", "--size", "32"]
    options = ["--lr", "0.001,0.01", "--seeds", "0,1", "--top", "2"]
    report = tmp_path / "figures.json"
    options += ["--json", str(report), "--out", str(tmp_path / "best")]
    result = headstart(*arguments, *options, "--backend", "torch")
    assert result.code == 0, result.err
    assert "4 heads, 2 at once" in result.out and "Take lr 0.01, seed " in result.out
    rows = json.loads(report.read_text())["rows"]
    assert len(rows) == 4
    shown = [line.split()[0] for line in result.out.splitlines() if line.strip().startswith("0.0")]
    assert shown == [f"{row['lr']:g}" for row in rows[:2]]
    best = hs.load(tmp_path / "best")
    assert best.history[-1].val_accuracy == rows[0]["val_accuracy"]
    for option, value in (("--lr", "0"), ("--seeds", "1,1"), ("--patience", "0")):  # before data are read
        result = headstart("sweep", "--data", str(tmp_path / "nowhere.csv"), option, value, "--backend", "torch")
        assert result.code == 2 and option.strip("-").removesuffix("s") in result.err, result.err
    result = headstart(*arguments, "--lr", "fast")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "expected numbers" in result.err
