"""Labels as people have them: what is clear works, and what is not is refused without advice that loses any."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning

pytestmark = pytest.mark.neutral

X = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


ENCODED = [encoded(pixels) for pixels in X]


class Column:
    """A column of a table, as pandas has it: an object with `__array__`."""

    def __init__(self, *values: Any) -> None:
        self.values = np.array(values, object)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "labels",
    [
        ["owl", "cat", "owl", "bat"],
        np.array(["owl", "cat", "owl", "bat"]),
        Column("owl", "cat", "owl", "bat"),
        [b"owl", b"cat", b"owl", b"bat"],
    ],
)
def test_names(labels: Any) -> None:
    data = hs.data.arrays(X, labels)
    assert (data.classes, data.labels.tolist(), data.named_classes) == (("bat", "cat", "owl"), [2, 1, 2, 0], True)
    data = hs.data.arrays(X, labels, classes=["owl", "emu", "cat", "bat"])
    assert (data.classes[1], data.labels.tolist()) == ("emu", [0, 2, 0, 3])
    with pytest.raises(DataError, match=r"labels \['bat'\] are not in classes \['cat', 'owl'\]; add them"):
        hs.data.arrays(X, labels, classes=["cat", "owl"])


@pytest.mark.parametrize(
    "labels", [[2, 0, 1, 2], np.array([2, 0, 1, 2], np.uint8), Column(2, 0, 1, 2), np.array([[2], [0], [1], [2]]),
               (label for label in (2, 0, 1, 2)), range(4)]
)  # fmt: skip
def test_numbers(labels: Any) -> None:
    data = hs.data.arrays(X, labels)
    assert not data.named_classes and data.labels.dtype == np.int64
    assert data.classes == tuple(map(str, range(data.labels.max() + 1)))


def test_booleans_are_two_classes() -> None:
    data = hs.data.arrays(X, np.array([False, False, False, False]))
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [0, 0, 0, 0])


class Anew:
    """As a loader that shuffles, or a set of tf.data."""

    def __iter__(self) -> Iterator[int]:
        yield from (0, 1, 1, 0)


class Tensor:
    """Of a library whose comparisons give tensors."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.array(self.values)

    def __ne__(self, _: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a tensor")

    __hash__ = None  # type: ignore[assignment]


class Ragged:
    """As tf.ragged has it: rows of differing lengths, and no array."""

    def __init__(self, rows: list[Any]) -> None:
        self.to_list = lambda: rows


REFUSED: dict[str, tuple[Any, str, str]] = {
    "ragged": ([[0], [0, 1], [1], [2]], "lists of differing lengths", "argmax"),
    "one-hot": (np.eye(4)[[0, 3, 1, 1]], r"one-hot, exactly one class a row: np.argmax\(labels, axis=1", "multi"),
    "a column of floats": (np.eye(4)[:, 1:2], r"whole numbers: .*np.asarray\(labels\)\[:, 0\].astype", "argmax"),
    "multi-hot": (np.array([[1, 0], [0, 1], [1, 1], [1, 0]]), "row 2 names 2 classes", "argmax"),
    "of no class": (np.array([[1, 0], [0, 0], [0, 1], [1, 0]], bool), "row 1 names 0 classes", "argmax"),
    "shares": (np.full((4, 2), 0.5), "Shares or scores", "argmax"),
    "numbers of several": (np.arange(8).reshape(4, 2), "multi-label", "argmax"),
    "fractions": ([0.1, 0.7, 0.2, 1.5], "targets: task='regression'", "astype"),
    "whole floats": ([0.0, 1.0, 1.0, 0.0], r"np.asarray\(labels\).astype\(int\)", "regression"),
    "a hole": ([0.0, 1.0, float("nan"), 0.0], "Label 2 is nan: leave out", "astype"),
    "a hole among names": (["cat", "dog", None, "cat"], "label 2 is None, a NoneType", "argmax"),
    "a hole as pandas has it": (Column("cat", float("nan"), "dog", "cat"), "label 1 is nan, a float", "argmax"),
    "a hole in a list": (["cat", float("nan"), "dog", "cat"], "label 1 is nan, a float", "argmax"),
    "words and numbers": ([0, "dog", "cat", 1], "label 1 is 'dog', a str", "argmax"),
    "objects": (Column("cat", 1, "dog", "cat"), "label 1 is 1, a int", "argmax"),
    "negative": ([0, -1, 1, 0], "label -1 of image 1 is out of range", "argmax"),
    "a date": ([20240101, 20240102, 20240101, 20240103], r"20240104 classes for 4 images.*np.unique", "argmax"),
    "an id": ([2**40, 1, 0, 0], "the largest label is 1099511627776", "argmax"),
    "a huge id": (np.array([2**63, 1, 0, 0], np.uint64), "9223372036854775808", "argmax"),
    "an id beyond": (Column(2**70, 1, 0, 0), "all of one kind", "argmax"),
    "none": (None, "labels are a NoneType", "argmax"),
    "a word": ("cats", "labels are a str", "argmax"),
    "too few": ([0, 1], "4 images and 2 labels", "argmax"),
    "one alone": (3, "labels are a int", "argmax"),
    "masked": (np.ma.array([0, 1, 1, 0], mask=[0, 0, 1, 0]), r"labels: 1 of 4 values are masked", "argmax"),
    "masked names": (np.ma.array(list("abab"), mask=[0, 0, 1, 1]), r"labels: 2 of 4 values are masked", "argmax"),
    "other bytes": ([b"caf\xe9", b"caf\xe8", b"cat", b"cat"], r"label 0 is b'caf\\xe9', no text", "argmax"),
    "no text": (["cat", "", "cat", "dog"], "label 1 is empty text", "argmax"),
    "no text as bytes": ([b"cat", b"", b"cat", b"dog"], "label 1 is empty text", "argmax"),
    "a space": (["cat", "cat ", "dog", "dog"], r"'cat', 'cat ' look the same; .*strip", "argmax"),
    "a set": ({0, 1, 2, 3}, "are a set; expected a list", "argmax"),
    "what is read anew": (Anew(), "a Anew, which may come in another order each time", "argmax"),
    "two spellings": (["caf\u00e9", "cafe\u0301", "a", "a"], "in two spellings", "argmax"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    labels, reason, unsaid = REFUSED[kind]
    with pytest.raises(DataError, match=reason) as caught:
        hs.data.arrays(X, labels)
    assert unsaid not in str(caught.value)


def test_what_has_no_order_is_refused_everywhere() -> None:
    with pytest.raises(DataError, match="images are a Anew, which may come in another order"):
        hs.data.arrays(Anew(), [0, 1, 1, 0])
    names, weights = {"a", "b", "c", "d"}, dict.fromkeys(range(1, 5), 1.0)
    for told in ({"groups": names}, {"weights": weights}, {"task": "multi"}):
        labels = names if "task" in told else [0, 1, 1, 0]
        with pytest.raises(DataError, match=r"are a (set|dict); expected a list, in the order of the samples"):
            hs.data.arrays(X, labels, **told)  # type: ignore[arg-type]


def test_many_classes_with_many_samples_are_fine() -> None:
    x = np.zeros((200, 1, 1, 3), np.uint8)
    assert len(hs.data.arrays(x, np.arange(200) * 9).classes) == 199 * 9 + 1
    assert hs.data.arrays(x, np.arange(200) * 90, classes=[f"c{k}" for k in range(20000)]).labels[-1] == 17910


def test_what_masks_nothing_is_what_it_holds() -> None:
    data = hs.data.arrays(np.ma.array(X), np.ma.array([0, 1, 1, 0]))
    assert data.labels.tolist() == [0, 1, 1, 0] and type(data.labels) is np.ndarray
    with pytest.raises(DataError, match="images: 3 of 48 values are masked"):
        hs.data.arrays(np.ma.array(X, mask=X < 3), [0, 1, 1, 0])


def test_names_in_one_column_of_a_table() -> None:
    assert hs.data.arrays(X, np.array([["b"], ["a"], ["a"], ["b"]], object)).labels.tolist() == [1, 0, 0, 1]


def test_one_spelling_in_labels_and_classes() -> None:
    labels = ["cafe\u0301", "tea", "caf\u00e9", "tea"]
    for classes in (["tea", "caf\u00e9"], ["tea", "cafe\u0301"]):
        data = hs.data.arrays(X, labels, classes=classes)
        assert (data.classes, data.labels.tolist()) == (("tea", "caf\u00e9"), [1, 0, 1, 0])


def test_names_that_look_alike_may_be_meant() -> None:
    assert hs.data.arrays(X, ["a", "a ", "a", "a "], classes=["a ", "a"]).labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("missing", ["nan", "None", "<NA>"])
def test_what_is_missing_as_text(missing: str) -> None:
    with pytest.warns(DataWarning, match=f"called '{missing}'"):
        hs.data.arrays(X, ["cat", missing, "dog", "cat"])
    assert hs.data.arrays(X, ["cat", missing, "dog", "cat"], classes=["cat", "dog", missing]).labels[1] == 2


def test_numbers_for_numbers() -> None:
    """Positions or names: what could be either is refused."""
    with pytest.raises(DataError, match="label 1 could be either"):
        hs.data.arrays(X, [1, 2, 2, 1], classes=[1, 2, 3])
    assert hs.data.arrays(X, [0, 2, 2, 1], classes=[1, 2, 3]).labels.tolist() == [0, 2, 2, 1]
    assert hs.data.arrays(X, [1, 2, 2, 1], classes=np.arange(3)).labels.tolist() == [1, 2, 2, 1]
    assert hs.data.arrays(X, [1, 2, 2, 1], classes=["1", "2", "3"]).classes == ("1", "2", "3")


@pytest.mark.parametrize(
    "classes", ["cat", 3, {"a": 1}, {"a", "b"}, [], ["a", "a"], ["a", None], [b"a"], ["a", ""]]
)
def test_classes_that_are_none(classes: Any) -> None:
    with pytest.raises(DataError, match="classes"):
        hs.data.arrays(X, [0, 0, 0, 0], classes=classes)


class Kind(str, Enum):  # noqa: UP042 - whose text is "Kind.CAT", as older code has them
    CAT = "cat"
    ANT = "ant"


class Number(int, Enum):
    TWO = 2
    TEN = 10


def test_members_of_an_enum_are_what_they_stand_for() -> None:
    kinds = [Kind.CAT, Kind.ANT, Kind.ANT, Kind.CAT]
    for data in (
        hs.data.arrays(X, kinds),
        hs.data.arrays(X, iter(kinds)),
        hs.data.arrays(X, np.array(kinds, object)),
        hs.data.wrap(list(zip(X, kinds, strict=True))),
        hs.data.table({"image": ENCODED, "label": kinds}),
        hs.data.arrays(X, kinds, classes=[Kind.ANT, Kind.CAT]),
        hs.data.table({"image": ENCODED, "label": kinds}, classes=list(reversed(Kind))),
    ):
        assert (data.classes, data.labels.tolist()) == (("ant", "cat"), [1, 0, 0, 1])
    several = [[Kind.CAT], [Kind.CAT, Kind.ANT], [], [Kind.ANT]]
    for data in (
        hs.data.arrays(X, several, task="multi"),
        hs.data.table({"image": ENCODED, "label": several}),
    ):
        assert (data.classes, data.labels.tolist()) == (("ant", "cat"), [[0, 1], [1, 1], [0, 0], [1, 0]])
    numbers = [Number.TEN, Number.TWO, Number.TWO, Number.TEN]
    data = hs.data.table({"image": ENCODED, "label": numbers, "who": kinds}, group="who")
    assert (data.classes, data.labels.tolist()) == (("10", "2"), [0, 1, 1, 0])
    assert data.groups == ("cat", "ant", "ant", "cat")
    assert hs.data.arrays(X, numbers, classes=[str(k) for k in range(11)]).labels.tolist() == [10, 2, 2, 10]


def test_names_that_python_shows_are_told() -> None:
    for write in (repr, lambda name: repr(np.str_(name)), lambda name: f"tensor({len(name)})"):
        labels = [write(name) for name in (b"horse", b"ant", b"ant", b"horse")]
        with pytest.warns(DataWarning, match=r"a class is called .*, as Python shows what is no text"):
            hs.data.arrays(X, labels)
        with pytest.warns(DataWarning, match="as Python shows what is no text"):
            hs.data.table({"image": ENCODED, "label": labels})
        assert len(hs.data.arrays(X, labels, classes=sorted(set(labels))).classes) == 2
    assert hs.data.arrays(X, ["b'cat'", "ant", "ant", "ant"]).classes == ("ant", "b'cat'")


def test_labels_that_can_be_read_once_are_no_others() -> None:
    """NumPy makes words of numbers and of what is missing."""
    for odd in (["cat", 3, "dog", "cat"], ["cat", float("nan"), "dog", "cat"]):
        for labels in (odd, iter(odd), dict(enumerate(odd)).values()):
            with pytest.raises(DataError, match=r"label 1 is .*, all of one kind and none missing"):
                hs.data.arrays(X, labels)


def test_labels_of_other_tasks() -> None:
    for labels in ([[1, 0], [0, 1], [1, 1], [0, 0]], np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)):
        data = hs.data.arrays(X, labels, classes=["sun", "rain"], task="multi")
        assert (data.task, data.classes, data.labels.dtype) == ("multi", ("sun", "rain"), np.uint8)
        assert data.labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]] and data.named_classes
    assert not hs.data.arrays(X, np.eye(4, dtype=int), task="multi").named_classes
    for rows in ([[1, 0], [0, 1], [1, 1], [0, 0]], [[0], [1], [0, 1], []]):
        tensors = [Tensor(row) for row in rows]
        assert hs.data.arrays(X, tensors, task="multi").labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    data = hs.data.arrays(X, Ragged([[b"b"], [], [b"a", b"b"], [b"a"]]), task="multi")
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [[0, 1], [0, 0], [1, 1], [1, 0]])
    for targets in ([0.5, 1, 2, 3], [[0.5, 1], [1, 2], [2, 3], [3, 4]]):
        data = hs.data.arrays(X, [Tensor(target) for target in targets], task="regression")
        assert data.labels.reshape(np.shape(targets)).tolist() == targets
    data = hs.data.arrays(X, [["b"], [], ["a", "b"], ["a"]], task="multi")
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [[0, 1], [0, 0], [1, 1], [1, 0]])
    data = hs.data.arrays(
        X, np.array([0.5, 1, 2, 3]), task="regression", groups=list("aabb"), weights=[1, 0, 2, 1]
    )
    assert data.labels.tolist() == [[0.5], [1], [2], [3]] and data.labels.dtype == np.float32
    assert (
        data.groups == ("a", "a", "b", "b") and data.weights is not None and data.weights.tolist() == [1, 0, 2, 1]
    )
    targets = hs.data.arrays(X, np.arange(8).reshape(4, 2), classes=["x", "y"], task="regression")
    assert (targets.classes, targets.labels[3].tolist()) == (("x", "y"), [6, 7])
    for labels, arguments, reason in (
        ([[1, 2], [0, 1], [1, 1], [0, 0]], {"task": "multi"}, "holds 2 in image 0"),
        ([1, 0, 1, 1], {"task": "multi"}, "one column, and task 'multi' is of several"),
        ([[1, 0]], {"task": "multi"}, "4 images and 1 labels"),
        ([[1, 0]] * 4, {"task": "multi", "classes": ["a"]}, "2 columns, and classes names 1"),
        ([0.5, float("nan"), 1, 2], {"task": "regression"}, "label of image 1 is missing"),
        (
            ["0.5", "x", "1", "2"],
            {"task": "regression"},
            "the target in column 'labels', image 1, is 'x'; expected a num",
        ),
        ([0.5, float("inf"), 1, 2], {"task": "regression"}, "image 1, is inf"),
        (["a", "b", "c", "d"], {"task": "regression"}, "image 0, is 'a'; expected a number"),
        ([0, 1, 0, 1], {"task": "rank"}, "unknown task 'rank'"),
        ([0, 1, 0, 1], {"groups": ["a"]}, "4 images and 1 groups"),
        ([0, 1, 0, 1], {"weights": [1, 1, 1, -1]}, "weight of image 3"),
        (None, {"task": "multi"}, "labels are a NoneType"),
    ):
        with pytest.raises(hs.HeadstartError, match=reason):
            hs.data.arrays(X, labels, **arguments)


def test_groups_that_differ_in_how_they_are_written_are_told() -> None:
    """A split would put one patient on both sides."""
    for first, second in (("P 1", "p_1"), ("1", "1.0"), ("007", "7"), ("a", "a\u200b")):
        with pytest.warns(DataWarning, match="differ in how they are written alone, and a split may put"):
            data = hs.data.arrays(X, [0, 1, 0, 1], groups=[first, second, "x", "y"])
        assert data.groups is not None and len(set(data.groups)) == 4
    hs.data.arrays(X, [0, 1, 0, 1], groups=[1, 1.0, "1", "2"])  # one, as ever: a warning here fails the test
    hs.data.arrays(X, [0, 1, 0, 1], groups=["1" * 5000, "2" * 5000, "x", "y"])  # no numbers, at that length


@pytest.mark.parametrize(
    "kin",
    [("Cat", "cat"), ("night heron", "night_heron"), ("Night-Heron", "night heron"), ("7", "007"), ("1", "1.0")],
)
def test_classes_that_differ_in_how_they_are_written_are_told(kin: tuple[str, str]) -> None:
    """Told, and kept: they may be two."""
    with pytest.warns(DataWarning, match=f"{min(kin)!r} and {max(kin)!r} differ in how they are written alone"):
        data = hs.data.arrays(X, [*kin, "dog", "dog"])
    assert len(data.classes) == 3
    hs.data.arrays(X, [*kin, "dog", "dog"], classes=[*kin, "dog"])  # a warning here fails the test


@pytest.mark.parametrize(
    "apart", [("-1", "1"), ("1.5", "15"), ("-", "0"), ("a", "b"), ("café", "cafe"), ("a", "a+")]
)
def test_classes_that_are_told_apart_are_not(apart: tuple[str, str]) -> None:
    data = hs.data.arrays(X, [*apart, *apart])
    assert set(data.classes) == set(apart)


def test_labels_that_begin_at_one_are_told() -> None:
    with pytest.warns(
        DataWarning, match=r"are 1 to 3, .* no image is of class 0. If they count from 1: labels - 1"
    ):
        assert hs.data.arrays(X, [1, 2, 1, 3]).classes == ("0", "1", "2", "3")
    hs.data.arrays(X, [1, 2, 1, 3], classes=["a", "b", "c", "d"])  # a warning fails the test
    hs.data.arrays(X, [0, 2, 0, 3])


def test_rows_of_classes_that_are_not_known_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    """As folders are: a run of two classes is evaluated on a table of more."""
    kinds = ["ant", "bee", "cow", "bee ", "dog", "ant"]
    files = []
    for k in range(len(kinds)):
        files.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(files[-1])
    table = {"file": files, "label": kinds}
    said = "the label 'cow' in column 'label', row 3, is not among classes=, nor 1 other: 'bee', 'ant'; leave such"
    with pytest.raises(DataError, match=said):
        hs.data.table(table, classes=["bee", "ant"])
    data = hs.data.table(table, classes=["bee", "ant"], on_error="skip")
    assert data.classes == ("bee", "ant") and data.labels.tolist() == [1, 0, 0, 1]
    assert [data.source_name(i) for i in range(4)] == [files[k] for k in (0, 1, 3, 5)]
    [left] = data.skipped
    assert left.reason == "2 of 6 rows are of none of the classes: 'cow', 'dog'"
    gaps = hs.data.table({**table, "label": ["", *kinds[1:]]}, classes=["bee", "ant"], on_error="skip")
    assert gaps.labels.tolist() == [0, 0, 1] and len(gaps.skipped) == 2
    numbers = hs.data.table({**table, "label": ["0", "1", "2", "1.0", "3", "0"]}, classes=[0, 1], on_error="skip")
    assert numbers.labels.tolist() == [0, 1, 1, 0]
    for labels, task in ((["x", "y"] * 3, None), (["ant;bee", "cow"] * 3, None), (kinds, "multi")):
        with pytest.raises(DataError, match="is not among classes="):  # another table, or several labels a row
            hs.data.table({**table, "label": labels}, classes=["bee", "ant"], on_error="skip", task=task)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for k, (file, kind) in enumerate(zip(files, kinds, strict=True)):
            tar.add(file, f"{k}.png")
            (tmp_path / "text").write_text(kind)
            tar.add(tmp_path / "text", f"{k}.txt")
    shards = hs.data.webdataset(tmp_path / "a.tar", classes=["bee", "ant"], on_error="skip")
    assert shards.ids == data.ids and shards.labels.tolist() == [1, 0, 0, 1]
    assert shards.skipped[0].reason.startswith("2 of 6 samples are of none of the classes: 'cow', 'dog'")
