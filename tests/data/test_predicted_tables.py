"""What `predict` has written is read as what it says: of names that look like several, or like numbers, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError
from headstart.data.annotations import MULTI, SINGLE
from headstart.training.prediction_columns import ERROR, FILE, TEXT, Reading
from headstart.training.prediction_files import WRITERS

ODD = [
    ("wolf|dog", "cat"),
    ("a;b", "a", "b"),
    ("1.5", "2.5"),
    ("['x', 'y']", "['z']"),
    ("[0, 10]", "[10, 20]"),
    ("nan", "cat"),
    ("1,5", "2,5"),
    ("3", "cat"),
    ("1.0", "2.0"),
]


pytestmark = pytest.mark.filterwarnings("ignore:a class is called 'nan'")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for k in range(6):
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(f"{k}.png")
    return [f"{k}.png" for k in range(6)]


def written(files: list[str], reading: Reading, outputs: np.ndarray, suffix: str) -> Path:
    columns = {FILE: TEXT, **reading.columns, ERROR: TEXT}
    batch = [files, *reading.cells(outputs.astype(np.float32)), [""] * len(files)]
    path = Path(f"out{suffix}")
    path.write_bytes(b"".join(WRITERS[suffix](columns)(iter([batch]))))
    return path


@pytest.mark.neutral
@pytest.mark.parametrize("suffix", sorted(WRITERS))
@pytest.mark.parametrize("classes", ODD, ids="-".join)
@pytest.mark.parametrize("top", [1, 2])
def test_classes(files: list[str], classes: tuple[str, ...], suffix: str, top: int) -> None:
    shown = [k % len(classes) for k in range(len(files))]
    path = written(files, Reading(classes, top=top), 5 * np.eye(len(classes))[shown], suffix)
    data = hs.data.table(path)
    assert (data.task, data.classes) == (SINGLE, tuple(sorted(classes)))
    assert [data.classes[k] for k in data.labels.tolist()] == [classes[k] for k in shown]
    known = hs.data.table(path, classes=classes)
    assert (known.task, known.classes, known.labels.tolist()) == (SINGLE, classes, shown)


@pytest.mark.neutral
def test_a_picture_that_was_not_classified_has_no_class(files: list[str]) -> None:
    outputs = 5 * np.eye(2)[[0, 1] * 3]
    outputs[2] = np.nan
    path = written(files, Reading(("a|b", "nan")), outputs, ".csv")
    with pytest.raises(DataError, match=r"1 of 6 rows have no label in 'class', the first: row 3\."):
        hs.data.table(path)
    data = hs.data.table(path, on_error="skip")
    assert [data.classes[k] for k in data.labels.tolist()] == ["a|b", "nan", "nan", "a|b", "nan"]
    frame = {"file": files, "class": ["a|b", float("nan"), None, "c", "", "c"], "probability": [0.5] * 6}
    data = hs.data.table(frame, on_error="skip")  # as pandas reads it
    assert [data.classes[k] for k in data.labels.tolist()] == ["a|b", "c", "c"]


@pytest.mark.neutral
@pytest.mark.parametrize("classes", [("cat", "dog", "owl"), ("a;b", "c", "d")], ids="-".join)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("rows", [np.eye(3)[[0, 1, 2] * 2], np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]] * 2)])
def test_several_labels(files: list[str], classes: tuple[str, ...], suffix: str, rows: np.ndarray) -> None:
    path = written(files, Reading(classes, MULTI), 10 * rows - 5, suffix)
    data = hs.data.table(path)
    assert data.task == MULTI
    assert data.classes == classes
    assert np.array_equal(data.labels, rows)


@pytest.mark.neutral
def test_names_of_classes_that_are_known_are_not_cut(files: list[str]) -> None:
    columns = {"file": files, "kind": ["wolf|dog", "cat", "cat"] * 2}
    data = hs.data.table(columns, label="kind", classes=["cat", "wolf|dog"])
    assert (data.task, data.labels.tolist()) == (SINGLE, [1, 0, 0] * 2)
    assert hs.data.table(columns, label="kind").task == MULTI, "where nobody says what the classes are"
    assert hs.data.table(columns, label="kind", task="multi", classes=["cat", "wolf", "dog"]).task == MULTI
