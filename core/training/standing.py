"""How far a stage has come: the epochs that were trained, and what is kept of the best of them. With a trainer's
state it is all that the next epoch takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field

import numpy as np

from headstart.training.history import History, Record
from headstart.training.stage import EpochEnd, Stage
from headstart.training.stopping import Best


@dataclass
class Standing:
    """Of one stage, epoch after epoch."""

    stage: Stage
    records: list[Record] = field(default_factory=list)
    """of the epochs that were trained"""
    known: InitVar[dict[str, np.ndarray] | None] = None
    """`params`, where that is read from a file"""
    outputs: np.ndarray | None = None
    """for the validation data, float32 `(n, k)`, after the best epoch, or else after the last one; None where
    there are none"""
    ended: bool = False
    """whether an observer ended it"""

    def __post_init__(self, known: dict[str, np.ndarray] | None) -> None:
        self._params = known
        self._snapshot: Callable[[], dict[str, np.ndarray]] | None = None
        """reads them, where they were not yet"""
        self.best = Best(self.stage.monitor)
        for record in self.records:
            self.best.better(record)

    def add(self, end: EpochEnd, outputs: np.ndarray | None) -> None:
        """An epoch was trained, with these outputs for the validation data."""
        self.records.append(end.record)
        if self.best.better(end.record):
            self._snapshot = self._params = None  # before the next: one of them at a time takes memory
            self._snapshot, self.outputs = end.trainer.snapshot(), outputs
        elif self.best.record is None:
            self.outputs = outputs

    @property
    def params(self) -> dict[str, np.ndarray] | None:
        """Of what is trained, after the best epoch; None where nothing decides which that is, or none was."""
        if self._snapshot is not None:
            self._params, self._snapshot = self._snapshot(), None
        return self._params

    @property
    def over(self) -> bool:
        """Whether no epoch follows."""
        return self.ended or self.best.over or len(self.records) >= self.stage.epochs

    @property
    def history(self) -> History:
        """The epochs that were trained, the best of them marked."""
        return History(self.records, None if self.best.record is None else self.best.record.epoch)
