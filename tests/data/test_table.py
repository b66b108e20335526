"""Tables of labels as people have them: every file form, every task, and everything that is wrong with them."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError
from headstart.data import frames, summary
from headstart.data.door import as_data_set
from headstart.data.listed import images_listed

NAMES = [f"{kind}{i}" for i in range(4) for kind in ("ant", "bee", "cow")]
KINDS = [name[:3] for name in NAMES]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder a class, of twelve pictures; the current folder is another one."""
    for k, (name, kind) in enumerate(zip(NAMES, KINDS, strict=True)):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(tmp_path / kind / f"{name}.png")
    monkeypatch.chdir(tmp_path.parent)
    return tmp_path


def files() -> list[str]:
    return [f"{kind}/{name}.png" for name, kind in zip(NAMES, KINDS, strict=True)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def csv_of(columns: dict[str, list[Any]], delimiter: str = ",", end: str = "\n") -> str:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join(delimiter.join(map(str, row)) + end for row in rows)


def picture_bytes(root: Path) -> list[bytes]:
    return [(root / file).read_bytes() for file in files()]


# The same data set, however it comes ------------------------------------------------------------------------


def forms(root: Path) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"file": files(), "label": KINDS}
    lines = "".join(json.dumps({"file": f, "label": k}) + "\n" for f, k in zip(files(), KINDS, strict=True))
    plain, sizes = csv_of(columns), {"size, cm": ["3,5"] * len(KINDS)}
    return {
        "csv": write(root / "a.csv", plain),
        "semicolons of a spreadsheet": write(root / "b.csv", csv_of(columns, ";", "\r\n")),
        "tsv": write(root / "c.tsv", csv_of(columns, "\t")),
        "a byte order mark": write(root / "d.csv", plain, "utf-8-sig"),
        "utf-16": write(root / "e.csv", plain, "utf-16"),
        "utf-16, big end first": (root / "f.csv", (root / "f.csv").write_bytes(
            codecs.BOM_UTF16_BE + plain.encode("utf-16-be")))[0],
        "what a spreadsheet writes first": write(root / "i.csv", "sep=;\r\n" + csv_of(columns, ";", "\r\n")),
        "a comma in a name": write(root / "k.csv", csv_of(columns | {"size, cm": [3] * len(KINDS)}, ";")),
        "commas in a name and numbers": write(root / "l.csv", csv_of(columns | sizes, ";")),
        "a comma and what is told": write(root / "m.csv", "sep=;\n" + csv_of(columns | sizes, ";")),
        "a semicolon in a name": write(root / "n.csv", csv_of(columns | {"size; cm": [3] * len(KINDS)})),
        "text, to a spreadsheet": write(root / "o.csv", csv_of({"file": [f'="{file}"' for file in files()],
            '="label"': [f'"=""{kind}"""' for kind in KINDS]})),
        "blank lines first": write(root / "j.csv", "\n \n" + plain),
        "quotes and blank lines": write(root / "g.csv", plain.replace("ant0,", '"x",').replace("\n", "\n\n", 3)
                                        .replace('"x",', "ant0,")),
        "jsonl": write(root / "h.jsonl", lines),
        "a dict": {"file": [str(root / file) for file in files()], "label": KINDS},
    }  # fmt: skip


@pytest.mark.neutral
def test_every_form_is_the_folder(root: Path) -> None:
    folder = hs.data.folder(root)
    expected = dict(zip(folder.ids, folder.labels.tolist(), strict=True))
    for what, form in forms(root).items():
        data = hs.data.table(form)
        assert dict(zip(data.ids, data.labels.tolist(), strict=True)) == expected, what
        assert (data.classes, data.task, data.named_classes) == (folder.classes, "single", True), what
        assert {part.ids for part in map(frozenset_ids, data.split(0.7))} == {
            part.ids for part in map(frozenset_ids, folder.split(0.7))
        }, what
        assert data[0].image.shape == (6, 5, 3)


class frozenset_ids:  # noqa: N801
    def __init__(self, data: Any) -> None:
        self.ids = frozenset(data.ids)


@pytest.mark.neutral
def test_parquet_arrow_and_frames(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = hs.data.folder(root)
    expected = dict(zip(folder.ids, folder.labels.tolist(), strict=True))
    content = pa.table({"image": picture_bytes(root), "label": KINDS})
    parquet.write_table(content, root / "bytes.parquet", row_group_size=5)
    parquet.write_table(pa.table({"file": files(), "label": KINDS}), root / "files.parquet")
    structs = [{"bytes": content, "path": None} for content in picture_bytes(root)]
    of_hub = pa.table({"image": structs, "label": pa.array(KINDS).dictionary_encode()})
    kinds: dict[str, Any] = {
        "bytes": root / "bytes.parquet",
        "files": root / "files.parquet",
        "arrow": content,
        "as the hub has them": of_hub,
    }
    try:
        pandas = pytest.importorskip("pandas")
        kinds["pandas"] = pandas.DataFrame({"image": picture_bytes(root), "label": KINDS})
    except pytest.skip.Exception:
        pass
    for what, form in kinds.items():
        data = hs.data.table(form)
        assert dict(zip(data.ids, data.labels.tolist(), strict=True)) == expected, what
        assert data.classes == folder.classes and data[3].image.shape == (6, 5, 3), what
    assert "bytes.parquet, row 4" in hs.data.table(root / "bytes.parquet").source_name(3)
    monkeypatch.setattr(frames, "MAX_NBYTES", max(map(len, picture_bytes(root))) - 1)
    for table in (root / "bytes.parquet", of_hub):
        with pytest.raises(
            DataError, match=r"the cell of row \d+ in column 'image' has \d+ bytes; an encoded image"
        ):
            hs.data.table(table)
    monkeypatch.undo()
    broken = content.set_column(0, "image", pa.array([b"GIF89a", *picture_bytes(root)[1:]]))
    with pytest.raises(hs.HeadstartError, match="the table, row 1"):
        _ = hs.data.table(broken)[0]
    kept = hs.data.table(broken, on_error="skip")
    assert len(kept) == 11 and len(kept.skipped) == 1
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        hs.data.table(write(root / "no.parquet", "PAR1"))


@pytest.mark.neutral
def test_cells_of_bytes_names_and_nothing(root: Path) -> None:
    """Bytes come before a name beside them, whatever the first row holds, and what holds neither is said."""
    pa = pytest.importorskip("pyarrow")
    folder = hs.data.folder(root)
    ids = {kind: folder.ids[folder.labels.tolist().index(k)] for k, kind in enumerate(folder.classes)}
    content = dict(zip(NAMES, picture_bytes(root), strict=True))
    images = [
        {"bytes": None, "path": "ant/ant0.png"},
        {"bytes": content["bee0"], "path": "cow/cow1.png"},
        {"bytes": content["cow0"], "path": None},
    ]
    labels = ["ant", "bee", "cow"]
    nothing = [{"bytes": None, "path": None}, *images, None]
    for make in (pa.table, dict):
        data = hs.data.table(make({"image": images, "label": labels}), root=root)
        assert data.ids == tuple(map(ids.get, labels)), make
        assert data[0].image.shape == (6, 5, 3)
        several = make({"image": nothing, "label": ["x", *labels, "x"]})
        with pytest.raises(DataError, match="2 of 5 rows name no image in 'image', the first: row 1, row 5"):
            hs.data.table(several, root=root)
        data = hs.data.table(several, root=root, on_error="skip")
        assert data.ids == tuple(map(ids.get, labels)) and data.source_name(0) == "the table, row 2"
    names = pa.table({"image": [{"bytes": None, "path": name} for name in files()], "label": KINDS})
    assert sorted(hs.data.table(names, root=root).ids) == sorted(folder.ids), "a column of nothing but nulls"
    with pytest.raises(DataError, match=r"hs\.data\.arrays\(list\(images\), labels\)"):
        hs.data.table({"image": [Image.new("L", (4, 4))] * 3, "label": labels})


@pytest.mark.neutral
def test_names_that_a_schema_has_for_its_numbers(root: Path) -> None:
    """As the library `datasets` writes them."""
    pa = pytest.importorskip("pyarrow")
    about = {"_type": "ClassLabel", "names": ["cow", "ant", "bee"]}
    numbers = [about["names"].index(kind) for kind in KINDS]

    def of_schema(labels: list[Any], feature: Any) -> Any:
        features = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        table = pa.table({"image": picture_bytes(root)[: len(labels)], "label": labels})
        return table.replace_schema_metadata({"huggingface": json.dumps(features)})

    data = hs.data.table(of_schema(numbers, about))
    assert [data.classes[k] for k in data.labels] == KINDS and data.classes == ("ant", "bee", "cow")
    given = hs.data.table(of_schema(numbers, about), classes=["bee", "cow", "ant"])
    assert [given.classes[k] for k in given.labels] == KINDS
    with pytest.raises(DataError, match="1 of 3 rows have no label in 'label', the first: row 2"):
        hs.data.table(of_schema([0, -1, 1], about))
    with pytest.raises(DataError, match="row 3 has the label 3 in column 'label', whose 3 classes"):
        hs.data.table(of_schema([0, 1, 3], about))
    for feature in ([about], {"_type": "List", "feature": about}):
        data = hs.data.table(of_schema([[0, 1], [1], []], feature))
        assert (data.classes, data.labels.tolist()) == (("ant", "cow"), [[1, 1], [1, 0], [0, 0]])
        with pytest.raises(DataError, match="each is of 3 numbers, 0 or 1, as if it said of every class"):
            hs.data.table(of_schema([[0, 1, 0], [1, 1, 1], [0, 0, 1]], feature))
    for names in (["wolf|dog", "cat"], ["2.5", "1.5"], ["['a']", "['b']"]):  # of texts another task
        data = hs.data.table(of_schema([0, 1, 0], {"_type": "ClassLabel", "names": names}))
        assert (data.task, [data.classes[k] for k in data.labels]) == ("single", [names[k] for k in (0, 1, 0)])
    with pytest.warns(DataWarning, match="a class is called 'nan'"):
        assert len(hs.data.table(of_schema([0, 1, 0], {"_type": "ClassLabel", "names": ["nan", "cat"]}))) == 3
    for odd in ({"_type": "ClassLabel", "names": 3}, {"_type": "Value"}, 7):
        assert hs.data.table(of_schema(numbers, odd)).classes == ("0", "1", "2")
    with pytest.warns(DataWarning, match="a class is called '-1' beside 2 with numbers from 0 on"):
        hs.data.table(of_schema([0, -1, 1], 7))


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([b"cow", b"ant", b"ant"], ("ant", "cow")),
        ([True, 0, 1], ("0", "1")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_labels_of_mixed_kinds(root: Path, labels: list[Any], classes: tuple[str, ...]) -> None:
    data = hs.data.table({"image": picture_bytes(root)[:3], "label": labels})
    assert (data.classes, data.labels.tolist()) == (classes, [1, 0, 0 if labels[2] == b"ant" else 1])
    for wrong, message in ((b"caf\xe9", "row 3, is b'caf.*no text in UTF-8"), (b" ", "row 3, is empty")):
        with pytest.raises(DataError, match=message):
            hs.data.table({"image": picture_bytes(root)[:3], "label": [b"cow", b"ant", wrong]})


@pytest.mark.neutral
def test_columns_of_frames_may_be_called_by_numbers(root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({0: [str(root / file) for file in files()], 1: KINDS})

    class Tensor:  # as several libraries have them: of several numbers it is neither true nor false
        def __init__(self, values: Any) -> None:
            self.values = np.asarray(values)
            self.ndim = self.values.ndim

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.values

        def __ne__(self, other: object) -> Any:
            return self.values != other.values if isinstance(other, Tensor) else True

        def tolist(self) -> Any:
            return self.values.tolist()

    several = frame.assign(tags=[Tensor([k % 2, 1]) for k in range(len(KINDS))])
    data = hs.data.table(several, image=0, label="tags")
    assert data.task == "multi" and data.labels.tolist() == [[k % 2, 1] for k in range(len(KINDS))]
    for pixels in (
        frame.assign(pixels=[Tensor(np.zeros((4, 4, 3)))] * len(KINDS)),
        {"pixels": [Tensor(np.zeros((4, 4)))], 1: ["ant"]},
    ):
        with pytest.raises(
            DataError, match=r"the image of row 1 in column 'pixels' is a Tensor; .*hs\.data\.arrays"
        ):
            hs.data.table(pixels, image="pixels", label="1")
    of_arrays = frame.assign(label=list(map(np.array, KINDS)))  # each of no axis, as tensors of one number are
    assert hs.data.table(of_arrays, image=0, label="label").labels.tolist() == [0, 1, 2] * 4
    assert hs.data.table(frame.to_dict("list"), image=0, label="1").classes == ("ant", "bee", "cow")
    for image, label in ((0, 1), ("0", "1")):
        data = hs.data.table(frame, image=image, label=label)  # type: ignore[arg-type]
        assert [data.classes[k] for k in data.labels] == KINDS
    whole = pandas.DataFrame({"image": picture_bytes(root)[:3], "label": [3.0, 10.0, None]}).dropna()
    validated = as_data_set(whole, classes=("3", "10"))
    assert (validated.task, validated.labels.tolist()) == ("single", [0, 1]), (
        "a column with a gap is one of floats"
    )


# Tasks ------------------------------------------------------------------------------------------------------


def of(root: Path, *, label: Any = "y", **columns: Any) -> Any:
    arguments = {
        name: columns.pop(name) for name in ("task", "separator", "classes", "on_error") if name in columns
    }
    roles = {
        name: columns.pop(name) for name in ("split", "group", "weight") if isinstance(columns.get(name), str)
    }
    path = write(root / "t.csv", csv_of({"file": files()[: len(next(iter(columns.values())))], **columns}))
    return hs.data.table(path, label=label, **arguments, **roles)


@pytest.mark.neutral
def test_labels_of_three_tasks(root: Path) -> None:
    data = of(root, y=["cat;dog", "dog", "cat", "owl; cat"])
    assert (data.task, data.classes) == ("multi", ("cat", "dog", "owl"))
    assert data.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]]
    data = of(root, y=["cat/dog", "dog"], separator="/")
    assert data.labels.tolist() == [[1, 1], [0, 1]]
    data = of(root, y=["cat", "dog"], task="multi")
    assert data.labels.tolist() == [[1, 0], [0, 1]]
    data = of(root, label=["sun", "rain"], sun=[1, 0, 1], rain=[1, 1, 0])
    assert (data.task, data.classes, data.labels.tolist()) == ("multi", ("sun", "rain"), [[1, 1], [0, 1], [1, 0]])
    data = of(root, label=["a", "b"], a=[1, 0], b=[0, 1], task="single")
    assert (data.task, data.classes, data.labels.tolist()) == ("single", ("a", "b"), [0, 1])
    data = of(root, y=[0.5, 2, -1e3])
    assert (data.task, data.classes) == ("regression", ("y",)) and data.labels.dtype == np.float32
    assert data.labels.tolist() == [[0.5], [2.0], [-1000.0]]
    data = of(root, label=["x", "y"], x=[0.5, 2], y=[3, 4])
    assert (data.task, data.labels.tolist()) == ("regression", [[0.5, 3.0], [2.0, 4.0]])
    assert of(root, y=[23, 45, 67], task="regression").labels.tolist() == [[23.0], [45.0], [67.0]]
    data = of(root, y=[3, 10, 3])
    assert (data.classes, data.labels.tolist()) == (("10", "3"), [1, 0, 1]), "as folders are sorted"
    data = of(root, y=["dog", "cat"], classes=["owl", "dog", "cat"])
    assert data.labels.tolist() == [1, 2]
    for same in (["3.0", "10.0", "3.0"], ["3", "10.0", "3"]):
        data = of(root, y=same, task="single")
        assert (data.classes, data.labels.tolist()) == (("10", "3"), [1, 0, 1]), "as a frame's 3.0 is"
    for same in (["3.0", "10.0", "3"], [3.0, 10.0, 3], ["3", "10", "3.00"]):
        for task in (None, "single"):
            data = of(root, y=same, classes=["3", "10"], task=task)
            assert (data.task, data.labels.tolist()) == ("single", [0, 1, 0]), "classes that are known tell it"
    assert of(root, y=["3", "1.5", "3.0"], classes=["1.5", "3.0"]).labels.tolist() == [1, 0, 1]
    assert of(root, y=["3", "3.0", "3"], classes=["3.0", "3"]).labels.tolist() == [1, 0, 1], "which are two here"
    with pytest.raises(DataError, match=r"the label '3.5' in column 'y'"):
        of(root, y=["3.5", "10.0", "3"], classes=["3", "10"], task="single")
    data = of(root, y=["12", "12a", "7"], task="single")
    assert (data.classes, data.labels.tolist()) == (("12", "12a", "7"), [0, 1, 2]), "names, as somebody said"
    mixed = hs.data.table({"image": picture_bytes(root)[:3], "label": [7, "a", 7.0]}, task="single")
    assert (mixed.classes, mixed.labels.tolist()) == (("7", "a"), [0, 1, 0])
    images = picture_bytes(root)[:3]
    for lists in ([[3.0, 10.0], [10.0], []], [[3, 10], [10], []]):  # floats, as a frame and Parquet may have them
        data = hs.data.table({"image": images, "label": lists})
        assert (data.classes, data.labels.tolist()) == (("10", "3"), [[1, 1], [1, 0], [0, 0]])
        for known in (["3", "10"], ["3.0", "10.0"]):
            assert hs.data.table({"image": images, "label": lists}, classes=known).labels.tolist()[1] == [0, 1]
    data = hs.data.table({"image": images, "label": [[3.0], [10.0], [3.0]]}, task="single")
    assert (data.classes, data.labels.tolist()) == (("10", "3"), [1, 0, 1])
    assert of(root, y=["nan", "cat"], classes=["cat", "nan"]).labels.tolist() == [1, 0]
    for missing in ("None", "NA"):  # as Python has it, and R
        with pytest.warns(DataWarning, match=f"a class is called '{missing}', which is what a missing label"):
            of(root, y=[missing, "cat"])
    data = of(root, y=["1_0", "10", "1_0"], task="single")
    assert (data.classes, data.labels.tolist()) == (("10", "1_0"), [1, 0, 1]), "a number to Python alone"
    assert of(root, y=["1_0", "2_0"]).classes == ("1_0", "2_0")
    assert of(root, y=["1e3", "1000"], task="single").classes == ("1000", "1e3"), "names, as somebody said"
    with pytest.warns(DataWarning, match="'Cat' and 'cat' differ in how they are written alone"):
        of(root, y=["Cat", "cat", "dog"])
    listed = hs.data.table({"image": picture_bytes(root)[:3], "label": [["a", "b"], [], ["b"]]})
    assert (listed.task, listed.labels.tolist()) == ("multi", [[1, 1], [0, 0], [0, 1]])
    for task in (None, "multi"):
        listed = hs.data.table({"image": picture_bytes(root)[:3], "label": [[0], [1], [0]]}, task=task)
        assert (listed.classes, listed.labels.tolist()) == (("0", "1"), [[1, 0], [0, 1], [1, 0]]), "one label each"


@pytest.mark.neutral
def test_parts_groups_and_weights(root: Path) -> None:
    data = of(
        root,
        y=KINDS,
        split=["training", "valid", "Test", "dev"] * 3,
        group="who",
        weight="w",
        who=list(range(12)),
        w=[0.5] * 12,
    )
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 3, "val": 6, "test": 3}
    assert data.groups == tuple(map(str, range(12))) and data.weights.tolist() == [0.5] * 12
    whole = of(root, y=KINDS, split=["Testing"] * 12)
    assert not whole.parts and whole.notes[-1].endswith("all rows are of one part, Testing; taken in one piece")
    with pytest.warns(DataWarning, match="t.csv: the training part has no image of 'cow', which other parts have"):
        of(root, y=KINDS, split=["val" if kind == "cow" else "train" for kind in KINDS])
    assert not of(root, y=KINDS, set=["blue"] * 12).parts, "a column that says nothing of parts"
    with pytest.raises(DataError, match="the part of row 2 in column 'split' is 'banana'; expected train, val or"):
        of(root, y=["a", "b"], split=["train", "banana"])
    with pytest.raises(DataError, match="the part of row 1 in column 'p' is empty"):
        hs.data.table(write(root / "p.csv", csv_of({"file": files()[:2], "label": ["a", "b"], "p": ["", "val"]})),
                      split="p")  # fmt: skip
    for nothing in ("", "nan", "<NA>"):
        with pytest.raises(DataError, match=r"t\.csv: row 2 has no group"):
            of(root, y=["a", "b"], who=["x", nothing], group="who")
    for weight in ("-1", "nan", "", "much"):
        with pytest.raises(DataError, match="the weight of row 2 in column 'w' is"):
            of(root, y=["a", "b"], w=["1", weight], weight="w")


@pytest.mark.neutral
def test_what_was_guessed_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = hs.data.table(write(root / "t.csv", csv_of({"kind": KINDS, "file": files()})))
    assert data.notes == (f"{root / 't.csv'}: image from the column 'file', label from the column 'kind'",)
    with caplog.at_level("INFO", "headstart"):
        summary.say(data)
        summary.say(data.subset([0, 1]))
    assert sum("image from the column" in line for line in caplog.messages) >= 1
    assert not hs.data.table(root / "t.csv", image="file", label="kind").notes


# What is wrong ----------------------------------------------------------------------------------------------

TWO = "file,label\nant/ant0.png,cat\nbee/bee0.png,dog\n"
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no such column": (TWO, {"label": "labels"}, r"column label= 'labels' of .*did you mean 'label'"),
    "two that could be": ("file,label,class\na,b,c\n", {}, "which column is the label\\? 'label' and 'class' "
    "could"),
    "none that could be": ("a,b,c\n1,2,3\n", {}, "which column is the image\\? none is called so.*one of a, b, c"),
    "no header": ("ant/ant0.png,cat\nbee/bee0.png,dog\n", {}, "has no header: its first line names an image"),
    "no rows": ("file,label\n", {}, "has no rows"),
    "nothing": ("", {}, "is empty"),
    "zero bytes": ("f\0i\0l\0e\0", {}, "UTF-16 without a mark"),
    "a ragged row": (TWO + "cow/cow0.png\n", {}, "row 3 has 1 cells and the header 2"),
    "an open quote": (TWO + '"cow/cow0.png,x\n', {}, "is a quote not closed"),
    "a long line": (TWO + "x" * (frames.MAX_LINE + 9), {}, "line 4 has more than 1,048,576 characters"),
    "a hole": (TWO + "cow/cow0.png,\n", {}, "1 of 3 rows have no label in 'label', the first: row 3.*on_error"),
    "numbers and names": (TWO + "cow/cow0.png,3\n", {}, "t.csv: the labels in column 'label' mix "
    "numbers and names: '3' in row 3, 'cat' in row 1"),
    "NaN": ("file,y\nant/ant0.png,1.5\nbee/bee0.png,nan\n", {"label": "y"}, "1 of 2 rows have no label in 'y'"),
    "whole floats": ("file,y\nant/ant0.png,1.0\nbee/bee0.png,2.0\n", {"label": "y"}, "decimal point; say which"),
    "a word among targets": (TWO, {"task": "regression"}, "row 1, is 'cat'; expected a number"),
    "one-hot": ("file,a,b\nant/ant0.png,1,0\nbee/bee0.png,0,1\n", {"label": ["a", "b"]}, "exactly one 1 in "
    "the col"),
    "neither 0 nor 1": ("file,a,b\nant/ant0.png,1,2\nbee/bee0.png,0,1\n", {"label": ["a", "b"]}, "holds 2 in "
    "row 1"),
    "a class that is none": (TWO, {"classes": ["cat", "owl"]}, "label 'dog' in column 'label', row 2, is not "
    "among"),
    "no such task": (TWO, {"task": "ranking"}, "unknown task 'ranking'"),
    "spaces": (TWO.replace("dog", "cat\u200b"), {}, "look the same"),
    "two labels": (TWO + "ant/ant0.png,dog\n", {}, r"ant0\.png stands twice, in row 1 as 'cat' and in row 3 "
    "as 'dog'"),
    "gone": (TWO + "x.png,cat\ny.png,cat\n", {}, r"2 of the 4 files that .* names are not there, the first: "
    r".*x\.png "
             r"\(row 3\).*root="),
    "without suffixes": (TWO.replace(".png", ""), {}, r"There is a ant0\.png: write the names with their suffix"),
    "backslashes": (TWO.replace("ant/", "ant\\"), {}, "have backslashes"),
    "spaces before names": ("label,file\ncat, ant/ant0.png\n", {}, "leave out the spaces around names"),
    "capitals": (TWO.replace("ant/ant", "Ant/ANT"), {}, "There is a file '.*ant/ant0.png', .* write capitals as"),
    "one column twice": (TWO, {"image": "file", "label": "file"}, "image= and label= both name the column 'file'"),
    "a hole that is written": (TWO + "cow/cow0.png,NaN\n", {}, "1 of 3 rows have no label in 'label', the "
    "first: row 3"),
    "infinite targets": ("file,y\nant/ant0.png,inf\nbee/bee0.png,-inf\n", {"label": "y"}, "row 1, is inf "
    "\\(and 1 more"),
    "addresses": ("file,label\nhttps://x/a.png,cat\n", {}, "first: https://x/a.png .row 1.*They are addresses"),
    "all gone": ("file,label\nx.png,cat\n", {"on_error": "skip"}, r"1 of the 1 files .* says where they are$"),
    "a web page": ("<!DOCTYPE html>\n<html>\n", {}, "is a web page, and no table"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\n", {}, "git lfs pull"),
    "a spreadsheet": ("PK\x03\x04\0\0", {}, "a ZIP archive .*: export it as CSV"),
    "no separator": (TWO, {"separator": ""}, "separator is ''"),
    "a separator of one label": (TWO, {"separator": ";", "task": "single"}, "stands between several labels, of "
    "task 'multi'"),
    "a separator of columns": ("file,a,b\nant/ant0.png,1,0\n", {"label": ["a", "b"], "separator": ";"}, "with 2 "
    "columns of labels: it stands between the labels in one"),
    "a column twice": (TWO, {"label": ["label", "label"]}, "label= names the column 'label' twice"),
    "another task": ("file,y\nant/ant0.png,.5\n", {"label": "y", "classes": ["a", "b"]}, "labels of another task"),
    "ids as labels": (csv_of({"file": files() * 2, "id": list(range(24))}), {"label": "id"}, "a label of its own"),
    "nearly ids": (csv_of({"file": files() * 2, "id": [0, *range(23)]}), {"label": "id"}, "nearly each of the"),
    "decimal commas and exponents": (
        "file;y\nant/ant0.png;3,5\nbee/bee0.png;4,5e3\n",
        {"label": "y"},
        "'3,5' .row 1.: write them",
    ),
    "thousands and decimal commas": (
        "file;y\nant/ant0.png;1.234,5\nbee/bee0.png;1,5\n",
        {"label": "y"},
        "'1.234,5' .row 1.: write them",
    ),
    "commas between thousands": (
        "file;y\nant/ant0.png;17\nbee/bee0.png;1,234.5\n",
        {"label": "y"},
        "'1,234.5' .row 2.: write them",
    ),
    "decimal commas": ("file;y\nant/ant0.png;3,5\nbee/bee0.png;4\n", {"label": "y"}, "'3,5' .row 1.: write them"),
    "numbers with gaps of R's": ("file,y\nant/ant0.png,1.5\nbee/bee0.png,NA\n", {}, "1 of 2 rows have no label"),
    "several with commas": ("file;y;z\nant/ant0.png;4;3,5\n", {"label": ["y", "z"]}, "'z' holds '3,5' in row 1, a "
    "number with a comma: write them with a decimal point"),
    "a weight with a comma": ("file;label;w\nant/ant0.png;cat;0,5\n", {"weight": "w"}, "more, with a decimal p"),
    "perhaps no label": ("file,label\nant/ant0.png,cat;dog\nbee/bee0.png,\n", {}, r"row 2.*--on-error skip\); if "
    "these are samples without any of the labels, say task='multi'"),
    "surely no class": ("file,label\nant/ant0.png,cat\nbee/bee0.png,\n", {}, r"row 2.*--on-error skip\)$"),
    "no label anywhere": ("file,label\nant/ant0.png,\nbee/bee0.png,\n", {"task": "multi"}, "2 of 2 rows have no"),
    "targets with commas": ("file;y\nant/ant0.png;3,5\n", {"label": "y", "task": "regression"}, "decimal point"),
}  # fmt: skip


@pytest.mark.neutral
@pytest.mark.parametrize("kind", WRONG)
def test_refused(root: Path, kind: str) -> None:
    text, arguments, message = WRONG[kind]
    with pytest.raises((DataError, SettingError), match=message):
        hs.data.table(write(root / "t.csv", text), **arguments)


@pytest.mark.neutral
def test_samples_without_any_label(root: Path) -> None:
    """Of several labels none may be there, where somebody says that they are labels: empty cells are such then,
    also where rows without a label are left out of other tables."""
    cells = ["cat;dog", "", "dog", " ", "NaN", "cat"]
    texts = {"file": files()[:6], "tags": cells}
    lists = {"file": texts["file"], "tags": [["cat", "dog"], None, ["dog"], [], None, ["cat"]]}
    expected = [[1, 1], [0, 0], [0, 1], [0, 0], [0, 0], [1, 0]]
    for source, on_error in ((texts, "raise"), (texts, "skip"), (lists, "raise")):
        data = hs.data.table(source, label="tags", task="multi", root=root, on_error=on_error)
        assert (data.classes, data.labels.tolist(), data.skipped) == (("cat", "dog"), expected, ())
        assert summary.data_lines(data)[0].endswith("multi-label, 0.7 a sample, 3 without any")
    left = hs.data.table(texts, label="tags", root=root, on_error="skip")
    assert (len(left), left.task) == (3, "multi"), "unasked they are not labelled yet"
    named = {"file": texts["file"], "tags": ["cat;nan", "", "nan", " nan", "cat", " "]}
    with pytest.warns(DataWarning, match="a class is called 'nan'"):
        data = hs.data.table(named, label="tags", task="multi", root=root)
    assert data.labels.tolist() == [[1, 1], [0, 0], [0, 1], [0, 1], [1, 0], [0, 0]], "a label as beside others"


@pytest.mark.neutral
def test_what_advice_says_opens(root: Path) -> None:
    """A table as spreadsheets of western Europe write it: Windows-1252, and commas in numbers."""
    pandas = pytest.importorskip("pandas")
    path = write(root / "t.csv", "file;größe\nant/ant0.png;3,5\nbee/bee0.png;4\n", "cp1252")
    with pytest.raises(DataError, match=r"line 1 \(byte 0xf6; Latin-1 or Windows-1252\?\).*encoding='cp1252'"):
        hs.data.table(path, label="größe")
    write(path, path.read_text("cp1252"))
    with pytest.raises(DataError, match=r"sep=';', decimal=','\) as the table, with root="):
        hs.data.table(path, label="größe")
    write(path, path.read_text("utf-8"), "cp1252")
    frame = pandas.read_csv(path, sep=";", encoding="cp1252", decimal=",")
    data = hs.data.table(frame, label="größe", root=root)
    assert (data.task, data.labels.tolist()) == ("regression", [[3.5], [4.0]])


IN_THE_COMMAND = (
    "no such column", "no rows", "a long line", "numbers and names", "NaN", "two labels", "gone", "all gone"
)  # fmt: skip


@pytest.mark.slow("keras", "jax")  # core refuses
def test_refused_in_the_command(root: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    for kind in IN_THE_COMMAND:
        text, arguments, message = WRONG[kind]
        table = write(root / "t.csv", text)
        words = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", value)]
        done = headstart("fit", "--data", table, *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), (kind, done)
        assert done.err.startswith("error: ") and re.search(message, done.err.strip()), (kind, done)


@pytest.mark.neutral
def test_other_refusals(root: Path) -> None:
    for rows in (1, 3000):  # text is decoded in blocks of many lines
        text = "file,label\n" + "ant/ant0.png,cat\n" * rows + "bee/bee0.png,caf\u00e9\n"
        with pytest.raises(DataError, match=rf"is no UTF-8 in line {rows + 2} \(byte 0xe9; Latin-1 or Windows"):
            hs.data.table(write(root / "t.csv", text, "latin-1"))
    with pytest.raises(DataError, match="holds zero bytes: it is UTF-16 without a mark"):
        hs.data.table(write(root / "t.csv", TWO, "utf-16-le"))
    pictures = {"image": picture_bytes(root)[:2]}
    for label, message in (
        (["a", "b"], r"column 'a' holds \[5\] in row 1; of several"),
        (["b", "huge"], "the target in column 'huge', row 2, is inf"),
    ):
        columns = {"a": [[5], 1], "b": [0.5, 1], "huge": [1, 10**400]}
        with pytest.raises(DataError, match=message):
            hs.data.table({**pictures, **columns}, label=label)
    for role, cell, message in (
        ("split", ["train"], "is \\['train'\\]; expected train"),
        ("weight", 1e300, "is 1e\\+300; exp"),
    ):
        with pytest.raises(DataError, match=message):
            hs.data.table({**pictures, "label": ["x", "y"], role: [cell, cell]}, **{role: role})
    for source, message in (
        (root / "gone.csv", "does not exist"),
        (root, "is a folder"),
        (write(root / "t.xlsx", "x"), r"is no table that is read here.*pandas\.read_excel\(path, dtype=str\)"),
        (
            write(root / "list.json", "[]"),
            r"is no table that is read here.*pandas\.read_json\(path, dtype=False\)",
        ),
        (write(root / "list.jsonl", "[\n{}]\n"), r"line 1 is no JSON.*an object a line: pandas\.read_json"),
        ("abfs://bucket/t.csv", "is an address"),
        (3, "the table is a int"),
        ([{"file": "a", "label": "b"}], r"the table is a list; .*; of rows: pandas.DataFrame\(rows\)"),
        ({"file": ["a"], "label": []}, "differing lengths"),
        (write(root / "t.jsonl", "[1]\n"), "line 1 is no JSON object"),
        (write(root / "u.jsonl", '{"file": 1'), "line 1 is no JSON"),
    ):
        with pytest.raises(DataError, match=message):
            hs.data.table(source)
    with pytest.raises(SettingError, match="on_error"):
        hs.data.table(root / "t.jsonl", on_error="never")
    frame = {"file": files(), "label": KINDS}
    for elsewhere, message in (
        ("https://example.org/photos", "https://example.org/photos is an address that is not read here"),
        (Path("s3://photos/set"), "give the URL as text, as a Path drops a slash"),
    ):
        for door in (hs.data.table, images_listed):
            with pytest.raises(DataError, match=message):
                door(frame, root=elsewhere)


@pytest.mark.neutral
def test_names_in_two_forms_of_unicode(root: Path) -> None:
    """Composed, as Windows and Linux have them, and decomposed, as macOS has."""
    (root / "cafe\u0301").mkdir()
    (root / "ant/ant0.png").rename(root / "cafe\u0301/0.png")
    with pytest.raises(
        DataError, match=r"There is a file '.*cafe\\u0301/0.png', .*caf\\xe9/0.png': one is composed"
    ):
        hs.data.table(write(root / "t.csv", "file,label\ncaf\xe9/0.png,cat\n"))
    path = write(root / "t.csv", "file,gro\u0308\xdfe,y\nbee/bee0.png,1.5,2\ncow/cow0.png,2.5,1\n")
    for classes in (None, ["gr\xf6\xdfe", "y"]):
        data = hs.data.table(path, label=["gr\xf6\xdfe", "y"], classes=classes, task="regression")
        assert data.classes == ("gr\xf6\xdfe", "y")


@pytest.mark.neutral
def test_a_header_of_several_lines(root: Path) -> None:
    text = 'file;label;"note, of\nthe reader"\nant/ant0.png;cat;"a\n;b"\nbee/bee0.png;dog;\n'
    data = hs.data.table(write(root / "t.csv", text))
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 1])


@pytest.mark.neutral
def test_what_can_be_left_out(root: Path) -> None:
    text = TWO + "x.png,cat\ncow/cow0.png,\nant/ant0.png,cat\n"
    data = hs.data.table(write(root / "t.csv", text), on_error="skip")
    assert len(data) == 2 and data.classes == ("cat", "dog")
    reasons = " ".join(f"{path} {reason}" for path, reason in data.skipped)
    assert "1 of 5 rows have no label" in reasons and "x.png is not there (row 3" in reasons
    assert "ant0.png the same in row 5 again, which is not counted" in reasons


def labels_of(root: Path, cells: list[str], **arguments: Any) -> tuple[str, tuple[str, ...], list[Any]]:
    text = "file;label\n" + "".join(f"ant/ant{i}.png;{cell}\n" for i, cell in enumerate(cells))
    data = hs.data.table(write(root / "t.csv", text), **arguments)
    return data.task, data.classes, data.labels.tolist()


@pytest.mark.neutral
def test_lists_that_pandas_or_json_wrote_are_several_labels(root: Path) -> None:
    several = ("multi", ("cat", "dog"), [[1, 1], [0, 1], [0, 0]])
    assert labels_of(root, ["['cat', 'dog']", "['dog']", "[]"]) == several
    assert labels_of(root, ["['cat', 'dog']", "['dog']", "[]"], task="multi") == several
    names = ("[odd", "['cat']")
    assert (
        labels_of(root, list(names), task="single")[1] == labels_of(root, list(names))[1] == tuple(sorted(names))
    )


@pytest.mark.neutral
@pytest.mark.parametrize(
    "written",
    [
        str,
        json.dumps,
        lambda row: str(tuple(row)),
        lambda row: str(set(row)),
        lambda row: str(np.array(row)),
        lambda row: str(np.array(row)).replace("\" '", "\"\n '"),  # as it breaks long ones
        lambda row: str([np.array(name)[()] for name in row]),
        lambda row: "{" + ",".join(f'"{name}"' if " " in str(name) else str(name) for name in row) + "}",
    ],
    ids=["list", "json", "tuple", "set", "array", "long array", "list of scalars", "database"],
)  # fmt: skip
def test_lists_in_text_are_those_in_columns(root: Path, written: Any) -> None:
    """However somebody's program wrote them."""
    images = picture_bytes(root)[:4]
    for rows in ([["it's", "red dog"], ["ant"], [], ["ant", "it's"]], [[3, 10], [10], [], [2, 3]]):
        cells = [written(row) for row in rows]
        if cells[0][0] == "(" and rows[0][0] == 3:
            continue  # which a range may be called
        if written(["it's"]) == "{it's}":
            rows = [[str(name).replace("'", "") for name in row] for row in rows]
            cells = [written(row) for row in rows]
        expected = hs.data.table({"image": images, "label": rows})
        for task in (None, "multi"):
            data = hs.data.table({"image": images, "label": cells}, task=task)
            assert (data.task, data.classes) == ("multi", expected.classes), cells
            assert data.labels.tolist() == expected.labels.tolist()


@pytest.mark.neutral
def test_numbers_in_lists_in_text_are_those_in_columns(root: Path) -> None:
    images = picture_bytes(root)[:4]
    for rows in ([[1, 0], [1, 1], [0, 0], [0, 1]], [[0.5, 2.0], [1.5, 3.0], [2.0, 1.0], [3.0, 1.5]]):
        expected = hs.data.table({"image": images, "label": rows})
        for cells in (list(map(str, rows)), [str(np.array(row)) for row in rows], list(map(json.dumps, rows))):
            data = hs.data.table({"image": images, "label": cells})
            assert (data.task, data.classes) == (expected.task, expected.classes)
            assert data.labels.tolist() == expected.labels.tolist(), cells


@pytest.mark.neutral
def test_names_in_brackets(root: Path) -> None:
    for names in (["(a)", "(b)"], ["[cat]", "[owl]"], ["{a}", "{b}"], ["(0, 10]", "(10, 20]"], ["[1, 2]", "cat"]):
        assert labels_of(root, names)[:2] == ("single", tuple(sorted(names)))
    for odd in ("[1, nan]", "['a' ... 'b']", "['a', 1]", "[1,, 2]", "[[1], [2]]", "(0, 10)", "{a: 1, b: 2}"):
        with pytest.warns(
            DataWarning, match="is taken as the name of one class; if it is a list of labels, write"
        ):
            assert labels_of(root, [odd, "[7]"])[1] == tuple(sorted([odd, "[7]"]))
    ranges = ["[0, 10]", "[10, 20]"]
    with pytest.raises(DataError, match=r"a list of 2 numbers, such as '\[0, 10\]': say whether these are labels"):
        labels_of(root, ranges)
    assert labels_of(root, ranges, task="single")[1] == tuple(ranges)
    assert labels_of(root, ranges, classes=ranges)[0] == "single"
    assert labels_of(root, ranges, task="multi")[1] == ("0", "10", "20")
    assert labels_of(root, ranges, task="regression")[2] == [[0, 10], [10, 20]]
    assert labels_of(root, ["['cat', 'dog']", "['dog']"], separator=",")[1] == ("cat", "dog")
    assert labels_of(root, ["3.0|10.0", "10.0"])[1] == ("10", "3"), "as 3.0 is where it stands alone"


@pytest.mark.neutral
def test_names_of_two_parts_and_two_labels_each_look_alike_and_are_asked_about(root: Path) -> None:
    paths = ["apple|rust", "apple|scab", "corn|rust"]
    with pytest.raises(DataError, match=r"has 2 parts, such as 'apple\|rust': say whether .* task='multi'"):
        labels_of(root, paths)
    assert labels_of(root, paths, task="single")[1] == ("apple|rust", "apple|scab", "corn|rust")
    for said in ({"task": "multi"}, {"separator": "|"}):
        assert labels_of(root, paths, **said)[:2] == ("multi", ("apple", "corn", "rust", "scab"))
    # labels that stand in any place, or in any number, are no parts of names
    for several in (["apple|rust", "rust|apple"], ["apple|rust", "corn"]):
        assert labels_of(root, several)[0] == "multi"


@pytest.mark.neutral
def test_names_made_of_other_names_and_commas_are_said(root: Path) -> None:
    cells = ["cat", "dog", "cat, dog"]
    with pytest.warns(DataWarning, match=r"'cat, dog' in column 'label' is taken as the name of one class"):
        assert labels_of(root, cells)[0] == "single"
    assert labels_of(root, cells, separator=",") == ("multi", ("cat", "dog"), [[1, 0], [0, 1], [1, 1]])
    assert labels_of(root, cells, task="single")[1] == ("cat", "cat, dog", "dog")
    assert labels_of(root, ["Lyon, France", "Nice, France", "Rome, Italy"])[0] == "single"  # and nothing said
    assert labels_of(root, ["3,5", "4,1"], task="single")[1] == ("3,5", "4,1")
    assert labels_of(root, ["3,5", "4"], separator=",")[1] == ("3", "4", "5")


@pytest.mark.neutral
def test_labels_with_spaces_between_them(root: Path) -> None:
    """As contests have them: names of fewer names are said, and read as labels where somebody says so."""
    cells = ["clear", "haze", "road", "clear road", "haze road", "clear  haze road", "haze clear"]
    hot = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]]
    rows = "file;tags\n" + "".join(f"{file};{cell}\n" for file, cell in zip(files(), cells, strict=False))
    with pytest.warns(
        DataWarning, match=r"'clear road' in column 'tags' is taken as the name of one class; if spaces"
    ):
        assert hs.data.table(write(root / "t.csv", rows), label="tags").task == "single"
    data = hs.data.table(root / "t.csv", label="tags", separator=" ")
    assert (data.task, data.classes, data.labels.tolist()) == ("multi", ("clear", "haze", "road"), hot)
    assert len(hs.data.table(root / "t.csv", label="tags", task="single").classes) == 7
    with pytest.raises(DataError, match=r"mix numbers and names: '16' .* separator=' ' \(--separator ' '\)"):
        labels_of(root, ["16", "16 0", "3"])
    assert labels_of(root, ["16", "16 0", "3"], separator=" ")[1] == ("0", "16", "3")
    for names in ([f"{colour} {fruit}" for colour in ("red", "green", "blue") for fruit in ("fig", "nut", "kiwi")],
                  ["rose", "water lily", "hard-leaved pocket orchid"]):  # fmt: skip
        rows = "file;label\n" + "".join(f"{file};{name}\n" for file, name in zip(files(), names, strict=False))
        assert hs.data.table(write(root / "t.csv", rows)).task == "single"  # a warning here fails the test


@pytest.mark.neutral
def test_columns_of_true_and_false_are_labels(root: Path) -> None:
    text = "file,red,round\nant/ant0.png,True,FALSE\nant/ant1.png,True,true\nant/ant2.png,0,1\n"
    data = hs.data.table(write(root / "t.csv", text), label=["red", "round"])
    assert (data.task, data.labels.tolist()) == ("multi", [[1, 0], [1, 1], [0, 1]])


@pytest.mark.neutral
def test_columns_of_groups_and_weights_that_nobody_named_are_said(root: Path) -> None:
    text = "file,kind,Patient ID,weight\nant/ant0.png,ant,p1,2\nbee/bee0.png,bee,p2,1\n"
    columns = {"image": "file", "label": "kind"}
    data = hs.data.table(write(root / "t.csv", text), **columns)
    of_groups = "'Patient ID' is not taken as group (say group=, --group)"
    said = f"{of_groups}, 'weight' is not taken as weight (say weight=, --weight-column)"
    assert data.notes == (f"{root / 't.csv'}: {said}",) and data.groups is None and data.weights is None
    write(root / "s.csv", "file,label,split\nant/ant0.png,ant,0\nbee/bee0.png,bee,1\n")
    (note,) = hs.data.table(root / "s.csv").notes
    assert note.endswith(", 'split' is not taken as split: it does not say train, val and test")
    assert hs.data.table(root / "t.csv", **columns, group="Patient ID", weight="weight").notes == ()


@pytest.mark.neutral
def test_of_several_columns_that_could_say_parts_one_that_does_is_taken_and_else_that_is_said(root: Path) -> None:
    """Else what came split was split again, and nobody was told."""
    parts, runs = ["train", "val"] * 6, ["first"] * 12
    columns = {"file": files(), "kind": KINDS, "subset": runs, "split": parts}
    data = hs.data.table(write(root / "t.csv", csv_of(columns)), label="kind")
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 6, "val": 6}
    assert data.notes[0].endswith("image from the column 'file', split from the column 'split'")
    for others in ({"subset": parts, "split": parts}, {"subset": runs, "split": runs}):
        data = hs.data.table(write(root / "t.csv", csv_of(columns | others)), label="kind")
        assert not data.parts
        assert data.notes[0].endswith("'subset' and 'split' could be split, and none is taken (say split=, "
                                      "--split-column)")  # fmt: skip
    with pytest.raises(DataError, match="which column is the label\\? none is called so"):
        hs.data.table(write(root / "t.csv", csv_of({"file": files(), "split": parts})))


@pytest.mark.neutral
def test_numbers_may_be_one_of_several_labels(root: Path) -> None:
    """Where somebody says what stands between labels, also if no cell has two; a frame with gaps has floats."""
    images = {"image": picture_bytes(root)[:3]}
    for labels in (["1", "2", "1"], [1, 2, 1], [1.0, 2.0, 1.0]):
        data = hs.data.table({**images, "label": labels}, separator=";")
        assert (data.task, data.classes) == ("multi", ("1", "2"))
        assert data.labels.tolist() == [[1, 0], [0, 1], [1, 0]]
    data = hs.data.table({**images, "label": [1.0, float("nan"), 2.0]}, task="multi")
    assert (data.classes, data.labels.tolist()) == (("1", "2"), [[1, 0], [0, 0], [0, 1]])


@pytest.mark.neutral
def test_targets_that_32_bits_round_away_are_said(root: Path) -> None:
    seconds = [1_700_000_000.0 + 10 * i for i in range(12)]  # 32 bits have multiples of 128 there
    with pytest.warns(DataWarning, match=r"column 'y' reach to 1.7e\+09 and deviate by 34.5, and 32 bits"):
        of(root, y=seconds, task="regression")
    with pytest.warns(DataWarning, match="column 'b' reach to"):
        of(root, label=["a", "b"], a=[0.1] * 12, b=seconds)
    for fine in ([1e9 * i for i in range(12)], [1990 + i for i in range(12)], [0.1 * i for i in range(12)]):
        assert of(root, y=fine, task="regression").task == "regression"
