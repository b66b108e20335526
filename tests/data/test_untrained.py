"""Classes of a single sample, and such as are only validated, come with a warning."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DataWarning
from headstart.data.untrained import warn_of_single, warn_of_single_in_folds

pytestmark = pytest.mark.neutral
NAMES = [f"kind {k}" for k in range(8)]


def pictures(counts: list[int], **about: Any) -> hs.data.Dataset:
    """So many of each class."""
    images = np.random.default_rng(0).integers(0, 256, (sum(counts), 16, 16, 3), np.uint8)
    return hs.data.arrays(images, np.repeat(np.arange(len(counts)), counts), NAMES[: len(counts)], **about)


def said(warn: Any, *data: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn(*data)
    assert all(of.category is DataWarning for of in caught)
    return [str(of.message) for of in caught]


def test_a_class_of_one_sample_is_named() -> None:
    data = pictures([20, 1, 20])
    for by in ("id", "position"):
        (text,) = said(warn_of_single, *data.split(0.8, by=by))
        assert "the class 'kind 1' has one sample, which is trained on, and none to validate" in text
        assert "--only" in text and "\n" not in text
    assert not said(warn_of_single, data, None), "nothing is validated at all, which is said elsewhere"
    assert not said(warn_of_single, *pictures([20, 20]).split(0.8))


def test_copies_are_one_sample_and_two_samples_are_not() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    images[11] = images[10]
    data = hs.data.arrays(images, [0] * 5 + [1] * 5 + [2] * 2, NAMES[:3])
    (text,) = said(warn_of_single, data, data.subset(range(10)))
    assert "'kind 2' has one sample" in text
    few = pictures([5, 5, 2])
    assert not said(warn_of_single, few, few.subset(range(10))), "the line of the data says that none is validated"
    assert not said(warn_of_single, few.subset(range(11)), few.subset([11])), "one on each side"


def test_of_many_classes_five_are_named() -> None:
    (text,) = said(warn_of_single, *pictures([20, 1, 1, 1, 1, 1, 1, 1]).split(0.8))
    assert "7 classes ('kind 1', 'kind 2', 'kind 3', 'kind 4', 'kind 5' and 2 more) have one sample" in text


def test_a_class_that_is_only_validated_is_named() -> None:
    train, val = pictures([5, 5, 0]), pictures([2, 2, 2])
    (text,) = said(warn_of_single, train, val)
    assert "the class 'kind 2' has no sample to train on" in text and "--only" in text
    assert not said(warn_of_single, val, train.subset(range(5)))
    of_one = pictures([4, 4, 1])
    assert not said(warn_of_single, of_one.subset(range(8)), of_one.subset([8, 0])), "said when it was opened"


def test_a_class_in_one_fold_is_named() -> None:
    data = pictures([20, 1, 2])
    (text,) = said(warn_of_single_in_folds, data, data.fold_numbers(5, 0))
    assert "the class 'kind 1' has one sample, which is in one fold" in text and "\n" not in text
    grouped = pictures([6, 4], groups=["a", "a", "b", "b", "c", "c", *["d"] * 4])
    (text,) = said(warn_of_single_in_folds, grouped, grouped.fold_numbers(2, 0))
    assert "the class 'kind 1' has one group" in text
    assert not said(warn_of_single_in_folds, pictures([6, 2]), pictures([6, 2]).fold_numbers(3, 0))


def test_labels_and_numbers() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    data = hs.data.arrays(images, labels, ["red", "rare"], task="multi")
    (text,) = said(warn_of_single, data.subset([0, 1, 2]), data.subset([3]))
    assert "the label 'rare' has one sample" in text
    (text,) = said(warn_of_single_in_folds, data, np.array([0, 1, 0, 1]))
    assert "'rare'" in text
    numbers = hs.data.arrays(images, np.arange(4.0)[:, None], ["lux"], task="regression")
    assert not said(warn_of_single, numbers, numbers) + said(warn_of_single_in_folds, numbers, np.arange(4))


def test_fit_and_sweep_say_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed: a data set that is said ends the call here."""

    class EnoughError(Exception):
        pass

    def enough(*data: Any) -> None:
        raise EnoughError

    for module in ("fit", "sweep"):
        monkeypatch.setattr(f"headstart.training.{module}.say", enough)
    data, model = pictures([20, 1]), hs.model("lenet", classes=NAMES[:2])
    for call in (hs.fit, lambda *sets, **more: hs.sweep(*sets, grid={"lr": [0.1]}, **more)):
        with pytest.warns(DataWarning, match="none to validate"), pytest.raises(EnoughError):
            call(model, *data.split(0.8), backend=backend)
        with pytest.warns(DataWarning, match="in one fold"), pytest.raises(EnoughError):
            call(model, data, folds=3, backend=backend)


def test_a_class_whose_samples_count_for_nothing_is_named() -> None:
    weights = np.repeat([1.0, 0.0, 1.0], 10)
    weights[-1] = 0
    data = pictures([10, 10, 10], weights=weights)
    for val in (data.subset(range(0, 30, 3)), None):
        (text,) = said(warn_of_single, data, val)
        assert "the class 'kind 1' has only samples of weight 0 to train on" in text
    assert not said(warn_of_single, data.subset([*range(10), *range(20, 30)]), None)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    labels = [[1, 0], [1, 1], [0, 1], [0, 0]]
    several = hs.data.arrays(images, labels, ["a", "b"], task="multi", weights=[0, 0, 1, 1])
    (text,) = said(warn_of_single, several, None)
    assert "the label 'a' has only samples of weight 0" in text
