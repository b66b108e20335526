"""Columns beside the labels, and numbers in all of them: what is missing, or may mean another thing, is said."""

from __future__ import annotations

import base64
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, UnknownNameError
from headstart.data import frames

N = 6


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for k in range(N):
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(f"{k}.png")
    return [f"{k}.png" for k in range(N)]


def opened(files: list[str], columns: dict[str, list[Any]], **arguments: Any) -> hs.data.Dataset:
    table = {"file": files, "label": ["ant", "bee"] * (N // 2), **columns}
    rows = [list(table), *zip(*table.values(), strict=True)]
    Path("t.csv").write_text("".join(";".join(map(str, row)) + "\n" for row in rows), "utf-8")
    return hs.data.table("t.csv", **arguments)


@pytest.mark.neutral
@pytest.mark.parametrize("name", ["None", "NA", "null"])
def test_a_group_that_is_called_as_a_missing_one_is_told(files: list[str], name: str) -> None:
    """All patients that nobody knows would be one patient."""
    groups = [name, name, "p1", "p1", "p2", "p2"]
    with pytest.warns(
        DataWarning, match=f"a group in column 'patient' is called '{name}', which is what a missing"
    ):
        data = opened(files, {"patient": groups}, group="patient")
    assert data.groups == tuple(groups)
    with pytest.raises(DataError, match="row 1 has no group in column 'patient'"):
        opened(files, {"patient": [" nan", *groups[1:]]}, group="patient")


@pytest.mark.neutral
def test_groups_in_bytes_are_those_in_text(files: list[str]) -> None:
    """As arrays of NumPy and TensorFlow, and columns of Parquet, have text."""
    names = ["caf\u00e9", "p1", "caf\u00e9", "p2", "p2", "p1"]
    encoded = [name.encode() for name in names]
    columns = {"file": files, "label": ["ant", "bee"] * (N // 2)}
    text = hs.data.table(columns | {"who": names}, group="who")
    for same in (encoded, np.array(encoded)):
        data = hs.data.table(columns | {"who": same}, group="who")
        assert data.groups == tuple(names) and data.split(0.5)[0].ids == text.split(0.5)[0].ids
        assert hs.data.arrays(np.zeros((N, 2, 2, 3), np.uint8), [0] * N, groups=same).groups == tuple(names)
    odd = hs.data.table(columns | {"who": [b"\xff", b"\xfe", *encoded[2:]]}, group="who")
    assert odd.groups is not None and len(set(odd.groups)) == 5


@pytest.mark.neutral
def test_points_between_thousands_are_told(files: list[str]) -> None:
    """As spreadsheets of much of Europe write numbers: 1.250 is 1250 beside 980, and would be 1.25."""
    prices = ["1.250", "980", "12.500", "1.999", "310", "2.400"]
    said = (
        "the numbers in column '{}' have no point, as '980', or one before three digits, as '1.250', which is read"
    )
    plain = {"label": prices}
    for columns, arguments in ((plain, {}), (plain, {"task": "regression"}), ({"w": prices}, {"weight": "w"})):
        with pytest.warns(DataWarning, match=said.format(next(iter(columns)))):
            opened(files, columns, **arguments)
    with pytest.warns(DataWarning, match=said.format("y")):
        opened(files, {"x": ["0.5"] * N, "y": prices}, label=["x", "y"])
    for numbers in (
        ["1.25", "980", "12.5", "1.999", "310", "2.4"],  # as programs write fractions
        ["1.250", "980.000", "12.500", "1.999", "310.000", "2.400"],  # as many digits for all
        ["1", "1.125", "2.375", "1", "3", "1.625"],
        ["0.250", "1", "0.500", "1", "0.750", "1"],
    ):
        data = opened(files, {"label": numbers})  # a warning here fails the test
        assert data.labels[:, 0].tolist() == np.array(list(map(float, numbers)), np.float32).tolist()


@pytest.mark.neutral
def test_a_column_that_tells_training_from_other_rows_and_is_not_taken_is_said(files: list[str]) -> None:
    """Else rows to test on are trained on, and nobody is told."""
    parts = ["Train", "Train", "Train", "TEST ", "TEST ", "Train"]
    for name in ("part", "Phase", "data split"):
        data = opened(files, {name: parts})
        assert not data.parts
        assert data.notes[0].endswith(
            f"{name!r} says train, val or test, and is not taken as split (say split=, --split-column)"
        )
        data = opened(files, {name: parts}, split=name)
        assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 4, "test": 2}
        assert "not taken" not in data.notes[0]
    for name, yes, no in (
        ("is_valid", True, False),
        ("test", 1, 0),
        ("Is train", "TRUE", "FALSE"),
        ("val", 1.0, 0.0),
    ):
        assert f"{name!r} tells rows of one part from others" in opened(files, {name: [yes, no, no] * 2}).notes[0]
    assert "rows of one part" not in opened(files, {"test": ["1", "2"] * 3, "val": [1] * N}).notes[0]
    for values in (["left", "right"] * 3, ["train"] * N, ["1", "2"] * 3):
        assert "not taken" not in opened(files, {"part": values}).notes[0]
    assert "not taken" not in opened(files, {"part": parts, "split": parts}).notes[0], "another one says it"


@pytest.mark.neutral
@pytest.mark.parametrize("name", ["#REF!", "#WERT!", "(null)", "\\N"])
def test_a_label_that_is_called_as_a_missing_one_is_told(files: list[str], name: str) -> None:
    """By whatever wrote it: a database, or a spreadsheet whose formula fails."""
    with pytest.warns(
        DataWarning, match=f"a class is called {re.escape(repr(name))}, which is what a missing label"
    ):
        assert opened(files, {"label": ["ant", name] * 3}).classes == tuple(sorted(["ant", name]))
    with pytest.raises(DataError, match="1 of 6 rows have no label in 'label'"):
        opened(files, {"label": ["1.5", "2.5", "3.5", "1.5", "2.5", name]})


@pytest.mark.neutral
def test_images_as_text_in_base64_are_no_names(files: list[str]) -> None:
    """They ended in an operating system's error, with all of them in it."""
    texts = [base64.b64encode(bytes(Path(file).read_bytes()) * 50).decode() for file in files]
    for before in ("", "data:image/png;base64,"):
        with pytest.raises(DataError, match=r"as text in base64: make bytes of them, base64\.b64decode") as said:
            hs.data.table({"image": [before + text for text in texts], "label": ["ant", "bee"] * 3})
        assert len(str(said.value)) < 1000
    with pytest.raises(DataError, match=r"\.\.\. \(row 1\); .* No file has a name as long as that"):
        hs.data.table({"image": ["a caption " * 100] * 6, "label": ["ant", "bee"] * 3})


@pytest.mark.neutral
def test_whole_paths_that_are_not_here_are_told_as_such(files: list[str], tmp_path: Path) -> None:
    """root= was advised, which changes nothing about them."""
    labels = ["ant", "bee"] * 3
    for before in ("/data/upload/1/", r"C:\Users\me\\"[:-1], "D:/photos/"):
        for arguments in ({}, {"root": tmp_path}):
            with pytest.raises(
                DataError, match=r"whole paths, .* write them relative to the folder of the images"
            ):
                hs.data.table({"file": [before + file for file in files], "label": labels}, **arguments)
    for names in (["x/" + file for file in files], ["a:b.png"] * 6):
        with pytest.raises(DataError, match=r"Names are relative to .* root= \(--root\) says where they are"):
            hs.data.table({"file": names, "label": labels}, root=tmp_path)


@pytest.mark.neutral
def test_a_column_called_set_that_is_about_something_else_is_not_the_split(files: list[str]) -> None:
    """The set of an experiment is "test" or "control", for which the table was an error."""
    data = opened(files, {"set": ["test", "control"] * 3})
    assert not data.parts and "'set' is not taken as split: it does not say train" in data.notes[0]
    assert list(opened(files, {"set": ["val", "test"] * 3}).parts) == ["val", "test"]
    for parts in (["train", "control"], ["val", "test", "tarin"]):
        with pytest.raises(DataError, match=r"the part of row [23] in column 'set' is '(control|tarin)'"):
            opened(files, {"set": (parts * 3)[:6]})


@pytest.mark.neutral
def test_names_of_files_as_python_shows_bytes(files: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"are not there, .* as Python shows bytes: write them as text, name\.decode"
    ):
        hs.data.table({"file": [str(name.encode()) for name in files], "label": ["ant", "bee"] * (N // 2)})


@pytest.mark.neutral
def test_a_key_that_stands_twice_in_a_row_of_json(files: list[str], tmp_path: Path) -> None:
    """Python's reader keeps the last, so a picture of an ant was a bee's."""
    rows = [f'{{"file": "{file}", "label": "{"ab"[k % 2]}", "of": {{"by": 1}}}}' for k, file in enumerate(files)]

    def of(row: str) -> hs.data.Dataset:
        Path("t.jsonl").write_text("\n".join([rows[0], "", row, *rows[2:]]), "utf-8")
        return hs.data.table("t.jsonl")

    with pytest.raises(DataError, match=r"row 2 has the key 'label' twice, with two values; keep one"):
        of('{"file": "1.png", "label": "a", "label": "b"}')
    with pytest.raises(DataError, match="row 2 has the key 'path' twice"):
        of('{"file": {"path": "0.png", "path": "1.png"}, "label": "b"}')
    for harmless in (
        '{"file": "1.png", "label": "b", "label": "b"}',
        '{"by": 1, "file": "1.png", "label": "b", "by": 2, "of": {"by": 1, "by": 2}}',
    ):
        assert of(harmless).labels.tolist() == [0, 1] * (N // 2)
    with tarfile.open("t.tar", "w") as tar:
        for k, file in enumerate(files):
            (tmp_path / f"{k}.json").write_text('{"label": "a", "label": "b"}' if k == 1 else '{"label": "a"}')
            tar.add(file), tar.add(f"{k}.json")
    with pytest.raises(DataError, match=r"the json of 1 in .*t\.tar has the key 'label' twice, with two values"):
        hs.data.webdataset("t.tar")


AS_FLOATS = [float(2**53), 2.0**53 + 2, *[1.0, 1.0, 2.0, 2.0]]


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (AS_FLOATS, "9007199254740992.0"),
        ([f"{number}" for number in AS_FLOATS], "9007199254740992.0"),
        (np.array([2**24, 2**24 + 1, 3, 3, 4, 4], np.float32), "16777216.0"),
        (["1.23457E+17", "1.23457E+17", "a", "a", "b", "b"], "1.23457E+17"),
    ],
)
def test_ids_that_went_through_floats_are_told(files: list[str], ids: Any, shown: str) -> None:
    """Where a table was made two patients, or classes, became one."""
    columns = {"file": files, "label": ["ant", "bee"] * (N // 2)}
    told = re.escape(f"in column 'who' is {shown}, a number with a point that has not all digits")
    with pytest.warns(DataWarning, match="a group " + told):
        hs.data.table(columns | {"who": ids}, group="who")
    with pytest.warns(DataWarning, match="a class " + told):
        hs.data.table({"file": files, "who": ids}, label="who", task="single")


@pytest.mark.neutral
@pytest.mark.parametrize(
    "ids",
    [
        [2**53, 2**53 + 1, 1, 1, 2, 2],
        [str(2**53), str(2**53 + 1), "1", "1", "2", "2"],
        [2.0**24 + 1, 2.0**24, 3.0, 3.0, 4.0, 4.0],
        ["1e3", "1e4", "3.0", "3.0", "4", "4"],
    ],
)
def test_ids_that_have_all_their_digits_are_not(files: list[str], ids: Any) -> None:
    columns = {"file": files, "label": ["ant", "bee"] * (N // 2)}
    assert len(set(hs.data.table(columns | {"who": ids}, group="who").groups or ())) == len(set(ids))


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("name", "yes", "no", "part"),
    [
        ("is_valid", "True", "False", "val"),
        ("Is test", "1", "0", "test"),
        ("is_val", "1.0", "0.0", "val"),
        ("holdout", True, False, "test"),
        ("valid", "true", "false", "val"),
    ],
)
def test_a_column_of_yes_and_no_is_a_split_by_its_name(
    files: list[str], name: str, yes: Any, no: Any, part: str
) -> None:
    """As fastai's `is_valid`."""
    values = [yes, no, no, yes, no, no]
    expected = {"train": [1, 2, 4, 5], part: [0, 3]}
    of_frame = hs.data.table({"file": files, "label": ["ant", "bee"] * 3, name: values}, split=name)
    for data in (opened(files, {name: values}, split=name), of_frame):
        assert {part: [data.ids.index(id) for id in rows.ids] for part, rows in data.parts.items()} == expected
    alone = opened(files, {name: [no] * N}, split=name)
    assert not alone.parts and "t.csv: all rows are of one part, train; taken in one piece" in alone.notes


@pytest.mark.neutral
def test_a_column_of_yes_and_no_that_may_mean_two_parts_is_refused(files: list[str]) -> None:
    for name, values in (("is_train", ["True", "False"] * 3), ("part", [1, 0] * 3), ("is_valid", [0, 1, 2] * 2)):
        with pytest.raises(DataError, match="or 0 and 1 in a column called is_valid or is_test"):
            opened(files, {name: values}, split=name)
    with pytest.raises(DataError, match="the part of row 3 in column 'is_valid' is empty"):
        opened(files, {"is_valid": ["1", "0", "", "1", "0", "0"]}, split="is_valid")


@pytest.mark.neutral
@pytest.mark.parametrize("amount", ["10%", "12,5 %", "1 200", "12\u202f500", "1'200", "$5", "\u20ac 3.50"])
def test_amounts_that_are_taken_for_names_are_told(files: list[str], amount: str) -> None:
    with pytest.warns(DataWarning, match="column 'label' are numbers with more around or in them"):
        assert opened(files, {"label": [amount, amount.replace("1", "2").replace("5", "4")] * 3}).task == "single"
    opened(files, {"label": [amount, "few"] * 3})  # a warning here fails the test
    opened(files, {"label": ["5 kg", "10 kg"] * 3})
    opened(files, {"label": [amount, f"{amount}."] * 3}, task="single")


@pytest.mark.neutral
def test_folds_that_are_not_taken_are_said(files: list[str]) -> None:
    said = "'Fold' is not taken as folds (say fold=, --fold-column; folds=, --folds makes its own)"
    for folds in ([0, 1, 2] * 2, ["1", "2"] * 3, [1.0, 2.0] * 3):
        assert opened(files, {"Fold": folds}).notes[0].endswith(said)
    for folds in (["left", "right"] * 3, [0] * N, [0.5, 1] * 3):
        assert "folds" not in opened(files, {"Fold": folds}).notes[0]
    assert "folds" not in opened(files, {"Fold": [0, 1, 2] * 2}, group="Fold").notes[0]


@pytest.mark.neutral
def test_files_in_the_home_folder_are_found(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setenv("USERPROFILE", str(Path.cwd()))
    columns = {"file": [f"~/{file}" for file in files], "label": ["ant", "bee"] * 3}
    assert hs.data.table(columns, root="elsewhere").ids == hs.data.table(columns | {"file": files}).ids
    Path("elsewhere/~").mkdir(parents=True)
    for k, file in enumerate(files):
        Image.fromarray(np.full((6, 5, 3), 10 + 20 * k, np.uint8)).save(f"elsewhere/~/{file}")
    there = hs.data.table(columns, root="elsewhere")
    assert there[0].image[0, 0, 0] == 10, "a folder that is called so"


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("labels", "separator"),
    [
        (["a", "a/b", "b"], "/"),
        (["a", "a + b", "b"], "+"),
        (["a b", "a", "b"], " "),
        (["a", "b & a", "b"], "&"),
        (["a, b", "b, c", "c, a"], ","),
    ],
)
def test_names_that_are_made_of_names_are_told(files: list[str], labels: list[str], separator: str) -> None:
    with pytest.warns(DataWarning, match=r"is taken as the name of one class; if .* between several labels, say"):
        assert opened(files, {"label": labels * 2}).task == "single"
    assert opened(files, {"label": labels * 2}, separator=separator).task == "multi"


@pytest.mark.neutral
@pytest.mark.parametrize(
    "labels",
    [
        ["red fox", "fox", "red deer"],
        ["a/b", "c/d", "a/d"],
        ["tench, Tinca", "goldfish, Carassius", "shark"],
        ["missile", "projectile, missile", "crane"],
        ["black & white", "black", "colour"],
    ],
)
def test_names_that_are_not_made_of_names_are_not_told(files: list[str], labels: list[str]) -> None:
    assert opened(files, {"label": labels * 2}).task == "single"  # a warning here fails the test


@pytest.mark.neutral
def test_many_whole_numbers_as_classes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are amounts, and each would be a class."""
    monkeypatch.chdir(tmp_path)
    files = [f"{k}.png" for k in range(50)]
    for k, file in enumerate(files):
        Image.fromarray(np.full((6, 5, 3), 5 * k, np.uint8)).save(file)
    said = "the table: each of the 25 whole numbers from 18 to 66 is a class; of amounts say task='regression'"
    ages = [18 + 2 * (k % 25) for k in range(50)]
    assert any(note.startswith(said) for note in hs.data.table({"file": files, "age": ages}).notes)
    assert any(note.startswith(said) for note in hs.data.table({"file": files, "age": list(map(str, ages))}).notes)
    for columns, arguments in (
        ({"kind": [k % 25 for k in range(50)]}, {}),
        ({"kind": [1 + k % 25 for k in range(50)]}, {}),
        ({"kind": ages}, {"task": "single"}),
        ({"kind": ages}, {"classes": sorted(set(ages))}),
    ):
        assert not any(
            "is a class" in note for note in hs.data.table({"file": files, **columns}, **arguments).notes
        )


@pytest.mark.neutral
def test_columns_that_only_late_rows_of_json_lines_have(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a log has, whose program was changed since."""
    monkeypatch.setattr(frames, "FIRST_ROWS", 3)
    rows: list[dict[str, Any]] = [{"file": file, "label": "ab"[k % 2]} for k, file in enumerate(files)]
    for k, row in enumerate(rows[4:]):
        row |= {"split": "test", "note": "x", "weight": 1 + k}
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    said = hs.data.table("t.jsonl").notes[0]
    for name in ("split", "weight"):
        assert f"{name!r} is in none of the first rows, and not looked at (name it: split=, " in said
    assert "note" not in said
    with pytest.raises(DataError, match="the part of row 1 in column 'split' is empty"):
        hs.data.table("t.jsonl", split="split")
    with pytest.raises(UnknownNameError, match=r"unknown column group= 'who' of .*note, weight"):
        hs.data.table("t.jsonl", group="who")
    rows[:4] = [{"n": 1}] * 4
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = hs.data.table("t.jsonl", image="file", label="label", split="split", on_error="skip")
    assert len(data) == 2
