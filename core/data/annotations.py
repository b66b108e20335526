"""What is known of each sample beside its picture: its label, and where somebody told them its group, its weight
and the part of a split that it is in.

Invariant: row i of everything here is sample i, whatever was chosen, split or renamed; and labels have the dtype
and shape of their task:

| task | labels | classes name |
|---|---|---|
| single | int64 `(n,)`, which class a sample is of | classes |
| multi | uint8 `(n, k)` of 0 and 1, whether a sample has each label | labels |
| regression | float32 `(n, d)`, in the user's own units | targets |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError, UnknownNameError
from headstart.data.names import class_list, in_order, normal_all

SINGLE, MULTI, REGRESSION = "single", "multi", "regression"
TASKS = (SINGLE, MULTI, REGRESSION)
DTYPES = {SINGLE: np.int64, MULTI: np.uint8, REGRESSION: np.float32}
PARTS = ("train", "val", "test")
"""what the named parts of a data set are called, whatever the folders or the words of a column are"""
NO_FOLD = "-1"
"""what the fold of a sample is called that is in none, as in scikit-learn's `PredefinedSplit`"""

Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is known of n samples; see the table above."""

    labels: np.ndarray
    classes: tuple[str, ...]
    task: str = SINGLE
    named: bool = True
    """False where the classes' names are only numbers that nobody chose"""
    by_column: bool = False
    """Of several labels: each came in a column of its own, so of one that has none nothing is known"""
    groups: NDArray[np.object_] | None = None
    """`(n,)` strings: samples of one group (a patient, a place) stay together in every split"""
    weights: NDArray[np.float32] | None = None
    """`(n,)`, how much a sample counts in training"""
    parts: NDArray[np.int8] | None = None
    """`(n,)`, positions in `PARTS`"""
    folds: NDArray[np.object_] | None = None
    """`(n,)` strings: the fold in which a sample is held out; `NO_FOLD`: it never is, and is always trained on"""

    def __post_init__(self) -> None:
        labels = np.array(self.labels, DTYPES[self.task])
        assert labels.ndim == (1 if self.task == SINGLE else 2), (self.task, labels.shape)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", normal_all(self.classes))
        for name, dtype in (("groups", object), ("weights", np.float32), ("parts", np.int8), ("folds", object)):
            if (values := getattr(self, name)) is not None:
                values = np.array(values, dtype)
                assert values.shape == (len(labels),), (name, values.shape)
                values.setflags(write=False)
                object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, positions: np.ndarray) -> Annotations:
        """Of the samples at these positions, in this order."""

        def at(values: Any) -> Any:
            return None if values is None else values[positions]

        return replace(
            self,
            labels=self.labels[positions],
            groups=at(self.groups),
            weights=at(self.weights),
            parts=at(self.parts),
            folds=at(self.folds),
        )

    def without_parts(self) -> Annotations:
        """The same of samples that are one part by themselves."""
        return replace(self, parts=None)

    def without_folds(self) -> Annotations:
        """The same of samples that nobody has put into folds."""
        return replace(self, folds=None)

    def fold_names(self) -> tuple[str, ...]:
        """The folds that are held out, each once, as people count: "2" before "10"; () where nobody named any."""
        return () if self.folds is None else tuple(in_order(set(self.folds.tolist()) - {NO_FOLD}))

    def strata(self) -> list[Positions]:
        """The positions of the samples of each class that has any; of several labels a sample is in several, and
        where labels are numbers all samples are in one."""
        if self.task == MULTI:
            every = [np.flatnonzero(column) for column in self.labels.T]
            return [positions for positions in every if len(positions)]
        if self.task == REGRESSION:
            return [np.arange(len(self))] if len(self) else []
        order = np.argsort(self.labels, kind="stable")
        return [part for part in np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1) if len(part)]

    def counts(self) -> NDArray[np.int64]:
        """int64 `(classes,)`: how many samples each class or label has; of targets, all have a value."""
        if self.task == MULTI:
            return np.asarray(self.labels.sum(0, dtype=np.int64))
        if self.task == REGRESSION:
            return np.full(len(self.classes), len(self), np.int64)
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))

    def used(self) -> NDArray[np.int64]:
        """The numbers of the classes that have a sample, ascending; -1 among them where a sample has none."""
        return np.unique(self.labels) if self.task == SINGLE else np.flatnonzero(self.counts())

    def renumbered(self, classes: Sequence[str], numbers: np.ndarray, named: bool) -> Annotations:
        """Under other names: what is class k here is class `numbers[k]` of `classes`, or none (-1) where no
        sample has it."""
        if self.task == SINGLE:
            return replace(self, labels=numbers[self.labels], classes=tuple(classes), named=named)
        labels = np.zeros((len(self), len(classes)), DTYPES[self.task])
        there = np.flatnonzero(numbers >= 0)
        labels[:, numbers[there]] = self.labels[:, there]
        return replace(self, labels=labels, classes=tuple(classes), named=named)

    def only(self, classes: Sequence[str]) -> tuple[Annotations, Positions]:
        """Of these classes, numbered in this order, and the positions of the samples that are left: those of the
        classes. Of labels and targets all samples are left, with these columns.

        Raises UnknownNameError for a class that is not there, SettingError for one that is named twice.
        """
        names = class_list(classes, SettingError)
        for name in names:
            if name not in self.classes:
                raise UnknownNameError("class" if self.task == SINGLE else "label", name, self.classes)
        numbers = np.full(len(self.classes), -1, np.int64)
        numbers[[self.classes.index(name) for name in names]] = np.arange(len(names))
        left = np.flatnonzero(numbers[self.labels] >= 0) if self.task == SINGLE else np.arange(len(self))
        return self.rows(left).renumbered(names, numbers, True), left

    def same_label(self, i: int, other: Annotations, j: int) -> bool:
        """Whether sample i here and sample j there have one label; both number their classes alike."""
        return bool(np.array_equal(self.labels[i], other.labels[j]))

    def same_sample(self, i: int, j: int) -> bool:
        """Whether all that is known of samples i and j here is the same."""
        others = [values for values in (self.parts, self.groups, self.weights, self.folds) if values is not None]
        return self.same_label(i, self, j) and all(values[i] == values[j] for values in others)

    def label_text(self, i: int) -> str:
        """Sample i's label for messages: "'cat'", "'cat' and 'dog'", "1.5"."""
        if self.task == SINGLE:
            return repr(self.classes[int(self.labels[i])])
        if self.task == MULTI:
            return " and ".join(repr(self.classes[k]) for k in np.flatnonzero(self.labels[i])) or "nothing"
        return ", ".join(f"{value:g}" for value in self.labels[i].tolist())


def single(labels: Any, classes: Sequence[str], named: bool = True) -> Annotations:
    """One class a sample, and nothing else known."""
    return Annotations(np.asarray(labels, np.int64), tuple(classes), named=named)


def unlabelled(count: int) -> Annotations:
    """Of samples whose labels nobody knows: every one is 0, of the one class "0"."""
    return single(np.zeros(count, np.int64), ("0",), named=False)
