"""Predictions in files: a line an image, in their order, whole or not there, a batch at a time."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli import main as cli
from headstart.errors import DataError, DivergedWarning, ImageError, SettingError
from headstart.training import classification
from headstart.training.classification import likeliest, rows_of
from headstart.training.metrics import softmax
from headstart.training.prediction_files import Rows, as_parquet, as_text

CLASSES = ("dark", "light", 'of "two", lines')


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(11):
        name = f"{i:02d}, a.png" if i % 2 else f"sub/{i:02d}\n.png"
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12 + i, 20, 3), np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def model() -> Any:
    return hs.model("lenet", classes=CLASSES, size=32)


def lines_of(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter))


def test_csv_has_a_line_an_image_in_their_order(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4}
    data = hs.data.images_at(photos)
    files = [data.source_name(i) for i in range(len(data))]
    p = softmax(hs.predict(model, photos, **settings))
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        written = hs.write_predictions(model, photos, tmp_path / f"out{suffix}", top=2, **settings)
        head, *lines = lines_of(written.path, delimiter)
        assert head == ["file", "class", "probability", "class_2", "probability_2"]
        assert [line[0] for line in lines] == files, "names with commas and line ends are whole"
        for line, row in zip(lines, p, strict=True):
            order = np.argsort(-row, kind="stable")
            assert [line[1], line[3]] == [CLASSES[k] for k in order[:2]]
            assert [float(line[2]), float(line[4])] == pytest.approx(row[order[:2]].tolist(), rel=1e-4)
        assert (written.images, written.not_finite) == (11, 0)
        shown = [line[1] for line in lines]
        assert written.counts == {name: shown.count(name) for name in set(shown)}
    run_written = hs.write_predictions(model, [files[3]], tmp_path / "one.csv", **settings)
    assert lines_of(run_written.path)[1][:2] == [files[3], lines_of(tmp_path / "out.csv")[4][1]]


def test_parquet_has_the_same(model: Any, photos: Path, tmp_path: Path, backend: str, monkeypatch: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("headstart.training.prediction_files.ROW_GROUP", 5)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4, "top": 9}
    hs.write_predictions(model, photos, tmp_path / "out.csv", **settings)
    hs.write_predictions(model, photos, tmp_path / "out.parquet", **settings)
    table = parquet.read_table(tmp_path / "out.parquet")
    head, *lines = lines_of(tmp_path / "out.csv")
    assert table.column_names == head and len(head) == 7, "no more classes than there are"
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 2
    for name, column in zip(head, zip(*lines, strict=True), strict=True):
        values = table[name].to_pylist()
        if name.startswith("probability"):
            assert values == pytest.approx([float(text) for text in column], rel=1e-4)
        else:
            assert values == list(column)


@pytest.mark.neutral
def test_logits_that_name_no_class_leave_their_columns_empty() -> None:
    logits = np.array([[1, 0, 3], [np.nan, 0, 1], [0, -np.inf, 0]], np.float32)
    rows = rows_of(["a", "b", "c"], logits, ("x", "y", "z"), 2)
    assert rows.classes == [["z", "", "x"], ["x", "", "z"]]
    text = b"".join(as_text(2, ",")(iter([rows]))).decode().split("\r\n")
    assert text[2] == "b,,,,"
    assert text[3] == "c,x,0.5,z,0.5"
    parquet = pytest.importorskip("pyarrow.parquet")
    from io import BytesIO

    table = parquet.read_table(BytesIO(b"".join(as_parquet(2)(iter([rows])))))
    assert table["class"].to_pylist() == ["z", None, "x"] and table["probability"].null_count == 1


@pytest.mark.neutral
def test_the_likeliest_are_those_of_a_stable_sort() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(7, int(rng.integers(1, 30)))).astype(np.float32)
        logits = np.round(logits) if seed % 2 else logits
        top = int(rng.integers(1, logits.shape[1] + 2))
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        np.testing.assert_array_equal(likeliest(logits, top), expected)
        assert (likeliest(logits, 1)[:, 0] == logits.argmax(1)).all()


@pytest.mark.neutral
def test_nothing_is_held_of_a_batch_that_was_written() -> None:
    """Batches are asked for one by one, and their bytes are there before the next."""
    asked: list[int] = []

    def batches() -> Any:
        for i in range(1000):
            asked.append(i)
            yield Rows([f"{i}.png"], [["x"]], np.ones((1, 1), np.float32))

    chunks = as_text(1, ",")(batches())
    for i in range(10):
        assert f"{i}.png".encode() in next(chunks)
        assert len(asked) == i + 1


def test_a_file_is_whole_or_not_there(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    out = tmp_path / "out.csv"
    out.write_text("of before")
    (photos / "99.png").write_bytes((photos / "01, a.png").read_bytes()[:90])
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4}
    with pytest.raises(ImageError, match=r"99\.png"):
        hs.write_predictions(model, photos, out, **settings)
    assert out.read_text() == "of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "photos"]
    sound = hs.data.images_at(photos, on_error="skip")
    assert hs.write_predictions(model, sound, out, **settings).images == 11


def test_a_model_that_has_diverged_is_told(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    lost = model.with_params({name: np.full_like(value, np.nan) for name, value in model.params.items()})
    with pytest.warns(DivergedWarning):
        written = hs.write_predictions(lost, photos, tmp_path / "out.csv", backend=backend, device="cpu")
    assert (written.not_finite, written.counts) == (11, {})
    assert lines_of(written.path)[1][1:] == ["", ""]


@pytest.mark.neutral
def test_what_is_refused(model: Any, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for path, text in (
        (tmp_path / "out.xlsx", ".csv, .tsv, .parquet"),
        (photos / "01, a.png" / "x.csv", "no folder"),
    ):
        with pytest.raises(SettingError, match=text):
            hs.write_predictions(model, photos, path)
    with pytest.raises(SettingError, match="top"):
        hs.write_predictions(model, photos, tmp_path / "out.csv", top=0)
    monkeypatch.setattr(classification, "logits_of", None)
    with pytest.raises(DataError, match="no file or folder matches this pattern"):
        hs.write_predictions(model, str(photos / "*.gif"), tmp_path / "out.csv")


@pytest.mark.neutral
def test_patterns_are_expanded(photos: Path) -> None:
    def names(*patterns: str) -> list[str]:
        data = hs.data.images_at([photos / pattern for pattern in patterns])
        return [Path(data.source_name(i)).name for i in range(len(data))]

    assert names("0*.png") == [f"{i:02d}, a.png" for i in (1, 3, 5, 7, 9)]
    assert len(names("**/*.png")) == 11
    assert names("sub/0[02]*", "09*") == ["00\n.png", "02\n.png", "09, a.png"]
    (photos / "sub").rename(photos / "[sub]")
    assert len(names("[sub]")) == 6, "what is there under the name is no pattern"


@pytest.mark.neutral
def test_a_table_lists_its_images_in_its_order(photos: Path, tmp_path: Path) -> None:
    names = ["05, a.png", "01, a.png", "05, a.png", "03, a.png"]
    table = photos / "list.csv"
    table.write_text("note,file\n" + "".join(f'x,"{name}"\n' for name in names))
    data = hs.data.images_at(table)
    assert [Path(data.source_name(i)).name for i in range(len(data))] == names
    assert data.ids[0] == data.ids[2]
    elsewhere = tmp_path / "list.csv"
    elsewhere.write_text("a,b\n" + "".join(f'"{name}",1\n' for name in [*names, "gone.png"]))
    with pytest.raises(DataError, match=r"which column is the image.*--image"):
        hs.data.images_at(elsewhere)
    with pytest.raises(DataError, match=r"1 of the 5 files .* are not there"):
        hs.data.images_at(elsewhere, image="a", root=photos)
    skipped = hs.data.images_at(elsewhere, "skip", image="a", root=photos)
    assert len(skipped) == 4 and len(skipped.skipped) == 1
    with pytest.raises(DataError, match="are about a table"):
        hs.data.images_at(photos, image="a")


@pytest.mark.neutral
def test_a_table_holds_its_images(photos: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted(photos.glob("*.png"))
    parquet.write_table(pa.table({"image": [file.read_bytes() for file in files]}), tmp_path / "i.parquet")
    assert hs.data.images_at(tmp_path / "i.parquet").ids == hs.data.images_at(files).ids


def test_the_command(photos: Path, tmp_path: Path, backend: str, capsys: Any, monkeypatch: Any) -> None:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headstart", "predict", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code
        return (code or 0, *capsys.readouterr())

    model = ["--model", "resnet18_half", "--size", 32, "--backend", backend, "--device", "cpu"]
    (photos / "sub/bad.png").write_bytes(b"no image")
    code, out, err = call(
        *model, photos / "*.png", photos / "sub", "--on-error", "skip", "--csv", tmp_path / "p.csv", "--top", 3
    )
    assert code == 0, err
    assert f"written to {tmp_path / 'p.csv'}: 11 images: " in out.replace("\n", " ").replace("  ", " ")
    assert [Path(line[0]).name for line in lines_of(tmp_path / "p.csv")[1:3]] == ["01, a.png", "03, a.png"]
    table = tmp_path / "t.csv"
    table.write_text('picture,n\n"03, a.png",1\n"01, a.png",2\n')
    code, out, err = call(*model, table, "--root", photos, "--csv", tmp_path / "t_out.csv")
    assert code == 0, err
    again = {line[0]: line[1] for line in lines_of(tmp_path / "p.csv")[1:]}
    assert lines_of(tmp_path / "t_out.csv")[1][:2] == [str(photos / "03, a.png"), again[str(photos / "03, a.png")]]
    for words, text in (
        (["--csv", "a.csv", "--json", "b.json"], "expected one of them"),
        (["--csv", "a.parquet"], "ends in .csv or .tsv"),
        (["--parquet", "a.csv"], "ends in .parquet"),
    ):
        code, out, err = call(*model, photos, *words)
        assert (code, out) == (2, "") and text in err and len(err.splitlines()) == 1
