"""What is said of data before anything is computed: how many, of which classes, and what was left out."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import DataError
from headstart.data import summary
from headstart.data.annotations import Annotations
from headstart.data.dataset import ArraySource, Dataset
from headstart.data.left_out import Skipped, Unread
from headstart.features.orphans import find_orphans
from headstart.store import FeatureStore

LINE = "photos: 16 images in 2 classes: cat 8, dog 8"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for k, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (100 * k, i, 0)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    with caplog.at_level(logging.INFO, "headstart"):
        yield lambda: [record.getMessage() for record in caplog.records]


def told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
    capsys.readouterr()
    code: Any = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code or 0
    return code, capsys.readouterr().err


@pytest.mark.neutral
def test_lines_of_a_data_set_of_a_split_and_of_two(photos: Path) -> None:
    data = hs.data.folder(photos)
    assert summary.data_lines(data) == [LINE]
    train, val = data.subset(range(2, 16)), data.subset([0, 1])
    assert summary.data_lines(train, val) == [f"{LINE}; 14 to train on, 2 to validate, none of dog"]
    other = hs.data.folder(photos, classes=["owl", "cat", "dog"])
    assert summary.data_lines(train, other) == [
        "training: photos: 14 images in 2 classes: cat 6, dog 8",
        "validation: photos: 16 images in 3 classes: owl 0, cat 8, dog 8",
    ]
    values = hs.data.arrays(np.zeros((3, 4), np.float32), [0, 1, 1])
    assert summary.data_lines(values) == ["arrays: 3 samples in 2 classes: '0' 1, '1' 2"]


@pytest.mark.neutral
def test_lines_of_tasks_parts_groups_and_weights() -> None:
    def of(labels: Any, classes: Any, task: str = "single", **others: Any) -> Dataset:
        about = Annotations(np.asarray(labels), tuple(classes), task, **others)
        return Dataset(ArraySource(np.zeros((len(about), 2, 2), np.uint8), "set"), about, "set")

    several = of([[1, 1], [0, 1], [0, 0]], ("sun", "rain"), "multi")
    assert summary.data_lines(several) == [
        "set: 3 images with 2 labels: sun 1, rain 2; multi-label, 1.0 a sample, 1 without any"
    ]
    assert summary.data_lines(several.subset([0, 2]), several.subset([1])) == [
        "set: 3 images with 2 labels: sun 1, rain 2; multi-label, 1.0 a sample, 1 without any; 2 to train on, "
        "1 to validate, none of sun"
    ]
    numbers = of([[0.5], [1.5], [4]], ("hue",), "regression", weights=np.array([0.5, 1, 2], np.float32))
    assert summary.data_lines(numbers) == [
        "set: 3 images with 1 target: hue 0.5 to 4 (mean 2); regression; weighted 0.5 to 2"
    ]
    parts = of(
        [0, 1, 0, 1], ("a", "b"), groups=np.array(list("xxxy"), object), parts=np.array([0, 0, 1, 2], np.int8)
    )
    assert summary.data_lines(parts) == [
        "set: 4 images in 2 classes: a 2, b 2; in 2 groups of 1 to 3; train 2, val 1, test 1"
    ]
    assert summary.data_lines(parts.train, parts.val, parts.test) == [
        "set: 3 images in 2 classes: a 2, b 1; in 1 group of 3; 2 to train on, 1 to validate, none of b",
        "test: set: 1 image in 2 classes: a 0, b 1; in 1 group of 1",
    ]
    many = of([k for k in range(100) for _ in range(k + 1)], [f"class {k}" for k in range(100)])
    assert summary.data_lines(many)[0].endswith(
        " more, of 1 to 100 each (rarest class 0 1, commonest class 99 100)"
    )


@pytest.mark.neutral
def test_many_classes_take_one_line_and_odd_names_come_escaped() -> None:
    many = hs.data.arrays(np.zeros((1000, 1, 1), np.uint8), np.arange(1000), [f"class {i}" for i in range(1000)])
    (line,) = summary.data_lines(many)
    assert line.startswith("arrays: 1,000 images in 1,000 classes: class 0 1, class 1 1, ")
    assert line.endswith(" more, of 1 to 1 each") and len(line) < 300
    names = ["cat ", "dog\u200b", "new\nline", "Ant", "ant", "a, b"]
    (line,) = summary.data_lines(hs.data.arrays(np.zeros((6, 1, 1), np.uint8), np.arange(6), names))
    assert r"'cat ' 1, 'dog\u200b' 1, 'new\nline' 1, Ant 1, ant 1, 'a, b' 1" in line and line.isprintable()
    assert line.endswith("(note: 'Ant' and 'ant' differ in capitals only)")


@pytest.mark.neutral
def test_what_was_left_out_is_said_once_and_not_without_end(photos: Path, lines: Any) -> None:
    for i in range(15):
        (photos / "cat" / f"{i:02}.txt").write_text("a cat")
    data = hs.data.folder(photos, "skip")
    summary.say(data)
    assert lines()[0] == LINE
    assert lines()[1].startswith(f"skipped {photos / 'cat' / '00.txt'}: is not an image")
    assert lines()[-1] == "skipped 5 more; .skipped of the data set lists them" and len(lines()) == 12
    summary.say(data)
    assert len(lines()) == 12, "of the same data nothing is said twice"
    hostile = summary.skipped_lines([Skipped("a\x1b[2J", "\n")])
    assert hostile == [r"skipped a\x1b[2J: \n"]


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_library_says_it_before_it_computes(photos: Path, backend: str, lines: Any, tmp_path: Path) -> None:
    data = hs.data.folder(photos)
    model = hs.model("lenet", classes=data.classes, size=32)
    where: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": tmp_path / "cache"}
    hs.extract(model, data, ["relu4"], **where)
    assert lines() == [LINE]
    train, val = data.split(0.5)
    hs.fit(model, train, val, epochs=1, batch_size=4, **where)
    assert lines()[1] == f"{LINE}; {len(train)} to train on, {len(val)} to validate"
    assert lines()[2].startswith("epoch 1")
    assert sum(line.startswith("photos: ") for line in lines()) == 2


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_commands_say_it_and_gc_takes_nothing_unread_for_gone(
    photos: Path, backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    disk = tmp_path / "disk"
    disk.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (9, i, 200)).save(disk / f"{i}.png")
    (photos / "owl").symlink_to(disk)
    about = ("--data", photos, "--model", "lenet", "--weights", "none", "--cuts", "relu4")
    line = "photos: 20 images in 3 classes: cat 8, dog 8, owl 4"
    both = f"model: lenet (random): 32 px, bilinear, mean 0.5, deviation 0.5\n{line}\n"
    assert told(capsys, monkeypatch, "extract", *about, "--device", "cpu") == (0, both)
    assert told(capsys, monkeypatch, "cache", "explain", *about) == (0, both)
    assert told(capsys, monkeypatch, "cache", "gc", "--data", photos) == (0, f"{line}\n")
    disk.rename(tmp_path / "unmounted")
    code, error = told(capsys, monkeypatch, "cache", "gc", "--data", photos, "--yes")
    assert code == 2 and "owl is a link to" in error and error.count("\n") == 1
    code, error = told(capsys, monkeypatch, "cache", "gc", "--data", photos, "--yes", "--on-error", "skip")
    assert code == 2 and "What cannot be read is not gone" in error and error.count("\n") == 1
    assert sum(info.rows for info in FeatureStore().infos()) == 20
    data = hs.data.folder(photos, "skip")
    assert [type(left) for left in data.skipped] == [Unread]
    with pytest.raises(DataError, match="is not gone"):
        find_orphans(FeatureStore(), [data.subset([0])])


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_predict_walks_as_training_does(
    photos: Path, backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    (photos / "cat" / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "cat" / ".hidden" / "x.png")
    (photos / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "more").mkdir()
    (photos / "dog" / "0.png").rename(tmp_path / "more" / "plain")
    (photos / "dog" / "linked").symlink_to(tmp_path / "more")
    (photos / "dog" / "up").symlink_to(photos)
    trained = hs.data.folder(photos)
    command = ("predict", "--model", "resnet18_half", "--size", 32, photos, "--json", tmp_path / "it.json")
    code, error = told(capsys, monkeypatch, *command)
    assert code == 0, error
    images = [row["image"] for row in json.loads((tmp_path / "it.json").read_text())]
    assert images == [trained.source_name(i) for i in range(len(trained))] and len(images) == 16
    assert (
        "photos: 16 images\n" in error and f"skipped {photos / 'dog' / 'up'}: is a link that leads back" in error
    )
    (photos / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (photos / "cat" / "notes.csv").write_text("a,b\n")
    code, error = told(capsys, monkeypatch, *command)
    assert code == 2 and "notes.csv: is not an image" in error
    code, error = told(capsys, monkeypatch, *command, "--on-error", "skip")
    assert code == 0 and "1 of 17 images could not be read" in error and "notes.csv" in error
    rows = json.loads((tmp_path / "it.json").read_text())
    assert [row["image"] for row in rows if not row.get("error")] == images
    assert [row["error"] for row in rows if row.get("error")] == [rows[8]["error"]]
    assert "breaks off: bytes are missing" in rows[8]["error"]
