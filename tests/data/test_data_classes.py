"""Labels are compared by the names of their classes: between two data sets, and between data and a model."""

from __future__ import annotations

import re

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DataError, DataWarning
from headstart.data import Dataset
from headstart.data.classes import Classes, aligned
from headstart.training.checks import alike

pytestmark = pytest.mark.neutral

TRAIN = Classes(("ant", "bee", "cow"), True, "the training data")
NUMBERS = Classes(("0", "1", "2"), False, "the training data")


def labelled(labels: list[int], classes: list[str] | None) -> Dataset:
    images = np.arange(len(labels) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    return hs.data.arrays(images, labels, classes=classes)


@pytest.mark.parametrize(
    ("labels", "classes", "to", "expected"),
    [
        ([0, 1, 1], ["bee", "cow"], TRAIN, [1, 2, 2]),  # one lacks
        ([0, 1, 2], ["cow", "ant", "bee"], TRAIN, [2, 0, 1]),  # another order
        ([2, 0], ["cow", "dog", "ant"], TRAIN, [0, 2]),  # a class more, and no sample of it
        ([0, 1, 2], None, TRAIN, [0, 1, 2]),  # numbers of as many classes are positions
        ([1, 2], ["ant", "bee", "cow"], NUMBERS, [1, 2]),
        ([0, 3], None, NUMBERS, [0, 3]),  # too many: the model's to say
        ([0, 1], None, NUMBERS, [0, 1]),  # the last one lacks
        ([0, 1], ["2", "1"], NUMBERS, [2, 1]),  # folders named by numbers
        ([0, 1], None, Classes(("0", "1", "10"), True, "the model"), [0, 1]),
        ([0, 2], None, Classes(("10", "20", "30"), True, "the model"), [0, 2]),  # 0 and 2 are none of the names
        ([0, 2], ["1", "2", "3"], NUMBERS, [0, 2]),  # there is no 3
    ],
)
def test_numbered_as_there(labels: list[int], classes: list[str] | None, to: Classes, expected: list[int]) -> None:
    data = labelled(labels, classes)
    found = aligned(data, "the validation data", to)
    assert found.labels.tolist() == [sample.label for sample in found] == expected
    assert found.ids == data.ids
    assert data.labels.tolist() == labels, "what was given is not changed"
    assert found.subset([1, 0]).labels.tolist() == [expected[1], expected[0]]
    if found is not data:
        assert found.classes == to.names and found.named_classes == to.named
        back = found.only([to.names[expected[0]]])
        assert len(back) == expected.count(expected[0]) and set(back.labels) == {0}


@pytest.mark.parametrize(
    ("labels", "classes", "to", "reason"),
    [
        ([0, 1], ["bee", "dog"], TRAIN, "only here [dog], only there [ant, cow]"),
        ([0, 1], ["Bee", "cow"], TRAIN, "only here [Bee], only there [ant, bee]"),
        ([0, 1], None, TRAIN, "numbers are no names, and there are 2 and 3"),
        ([0, 3], None, TRAIN, "there are 4 and 3"),
        ([0, 1], ["bee", "cow"], NUMBERS, "numbers are no names"),
        ([0, 1, 2], ["0", "2", "1"], NUMBERS, "so that 2 could be '2' or '1'"),
        # folders 0, 2 and 4, and labels of which nobody knows whether they are these names or their numbers
        ([0, 2], None, Classes(("0", "2", "4"), True, "the training data"), "so that 2 could be '2' or '4'"),
        ([1, 0], ["2", "1", "3"], NUMBERS, "so that 2 could be '2' or '0'"),
        ([0, 1, 2, 3], None, Classes(("0", "1", "10", "2", "3"), True, "the model"), "numbers are no names"),
    ],
)
def test_refused(labels: list[int], classes: list[str] | None, to: Classes, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        aligned(labelled(labels, classes), "the validation data", to)
    assert str(caught.value).startswith("the validation data's classes [")


def test_some_classes_of_a_set_are_numbered_by_name_too() -> None:
    some = labelled([0, 1, 2, 3, 1], ["ant", "bee", "cow", "dog"]).only(["cow", "bee"])
    found = aligned(some, "the validation data", TRAIN)
    assert found.labels.tolist() == [1, 2, 1]
    assert found.only(["cow"]).ids == some.only(["cow"]).ids
    assert [part.classes for part in found.split(0.5)] == [TRAIN.names] * 2


def test_data_without_names_have_as_many_classes_as_the_model() -> None:
    """Whichever of the last ones have no sample, in training or validation: scores have a row for each."""
    model = hs.model("lenet", classes=3, size=32)
    train, val = alike(model, labelled([0, 1, 1], None), labelled([0, 0], None))
    for data, labels in ((train, [0, 1, 1]), (val, [0, 0])):
        assert (data.classes, data.named_classes, data.labels.tolist()) == (model.classes, False, labels)
    with pytest.raises(
        DataError, match=r"only here \[ant, bee\], .* there are 2 and 3 of them. Make the model with classes="
    ):
        alike(model, labelled([0, 1], ["ant", "bee"]), None)


def test_positions_in_names_that_people_count_otherwise_are_told() -> None:
    """Folders "1" to "12" are in the order of their text, where another library's 1 is the second of them."""
    twelve = list(range(12))
    for names, said in (
        ([str(k + 1) for k in twelve], "1 is '10'. If 1 means '2'"),
        ([f"c{k}" for k in twelve], "2 is 'c10'. If 2 means 'c2'"),
        ([f"a{k}" for k in (1, 2, 10)], "1 is 'a10'. If 1 means 'a2'"),
    ):
        by_text, count = sorted(names), len(names)
        with pytest.warns(DataWarning, match=re.escape(f"the order of their text: {said}, name the classes")):
            found = aligned(
                labelled(twelve[:count], None), "the given data", Classes(tuple(by_text), True, "the model")
            )
        assert (found.labels.tolist(), found.classes) == (twelve[:count], tuple(by_text)), (
            "as an image folder has it"
        )
        with pytest.warns(DataWarning, match=r"the model's classes are numbers, taken as positions in the data's"):
            numbers = Classes(tuple(map(str, range(count))), False, "the model")
            aligned(labelled([by_text.index(name) for name in names], by_text), "the data", numbers)
    for names in (
        [f"{k + 1:02d}" for k in twelve],
        [f"c{12 - k}" for k in twelve],  # somebody's own order
        [f"{k}{'a' * 5000}" for k in range(9)],
        ["1" * 5000, *"abc"],
    ):
        aligned(labelled(list(range(len(names))), None), "the data", Classes(tuple(names), True, "the model"))


def test_of_columns_of_labels_one_that_is_not_there_is_told() -> None:
    """Its label counts as absent in every sample, which the scores are of."""
    images, to = np.zeros((3, 2, 2, 3), np.uint8), Classes(("cat", "dog", "emu"), True, "the model")
    rows = [[1, 0], [0, 1], [1, 1]]
    by_column = hs.data.arrays(images, rows, task="multi", classes=["dog", "cat"])
    with pytest.warns(
        DataWarning, match=r"the given data has no column of \[emu\], which the model has: no sample"
    ):
        data = aligned(by_column, "the given data", to)
    assert data.labels.tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0]]
    with pytest.warns(DataWarning, match=r"no column of \[cat, emu\]"):
        aligned(by_column.only(["dog"]), "the given data", to)
    lists = hs.data.arrays(images, [["dog"], ["cat"], ["cat", "dog"]], task="multi")
    assert aligned(lists, "the given data", to).labels.tolist() == data.labels.tolist(), (
        "rare labels may not occur"
    )
