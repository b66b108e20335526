"""Observers of a training: a log, a callback, TensorBoard's files, a profiler. The loop tells them how far it is,
and knows nothing else of them.

Invariant: an observer's failure never ends a training. An observer that fails, for example on a full disk, is not
called again, a WatchingWarning says so, and what is trained is the same. Only a function of the caller's own may
end the training with its exception.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from headstart.common.errors import WatchingWarning
from headstart.common.log import IN_RESULT, LOG
from headstart.common.text import epoch_line
from headstart.models import Model
from headstart.training.history import History, OnEpoch
from headstart.training.stage import HEAD_STAGE, EpochEnd, Stage

About = Mapping[str, Any]
"""JSON-able: what a run is, as far as it is known when a stage begins"""
EPOCHS_TOLD = 20
"""that a stage may have for each to get a line of the log"""
SECONDS_BETWEEN = 1.0
"""of such lines, where there are more"""


class Observer:
    """Watches one training. The methods here do nothing; a class overrides those that it needs."""

    @property
    def output(self) -> str:
        """What it writes, for the warning of its failure: "TensorBoard's files in runs/1"."""
        return f"what {type(self).__name__} records"

    @property
    def essential(self) -> bool:
        """Whether its failure ends the training, as the caller has to know of it."""
        return False

    def start(self, model: Model, cut: str | None) -> None:
        """Once, before anything is computed. `model` has the parameters that training begins with; `cut`: the last
        node of its frozen trunk, None where it has none."""

    def stage(self, stage: Stage, about: About) -> None:
        """Before the first epoch of each stage."""

    def begin(self, epoch: int) -> None:
        """Before each epoch of the stage, counted from 0."""

    def epoch(self, end: EpochEnd) -> bool | None:
        """After each epoch. True ends the stage: its other epochs are not trained."""

    def done(self, stage: Stage, history: History) -> None:
        """After the last epoch of each stage, with what it has recorded."""

    def end(self, error: BaseException | None) -> None:
        """Once, at the end, also after an error: close files. `error`: the exception that ends the training, or
        that another method of this observer has raised."""


class Observers:
    """All observers of one training. A context manager, which calls their `end`."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._watching = list(observers)

    def __enter__(self) -> Observers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._tell(lambda observer: observer.end(None))
            return
        for observer in self._watching:
            with suppress(Exception):  # the error that ends the training is the one to be seen
                observer.end(error)

    def start(self, model: Model, cut: str | None) -> None:
        self._tell(lambda observer: observer.start(model, cut))

    def stage(self, stage: Stage, about: About) -> None:
        self._tell(lambda observer: observer.stage(stage, about))

    def begin(self, epoch: int) -> None:
        self._tell(lambda observer: observer.begin(epoch))

    def epoch(self, end: EpochEnd) -> bool:
        """Whether one of them ends the stage."""
        return self._tell(lambda observer: observer.epoch(end))

    def done(self, stage: Stage, history: History) -> None:
        self._tell(lambda observer: observer.done(stage, history))

    def _tell(self, call: Callable[[Observer], bool | None]) -> bool:
        answers = []
        for observer in tuple(self._watching):
            try:
                answers.append(call(observer))
            except Exception as error:
                if observer.essential:
                    raise
                self._leave_out(observer, error)
        return any(answers)

    def _leave_out(self, observer: Observer, error: Exception) -> None:
        self._watching.remove(observer)
        with suppress(Exception):
            observer.end(error)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        warnings.warn(
            f"{observer.output} cannot be written ({reason}); the training goes on without",
            WatchingWarning,
            stacklevel=5,
        )


class LogLine(Observer):
    """A line of the log for each epoch. Of a stage with many, which on features take a moment each, a line a
    second, the last one, and which was kept."""

    def __init__(self, staged: bool = False, name: str = "", is_result: bool = False) -> None:
        """`staged`: a second stage follows that of the head, so the lines of the head's say "head". `name`: of
        what is trained, where that is one of several. `is_result`: whether tables of the result say how it ended,
        too."""
        self.staged, self.is_result = staged, is_result
        self.prefix = f"{name}: " if name else ""
        self._due = 0.0
        self._untold: EpochEnd | None = None
        """the last epoch, where there was no line of it"""

    def epoch(self, end: EpochEnd) -> None:
        now = time.monotonic()
        self._untold = None
        if end.stage.epochs > EPOCHS_TOLD and end.record.epoch > 1 and now < self._due:
            self._untold = end
            return
        self._due = now + SECONDS_BETWEEN
        self._tell_of(end)

    def _tell_of(self, end: EpochEnd) -> None:
        head = "head " if self.staged and end.stage.name == HEAD_STAGE else ""
        LOG.info(self.prefix + epoch_line(head, end.record))

    def done(self, stage: Stage, history: History) -> None:
        if self._untold is not None:
            self._tell_of(self._untold)
        self._untold = None
        ending = stage.ending(history, stage.name if self.staged and stage.name == HEAD_STAGE else "")
        if stage.monitor is not None and (ending.early or stage.epochs > EPOCHS_TOLD):
            LOG.info(self.prefix + ending.words, extra={IN_RESULT: self.is_result})


class EpochCallback(Observer):
    """A function of the caller's own, which is called with the stage's name and the record. What it raises is the
    caller's, and ends the training."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    @property
    def essential(self) -> bool:
        return True

    def epoch(self, end: EpochEnd) -> None:
        self.on_epoch(end.stage.name, end.record)
