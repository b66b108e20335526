"""Warnings of classes that cannot be learned, or of which no score can tell whether they were: those that only the
parts to validate and test on have, those of a single sample, which is on one side alone, and those whose samples
count for nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from headstart.common.errors import DataWarning
from headstart.data.annotations import PARTS, REGRESSION, SINGLE, Annotations
from headstart.data.layouts import listed
from headstart.data.samples import Samples

SHOWN = 5
MEND = "leave the class out (--only, data.only([...]))"


def warn_of_untrained(about: Annotations, name: str) -> None:
    """DataWarning where data came in parts, and the one to train on lacks a class or label of another. `name`:
    what to call the data."""
    of = about.parts
    train = None if of is None else np.flatnonzero(of == PARTS.index("train"))
    if train is None or not len(train) or about.task == REGRESSION:
        return
    to_train = about.rows(train).counts() > 0
    if not (elsewhere := [about.classes[k] for k in about.used().tolist() if not to_train[k]]):
        return
    warnings.warn(
        f"{name}: the training part has no image of {listed(elsewhere, SHOWN)}, which other parts have: what is "
        f"not trained is not recognised. Move some there, or {MEND}",
        DataWarning,
        stacklevel=4,
    )


def warn_of_single(train: Samples, val: Samples | None) -> None:
    """DataWarning for classes, or labels, of which `train` has one sample (or copies of one) and `val` none, so
    that nothing is known of how well they are recognised; for those that `val` alone has, but where both are
    of one data set, of which that was said when it was opened; and for those whose samples in `train` all have the
    weight 0. `train` and `val` must number their classes alike."""
    if train.task == REGRESSION:
        return
    to_train = train.annotations.counts()
    _warn_of_uncounted(train, np.flatnonzero(to_train).tolist())
    if val is None:
        return
    to_validate = val.annotations.counts()
    single = [k for k in np.flatnonzero((to_train > 0) & (to_validate == 0)).tolist() if _is_one(train, k)]
    if single:
        _warn(
            f"{train.name}: {_counted(train, single)} one sample, which is trained on, and none to validate: the "
            f"scores do not tell whether such samples are recognised. Add samples, or {MEND}"
        )
    only = np.flatnonzero((to_train == 0) & (to_validate > 0)).tolist()
    if only and (train.origin is None or train.origin is not val.origin):
        _warn(
            f"{train.name}: {_counted(train, only)} no sample to train on, and {val.name} some to validate: what "
            f"is not trained is not recognised. Add samples, or {MEND}"
        )


def warn_of_single_in_folds(data: Samples, folds: np.ndarray) -> None:
    """DataWarning for classes, or labels, whose samples are all in one fold: where it is held out, none is trained
    on. Likewise for those of whose samples none is held out. `folds`: int `(n,)`, which fold each sample is in;
    -1: in none."""
    if data.task == REGRESSION:
        return
    folds_of = _folds_of_each(data, folds)
    single = [k for k, of in folds_of.items() if len(of) == 1 and of != {-1}]
    if never := [k for k, of in folds_of.items() if of == {-1}]:
        _warn(
            f"{data.name}: {_counted(data, never)} no sample that is held out in a fold: the scores do not tell "
            f"whether such samples are recognised. Put some in folds, or {MEND}"
        )
    if single and data.fold_names:
        _warn(
            f"{data.name}: {_counted(data, single)} samples in one fold alone: where that is held out, none was "
            f"trained on, and the scores count them as not recognised. Put some in other folds, or {MEND}"
        )
    elif single:
        what = "sample" if data.groups is None else "group"
        _warn(
            f"{data.name}: {_counted(data, single)} one {what}, which is in one fold: where that is held out, "
            f"none was trained on, and the scores count it as not recognised. Add a {what}, or {MEND}"
        )


def any_in_one_fold(data: Samples, folds: np.ndarray) -> bool:
    """Whether a class, or label, has different samples that count, and all in one fold. `folds`: as there."""
    if data.task == REGRESSION:
        return False
    if data.weights is not None and not data.weights.all():
        counting = np.flatnonzero(data.weights)
        data, folds = data.subset(counting), folds[counting]
    return any(
        len(of) == 1 and of != {-1} and not _is_one(data, k) for k, of in _folds_of_each(data, folds).items()
    )


def _folds_of_each(data: Samples, folds: np.ndarray) -> dict[int, set[int]]:
    """The folds of the samples of each class, or label, that has any."""
    about = data.annotations
    of_each = zip(about.used().tolist(), about.strata(), strict=True)  # one pass over many classes
    return {k: set(np.unique(folds[places]).tolist()) for k, places in of_each}


def _warn_of_uncounted(data: Samples, there: Sequence[int]) -> None:
    """`there`: the classes, or labels, that have samples."""
    if data.weights is None:
        return
    if uncounted := [k for k in there if not data.weights[_places(data, k)].any()]:
        _warn(
            f"{data.name}: {_counted(data, uncounted)} only samples of weight 0 to train on, and what does not "
            f"count is not learned. Give some of them a weight, or {MEND}",
            stacklevel=5,
        )


def _is_one(data: Samples, number: int) -> bool:
    """Whether all samples of this class or label are one and the same."""
    first, *others = _places(data, number).tolist()
    return all(data.ids[place] == data.ids[first] for place in others)


def _places(data: Samples, number: int) -> np.ndarray:
    """Where samples of this class or label are."""
    return np.flatnonzero(data.labels == number if data.task == SINGLE else data.labels[:, number])


def _counted(data: Samples, numbers: Sequence[int]) -> str:
    """ "the class 'a' has", "2 classes ('a', 'b') have"; of many the first ones."""
    names = listed([data.classes[k] for k in numbers], SHOWN)
    if len(numbers) == 1:
        return f"the {'class' if data.task == SINGLE else 'label'} {names} has"
    return f"{len(numbers):,} {'classes' if data.task == SINGLE else 'labels'} ({names}) have"


def _warn(text: str, stacklevel: int = 4) -> None:
    warnings.warn(text, DataWarning, stacklevel=stacklevel)
