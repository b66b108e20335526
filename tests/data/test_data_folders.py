"""Folders as people have them: splits and masks in place of classes, names in two spellings, links."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart import data
from headstart.common.errors import DataError, DataWarning, ImageError
from headstart.data import read_file
from headstart.data.layouts import layout_of
from headstart.data.left_out import Skipped, Unread

pytestmark = pytest.mark.neutral


def picture(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (grey, grey, grey)).save(path)
    return path


def classes(root: Path, *names: str, count: int = 2) -> Path:
    for k, name in enumerate(names):
        for i in range(count):
            picture(root / name / f"{i}.png", 20 * k + i)
    return root


# What is no folder of classes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        ("train2017", "val2017", "annotations"),
        ("trainA", "trainB", "testA", "testB"),
        ("train", "valid", "docs"),
        ("fold1", "fold2", "fold3"),
        ("Fold A", "Fold B"),
        ("x_images_part_1", "x_images_part_2"),
        ("batch_0", "batch_1"),
        ("train", "extra"),
    ],
)
def test_what_may_be_parts_of_a_split_is_refused(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        classes(tmp_path / part, "cat", "dog")
    with pytest.raises(DataError, match=r"not classes.*classes=\[") as caught:
        data.folder(tmp_path)
    assert all(repr(part) in str(caught.value) for part in parts)
    if layout_of(parts) != "folds":
        assert f"--data {tmp_path / parts[0]}" in str(caught.value)
    assert data.folder(tmp_path / parts[0]).classes == ("cat", "dog")
    assert data.folder(tmp_path, classes=parts).classes == parts


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val"),
        ("Train", "Test"),
        ("training", "validation", "testing"),
        ("train", "valid", "test"),
        ("train", "dev"),
        ("Training Set", "Test Set"),
        ("Trainingsdaten", "Testdaten"),
        ("entraînement", "validation"),
        ("训练集", "测试集"),
    ],
)
def test_the_parts_of_a_split(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for number, part in enumerate(parts):
        for k, name in enumerate(("cat", "dog") if number else ("ant", "cat", "dog")):
            for i in range(2 + number):
                picture(tmp_path / part / name / f"{i}.png", 60 * number + 9 * k + i)
    opened = data.folder(tmp_path)
    names = ["train", *(["test"] if parts[1] in ("Test", "Test Set", "Testdaten", "测试集") else ["val"]), "test"]
    assert list(opened.parts) == names[: len(parts)] and opened.classes == ("ant", "cat", "dog")
    assert len(opened) == sum(map(len, opened.parts.values()))
    for number, name in enumerate(opened.parts):
        one = opened.parts[name]
        assert one.classes == opened.classes and not one.parts
        assert np.bincount(one.labels, minlength=3).tolist() == [0 if number else 2, 2 + number, 2 + number]
        for i in range(len(one)):
            assert Path(one.source_name(i)).parent.name == one.classes[one.labels[i]]
            assert Path(one.source_name(i)).parents[1].name == parts[number]
    assert data.folder(tmp_path, classes=["dog", "cat", "ant"]).train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    as_classes = data.folder(tmp_path, classes=parts)
    assert as_classes.classes == parts and not as_classes.parts


def test_parts_that_are_not_whole(tmp_path: Path) -> None:
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path / "val", "cat", "emu")
    with pytest.warns(DataWarning, match="training part has no image of 'emu', which other parts have"):
        assert data.folder(tmp_path).classes == ("cat", "dog", "emu")
    with pytest.raises(DataError, match=r"val holds folders that are none of the classes \(.*\): 'emu'"):
        data.folder(tmp_path, classes=["cat", "dog"])
    kept = data.folder(tmp_path, "skip", classes=["cat", "dog"])
    assert len(kept.val) == 2 and [Path(left.path).name for left in kept.skipped] == ["emu"]
    picture(tmp_path / "test" / "0.png")
    with pytest.raises(DataError, match="no folder a class in its part 'test'"):
        data.folder(tmp_path, classes=["cat", "dog", "emu"])
    kept = data.folder(tmp_path, "skip", classes=["cat", "dog", "emu"])
    assert list(kept.parts) == ["train", "val"] and "holds no class folders" in {
        left.reason for left in kept.skipped
    }
    (tmp_path / "test" / "0.png").unlink()
    (tmp_path / "test").rmdir()
    (tmp_path / "val" / "more").symlink_to(tmp_path / "train" / "cat")
    with pytest.raises(DataError, match="twice, as 'train/cat' and as 'val/more'"):
        data.folder(tmp_path)
    picture(tmp_path / "one" / "train" / "cat" / "0.png")
    classes(tmp_path / "one" / "val", "cat", "dog")
    with pytest.raises(DataError, match="has only the class 'cat' to train on"):
        data.folder(tmp_path / "one")
    classes(tmp_path / "look" / "train", "cat", "dog")
    classes(tmp_path / "look" / "val", "cat ", "dog")
    with pytest.raises(DataError, match=r"look the same: 'cat', 'cat '.*in all parts"):
        data.folder(tmp_path / "look")


@pytest.mark.parametrize(
    "parts",
    [("images", "masks"), ("imgs", "labels"), ("JPEGImages", "Annotations", "ImageSets"), ("rgb", "depth")],
)
def test_images_beside_their_masks_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="images and what belongs to them"):
        data.folder(classes(tmp_path, *parts))
    assert data.folder(tmp_path, classes=parts).classes == parts


@pytest.mark.parametrize(
    "names",
    [
        ("bus", "plane", "train"),
        ("plane", "train"),
        ("control", "test"),
        ("invalid", "valid"),
        ("mask", "no mask"),
        ("drawings", "photos"),
        ("red label", "white label"),
        ("bus", "test-dev"),
        ("batch_1", "hatch_1"),
        ("class_1", "class_2"),
        ("steam train", "toy train"),
        ("depart1", "depart2"),
    ],
)
def test_classes_may_be_called_so(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert data.folder(classes(tmp_path, *names)).classes == names


def test_a_split_is_told_by_the_classes_in_its_parts(tmp_path: Path) -> None:
    """However many other folders lie beside."""
    extra = [f"other{i}" for i in range(5)]
    classes(tmp_path, *extra)
    assert layout_of([*extra, "train", "val"]) is None
    for part in ("train", "val"):
        classes(tmp_path / part, "cat", "dog")
    with pytest.raises(DataError, match=r"parts of a split.*beside them 'other0'"):
        data.folder(tmp_path)


@pytest.mark.parametrize(
    "parts", [("cats_train", "cats_val", "dogs_train", "dogs_val"), ("cars_test", "cars_train"),
              ("bounding_box_test", "bounding_box_train", "gallery", "query")]
)  # fmt: skip
def test_a_split_in_the_names_of_the_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="split in their names"):
        data.folder(classes(tmp_path, *parts))
    assert data.folder(tmp_path, classes=parts).classes == parts


def test_the_same_folders_in_every_class_are_warned_of(tmp_path: Path) -> None:
    """Years, or the classes themselves, below the cameras that saw them."""
    for name in ("amazon", "webcam"):
        classes(tmp_path / name, "bike", "mug")
    with pytest.warns(DataWarning, match=r"classes 'amazon', 'webcam'.*same folders, 'bike', 'mug'"):
        assert data.folder(tmp_path).classes == ("amazon", "webcam")
    assert len(data.folder(tmp_path, classes=["amazon", "webcam"])) == 8
    picture(tmp_path / "amazon" / "more" / "0.png")
    assert data.folder(tmp_path).classes == ("amazon", "webcam")


def test_a_linked_folder_is_called_by_the_name_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(tmp_path / "volume-7f3a" / "v2", "cat", "dog")
    (tmp_path / "pets").symlink_to(tmp_path / "volume-7f3a" / "v2")
    assert data.folder(tmp_path / "pets").name == data.folder(f"{tmp_path}/pets/").name == "pets"
    monkeypatch.chdir(tmp_path / "pets" / "cat")
    assert data.folder("..").name == "v2", "which has no other name here"


def test_a_level_above_and_a_level_below(tmp_path: Path) -> None:
    classes(tmp_path / "set" / "images" / "train", "cat", "dog")
    classes(tmp_path / "set" / "images" / "val", "cat", "dog")
    with pytest.raises(DataError, match=r"only one class folder, 'images'.*holds a split.*images/train"):
        data.folder(tmp_path / "set")
    with pytest.raises(DataError, match=r"only one class folder, 'set'"):
        data.folder(tmp_path)
    for name in ("cat", "dog"):
        classes(tmp_path / "mixed" / name, "train", "test")
    with pytest.raises(DataError, match=r"parts of a split \(cat/test, cat/train\)"):
        data.folder(tmp_path / "mixed")
    assert len(data.folder(tmp_path / "mixed", classes=["cat", "dog"])) == 8


def test_a_table_an_address_or_a_file_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.xlsx").write_text("file,label\na.png,cat\n")
    Path("labels.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(DataError, match=r"is a table or list \(CSV\).*hs\.data\.table"):
        data.folder("labels.csv")
    Path("photos.zip").write_bytes(b"PK\x03\x04" + bytes(30))
    Path("more.csv.gz").write_bytes(gzip.compress(b"file,label\na.png,cat\n"))
    picture(Path("a.png"))
    assert data.open_data("./labels.csv").classes == ("cat",)
    for text, reason in {
        "labels.xlsx": r"is a table or list \(Excel\).*hs\.data\.table",
        "photos.zip": "ZIP archive.*unpack it",
        "more.csv.gz": r"gzip archive, .* of a table; unpack it, and name the table: more\.csv$",
        "a.png": "is one image",
        "hf://pets": "is an address.*hf download",
        "https://example.org/pets.zip": "is an address",
        "gone.jpg": "there is no file or folder",
        "gone.csv": "there is no table",
        "./gone.csv": "there is no table",
        "./gone": "does not exist",
    }.items():
        with pytest.raises(DataError, match=reason):
            data.open_data(text)
        if "gone" not in text:
            with pytest.raises(DataError, match=reason):
                data.folder(text)
    for other in (None, 3, ["a", "b"]):
        with pytest.raises(DataError, match="expected a path"):
            data.folder(other)  # type: ignore[arg-type]
    os.mkfifo("pipe")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        data.folder("pipe")
    with pytest.raises(DataError, match="path of the data folder is empty"):
        data.open_data("")
    with pytest.raises(DataError, match="is an address"):
        data.folder(Path("s3://bucket/pets"))


def test_a_folder_called_like_a_data_set_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data.open_data("digits").name == "digits"
    classes(Path("digits"), "one", "two")
    with pytest.raises(DataError, match=r"write \./digits for the folder, or builtin:digits"):
        data.open_data("digits")
    assert data.open_data("./digits").classes == ("one", "two")
    assert len(data.open_data("builtin:digits")) == 1797


# Links ------------------------------------------------------------------------------------------------------


def test_a_class_on_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "cat", "dog")
    (root / "owl").symlink_to(tmp_path / "disk" / "owl")
    (root / "cat" / "9.png").symlink_to(tmp_path / "disk" / "9.png")
    with pytest.raises(DataError, match=r"root/owl is a link to .*not mounted.*cat/9\.png is a link"):
        data.folder(root)
    opened = data.folder(root, on_error="skip")
    assert opened.classes == ("cat", "dog") and len(opened) == 4
    assert [(Path(left.path).name, type(left)) for left in opened.skipped] == [("owl", Unread), ("9.png", Unread)]
    named = data.folder(root, on_error="skip", classes=["cat", "dog", "owl"])
    assert named.classes == ("cat", "dog", "owl") and len(named) == 4


def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = classes(tmp_path, "cat", "dog")
    (root / "cat" / "0.png").write_bytes(b"damaged")

    def failing(path: str) -> bytes:
        if path.endswith("dog/1.png"):
            raise ImageError(path, "cannot be read: Input/output error")
        return read_file(path)

    monkeypatch.setattr("headstart.data.file_system.read_file", failing)
    skipped = data.folder(root, on_error="skip").skipped
    assert [(Path(left.path).name, type(left)) for left in skipped] == [("0.png", Skipped), ("1.png", Unread)]


def test_a_picture_that_breaks_off_can_be_left_out(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    cut = root / "dog" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    opened = data.folder(root)
    with pytest.raises(ImageError, match=r'1\.png: .*breaks off.*leave out.*on_error="skip" \(--on-error skip\)'):
        opened[3]
    ((path, reason),) = data.folder(root, on_error="skip").skipped
    assert path == str(cut) and "breaks off" in reason and "skip" not in reason


def test_links_up_do_not_give_every_picture_again(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "ant", "bee")
    (root / "all").symlink_to(".")
    (root / "ant" / "up").symlink_to(tmp_path)
    opened = data.folder(root)
    assert opened.classes == ("ant", "bee") and len(opened) == 4
    assert {os.path.relpath(left.path, root) for left in opened.skipped} == {"all", "ant/up"}


def test_one_folder_under_two_classes(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "cat", "dog")
    (root / "ant").symlink_to(root / "dog")
    with pytest.raises(
        DataError, match=r"root/ant is the same folder as .*root/dog.*twice, as 'dog' and as 'ant'"
    ):
        data.folder(root)
    opened = data.folder(root, on_error="skip")
    assert opened.classes == ("cat", "dog")
    (root / "ant").unlink()
    (root / "cat" / "more").symlink_to(root / "dog")
    with pytest.raises(DataError, match="as 'dog' and as 'cat'"):
        data.folder(root)
    opened = data.folder(root, on_error="skip")
    assert np.bincount(opened.labels).tolist() == [2, 2]


# Names ------------------------------------------------------------------------------------------------------


def test_names_are_kept_composed_and_two_spellings_are_refused(tmp_path: Path) -> None:
    root = classes(tmp_path, "cafe\u0301", "dog")
    assert data.folder(root).classes == ("caf\xe9", "dog")
    assert data.folder(root, classes=["dog", "caf\xe9"]).classes == ("dog", "caf\xe9")
    assert data.folder(root, classes=["dog", "cafe\u0301"]).labels.tolist() == [0, 0, 1, 1]
    classes(root, "caf\xe9")
    for named in (None, ["dog", "caf\xe9"]):
        with pytest.raises(DataError, match=r"look the same: 'cafe\\u0301', 'caf\\xe9'"):
            data.folder(root, classes=named)


@pytest.mark.parametrize("twin", ["cat ", " cat", "cat\u200b", "\ufeffcat"])
def test_names_that_look_the_same_are_refused_unless_both_are_named(tmp_path: Path, twin: str) -> None:
    root = classes(tmp_path, "cat", "dog", twin)
    with pytest.raises(DataError, match="look the same") as caught:
        data.folder(root)
    assert ascii(twin) in str(caught.value)
    assert data.folder(root, classes=["cat", "dog", twin]).classes == ("cat", "dog", twin)


@pytest.mark.parametrize("folders", [(".",), ("train", "val")], ids=["classes", "parts"])
def test_names_that_differ_in_capitals_are_told(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        if {path.name for path in classes(tmp_path / folder, "cat", "Cat", "dog").iterdir()} != {
            "cat",
            "Cat",
            "dog",
        }:
            pytest.skip("this file system does not tell capitals apart")
    with pytest.warns(DataWarning, match="'Cat' and 'cat' differ in how they are written alone"):
        assert data.folder(tmp_path).classes == ("Cat", "cat", "dog")


@pytest.mark.parametrize("folders", [(".",), ("train", "val")], ids=["classes", "parts"])
def test_a_folder_that_is_called_as_a_missing_label_is_told(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """As a script makes one of a table with gaps, for which tables were told."""
    for folder in folders:
        classes(tmp_path / folder, "cat", "dog", "nan")
    with pytest.warns(DataWarning, match="a class is called 'nan', which is what a missing label becomes as text"):
        assert data.folder(tmp_path).classes == ("cat", "dog", "nan")
    data.folder(tmp_path, classes=["cat", "dog", "nan"])  # a warning here fails the test


# classes= ---------------------------------------------------------------------------------------------------


def test_classes_in_the_order_given_and_some_without_a_folder(tmp_path: Path) -> None:
    root = classes(tmp_path, "bee", "ant")
    (root / "empty").mkdir()
    opened = data.folder(root, classes=["owl", "bee", "empty", "ant"])
    assert opened.classes == ("owl", "bee", "empty", "ant")
    assert opened.labels.tolist() == [1, 1, 3, 3]
    assert Path(opened.source_name(0)).parent.name == "bee"


def test_folders_that_classes_does_not_name(tmp_path: Path) -> None:
    root = classes(tmp_path, "bee", "ant", "owl")
    with pytest.raises(DataError, match=r"none of the classes .*: 'owl'"):
        data.folder(root, classes=["ant", "bee"])
    opened = data.folder(root, on_error="skip", classes=["ant", "bee"])
    assert len(opened) == 4 and [Path(left.path).name for left in opened.skipped] == ["owl"]
    assert data.folder(root, "skip", classes=["ant"]).classes == ("ant",)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("ab", "list of names"),
        ([1.5, 2], "list of names"),
        ({"ant": 0}, r"dict; expected a list of names, in the order.*\.values\(\)"),
        ({"ant", "bee"}, r"set; expected.*in the order of their numbers: sorted\(classes\)"),
        ([None, "ant"], "holds None; .*none missing"),
        (["ant", ""], "holds ''"),
        (["a", "a"], "twice"),
        ([], "empty"),
        (3, "list of"),
        (["x"], "'x'"),
    ],
)
def test_classes_that_are_none(tmp_path: Path, named: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.folder(classes(tmp_path, "ant"), "skip", classes=named)  # type: ignore[arg-type]


# What is left out -------------------------------------------------------------------------------------------


def test_litter_is_no_class_unless_it_is_named(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    for litter in ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "cat/@eaDir/0.png"):
        picture(root / litter / "SYNOPHOTO_THUMB_M.jpg")
    opened = data.folder(root)
    assert opened.classes == ("cat", "dog") and len(opened) == 4 and opened.skipped == ()
    assert "lost+found" in data.folder(root, classes=["cat", "dog", "lost+found"]).classes


def test_images_beside_the_classes_are_said(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    (root / "LICENSE.txt").write_text("free")
    assert data.folder(root).skipped == ()
    picture(root / "loose.png")
    assert [left.reason for left in data.folder(root).skipped] == [
        "holds 1 image beside the class folders, in no class"
    ]


def test_images_without_labels(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    (root / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "cat" / "notes.txt").write_text("two cats")
    loose = picture(tmp_path / "x.png").rename(tmp_path / "x")
    with pytest.raises(ImageError, match=r"notes\.txt"):
        data.images_at([root])
    opened = data.images_at([root, loose], "skip")
    assert len(opened) == 6 and opened.classes == ("0",) and not opened.labels.any()
    assert {Path(left.path).name for left in opened.skipped} == {"cut.jpg", "notes.txt"}
    assert len(data.images_at(root / "dog")) == len(data.images_at(str(root / "dog" / "0.png"))) + 1 == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no image files in .*none"):
        data.images_at([tmp_path / "none"])
