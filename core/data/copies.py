"""Warnings of equal pictures that make figures mean little: in training and validation data, or under two labels;
and of pictures of one group on both sides.

Equal are pictures with one sample id, a digest of the encoded bytes; pictures that only look alike are not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from weakref import WeakSet

import numpy as np

from headstart.common.errors import DataWarning
from headstart.common.text import counted, first_few, share_text
from headstart.data.dataset import Dataset
from headstart.data.names import shown
from headstart.data.samples import Samples

SHOWN = 3

_told: WeakSet[Samples] = WeakSet()


def warn_of_copies(train: Samples, val: Samples | None) -> None:
    """DataWarning for samples of `val` that are in `train`, or of groups that are, and for samples that have more
    than one label; each says how many, with examples. `train` and `val` must number their classes alike."""
    first: dict[str, int] = {}  # place among the training samples, then the validation samples
    at_odds: dict[str, str] = {}
    leaked: list[str] = []

    def place(k: int) -> tuple[Samples, int]:
        return (train, k) if val is None or k < len(train) else (val, k - len(train))

    for start, data in ((0, train), (len(train), val)):
        if data is None:
            continue
        for i, id in enumerate(data.ids):
            k = first.setdefault(id, start + i)
            if k == start + i:
                continue
            other, at = place(k)
            if k < start:
                leaked.append(f"{_name(data, i)} is {_name(other, at)}" if len(leaked) < SHOWN else "")
            if id not in at_odds and not data.annotations.same_label(i, other.annotations, at):
                at_odds[id] = (
                    f"{_name(other, at)} as {other.annotations.label_text(at)}, "
                    f"{_name(data, i)} as {data.annotations.label_text(i)}"
                    if len(at_odds) < SHOWN
                    else ""
                )
    if leaked and val is not None:
        _warn(
            f"{_copies(len(leaked), len(val), 'validation sample')} of training samples, so figures on "
            f"them are too good: {_few(leaked)}. Leave them out; data.split keeps copies on one side"
        )
    if val is not None:
        _warn_of_groups(val, "validation sample", "training samples", train)
    if at_odds:
        _warn(
            f"{len(at_odds)} {'picture has' if len(at_odds) == 1 else 'pictures have'} more than one label, which "
            "no model can learn: "
            f"{_few(list(at_odds.values()))}. Keep one of each"
        )


def warn_of_copies_across(data: Samples, folds: np.ndarray) -> None:
    """A DataWarning for samples of which there are copies in another fold, as where one picture is in several
    groups. `folds`: int `(n,)`, which fold each sample is in."""
    first: dict[str, int] = {}
    leaked: list[str] = []
    for i, id in enumerate(data.ids):
        k = first.setdefault(id, i)
        if folds[k] != folds[i]:
            leaked.append(f"{_name(data, i)} is {_name(data, k)}" if len(leaked) < SHOWN else "")
    if leaked:
        _warn(
            f"{_copies(len(leaked), len(data), 'sample')} of samples in another fold, so the folds' "
            f"figures are too good: {_few(leaked)}. Leave them out, or have copies in one "
            + ("fold" if data.fold_names else "group")
        )
    if data.fold_names and data.groups is not None:
        _warn_of_groups_across(data, folds)


def _warn_of_groups_across(data: Samples, folds: np.ndarray) -> None:
    """A DataWarning for groups that the folds which data came in have cut."""
    folds_of: dict[str, set[int]] = {}
    for group, fold in zip(data.groups or (), folds.tolist(), strict=True):
        folds_of.setdefault(group, set()).add(fold)
    if cut := [group for group, of in folds_of.items() if len(of) > 1]:
        _warn(
            f"{len(cut):,} of {len(folds_of):,} groups have samples in more than one fold of {data.name}, as the "
            f"group {shown(cut[0])} has, so the folds' figures are too good. Have each group in one fold, or "
            "leave out the column of folds (fold=, --fold-column), and folds= (--folds) cuts none"
        )


def warn_of_test_copies(test: Samples, *seen: Samples | None) -> None:
    """A DataWarning, with number and examples, for samples of `test` that are among those seen in training or
    validation, and one for those of their groups."""
    mark_told(test)
    first = {id: (data, i) for data in seen if data is not None for i, id in enumerate(data.ids)}
    leaked = [f"{_name(test, i)} is {_name(*first[id])}" if id in first else "" for i, id in enumerate(test.ids)]
    if any(leaked):
        examples = [text for text in leaked if text]
        _warn(
            f"{_copies(len(examples), len(test), 'test sample')} of training or validation samples, so "
            f"figures on them are too good: {_few(examples)}. Leave them out"
        )
    _warn_of_groups(test, "test sample", "training or validation samples", *seen)


def _warn_of_groups(data: Samples, noun: str, others: str, *seen: Samples | None) -> None:
    """A DataWarning for samples, other than copies, of groups that the data `seen` have samples of, too: the parts
    in which data came may cut them, as no split of ours does. `noun`, `others`: what to call these samples."""
    if cut := groups_cut(data, *seen):
        are = "is of a group" if len(cut) == 1 else "are of groups"
        names = first_few([*map(shown, dict.fromkeys(cut))], SHOWN)
        _warn(
            f"{len(cut):,} of {counted(len(data), noun)} {are} that {others} are of as well ({names}), so figures "
            "on them are too good. Have each group in one part; data.split cuts none",
            stacklevel=5,
        )


def groups_cut(data: Samples, *seen: Samples | None) -> list[str]:
    """The group of each sample, other than copies, of which the data `seen` have samples, too."""
    with_groups = [other for other in seen if other is not None and other.groups is not None]
    if data.groups is None or not with_groups:
        return []
    groups = {name for other in with_groups for name in other.groups or ()}
    ids = {id for other in with_groups for id in other.ids}
    return [name for name, id in zip(data.groups, data.ids, strict=True) if name in groups and id not in ids]


def _copies(count: int, of: int, noun: str, more: str = "") -> str:
    """ "1 of 252 samples is an exact copy", "2 of 252 samples are exact copies"; `more` stands behind the noun."""
    are = "is an exact copy" if count == 1 else "are exact copies"
    return f"{count:,} of {counted(of, noun)}{more} {are}"


def mark_told(test: Samples) -> None:
    """Have `warn_of_seen` say nothing of these data: it was said, by this process or the one that started it."""
    _told.add(test)


def warn_of_seen(data: Samples, seen: int) -> None:
    """A DataWarning where `seen` of the samples are among those that the run was trained on."""
    if seen and data not in _told:
        _warn(
            f"{_copies(seen, len(data), 'sample', f' ({share_text(seen / len(data))})')} of what the run was "
            "trained on, so figures on them are too good"
        )


def warn_of_parts(data: Samples) -> None:
    """The same of the named parts of one data set, where it has such."""
    if data.annotations.parts is None:
        return
    parts = data.parts
    if "train" in parts:
        warn_of_copies(parts["train"], parts.get("val"))
    if "test" in parts:
        warn_of_test_copies(parts["test"], parts.get("train"), parts.get("val"))


def _warn(text: str, stacklevel: int = 4) -> None:
    warnings.warn(text, DataWarning, stacklevel=stacklevel)


def _name(data: Samples, index: int) -> str:
    return data.source_name(index) if isinstance(data, Dataset) else f"sample {index} ({data.ids[index][:8]})"


def _few(examples: Sequence[str]) -> str:
    return first_few(examples, SHOWN, "; ")
