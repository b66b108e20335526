"""What a run has recorded: one record an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, overload

from headstart.common.text import counted
from headstart.report.series import PHASES


@dataclass(frozen=True)
class Seconds:
    """Wall time by phase."""

    data: float = 0.0
    """waiting for images to be read and decoded, or for features to be looked up"""
    trunk: float = 0.0
    """the frozen trunk; 0 where none runs"""
    head: float = 0.0
    """what is trained, forward and backward, and its evaluation; the whole network in `full` and `scratch`"""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.data + other.data, self.trunk + other.trunk, self.head + other.head)

    def shared(self, count: int) -> Seconds:
        """The share of one of `count` that took this time together."""
        return Seconds(self.data / count, self.trunk / count, self.head / count)

    @property
    def total(self) -> float:
        return self.data + self.trunk + self.head

    def as_dict(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Record:
    """One epoch. Readable as attributes and by key."""

    epoch: int
    """from 1"""
    loss: float
    """mean over the epoch's steps, each before its update, with label smoothing where there is any"""
    accuracy: float | None
    """of training: share of the samples whose class, or whose labels all, are right in the step that takes them;
    all count alike, whatever they weigh, and labels are those above 0.5. None where labels are numbers"""
    val_loss: float | None
    """without smoothing or what weighs classes: cross-entropy, or of numbers the loss of the standardised ones;
    None where there are no validation data. Where these have weights, the three figures of them are weighted"""
    val_accuracy: float | None
    seconds: Seconds
    """training and validation together"""
    learning_rate: float
    """of the epoch's last step"""
    step_losses: tuple[float, ...] = field(repr=False)
    auxiliary_losses: tuple[float, ...] = ()
    """mean over the steps, of each auxiliary classifier, unweighted; `loss` leaves them out"""
    val_score: float | None = None
    """the headline score of the labels' task on the validation data: accuracy, of several labels micro F1 at
    the threshold (where that is "best", at the epoch's best), of a number the mean absolute error in its unit, of
    several the mean absolute error in deviations of the training targets, so that none rules by its unit"""
    score: str = "accuracy"
    """which it is: "accuracy", "micro_f1", "mae" or "standardised_mae" """

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        value = getattr(self, key)
        return value.as_dict() if isinstance(value, Seconds) else value

    def keys(self) -> tuple[str, ...]:
        return tuple(self.__dataclass_fields__)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {key: list(self[key]) if isinstance(self[key], tuple) else self[key] for key in self.keys()}


OnEpoch = Callable[[str, Record], None]
"""is called with the stage, "head" or "all", and the record after each epoch"""


class History(Sequence[Record]):
    """The records of a stage: `history[0].loss`, `history[0]["loss"]`, and `history["loss"]` for all epochs.
    `history.best` is that of the epoch whose head was kept."""

    def __init__(self, records: Sequence[Record] = (), best_epoch: int | None = None) -> None:
        """`best_epoch`: the number of the epoch whose head was kept; None: the last one's was."""
        self._records = tuple(records)
        self.best_epoch = len(self._records) if best_epoch is None else best_epoch
        """from 1; 0 where there are no epochs"""

    @property
    def best(self) -> Record:
        """The record of the epoch whose head was kept. IndexError where there are no epochs."""
        if not self._records:
            raise IndexError("there are no epochs, and so no best one")
        return self._records[self.best_epoch - 1]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    @overload
    def __getitem__(self, index: str) -> list[Any]: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        if isinstance(index, str):
            return [record[index] for record in self._records]
        return self._records[index]

    def __repr__(self) -> str:
        """Of the kept epoch, since all records would fill pages of a notebook; `as_list` has them."""
        if not self._records:
            return "History(0 epochs)"
        best = self.best
        val = "" if best.val_loss is None else f", val_loss {best.val_loss:.4g}"
        score = "" if best.val_score is None else f", val_{best.score} {best.val_score:.4g}"
        count = counted(len(self), "epoch")
        return f"History({count}; of the kept one, {best.epoch}: loss {best.loss:.4g}{val}{score})"

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-able."""
        return [record.as_dict() for record in self._records]

    @classmethod
    def from_list(
        cls, rows: Sequence[dict[str, Any]], validated: bool = False, best_epoch: int | None = None
    ) -> History:
        """The inverse of `as_list`. `validated`: there were validation data, which the rows of numbers do not tell
        where no figure was finite. ValueError for a best epoch that is none of them."""
        if best_epoch is not None and not 1 <= best_epoch <= len(rows):
            raise ValueError(f"the best epoch is {best_epoch} of {len(rows)}")
        records = []
        for row in rows:
            seconds = {key: row["seconds"][key] for key in ("data", "trunk", "head")}
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
            }
            fields["seconds"] = Seconds(**seconds)
            _restore_nans(fields, validated)
            records.append(Record(**fields))
        return cls(records, best_epoch)

    def seconds_per_epoch(self) -> Seconds:
        """The median epoch, phase by phase. The first epoch, in which compilers run, counts only where it is
        the only one."""
        records = self._records[1:] or self._records
        return Seconds(
            *(median(getattr(r.seconds, phase) for r in records) if records else 0.0 for phase in PHASES)
        )


def _restore_nans(fields: dict[str, Any], validated: bool) -> None:
    """JSON has null where a figure was not finite; only without validation data is there no figure."""
    names = ["loss", "learning_rate"]
    measured = validated or any(fields.get(name) is not None for name in ("val_accuracy", "val_score"))
    names += ["val_loss"] if measured else []
    names += ["val_score"] if measured and fields.get("score") in ("mae", "standardised_mae") else []
    if fields.get("accuracy") is not None:
        names += ["val_accuracy"] if fields.get("val_loss") is not None else []
        fields.setdefault("val_score", fields.get("val_accuracy"))  # records of before had one class a sample
    for name in names:
        if name in fields and fields[name] is None:
            fields[name] = math.nan
    for name in ("step_losses", "auxiliary_losses"):
        if name in fields:
            fields[name] = tuple(math.nan if value is None else value for value in fields[name])
