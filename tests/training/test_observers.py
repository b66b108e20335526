"""Whoever watches a training is a class of its own, that the loop does not know; here are two that are in no
program. The loop runs on a trainer and feeds of this file, without a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.common.errors import ProfileError, WatchingWarning
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Recipe
from headstart.data import Dataset, arrays
from headstart.graph import Builder, Graph
from headstart.models import Model
from headstart.training.feeds import EpochResult, Feeds
from headstart.training.history import Seconds
from headstart.training.loop import Trained, run_stage
from headstart.training.objective import Objective
from headstart.training.observers import About, EpochCallback, Observer, Observers
from headstart.training.profiling import Profiler
from headstart.training.stage import EpochEnd, Stage

pytestmark = pytest.mark.neutral
EPOCHS, STEPS, BATCH = 6, 2, 4


class Counter:
    """A trainer whose only parameter counts its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def params(self) -> dict[str, np.ndarray]:
        return {"steps": np.array(self.steps)}

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        params = self.params()
        return lambda: params


class Falling:
    """A feed whose losses fall until the third epoch, and rise then."""

    targets = np.arange(8) % 2

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return np.arange(STEPS * batch_size).reshape(STEPS, batch_size)

    def train(self, trainer: Any, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        trainer.steps += len(order)
        return EpochResult(np.full((len(order), 1), 1.0 + abs(epoch - 2)), 0.5, Seconds())

    def logits(self, trainer: Any) -> tuple[np.ndarray, Seconds]:
        return np.eye(2, dtype=np.float32)[self.targets], Seconds(head=0.5)


def stage_of(name: str, epochs: int) -> Stage:
    b = Builder()
    graph: Graph = b.graph(b.linear("out", "input", 1, 2))
    recipe, rates = Recipe(SGD(0.1), Softmax(), False, 0), np.full((epochs, STEPS), 0.1)
    return Stage(name, graph, {}, recipe, rates, BATCH, seed=0, objective=Objective("single", Softmax()))


@pytest.fixture
def data() -> Dataset:
    return arrays(np.zeros((8, 4, 4, 3), np.uint8), Falling.targets)


@pytest.fixture
def train(data: Dataset) -> Callable[..., Trained]:
    def call(*observers: Observer) -> Trained:
        stage = stage_of("head", EPOCHS)
        with Observers(observers) as watching:
            watching.stage(stage, {"model": "none"})
            return run_stage(stage, Counter(), Feeds(Falling(), Falling(), data, data), watching)  # type: ignore[arg-type]

    return call


class Lines(Observer):
    """A logger: a line for each epoch, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[str] = []

    @property
    def output(self) -> str:
        return f"the lines in {self.path}"

    def start(self, model: Model, cut: str | None) -> None:
        self.calls.append("start")

    def stage(self, stage: Stage, about: About) -> None:
        self.calls.append(f"stage {stage.name} of {about['model']}")

    def begin(self, epoch: int) -> None:
        self.calls.append(f"begin {epoch}")

    def epoch(self, end: EpochEnd) -> None:
        self.calls.append(f"epoch {end.record.epoch}")
        with self.path.open("a") as file:
            file.write(f"{end.record.loss} {int(end.params['steps'])}\n")

    def end(self, error: BaseException | None) -> None:
        self.calls.append(f"end {type(error).__name__}")


class Patience(Observer):
    """Early stopping: after the first epoch whose loss is above the least so far."""

    least = np.inf

    def epoch(self, end: EpochEnd) -> bool:
        before, self.least = self.least, min(self.least, end.record.loss)
        return end.record.loss > before


def test_a_logger_is_one_class(train: Callable[..., Trained], tmp_path: Path) -> None:
    lines = Lines(tmp_path / "losses")
    trained = train(lines)
    assert lines.path.read_text().split("\n")[:3] == ["3.0 2", "2.0 4", "1.0 6"]
    assert lines.calls[:4] == ["stage head of none", "begin 0", "epoch 1", "begin 1"]
    assert lines.calls[-2:] == ["epoch 6", "end NoneType"]
    assert trained.history["loss"] == [3, 2, 1, 2, 3, 4]
    assert trained.history["val_accuracy"] == [1.0] * 6
    assert trained.history[0].seconds.head == 0.5
    assert trained.validation is not None and trained.validation.samples == 8


def test_early_stopping_is_one_class(train: Callable[..., Trained], tmp_path: Path) -> None:
    lines = Lines(tmp_path / "losses")
    trained = train(Patience(), lines)
    assert trained.history["loss"] == [3, 2, 1, 2]
    assert int(trained.params["steps"]) == 4 * STEPS
    assert lines.calls[-2:] == ["epoch 4", "end NoneType"]  # whoever comes after it sees the last epoch too


@pytest.mark.parametrize("when", ["stage", "begin", "epoch", "end"])
def test_one_that_fails_is_left_out(
    train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The training goes on, and so does who else watches."""
    failures = []

    def fail(self: Lines, *_: Any) -> None:
        failures.append(when)
        raise OSError(28, "No space left on device")

    broken, sound = type("Broken", (Lines,), {when: fail})(tmp_path / "broken"), Lines(tmp_path / "sound")
    with pytest.warns(WatchingWarning) as told:
        trained = train(broken, sound)
    text = f"the lines in {tmp_path / 'broken'} cannot be written (No space left on device); the training goes on"
    assert [str(warning.message).startswith(text) for warning in told] == [True]
    assert trained.history["loss"] == [3, 2, 1, 2, 3, 4]
    assert len(sound.path.read_text().splitlines()) == EPOCHS
    if when != "end":
        assert failures == [when]
        assert broken.calls[-1] == "end OSError"  # so that it can close its files


def test_a_callers_own_error_ends_the_training(train: Callable[..., Trained], tmp_path: Path) -> None:
    lines, seen = Lines(tmp_path / "losses"), []

    def on_epoch(stage: str, record: Any) -> None:
        seen.append((stage, record.epoch))
        if record.epoch == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(lines, EpochCallback(on_epoch))
    assert seen == [("head", 1), ("head", 2)]
    assert lines.calls[-2:] == ["epoch 2", "end ZeroDivisionError"]


def test_an_interrupted_training_is_seen_as_such(train: Callable[..., Trained], tmp_path: Path) -> None:
    """And an observer that cannot close its files then does not hide why."""

    class Interrupting(Observer):
        def epoch(self, end: EpochEnd) -> None:
            raise KeyboardInterrupt

        def end(self, error: BaseException | None) -> None:
            raise OSError

    lines = Lines(tmp_path / "losses")
    with pytest.raises(KeyboardInterrupt):
        train(Interrupting(), lines)
    assert lines.calls[-2:] == ["begin 0", "end KeyboardInterrupt"]


def test_parameters_are_read_for_those_who_ask(train: Callable[..., Trained], monkeypatch: Any) -> None:
    """They may lie on a device: reading them in every epoch would cost time for nothing."""
    reads = []
    read = Counter.params
    monkeypatch.setattr(Counter, "params", lambda self: reads.append(self.steps) or read(self))
    train(EpochCallback(lambda stage, record: None))
    assert reads == [EPOCHS * STEPS]

    class Twice(Observer):
        def epoch(self, end: EpochEnd) -> None:
            assert end.params is end.params

    reads.clear()
    train(Twice())
    assert reads == [STEPS * k for k in range(1, EPOCHS + 1)] + [EPOCHS * STEPS]


# --- the profiler, with a framework that only notes what it is asked for


class Recording:
    """A backend whose profiler notes folders and what it was ended with, and fails where it is told to."""

    name = "torch"  # which can profile, as its description says; the framework is not imported

    def __init__(self, *failing: str) -> None:
        self.failing, self.notes = failing, list[tuple[str, Any]]()

    @contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        if f"begin {folder.name}" in self.failing:
            raise ProfileError("none", "another one is running")
        try:
            yield
        except BaseException as error:
            self.notes.append((folder.name, type(error)))
            raise
        self.notes.append((folder.name, None))
        if f"end {folder.name}" in self.failing:
            raise OSError(28, "No space left on device")


class Breaking(Falling):
    def train(self, trainer: Any, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        if epoch == 1:
            raise KeyboardInterrupt
        return super().train(trainer, order, rates, epoch)


def staged(data: Dataset, observers: Sequence[Observer], *epochs: int, feed: Any = Falling) -> list[Trained]:
    """The stages "head" and "all", of so many epochs."""
    trained = []
    with Observers(observers) as watching:
        for name, count in zip(("head", "all"), epochs, strict=False):
            stage = stage_of(name, count)
            watching.stage(stage, {})
            feeds = Feeds(feed(), None, data, None)
            trained.append(run_stage(stage, Counter(), feeds, watching))  # type: ignore[arg-type]
    return trained


def test_the_profilers_epochs(data: Dataset, tmp_path: Path) -> None:
    """The second of each stage, or the only one."""
    backend, seen = Recording(), []
    profiler = Profiler(backend, tmp_path)  # type: ignore[arg-type]
    callback = EpochCallback(lambda stage, record: seen.append((stage, record.epoch, len(backend.notes))))
    staged(data, [profiler, callback], 3, 1)
    assert backend.notes == [("head", None), ("all", None)]
    assert seen == [("head", 1, 0), ("head", 2, 1), ("head", 3, 1), ("all", 1, 2)]


def test_a_profiler_that_cannot_start_before_anything_is_trained(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ProfileError):
        staged(data, [Profiler(Recording("begin head"), tmp_path)], 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failing", "epochs"),
    [
        ("begin head", (2, 1)),
        ("end head", (2, 1)),
        ("end head", (1, 1)),
        ("begin all", (2, 1)),
        ("end all", (2, 1)),
    ],
)
def test_a_profiler_that_fails_costs_no_epoch(
    data: Dataset, tmp_path: Path, failing: str, epochs: tuple[int, int]
) -> None:
    trace = rf"the profiler's trace in \S+{failing.split()[1]} cannot be written"
    with pytest.warns(WatchingWarning, match=trace):
        trained = staged(data, [Profiler(Recording(failing), tmp_path)], *epochs)  # type: ignore[arg-type]
    assert [len(stage.history) for stage in trained] == list(epochs)


def test_a_profiled_epoch_that_ends_early_ends_the_profiler(data: Dataset, tmp_path: Path) -> None:
    backend = Recording()
    with pytest.raises(KeyboardInterrupt):
        staged(data, [Profiler(backend, tmp_path)], 3, feed=Breaking)  # type: ignore[arg-type]
    assert backend.notes == [("head", KeyboardInterrupt)]
