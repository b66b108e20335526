"""Which epoch is kept, and when a stage ends, for sequences of scores whose answers are known. The loop runs on a
trainer and feeds of this file, without a framework."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.common.errors import SettingError, UnknownNameError
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD, Schedule
from headstart.contract.recipe import Recipe
from headstart.data import Dataset, arrays
from headstart.graph import Builder, Graph
from headstart.models import architecture
from headstart.training.defaults import default_epochs, default_patience, default_warmup
from headstart.training.feeds import EpochResult, Feeds
from headstart.training.history import History, Record, Seconds
from headstart.training.loop import Trained, run_stage
from headstart.training.objective import Objective
from headstart.training.observers import Observers
from headstart.training.settings import Settings
from headstart.training.stage import Stage, stage_of
from headstart.training.stopping import Best, Monitor, monitor_of

pytestmark = pytest.mark.neutral
nan, inf = math.nan, math.inf


def record(epoch: int, **figures: Any) -> Record:
    values = {"val_loss": None, "val_accuracy": None, **figures}
    return Record(epoch, 1.0, 0.5, seconds=Seconds(), learning_rate=0.1, step_losses=(1.0,), **values)


def followed(monitor: Monitor, figures: Sequence[float | None]) -> tuple[int, int]:
    """The epoch that is kept, 0 for none, and the number of epochs that are trained."""
    best = Best(monitor)
    for epoch, value in enumerate(figures, 1):
        best.better(record(epoch, **{monitor.figure: value}))
        if best.over:
            break
    return (0 if best.record is None else best.record.epoch), epoch


@pytest.mark.parametrize(
    ("figures", "min_delta", "patience", "expected"),
    [
        ([3, 2, 1, 2, 3], 0, None, (3, 5)),
        ([3, 2, 1, 2, 3], 0, 1, (3, 4)),
        ([3, 2, 1, 2, 3, 0], 0, 2, (3, 5)),
        ([3, 2, 1, 2, 3, 0], 0, 3, (6, 6)),
        ([3, 2, 2, 2, 4], 0, None, (2, 5)),  # a tie goes to the earlier epoch
        ([1, 1, 1, 1, 1], 0, 2, (1, 3)),
        ([4, 3.5, 3.1, 2.9, 2.8], 1, None, (4, 5)),  # small steps add up, as they are told from what is kept
        ([4, 3, 3], 1, None, (1, 3)),  # by just so much is not by more
        ([4, 3.9, 3.8, 0], 0.5, 2, (1, 3)),
        ([nan, 2, nan, 1, inf], 0, None, (4, 5)),
        ([nan, nan, nan, 1], 0, 2, (0, 2)),
        ([-inf, 5, -inf], 0, None, (2, 3)),
        ([None, None], 0, None, (0, 2)),
        ([1, nan, nan, nan, 0], 0, 3, (1, 4)),
    ],
)
def test_the_epoch_that_is_kept(
    figures: list[float | None], min_delta: float, patience: int | None, expected: tuple[int, int]
) -> None:
    for smaller in (True, False):
        turned = figures if smaller else [None if value is None else -value for value in figures]
        monitor = Monitor("any", "val_loss", smaller, min_delta, patience)
        assert followed(monitor, turned) == expected, smaller


values = st.one_of(st.none(), st.sampled_from([nan, inf, -inf]), st.integers(-4, 4).map(float))


@given(st.lists(values, min_size=1, max_size=20), st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.booleans())
def test_no_later_epoch_is_better_by_more_than_min_delta(
    figures: list[float | None], min_delta: float, smaller: bool
) -> None:
    """And no earlier one would have been kept; without a min_delta the kept one is the first of the best."""
    kept, trained = followed(Monitor("any", "val_loss", smaller, min_delta), figures)
    assert trained == len(figures)
    known = [
        (epoch, value if smaller else -value)
        for epoch, value in enumerate(figures, 1)
        if value is not None and math.isfinite(value)
    ]
    if not known:
        assert kept == 0
        return
    best = dict(known)[kept]
    assert all(best - value <= min_delta for epoch, value in known if epoch > kept)
    assert all(value > best + min_delta or epoch >= kept for epoch, value in known if value <= best)
    if not min_delta:
        assert (best, kept) == min((value, epoch) for epoch, value in known)


@given(st.lists(values, min_size=1, max_size=30), st.integers(1, 5), st.sampled_from([0.0, 1.0]))
def test_patience_only_shortens(figures: list[float | None], patience: int, min_delta: float) -> None:
    """What is kept is what would have been kept of the same epochs without it; it ends exactly so many epochs
    after the one that is kept."""
    kept, trained = followed(Monitor("any", "val_loss", True, min_delta, patience), figures)
    assert (kept, trained) == followed(Monitor("any", "val_loss", True, min_delta), figures[:trained])
    assert trained - kept <= patience
    assert trained - kept == patience or trained == len(figures)


@pytest.mark.parametrize(
    ("task", "name", "figure", "smaller"),
    [
        ("single", "val_loss", "val_loss", True),
        ("single", "val_accuracy", "val_accuracy", False),
        ("single", "accuracy", "val_score", False),
        ("single", "val_score", "val_score", False),
        ("multi", "micro_f1", "val_score", False),
        ("multi", "val_accuracy", "val_accuracy", False),
        ("multi", "val_micro_f1", "val_score", False),
        ("regression", "val_loss", "val_loss", True),
        ("regression", "mae", "val_score", True),
        ("regression", "val_score", "val_score", True),
    ],
)
def test_which_figure_decides_and_in_which_direction(task: str, name: str, figure: str, smaller: bool) -> None:
    assert monitor_of(name, task) == Monitor(name, figure, smaller)


def test_several_targets_are_watched_by_a_score_that_no_unit_rules() -> None:
    for name in ("standardised_mae", "val_standardised_mae", "val_score"):
        assert monitor_of(name, "regression", outputs=2) == Monitor(name, "val_score", True)
    with pytest.raises(UnknownNameError, match="expected one of val_standardised_mae, standardised_mae, val_loss"):
        monitor_of("mae", "regression", outputs=2)


@pytest.mark.parametrize(
    ("task", "name", "allowed"),
    [
        ("single", "val_los", "val_accuracy, accuracy, val_loss, val_score; did you mean 'val_loss'?"),
        ("single", "micro_f1", "val_accuracy, accuracy, val_loss, val_score"),
        ("multi", "mae", "val_micro_f1, micro_f1, val_loss, val_accuracy, val_score"),
        ("regression", "val_accuracy", "val_mae, mae, val_loss, val_score"),
    ],
)
def test_a_score_that_the_task_has_not_is_refused(task: str, name: str, allowed: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        monitor_of(name, task)
    assert str(caught.value).startswith(
        f"unknown monitor {name!r} for labels of the task {task!r}; expected one of {allowed}"
    )


# ---- how long, where nobody says


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    whole = architecture("resnet18").graph(5)
    return {
        "whole": whole,
        "linear": whole.after("avgpool", (64, 64, 3)),
        "block": whole.after("layer4.0", (64, 64, 3)),
    }


@pytest.mark.parametrize(
    ("steps", "monitored", "epochs"),
    [
        *((1, True, 100), (2, True, 100), (20, True, 100), (21, True, 96), (50, True, 40), (63, True, 32)),
        *((200, True, 10), (5000, True, 10)),
        *((1, False, 50), (6, False, 50), (7, False, 43), (50, False, 6), (100, False, 5), (5000, False, 5)),
    ],
)
def test_heads_on_features_have_steps(graphs: dict[str, Graph], steps: int, monitored: bool, epochs: int) -> None:
    assert default_epochs(graphs["linear"], False, steps, monitored) == epochs
    for name, whole in (("block", False), ("whole", True), ("linear", True)):
        assert default_epochs(graphs[name], whole, steps, monitored) == 5


def test_patience_is_a_fifth(graphs: dict[str, Graph]) -> None:
    assert [default_patience(epochs) for epochs in (1, 5, 10, 25, 26, 96, 100)] == [5, 5, 5, 5, 6, 20, 20]
    assert [default_warmup(graphs[name], name == "whole") for name in graphs] == [0.0, 0.3, 0.0]


def test_a_stage_is_as_long_as_asked_for(graphs: dict[str, Graph]) -> None:
    def made(samples: int = 640, epochs: int | None = None, monitored: bool = True, **settings: Any) -> Stage:
        graph = graphs["linear"]
        monitor = monitor_of("val_loss", "single") if monitored else None
        params = dict.fromkeys(graph.param_shapes(), np.zeros(()))
        more = {"objective": Objective("single", Softmax()), "fresh": (), "samples": samples}
        return stage_of("head", graph, params, Settings(**settings), epochs=epochs, monitor=monitor, **more)

    def told(stage: Stage) -> tuple[int, int | None]:
        return stage.epochs, stage.record()["patience"]

    assert told(made()) == (100, 20)
    assert made().rates.shape == (100, 10)
    assert told(made(samples=6400)) == (20, 5)
    assert told(made(epochs=7)) == (7, None), "by hand: just so many"
    assert told(made(max_epochs=500)) == (500, 100)
    assert told(made(max_epochs=500, patience=3)) == (500, 3)
    assert told(made(patience=3)) == (100, 3)
    assert told(made(monitored=False)) == (30, None)
    assert told(made(monitored=False, max_epochs=500)) == (30, None), "at most"
    assert told(made(monitored=False, max_epochs=4)) == (4, None)
    rates = made().rates.reshape(-1)
    assert rates.argmax() in (299, 300) and rates.max() == pytest.approx(0.003)
    assert rates[-1] < 1e-6 and rates[0] < 2e-5
    assert made(warmup=0.0).rates.argmax() == 0
    assert (made(schedule=Schedule()).rates == np.float32(0.003)).all(), "one that is passed counts as it is"
    assert made().record()["schedule"] == {"kind": "cosine", "warmup": 0.3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 5, "patience": 2}, "patience=2 with epochs=5: epochs are trained to the last of them; pass"),
        ({"epochs": 5, "max_epochs": 9}, "max_epochs=9 with epochs=5: epochs are trained to the last"),
        ({"patience": 2, "monitor": None}, "patience=2 with monitor=None: nothing says which epochs are better"),
        ({"patience": 2, "monitor": "none"}, "patience=2 with monitor=None: nothing says which epochs are better"),
        ({"min_delta": 0.1, "monitor": None}, "min_delta=0.1 with monitor=None: no epoch is better than another"),
        (
            {"warmup": 0.2, "schedule": Schedule("cosine", 0.1)},
            "which has a warm-up of its own; leave out warmup=, or pass hs.Schedule('cosine', 0.2)",
        ),
        ({"patience": 0}, "patience=0; expected an integer of 1 or more"),
        ({"max_epochs": 0}, "max_epochs=0; expected an integer of 1 or more"),
        ({"monitor": ""}, "monitor=''; expected the name of a score, or None"),
    ],
)
def test_lengths_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        Settings(**settings)


# ---- in the loop


class Counting:
    """A trainer whose only parameter is the number of its epochs. It says how often it was read."""

    def __init__(self) -> None:
        self.epochs, self.reads = 0, 0

    def params(self) -> dict[str, np.ndarray]:
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        self.reads += 1
        epochs = self.epochs
        return lambda: {"epochs": np.array(epochs)}


class Told:
    """A feed whose validation has the losses that it is told, epoch by epoch."""

    targets = np.zeros(4, np.int64)

    def __init__(self, losses: Sequence[float]) -> None:
        self.losses = losses

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return np.arange(4).reshape(2, 2)

    def train(self, trainer: Any, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        trainer.epochs += 1
        return EpochResult(np.full((2, 1), self.losses[epoch]), 0.5, Seconds())

    def logits(self, trainer: Any) -> tuple[np.ndarray, Seconds]:
        """All samples have the same loss, log(1 + exp(margin))."""
        margin = np.log(np.expm1(self.losses[trainer.epochs - 1]))
        return np.stack([np.zeros(4), np.full(4, margin)], 1).astype(np.float32), Seconds()


@pytest.fixture
def train() -> Callable[..., tuple[Trained, Counting]]:
    def call(losses: Sequence[float], monitor: Monitor | None, val: bool = True) -> tuple[Trained, Counting]:
        b = Builder()
        graph = b.graph(b.linear("out", "input", 1, 2))
        recipe, objective = Recipe(SGD(0.1), Softmax(), False, 0), Objective("single", Softmax())
        rates = np.full((len(losses), 2), 0.1)
        stage = Stage("head", graph, {}, recipe, rates, 2, seed=0, objective=objective, monitor=monitor)
        data: Dataset = arrays(np.zeros((4, 4, 4, 3), np.uint8), Told.targets, ("a", "b"))
        trainer, told = Counting(), Told(losses)
        feeds = Feeds(told, told if val else None, data, data if val else None)
        with Observers() as watching:
            return run_stage(stage, trainer, feeds, watching), trainer  # type: ignore[arg-type]

    return call


LOSSES = [0.9, 0.5, 0.3, 0.6, 0.3, 0.8]


@pytest.mark.parametrize(
    ("monitor", "kept", "epochs"),
    [
        (monitor_of("val_loss", "single"), 3, 6),
        (monitor_of("val_loss", "single", patience=1), 3, 4),
        (monitor_of("val_accuracy", "single"), 2, 6),
        (monitor_of("val_loss", "single", min_delta=0.3), 2, 6),
        (None, 6, 6),
    ],
)
def test_all_that_is_returned_is_of_the_epoch_that_is_kept(
    train: Callable[..., tuple[Trained, Counting]], monitor: Monitor | None, kept: int, epochs: int
) -> None:
    """With a validation loss above log(2) all are wrong, with one below it all are right."""
    trained, _ = train(LOSSES, monitor)
    assert (trained.history.best_epoch, len(trained.history)) == (kept, epochs)
    assert trained.history.best is trained.history[kept - 1]
    assert int(trained.params["epochs"]) == kept
    np.testing.assert_allclose(trained.history["val_loss"], LOSSES[:epochs], rtol=1e-6)
    assert trained.validation is not None and trained.outcome is not None
    best = trained.history.best
    assert trained.outcome.scores["log_loss"] == pytest.approx(best.val_loss)
    assert trained.outcome.scores["accuracy"] == best.val_accuracy == float(LOSSES[kept - 1] < math.log(2))
    assert trained.validation.confusion == ((0, int(LOSSES[kept - 1] > math.log(2)), 4),)


def test_the_device_is_read_only_where_an_epoch_is_better(
    train: Callable[..., tuple[Trained, Counting]],
) -> None:
    assert train(LOSSES, monitor_of("val_loss", "single"))[1].reads == 3
    assert train(LOSSES, None)[1].reads == 1


def test_of_epochs_that_are_all_lost_the_last_is_kept(train: Callable[..., tuple[Trained, Counting]]) -> None:
    trained, _ = train([nan, nan, nan], monitor_of("val_loss", "single"))
    assert (trained.history.best_epoch, int(trained.params["epochs"])) == (3, 3)
    assert trained.validation is not None and trained.validation.not_finite == 4


def test_a_loss_that_is_lost_later_does_not_cost_the_best_epoch(
    train: Callable[..., tuple[Trained, Counting]],
) -> None:
    trained, _ = train([0.9, 0.5, nan, nan], monitor_of("val_loss", "single"))
    assert (trained.history.best_epoch, int(trained.params["epochs"])) == (2, 2)
    assert trained.validation is not None and trained.validation.not_finite == 0


def test_without_validation_data_the_last_epoch_is_kept(train: Callable[..., tuple[Trained, Counting]]) -> None:
    trained, trainer = train(LOSSES, None, val=False)
    assert (trained.history.best_epoch, int(trained.params["epochs"]), trainer.reads) == (6, 6, 1)
    assert trained.validation is None


# ---- in a history


def test_a_history_says_which_epoch_was_kept() -> None:
    records = [record(1), record(2), record(3)]
    assert History(records, 2).best is records[1]
    assert History(records).best is records[2], "the last, where nothing decided"
    assert History.from_list(History(records, 2).as_list(), best_epoch=2).best == records[1]
    assert History.from_list(History(records).as_list()).best_epoch == 3, "as runs of before"
    assert History().best_epoch == 0
    with pytest.raises(IndexError, match="no epochs"):
        _ = History().best
    for number in (0, 4, -1):
        with pytest.raises(ValueError, match=f"the best epoch is {number} of 3"):
            History.from_list(History(records).as_list(), best_epoch=number)
