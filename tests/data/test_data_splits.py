"""Splits by id: nothing moves across when data grow, copies stay together, small sets still work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, UnknownNameError
from headstart.data import Dataset
from headstart.data.splits import Part

pytestmark = pytest.mark.neutral


def drawn(keys: list[int], labels: list[int] | None = None, classes: int = 3) -> Dataset:
    """A data set of one small picture a key; equal keys are equal pictures."""
    images = np.stack(
        [np.random.default_rng([9, key]).integers(0, 256, (4, 4, 3)).astype(np.uint8) for key in keys]
    )
    names = [f"kind {k}" for k in range(classes)]
    return hs.data.arrays(images, [key % classes for key in keys] if labels is None else labels, classes=names)


def test_growing_data_move_nothing_across() -> None:
    small, grown = drawn(list(range(60))), drawn([901, 902, *range(30), 903, *range(30, 60), *range(904, 940)])
    before, after = small.split(0.7, seed=5), grown.split(0.7, seed=5)
    for mine, other in ((0, 1), (1, 0)):
        assert not set(before[mine].ids) & set(after[other].ids)
    assert set(small.ids) <= set(after[0].ids) | set(after[1].ids)


def test_a_split_by_position_does_move_samples() -> None:
    small, grown = drawn(list(range(60))), drawn([900, 901, 902, *range(60)])
    train, val = small.split(0.7, by="position")[0], grown.split(0.7, by="position")[1]
    assert set(train.ids) & set(val.ids)


@pytest.mark.parametrize(
    ("fraction", "in_train"),
    [(0.8, (8, 2, 1, 1)), (0.5, (5, 2, 1, 1)), (0.05, (1, 1, 1, 1)), (0.95, (9, 2, 1, 1))],
)
def test_a_split_by_position_gives_each_class_its_share(fraction: float, in_train: tuple[int, ...]) -> None:
    labels = [0] * 10 + [1] * 3 + [2] * 2 + [3]
    train, val = drawn(list(range(16)), labels, classes=4).split(fraction, by="position")
    assert tuple(np.bincount(train.labels, minlength=4)) == in_train
    assert len(val) == 16 - sum(in_train)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_both_parts_are_of_use(samples: list[tuple[int, int]], fraction: float, seed: int) -> None:
    whole = drawn([key for key, _ in samples], [label for _, label in samples])
    of_class: dict[int, set[int]] = {}
    for key, label in samples:
        of_class.setdefault(label, set()).add(key)
    try:
        train, val = whole.split(fraction, seed)
    except DataError as error:
        assert "cannot be split" in str(error)
        # no picture can go: without it, a class of it would have none left
        keys = {key for key, _ in samples}
        assert all({key} in of_class.values() for key in keys)
        return
    assert sorted(train.ids + val.ids) == sorted(whole.ids)
    assert not set(train.ids) & set(val.ids), "copies stand on one side"
    assert len(val) and set(train.labels) == set(of_class)
    again = whole.split(fraction, seed)
    assert (again[0].ids, again[1].ids) == (train.ids, val.ids)


def test_it_is_pinned() -> None:
    # Users compare runs across versions, and saved features: this split must never change.
    val = drawn(list(range(20))).split(0.7, seed=3)[1]
    keys = [k for k in range(20) if drawn([k]).ids[0] in val.ids]
    assert keys == [0, 2, 7, 13, 15]


def test_shares_are_about_right_and_splitting_goes_on() -> None:
    whole = drawn(list(range(400)))
    train, rest = whole.split(0.5)
    assert 160 < len(train) < 240
    first, second = train.split(0.5)  # the same seed: parts of one draw would all be on one side
    assert 0.35 < len(first) / len(train) < 0.65
    assert not set(first.ids) & set(second.ids) and not set(rest.ids) & set(first.ids)
    assert second.splits == (Part("id", 0.5, 0, "first"), Part("id", 0.5, 0, "second"))


def test_a_part_that_was_saved_elsewhere_is_noticed() -> None:
    whole = drawn(list(range(400)))
    train = whole.split(0.5)[0]
    positions = [k for k, id in enumerate(whole.ids) if id in set(train.ids)]
    with pytest.warns(DataWarning, match="look like one part of another split by seed 0. Split with another seed"):
        whole.subset(positions).split(0.5)


@pytest.mark.parametrize("change", [{"by": "name"}, {"side": "middle"}, {"by": "name", "side": "middle"}])
def test_what_is_no_part_is_not_read_as_one(change: dict[str, str]) -> None:
    part = drawn(list(range(9))).split(0.7)[1].splits[-1]
    assert Part.from_dict(part.as_dict()) == part
    with pytest.raises(ValueError, match="no part of a split"):
        Part.from_dict(part.as_dict() | change)


def test_unknown_way() -> None:
    with pytest.raises(UnknownNameError, match="way of splitting 'label'; expected one of id, position"):
        drawn([0, 1, 2]).split(0.5, by="label")


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn([i])[0].image).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    read: list[Path] = []
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    bytes_of = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or bytes_of(path))  # type: ignore[func-returns-value]
    data = hs.data.folder(tmp_path / "photos")
    train, val = data.split(0.5)
    assert (*train.ids, *val.ids) and data.split(0.5, seed=1)
    assert len(read) == 12


@pytest.mark.parametrize("seed", range(6))
def test_each_of_several_labels_is_in_two_folds(seed: int) -> None:
    """A sample is moved for one of its labels, and none of its others is left alone by that: each label has a
    sample and the one before it."""
    n, k = 24, 4
    labels = np.zeros((n, n), np.uint8)
    for label in range(n):
        labels[[label, label - 1], label] = 1
    data = hs.data.arrays([sample.image for sample in drawn(list(range(n)))], labels, task="multi")
    fold = data.fold_numbers(k, seed)
    assert all(fold[label] != fold[label - 1] for label in range(n))


def test_nothing_cannot_be_split_with_groups_or_without() -> None:
    data = drawn([0, 1, 2])
    grouped = hs.data.arrays([sample.image for sample in data], [0, 1, 0], groups=["a", "b", "c"])
    for whole in (data, grouped):
        with pytest.raises(DataError, match="cannot be split: none of its 0 samples"):
            whole.subset([]).split(0.5)
