"""What a data set and its features have in common: labelled samples that can be chosen, split and renamed.

Invariant: whatever is done with the images is done alike with features that were saved without them, so that both
are split into the same samples on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.data.annotations import PARTS, Annotations
from headstart.data.splits import MAX_FOLDS, Part, folds_of, sides

FOLDS = 5
"""into how many data are cut where nobody says another number"""


class Samples(ABC):
    """Labelled samples in an order; never changed."""

    def __init__(self, name: str, annotations: Annotations, splits: Sequence[Part]) -> None:
        """`splits`: what it is a part of, the first split first."""
        self.name = name
        self.annotations = annotations
        self.splits = tuple(splits)
        """what it is a part of, the first split first"""
        self._made_parts: dict[str, Self] = {}

    @property
    @abstractmethod
    def ids(self) -> tuple[str, ...]:
        """Each sample's id, 32 hex digits."""

    @property
    def origin(self) -> object:
        """What all parts of one data set share, and no other has; None where nobody knows, as of features."""
        return None

    @abstractmethod
    def _derived(self, rows: np.ndarray, annotations: Annotations, splits: Sequence[Part]) -> Self:
        """The samples at these positions, of which `annotations` says what is known."""

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def task(self) -> str:
        """What a label is: "single" (one class a sample), "multi" (any of several labels) or "regression"."""
        return self.annotations.task

    @property
    def labels(self) -> np.ndarray:
        """Read-only. single: int64 `(n,)`, positions in `classes`; multi: uint8 `(n, k)` of 0 and 1; regression:
        float32 `(n, d)`, in the units that they came in."""
        return self.annotations.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, of the labels (multi) or of the targets (regression)."""
        return self.annotations.classes

    @property
    def named_classes(self) -> bool:
        """False where the class names are only numbers that nobody chose."""
        return self.annotations.named

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The name of each sample's group (a patient, a place), which no split cuts; None where there are none."""
        return None if self.annotations.groups is None else tuple(self.annotations.groups.tolist())

    @property
    def weights(self) -> np.ndarray | None:
        """float32 `(n,)`, read-only: how much each sample counts in training; None where all count alike."""
        return self.annotations.weights

    @property
    def fold_names(self) -> tuple[str, ...]:
        """The folds that the data came in (`fold=` of `hs.data.table`), as they are written there, "2" before
        "10"; () where they came in none. `fold_numbers()` says which sample is in which."""
        return self.annotations.fold_names()

    # --- named parts

    @property
    def parts(self) -> Mapping[str, Self]:
        """ "train", "val" and "test", those that the data came in; empty where they came in one piece."""
        of = self.annotations.parts
        if of is None:
            return {}
        return {name: self._part(name) for k, name in enumerate(PARTS) if (of == k).any()}

    @property
    def train(self) -> Self:
        """The part to train on. DataError where the data did not come in parts, or without this one."""
        return self._part("train")

    @property
    def val(self) -> Self:
        """The part to validate on. DataError as of `train`."""
        return self._part("val")

    @property
    def test(self) -> Self:
        """The part to test on. DataError as of `train`."""
        return self._part("test")

    def _part(self, name: str) -> Self:
        of = self.annotations.parts
        rows = np.flatnonzero(of == PARTS.index(name)) if of is not None else np.zeros(0, np.intp)
        if of is None:
            raise DataError(
                f"{self.name} came in one piece and has no part {name!r}; split it: train, val = data.split(0.8)"
            )
        if not len(rows):
            there = ", ".join(known for k, known in enumerate(PARTS) if (of == k).any())
            raise DataError(f"{self.name} has no part {name!r}; it came with {there or 'no samples'}")
        if name not in self._made_parts:  # one object each, of which things are said once
            annotations = self.annotations.rows(rows).without_parts()
            if name != "train":  # folds are of what is trained on
                annotations = annotations.without_folds()
            self._made_parts[name] = self._derived(rows, annotations, self.splits)
        return self._made_parts[name]

    # --- some of the samples, or other names

    def subset(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The samples at these positions, in this order."""
        positions = np.asarray(indices)
        if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
            raise SettingError(
                f"indices are {positions.dtype} of shape {positions.shape}; expected a list of integers"
                + (" (np.flatnonzero makes them of a mask)" if positions.dtype == bool else "")
            )
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self):
            raise SettingError(
                f"indices reach from {positions.min()} to {positions.max()}; allowed are 0 to {len(self) - 1}"
            )
        return self._rows(positions.astype(np.int64), self.splits)

    def only(self, classes: Sequence[str]) -> Self:
        """The samples of these classes, which are numbered from 0 in the order given. Of labels (multi) and
        targets (regression) every sample stays, with these columns alone.

        Raises UnknownNameError for a class that the data set has not, SettingError for one that is named twice.
        """
        annotations, rows = self.annotations.only(classes)
        return self._derived(rows, annotations, self.splits)

    def renumbered(self, classes: Sequence[str], numbers: np.ndarray, named: bool) -> Self:
        """The same samples under other names: what is class k here is class `numbers[k]` of `classes`, or none
        (-1) where no sample has it."""
        annotations = self.annotations.renumbered(classes, numbers, named)
        return self._derived(np.arange(len(self)), annotations, self.splits)

    def _rows(self, rows: np.ndarray, splits: Sequence[Part]) -> Self:
        return self._derived(rows, self.annotations.rows(rows), splits)

    # --- splits

    def split(self, fraction: float = 0.8, seed: int = 0, by: str = "id") -> tuple[Self, Self]:
        """Two disjoint parts that together are this, each in its order. The same arguments give the same split
        everywhere, of images and of features that were saved without them.

        `by="id"`: a sample's side is a digest of its id and `seed`, so data that grow never move a sample across,
        and equal pictures stand on one side. Where samples have groups it is a digest of the group's name, and no
        group is cut. About the share `fraction` goes to the first part, of small classes roughly. Of every class
        there is a sample in the first part, and the second is never empty; a class that has few samples may for
        that give one (or a group) to the other side, which it can leave as the data grow. Ids are computed where
        there are no groups. `by="position"`: the share of every class, rounded, drawn by place: stratified, but
        one sample more moves others across.

        Raises SettingError for arguments, DataError where nothing would be left for the second part, where a
        group is larger than either part is to be, and for data that came in parts or folds already.
        """
        self._in_one_piece("split")
        if self.annotations.folds is not None:
            raise DataError(
                f"{self.name} came in {len(self.fold_names)} folds, and is not split: take data.folds(), whose "
                "pairs are each a split, or data.without_folds().split(0.8)"
            )
        first, second = sides(
            lambda: self.ids, self.annotations, fraction, seed, by, self.name, earlier=len(self.splits)
        )
        halves = [Part(by, float(fraction), int(seed), side) for side in ("first", "second")]
        return self._rows(first, (*self.splits, halves[0])), self._rows(second, (*self.splits, halves[1]))

    def without_folds(self) -> Self:
        """The same samples, without the folds that they came in: for a split, or for folds that are drawn."""
        if self.annotations.folds is None:
            return self
        return self._derived(np.arange(len(self)), self.annotations.without_folds(), self.splits)

    def folds(self, k: int | None = None, seed: int = 0) -> list[tuple[Self, Self]]:
        """k pairs (train, val) for cross-validation: every sample is in exactly one of the `val`. None: five; of
        data that came in folds (`fold=` of `hs.data.table`) just those, in the order of `fold_names`, where
        samples of fold -1 are in each `train` and in no `val`.

        A sample's fold is a digest of its id and `seed`, or of its group's name, so it stays where the data grow;
        folds are therefore only about of one size. No `val` is empty, and a class of two different samples (or
        groups) or more is never in one fold alone, of several labels where that can be had; for that a small class
        may give one away.

        Raises SettingError for arguments, and for another k than the number of folds that the data came in;
        DataError where there are fewer different samples (or groups) than folds, and for data that came in parts
        already, or in one fold.
        """
        numbers, pairs, names = self.fold_numbers(k, seed), [], self.fold_names
        count = len(names) or (FOLDS if k is None else int(k))
        one_piece = self.without_folds()
        for number in range(count):
            held_out = numbers == number
            about: dict[str, Any] = {"fraction": 1 - 1 / count, "seed": int(seed), "fold": number, "folds": count}
            if names:
                about |= {"fraction": 1 - float(held_out.mean()), "seed": 0, "name": names[number]}
            train_part, val_part = (Part("fold", side=side, **about) for side in ("first", "second"))
            train = one_piece._rows(np.flatnonzero(~held_out), (*self.splits, train_part))
            pairs.append((train, one_piece._rows(np.flatnonzero(held_out), (*self.splits, val_part))))
        return pairs

    def fold_numbers(self, k: int | None = None, seed: int = 0) -> np.ndarray:
        """int64 `(n,)`: in which of the `val` of `folds(k, seed)` each sample is, from 0; -1: in none, as of data
        that came in folds some may be. Raises what `folds` does."""
        self._in_one_piece("cut into folds")
        if self.annotations.folds is not None:
            return self._own_fold_numbers(k)
        k = FOLDS if k is None else k
        numbers = np.empty(len(self), np.int64)
        for number, members in enumerate(folds_of(lambda: self.ids, self.annotations, k, seed, self.name)):
            numbers[members] = number
        return numbers

    def _own_fold_numbers(self, k: int | None) -> np.ndarray:
        """The same of data that came in folds."""
        assert self.annotations.folds is not None
        names = self.fold_names
        if not 2 <= len(names) <= MAX_FOLDS:
            there = f"the fold {names[0]!r} alone" if len(names) == 1 else f"{len(names):,} folds"
            raise DataError(
                f"{self.name} came in {there}, of which each is held out in turn; expected 2 to {MAX_FOLDS} (of "
                "one part that validates, say split=, --split-column)"
            )
        if k is not None and k != len(names):
            raise SettingError(
                f"{k!r} folds of {self.name}, which came in {len(names)} (fold=, --fold-column): leave out the "
                "number (folds=, --folds), or the column; data.without_folds() forgets it"
            )
        place = {name: number for number, name in enumerate(names)}
        folds = self.annotations.folds.tolist()
        return np.fromiter((place.get(name, -1) for name in folds), np.int64, len(folds))

    def _in_one_piece(self, action: str) -> None:
        if (of := self.annotations.parts) is not None:
            there = ", ".join(name for k, name in enumerate(PARTS) if (of == k).any())
            raise DataError(
                f"{self.name} came split already, into {there}, and is not {action}: take data.train and "
                "data.val, or one part of it, such as data.train.split(0.8)"
            )
