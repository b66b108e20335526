"""Equal pictures in training and validation data, and under two labels, are said with number and examples."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataWarning
from headstart.data import Dataset
from headstart.data.copies import warn_of_copies, warn_of_parts, warn_of_seen, warn_of_test_copies
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.training.run_record import data_facts

pytestmark = pytest.mark.neutral


def of(keys: list[int], labels: list[int]) -> Dataset:
    """A picture a key; equal keys are equal pictures."""
    images = np.stack([np.full((3, 3, 3), 10 * key, np.uint8) for key in keys])
    return hs.data.arrays(images, labels, classes=["ant", "bee", "cow"])


def features(data: Dataset) -> FeatureSet:
    return FeatureSet("saved", data.ids, data.annotations, {}, ExtractionStats(0, 0, 0.0, ()))


@pytest.mark.parametrize("kind", [lambda data: data, features])
def test_in_both_parts(kind: Callable[[Dataset], Dataset | FeatureSet]) -> None:
    train, val = of([0, 1, 2, 3, 4], [0, 1, 2, 0, 1]), of([9, 4, 3, 2, 1], [0, 1, 0, 2, 1])
    leak = "4 of 5 validation samples are exact copies of training samples.*and 1 more"
    with pytest.warns(DataWarning, match=leak) as said:
        warn_of_copies(kind(train), kind(val))
    assert len(said) == 1


def test_paths_are_named(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        for i in range(2):
            file = tmp_path / part / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 60 * i + 7 * (name == "b") + 20 * (part == "val" and i == 0)).save(file)
    train, val = (hs.data.folder(tmp_path / part) for part in ("train", "val"))
    with pytest.warns(DataWarning, match=r"2 of 4 .*: \S+val/a/1.png is \S+train/a/1.png; \S+val/b/1.png is"):
        warn_of_copies(train, val)


def test_under_two_labels() -> None:
    odd = of([0, 1, 2, 0, 1], [0, 1, 2, 1, 1])
    with pytest.warns(DataWarning, match="1 picture has more than one label, .*0 of arrays as 'ant', .* 'bee'"):
        warn_of_copies(odd, None)
    with pytest.warns(DataWarning) as said:
        warn_of_copies(of([0, 1, 2], [0, 1, 2]), of([2, 5], [0, 1]))
    assert ["exact copy" in str(warning.message) for warning in said] == [True, False]
    assert "image 2 of arrays as 'cow', image 0 of arrays as 'ant'" in str(said[1].message)


def test_nothing_is_said_of_sound_data() -> None:
    twice = of([0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_copies(*twice.split(0.5))  # copies stay on one side
        warn_of_copies(of([0, 1], [0, 1]), of([2, 3], [0, 1]))


def test_parts_that_came_split() -> None:
    whole = of([0, 1, 2, 3, 1, 5, 3, 0], [0, 1, 2, 0, 1, 1, 0, 0])
    parts = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.int8)
    data = Dataset(whole._source, dataclasses.replace(whole.annotations, parts=parts), "set")
    with pytest.warns(DataWarning) as said:
        warn_of_parts(data)
    assert [str(warning.message).partition(",")[0] for warning in said] == [
        "1 of 2 validation samples is an exact copy of training samples",
        "2 of 2 test samples are exact copies of training or validation samples",
    ]
    warn_of_parts(whole)
    warn_of_test_copies(of([7, 8], [0, 1]), data.train, None)


def test_what_was_said_of_test_data_is_not_said_again() -> None:
    test = of([1, 7], [0, 1])
    with pytest.warns(
        DataWarning, match=r"1 of 2 samples \(50.0%\) is an exact copy of what the run was trained on"
    ):
        warn_of_seen(test, 1)
    with pytest.warns(DataWarning, match="1 of 2 test samples"):
        warn_of_test_copies(test, of([1, 2], [0, 1]))
    warn_of_seen(test, 1)
    warn_of_seen(of([1, 7], [0, 1]), 0)


def test_of_one_group_on_both_sides(tmp_path: Path) -> None:
    """As a table may say it that has a column of parts and one of patients."""
    rows = ["file,label,split,who"]
    for i, (part, who) in enumerate(zip(["train"] * 4 + ["val"] * 4 + ["test"] * 4, "aabbbccdadee", strict=True)):
        Image.fromarray(np.full((3, 3, 3), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ant' if i % 2 else 'bee'},{part},{who}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = hs.data.table(tmp_path / "t.csv", group="who")
    for kind in (lambda data: data, features):
        with pytest.warns(DataWarning) as said:
            warn_of_parts(kind(data))
        assert [str(warning.message).partition(", so")[0] for warning in said] == [
            "1 of 4 validation samples is of a group that training samples are of as well ('b')",
            "2 of 4 test samples are of groups that training or validation samples are of as well ('a', 'd')",
        ]
    assert data_facts(data.train, data.val)["val_of_train_groups"] == 1, "which its report says"
    assert "val_of_train_groups" not in data_facts(*data.train.split(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_copies(*data.train.split(0.5))
        without = hs.data.table(tmp_path / "t.csv")
        warn_of_parts(without)
    with pytest.warns(DataWarning, match="exact copies") as said:
        warn_of_copies(data.train, data.train)  # of which that is said already
    assert len(said) == 1
