"""Which epoch of a stage is kept, and when the stage ends: the best epoch by a score of the validation data, and
the end when so many epochs have brought none that is better.

Invariant: this is decided by the epochs' records alone, which are the same in every mode and backend as far as
rounding lets them; so all of them keep the same epoch and stop at the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headstart.common.errors import UnknownNameError
from headstart.data.annotations import REGRESSION
from headstart.report.scores import SMALLER_IS_BETTER
from headstart.training.history import Record
from headstart.training.scores.result import headline

LOSS = "val_loss"


@dataclass(frozen=True)
class Monitor:
    """What decides which epoch is the best."""

    name: str
    """as the user calls it: "val_loss", "mae" """
    figure: str
    """the field of an epoch's record that has it"""
    smaller_is_better: bool
    min_delta: float = 0.0
    """an epoch is better only where it is so by more than this; else the earlier one stays the best"""
    patience: int | None = None
    """the stage ends after so many epochs without a better one; None: it does not"""

    def better(self, record: Record, than: Record | None) -> bool:
        """Whether an epoch is better than the best before it, None before there is one. What is not finite, or
        missing, never is."""
        value = _finite(getattr(record, self.figure))
        if value is None or than is None:
            return value is not None
        gain = getattr(than, self.figure) - value
        return bool((gain if self.smaller_is_better else -gain) > self.min_delta)


def monitors(task: str, outputs: int = 1) -> Mapping[str, str]:
    """The names that a monitor may have for labels of this task -> the field of an epoch's record. `outputs`: how
    many numbers a sample has."""
    score = headline(task, outputs)
    names = [LOSS, "val_score"] if task == REGRESSION else [LOSS, "val_accuracy", "val_score"]
    return {f"val_{score}": "val_score", score: "val_score", **{name: name for name in names}}


def monitor_of(
    name: str, task: str, min_delta: float = 0.0, patience: int | None = None, outputs: int = 1
) -> Monitor:
    """UnknownNameError for a name that labels of this task have no score of. `outputs`: as of `monitors`."""
    names = monitors(task, outputs)
    if name not in names:
        raise UnknownNameError("monitor", name, names, f" for labels of the task {task!r}")
    figure = names[name]
    smaller = figure == LOSS or (figure == "val_score" and headline(task, outputs) in SMALLER_IS_BETTER)
    return Monitor(name, figure, smaller, min_delta, patience)


class Best:
    """The best epoch so far, as one record after the other comes."""

    def __init__(self, monitor: Monitor | None) -> None:
        """`monitor`: None: nothing decides, and the last epoch is kept."""
        self.monitor = monitor
        self.record: Record | None = None
        """of the best epoch; None where there is none yet"""
        self._last = 0

    def better(self, record: Record) -> bool:
        """Whether this epoch, the one after the last, is the best so far."""
        self._last = record.epoch
        if self.monitor is None or not self.monitor.better(record, self.record):
            return False
        self.record = record
        return True

    @property
    def waited(self) -> int:
        """The number of epochs since the best one, or since the start."""
        return self._last - (0 if self.record is None else self.record.epoch)

    @property
    def over(self) -> bool:
        """Whether the stage ends here."""
        patience = None if self.monitor is None else self.monitor.patience
        return patience is not None and self.waited >= patience


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
