"""What is said of an image, by task: columns made of a batch of a model's outputs, and of nothing else.

| task | columns |
|---|---|
| single | class, probability, class_2, probability_2 ...: the likeliest, of equal ones the first |
| multi | labels: those whose probability is larger than the threshold; probability_<label> of each |
| regression | <target> of each, in the units of the data |

Invariant: outputs that are not finite say nothing: all columns of their row are empty, never a class by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headstart.common.errors import SettingError, UnknownNameError
from headstart.data.annotations import MULTI, REGRESSION, SINGLE, TASKS
from headstart.training.metrics import decided, softmax
from headstart.training.scores.multi import THRESHOLD, sigmoid

TEXT, LABELS, SHARE, VALUE = "text", "labels", "share", "value"
"""what a column holds: texts; tuples of labels; float32 from 0 to 1; float32 of any size. None, or NaN, where it
is empty"""
FILE, ERROR = "file", "error"

Cells = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Reading:
    """How the outputs of a model are read."""

    classes: tuple[str, ...]
    """of the classes, the labels or the targets"""
    task: str = SINGLE
    top: int = 1
    """of "single": how many classes are named"""
    threshold: float = THRESHOLD
    """of "multi": a label is named where its probability is larger"""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)
        if self.task != SINGLE and self.top != 1:
            raise SettingError(f"top is {self.top}, and of task {self.task!r} every {self.noun} is told")
        if not 0 <= self.threshold <= 1:
            raise SettingError(f"threshold is {self.threshold!r}; expected a probability, from 0 to 1")

    @property
    def noun(self) -> str:
        """What one of `classes` is called."""
        return {SINGLE: "class", MULTI: "label", REGRESSION: "target"}[self.task]

    @cached_property
    def columns(self) -> dict[str, str]:
        """Name -> what it holds, in their order."""
        if self.task == MULTI:
            return {"labels": LABELS, **{f"probability_{name}": SHARE for name in self.classes}}
        if self.task == REGRESSION:
            return dict.fromkeys(_apart(self.classes), VALUE)
        columns: dict[str, str] = {}
        for rank in range(1, min(self.top, len(self.classes)) + 1):
            suffix = f"_{rank}" if rank > 1 else ""
            columns |= {f"class{suffix}": TEXT, f"probability{suffix}": SHARE}
        return columns

    def cells(self, outputs: np.ndarray) -> list[Cells]:
        """For each of `columns` what it holds. `outputs`: float32 `(b, classes)`; logits, or of "regression"
        values in the units of the data."""
        sure = self.sure(outputs)
        if self.task == REGRESSION:
            return list(np.where(sure[:, None], outputs, np.nan).astype(np.float32).T)
        if self.task == MULTI:
            p = np.where(sure[:, None], sigmoid(outputs.astype(np.float64)), np.nan)
            labels = [
                tuple(self.classes[k] for k in np.flatnonzero(row > self.threshold)) if is_sure else None
                for row, is_sure in zip(p, sure, strict=True)
            ]
            return [labels, *p.astype(np.float32).T]
        best = likeliest(outputs, self.top)
        p = np.where(sure[:, None], np.take_along_axis(softmax(outputs), best, 1), np.nan).astype(np.float32)
        cells: list[Cells] = []
        for rank in range(best.shape[1]):
            named = zip(best[:, rank].tolist(), sure, strict=True)
            cells += [[self.classes[k] if is_sure else None for k, is_sure in named], p[:, rank]]
        return cells

    def sure(self, outputs: np.ndarray) -> np.ndarray:
        """bool `(b,)`: whether a row says anything. Of logits minus infinity is allowed: it rules a class out."""
        if self.task == SINGLE:
            return decided(outputs)
        if self.task == MULTI:
            return np.asarray(~(np.isnan(outputs) | (outputs == np.inf)).any(1))
        return np.asarray(np.isfinite(outputs).all(1))


class Tally:
    """What was predicted how often, batch by batch: nothing is held of a row."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._counts = np.zeros(len(reading.classes), np.int64)
        self._low = np.full(len(reading.classes), np.inf)
        self._high = -self._low
        self.lost = 0
        """rows that say nothing"""

    def add(self, outputs: np.ndarray) -> None:
        """`outputs`: as of `Reading.cells`."""
        sure = self._reading.sure(outputs)
        self.lost += int((~sure).sum())
        sound = outputs[sure]
        if not len(sound):
            return
        if self._reading.task == SINGLE:
            self._counts += np.bincount(sound.argmax(1), minlength=len(self._counts))
        elif self._reading.task == MULTI:
            self._counts += (sigmoid(sound.astype(np.float64)) > self._reading.threshold).sum(0)
        else:
            self._low = np.minimum(self._low, sound.min(0))
            self._high = np.maximum(self._high, sound.max(0))

    @property
    def counts(self) -> dict[str, int]:
        """Class or label -> images that show it, most first, without those that none does."""
        order = np.argsort(-self._counts, kind="stable")
        return {self._reading.classes[k]: int(self._counts[k]) for k in order if self._counts[k]}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Target -> the smallest and the largest value; of "regression"."""
        ends = zip(self._reading.classes, self._low.tolist(), self._high.tolist(), strict=True)
        return {name: (low, high) for name, low, high in ends if low <= high}


def likeliest(logits: np.ndarray, top: int) -> np.ndarray:
    """int64 `(b, top)`: the classes of the largest logits, the largest first, of equal ones the first class. By
    partition: a row may have 10,000 classes."""
    k = logits.shape[1]
    if top >= k:
        return np.argsort(-logits, axis=1, kind="stable")
    least = np.partition(logits, k - top, axis=1)[:, k - top]
    best = np.empty((len(logits), top), np.int64)
    for row, (values, at_least) in enumerate(zip(logits, least, strict=True)):
        # More than `top` where several equal the least of them.
        candidates = np.flatnonzero(values >= at_least) if at_least == at_least else np.arange(k)
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")[:top]]
    return best


def _apart(names: Sequence[str]) -> list[str]:
    """Names of targets, so that none is that of a column which is there anyway."""
    taken = {FILE, ERROR, *names}
    columns = []
    for name in names:
        column = name
        while column in (FILE, ERROR) or (column != name and column in taken):
            column += "_value"
        taken.add(column)
        columns.append(column)
    return columns
