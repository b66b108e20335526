"""Tables with a row a label: several rows name one picture, as annotation tools write them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image
from sklearn.preprocessing import MultiLabelBinarizer

import headstart as hs
from headstart.common.errors import DataError

LONG = [("a.png", "cat"), ("b.png", "dog"), ("a.png", "owl"), ("c.png", "cat"), ("a.png", "cat"), ("b.png", "owl")]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for k, name in enumerate("abcd"):
        Image.fromarray(np.full((6, 5, 3), 40 * k, np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table_of(rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("file", "label")) -> str:
    with Path("long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return "long.csv"


@pytest.mark.neutral
def test_the_labels_of_all_rows_are_joined(root: Path) -> None:
    data = hs.data.table(table_of(LONG), task="multi")
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform([["cat", "owl"], ["dog", "owl"], ["cat"]])
    assert (data.task, data.classes) == ("multi", tuple(binarizer.classes_))
    assert data.labels.tolist() == expected.tolist()
    assert [Path(data.source_name(i)).name for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert data.notes[-1] == "long.csv: 6 rows name 3 images, whose labels are joined" and not data.skipped
    wide = {"file": ["a.png", "b.png", "c.png"], "label": [["owl", "cat"], ["owl", "dog"], ["cat"]]}
    assert hs.data.table(wide).ids == data.ids
    numbers = [(file, {"cat": 0, "dog": 1, "owl": 2}[name]) for file, name in LONG]
    for same in (table_of(numbers), {"file": [row[0] for row in numbers], "label": [row[1] for row in numbers]}):
        data = hs.data.table(same, task="multi")
        assert (data.classes, data.labels.tolist()) == (("0", "1", "2"), expected.tolist())


@pytest.mark.neutral
def test_cells_with_several_and_an_order_of_classes(root: Path) -> None:
    rows = [("a.png", "cat;dog"), ("a.png", "owl"), ("./b.png", "dog"), ("b.png", "dog")]
    data = hs.data.table(table_of(rows), task="multi", classes=["owl", "dog", "cat", "eel"])
    assert data.labels.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0]]
    with pytest.raises(
        DataError, match=r"twice, in row 1 as 'cat' and 'dog' and in row 2 .* or, take those of all"
    ):
        hs.data.table("long.csv")  # some cells hold several, so the task is guessed; that rows do is not


@pytest.mark.neutral
def test_what_else_rows_of_one_picture_say_must_agree(root: Path) -> None:
    header = ("file", "label", "part", "who", "w")
    rows = [
        ("a.png", "cat", "train", "ann", 1),
        ("b.png", "owl", "val", "bob", 2),
        ("a.png", "owl", "train", "ann", 1),
    ]
    columns = {"split": "part", "group": "who", "weight": "w", "task": "multi"}
    data = hs.data.table(table_of(rows, header), **columns)
    assert data.groups == ("ann", "bob") and data.weights.tolist() == [1, 2]
    assert data.train.labels.tolist() == [[1, 1]] and data.val.labels.tolist() == [[0, 1]]
    for k, other, what in ((2, "val", "split 'train'"), (3, "bob", "group 'ann'"), (4, 2, "weight '1'")):
        odd = [*rows[:2], tuple(other if i == k else cell for i, cell in enumerate(rows[2]))]
        with pytest.raises(DataError, match=rf"a\.png stands in row 1 with the {what} and in row 3 with"):
            hs.data.table(table_of(odd, header), **columns)
    for k, other in ((2, "val"), (3, "bob"), (4, 2)):  # of one class, too
        odd = [rows[0], rows[1], tuple({1: "cat", k: other}.get(i, cell) for i, cell in enumerate(rows[0]))]
        with pytest.raises(
            DataError, match=r"stands twice, in row 1 as 'cat'.* and in row 3 as 'cat'.*; keep one row of it$"
        ):
            hs.data.table(table_of(odd, header), split="part", group="who", weight="w")


@pytest.mark.neutral
def test_nothing_is_joined_unasked(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"as 'cat' and in row 3 as 'owl' \(and so do 1 other files\).*task=\"multi\""
    ):
        hs.data.table(table_of(LONG))
    with pytest.raises(DataError, match=r"keep one row of it$"):
        hs.data.table(table_of([("a.png", 0.5), ("a.png", 1.5)]), task="regression")
    votes = table_of([("a.png", 1, 0), ("b.png", 0, 1), ("a.png", 1, 1)], ("file", "cat", "dog"))
    with pytest.raises(DataError, match=r"keep one row of it$"):  # annotators who disagree, perhaps
        hs.data.table(votes, label=["cat", "dog"], task="multi")


def test_on_the_command_line(root: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    words = (
        "extract",
        "--data",
        table_of(LONG),
        "--model",
        "lenet",
        "--weights",
        "none",
        "--size",
        "32",
        "--save",
        "s",
    )
    done = headstart(*words)
    assert done.code == 2 and done.err.count("\n") == 1 and 'task="multi" (--task multi)' in done.err
    done = headstart(*words, "--task", "multi")
    assert done.code == 0 and "6 rows name 3 images" in done.err, done.err
    assert "long: 3 images with 3 labels: cat 2, dog 1, owl 2; multi-label, 1.7 a sample" in done.err
    assert hs.load_features("s").labels.sum() == 5


@pytest.mark.neutral
def test_a_picture_is_one_however_its_path_is_written(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "link").symlink_to(root / "deep" / "er")
    (root / "deep" / "a.png").write_bytes((root / "b.png").read_bytes())
    for other in ("./a.png", "deep/../a.png", "deep//..//a.png", str(root / "a.png"), (root / "a.png").as_uri()):
        data = hs.data.table(table_of([("a.png", "cat"), ("b.png", "owl"), (other, "cat")]))
        assert data.labels.tolist() == [0, 1] and "the same in row 3 again" in data.skipped[0].reason, other
        with pytest.raises(DataError, match=r"a\.png stands twice, in row 1 as 'cat' and in row 3 as 'owl'"):
            hs.data.table(table_of([("a.png", "cat"), ("b.png", "owl"), (other, "owl")]))
        data = hs.data.table(table_of([("a.png", "cat"), ("b.png", "owl"), (other, "owl")]), task="multi")
        assert data.labels.tolist() == [[1, 1], [0, 1]], other
    data = hs.data.table(table_of([("a.png", "cat"), ("link/../a.png", "owl")]))  # which is deep/a.png
    assert data.labels.tolist() == [0, 1] and not data.skipped
    again = table_of([("deep/a.png", "cat"), ("link/../a.png", "cat"), (str(root / "link/../a.png"), "cat")])
    assert len(hs.data.table(again)) == 1
