"""The best epoch's head is what a run has, in every mode and backend; what a stage keeps for known scores is in
`test_stopping`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError, UnknownNameError, WeightsError
from headstart.data import Dataset
from headstart.testing import small_data, small_model
from headstart.training import stages
from headstart.training.measured import measure
from headstart.training.objective import objective_of_run

UNSTEADY: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 12,
    "lr": 10.0,
    "schedule": "constant",
    "warmup": 0.0,
    "standardize": False,
}
"""a rate with which the validation loss rises and falls"""
ONCE = pytest.mark.of("torch")
"""what core decides for every backend in the same way"""


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """120 and 40 digits."""
    return small_data()


@pytest.fixture(scope="module")
def settings(backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"backend": backend, "device": "cpu", "cache": tmp_path_factory.mktemp("cache"), "dtype": "float32"}


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def cached(model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]) -> Any:
    return hs.fit(model, *data, **settings, **UNSTEADY)


def loss_of(run: Any, val: Dataset) -> float:
    objective = objective_of_run(run.model, run.settings)
    loss = measure(objective, run.predict(val, device="cpu"), val.labels, val).loss
    assert loss is not None
    return loss


def assert_kept(run: Any, val: Dataset, figure: str = "val_loss") -> None:
    """The run is what it was after its best epoch."""
    values = run.history[figure]
    best = values.index(min(values) if figure == "val_loss" else max(values)) + 1
    assert run.best_epoch == run.history.best_epoch == best
    assert run.history.best.epoch == best
    assert run.scores["log_loss"] == pytest.approx(run.history.best.val_loss, rel=1e-5)
    assert loss_of(run, val) == pytest.approx(run.history.best.val_loss, rel=1e-4)
    assert run.validation.right_of_each().mean() == pytest.approx(run.history.best.val_accuracy)


@pytest.mark.slow("keras", "jax")  # core keeps it; heads' best are below, in each
def test_a_run_is_that_of_its_best_epoch(cached: Any, data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    assert_kept(cached, data[1])
    assert cached.best_epoch < 6, "the test is of no use where the last epoch is the best"
    assert cached.history[-1].val_loss > 1.05 * cached.history.best.val_loss
    assert f"val_accuracy {cached.history.best.val_score:.4f}" in repr(cached)
    entry = hs.comparison([cached]).rows[0]
    best = cached.history.best
    assert (entry["best_epoch"], entry["head_best_epoch"]) == (best.epoch, None)
    assert (entry["val_loss"], entry["val_accuracy"]) == (best.val_loss, best.val_accuracy)
    folder = cached.save(tmp_path / "run")
    assert hs.load(folder, backend=cached.backend).best_epoch == best.epoch
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "best_epoch": 7}))
    with pytest.raises(WeightsError, match="the best epoch is 7 of 6"):
        hs.load(folder, backend=cached.backend)


@ONCE
@pytest.mark.parametrize(("monitor", "figure"), [("accuracy", "val_accuracy"), ("val_accuracy", "val_accuracy")])
def test_another_score_decides(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any], monitor: str, figure: str
) -> None:
    assert_kept(hs.fit(model, *data, monitor=monitor, **settings, **UNSTEADY), data[1], figure)


@ONCE
def test_without_a_monitor_the_last_epoch_is_kept(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any], cached: Any
) -> None:
    """The same is trained, and another epoch of it returned."""
    run = hs.fit(model, *data, monitor=None, **settings, **UNSTEADY)
    assert run.history["step_losses"] == cached.history["step_losses"]
    assert run.best_epoch == 6
    assert loss_of(run, data[1]) == pytest.approx(run.history[-1].val_loss, rel=1e-4)
    assert hs.fit(model, data[0], **settings, **UNSTEADY).best_epoch == 6, "without validation data"


@ONCE
def test_frozen_keeps_what_cached_keeps(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any], cached: Any
) -> None:
    frozen = hs.fit(model, *data, mode="frozen", **settings, **UNSTEADY)
    assert frozen.best_epoch == cached.best_epoch
    for name in ("fc.weight", "fc.bias"):
        np.testing.assert_allclose(frozen.model.params[name], cached.model.params[name], rtol=1e-2, atol=0.05)


@ONCE
@pytest.mark.filterwarnings("ignore::headstart.common.errors.DivergedWarning")  # at that rate, the whole network
def test_each_stage_of_staged_keeps_its_best(
    model: Any,
    data: tuple[Dataset, Dataset],
    settings: dict[str, Any],
    cached: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second stage begins with the best head of the first."""
    begun = []

    def stage_of(name: str, graph: Any, params: Any, *args: Any, **more: Any) -> Any:
        begun.append((name, params["fc.weight"]))
        return made(name, graph, params, *args, **more)

    made = stages.stage_of
    monkeypatch.setattr(stages, "stage_of", stage_of)
    staged = hs.fit(model, *data, mode="staged", **settings, **{**UNSTEADY, "epochs": 1, "head_epochs": 6})
    assert staged.head_history.best_epoch == cached.best_epoch
    assert [name for name, _ in begun] == ["head", "all"]
    np.testing.assert_array_equal(begun[1][1], cached.model.params["fc.weight"])


@pytest.mark.slow("keras", "jax")  # the suite keeps each head's own
def test_each_head_of_a_sweep_keeps_its_best(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any], cached: Any
) -> None:
    """Side by side as alone."""
    rates = [0.01, 0.1, UNSTEADY["lr"]]
    unsteady = {name: value for name, value in UNSTEADY.items() if name != "lr"}
    swept = hs.sweep(model, *data, grid={"lr": rates}, **settings, **unsteady)
    assert swept.at_once == 3
    best = {}
    for run, point, entry in zip(swept.runs, swept.points, swept.table(), strict=True):
        assert_kept(run, data[1])
        assert (entry["best_epoch"], entry["epochs"]) == (run.best_epoch, 6)
        assert entry["val_loss"] == run.history.best.val_loss
        best[point["lr"]] = run.best_epoch
    assert len(set(best.values())) > 1, "heads of one best epoch tell nothing"
    assert best[UNSTEADY["lr"]] == cached.best_epoch


STOPPED = {name: value for name, value in UNSTEADY.items() if name != "epochs"} | {"max_epochs": 30, "patience": 2}


@pytest.mark.slow("keras", "jax")  # core stops
def test_what_stops_early_stops_where_frozen_does(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]
) -> None:
    """In a sweep too, side by side with heads that go on."""
    run, frozen = (hs.fit(model, *data, mode=mode, **settings, **STOPPED) for mode in ("cached", "frozen"))
    assert len(run.history) == run.best_epoch + 2 < 30
    assert_kept(run, data[1])
    assert (len(frozen.history), frozen.best_epoch) == (len(run.history), run.best_epoch)
    assert run.settings["stages"] == {
        "head": {"max_epochs": 30, "patience": 2, "schedule": {"kind": "constant", "warmup": 0.0}}
    }
    steady = {name: value for name, value in STOPPED.items() if name != "lr"}
    swept = hs.sweep(model, *data, grid={"lr": [0.001, UNSTEADY["lr"]]}, **settings, **steady)
    by_rate = {point["lr"]: each for point, each in zip(swept.points, swept.runs, strict=True)}
    assert swept.at_once == 2
    assert (len(by_rate[UNSTEADY["lr"]].history), by_rate[UNSTEADY["lr"]].best_epoch) == (
        len(run.history),
        run.best_epoch,
    )
    assert len(by_rate[0.001].history) > len(run.history)
    for each in swept.runs:
        assert_kept(each, data[1])


@ONCE
def test_without_validation_data_nothing_can_stop(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]
) -> None:
    run = hs.fit(model, data[0], **settings)
    assert (len(run.history), run.best_epoch) == (50, 50), "300 steps, of which an epoch has two"
    assert run.settings["stages"]["head"]["patience"] is None
    with pytest.raises(SettingError, match="patience=3 waits for epochs that are better on validation data, and"):
        hs.fit(model, data[0], patience=3, **settings)


def test_a_monitor_that_is_none_of_the_scores_is_refused(
    model: Any, data: tuple[Dataset, Dataset], settings: dict[str, Any]
) -> None:
    for val in (data[1], None):
        with pytest.raises(UnknownNameError, match="unknown monitor 'val_f1' for labels of the task 'single'"):
            hs.fit(model, data[0], val, monitor="val_f1", **settings, **UNSTEADY)
    with pytest.raises(SettingError, match="min_delta=-1; expected a number of 0 or more"):
        hs.fit(model, *data, min_delta=-1, **settings, **UNSTEADY)
