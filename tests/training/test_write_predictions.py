"""Predictions in files: a line an image, in their order, whole or not there, a batch at a time."""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli import main as cli
from headstart.data.dataset import FileSource
from headstart.errors import DataError, DataWarning, DivergedWarning, ImageError, SettingError, UnknownNameError
from headstart.training import predictions
from headstart.training.metrics import softmax
from headstart.training.prediction_files import as_text

pytestmark = pytest.mark.of("torch")  # what is written is core's

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


@pytest.mark.slow("keras", "jax")  # core writes
@pytest.mark.each
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
def test_nothing_is_held_of_a_batch_that_was_written() -> None:
    """Batches are asked for one by one, and their bytes are there before the next."""
    asked: list[int] = []

    def batches() -> Any:
        for i in range(1000):
            asked.append(i)
            yield [[f"{i}.png"], ["x"], np.ones(1, np.float32)]

    chunks = as_text({"file": "text", "class": "text", "probability": "share"}, ",")(batches())
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
    monkeypatch.setattr(predictions, "logits_of", None)
    with pytest.raises(DataError, match="no file or folder matches this pattern"):
        hs.write_predictions(model, str(photos / "*.gif"), tmp_path / "out.csv")


@pytest.mark.neutral
def test_patterns_are_expanded(photos: Path) -> None:
    def names(*patterns: str) -> list[str]:
        data = hs.data.images_at([photos / pattern for pattern in patterns])
        return [Path(data.source_name(i)).name for i in range(len(data))]

    assert names("0*.png") == [f"{i:02d}, a.png" for i in (1, 3, 5, 7, 9)]
    assert len(names("**/*.png")) == 11
    assert sorted(names("**")) == sorted(names("")), "folders and what lies in them, and each image once"
    (photos / "Thumbs.db").write_bytes(b"what a system left")
    assert len(names("*")) == 11
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
    with pytest.raises(DataError, match=r"1 of the 5 files .* is not there"):
        hs.data.images_at(elsewhere, image="a", root=photos)
    skipped = hs.data.images_at(elsewhere, "skip", image="a", root=photos)
    assert len(skipped) == 4 and len(skipped.skipped) == 1
    with pytest.raises(DataError, match="are about a table"):
        hs.data.images_at(photos, image="a")


def test_rows_that_name_no_image_keep_their_lines(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    table = photos / "list.csv"
    table.write_text('file,n\n,1\n"01, a.png",2\n  ,3\n"03, a.png",4\n')
    with pytest.raises(DataError, match="2 of 4 rows name no image in 'file', the first: row 1, row 3"):
        hs.predict(model, table, backend=backend, device="cpu")
    written = hs.write_predictions(
        model, table, tmp_path / "out.csv", on_error="skip", backend=backend, device="cpu"
    )
    _, *lines = lines_of(written.path)
    assert [Path(line[0]).name for line in lines] == [
        "list.csv, row 1",
        "01, a.png",
        "list.csv, row 3",
        "03, a.png",
    ]
    assert [line[1] == "" for line in lines] == [True, False, True, False]
    assert ["cell is empty" in line[3] for line in lines] == [True, False, True, False]
    skipped = hs.data.images_at(table, "skip")
    assert len(skipped) == len(skipped.skipped) == 2 and "cell is empty" in skipped.skipped[0].reason
    table.write_text("file,n\n,1\n")
    with pytest.raises(DataError, match="no row names an image"):
        hs.data.images_at(table, "skip")


@pytest.mark.neutral
def test_a_table_holds_its_images(photos: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted(photos.glob("*.png"))
    parquet.write_table(pa.table({"image": [file.read_bytes() for file in files]}), tmp_path / "i.parquet")
    assert hs.data.images_at(tmp_path / "i.parquet").ids == hs.data.images_at(files).ids


def test_whatever_it_comes_in(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    """The same pictures as files, patterns, a list of these, a table, a frame, and a tar give the same classes."""
    files = sorted(map(str, photos.glob("*.png")))
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for i, file in enumerate(files):
            member = tarfile.TarInfo(f"{i:02d}.png")
            member.size = Path(file).stat().st_size
            tar.addfile(member, io.BytesIO(Path(file).read_bytes()))
    table = photos / "list.csv"
    table.write_text("kind,file\n" + "".join(f'what,"{Path(file).name}"\n' for file in files))
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4}
    expected = hs.predict(model, files, **settings)
    forms: dict[str, Any] = {
        "pattern": str(photos / "*.png"),
        "a list of patterns": [str(photos / "0[1-5]*.png"), str(photos / "0[6-9]*.png")],
        "table": table,
        "tar": tmp_path / "shard-0.tar",
        "tars": [str(tmp_path / "shard-{0..0}.tar")],
        "a pattern of tars": str(tmp_path / "*.tar"),
    }
    frames = pytest.importorskip("pandas")
    forms["frame"] = frames.DataFrame({"kind": "what", "path": files})
    for name, form in forms.items():
        np.testing.assert_array_equal(hs.predict(model, form, **settings), expected, err_msg=name)
        written = hs.write_predictions(model, form, tmp_path / "out.csv", **settings)
        classes = [line[1] for line in lines_of(written.path)[1:]]
        assert classes == [CLASSES[k] for k in expected.argmax(1)], name
    folders = [str(photos / "sub"), files[0]]
    assert len(hs.predict(model, folders, **settings)) == 7
    with pytest.raises(DataError, match="named among other paths"):
        hs.predict(model, [str(table), files[0]], **settings)


def test_features_and_floats_have_lines_too(model: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    files = sorted(map(str, photos.glob("*.png")))
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4}
    expected = [CLASSES[k] for k in hs.predict(model, files, **settings).argmax(1)]
    features = hs.extract(model, hs.data.images_at(files), dtype="float32", backend=backend, device="cpu")
    written = hs.write_predictions(model, features, tmp_path / "out.csv", **settings)
    lines = [line[:2] for line in lines_of(written.path)[1:]]
    assert lines == [list(pair) for pair in zip(features.ids, expected, strict=True)]
    floats = model.preprocess.normalise(np.zeros((3, 32, 32, 3), np.uint8))
    hs.write_predictions(model, floats, tmp_path / "out.csv", **settings)
    assert [line[0] for line in lines_of(tmp_path / "out.csv")[1:]] == ["sample 0", "sample 1", "sample 2"]


def test_what_cannot_be_read_keeps_its_line(
    model: Any, photos: Path, tmp_path: Path, backend: str, monkeypatch: Any
) -> None:
    """And nothing is decoded twice for it."""
    names = ["01, a.png", "gone.png", "empty.png", "03, a.png", "half.png", "05, a.png"]
    (photos / "empty.png").write_bytes(b"")
    (photos / "half.png").write_bytes((photos / "01, a.png").read_bytes()[:90])
    table = photos / "list.csv"
    table.write_text("file\n" + "".join(f'"{name}"\n' for name in names))
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 2, "workers": 3}
    sound = [str(photos / name) for name in names if name[0] == "0"]
    expected = [CLASSES[k] for k in hs.predict(model, sound, **settings).argmax(1)]
    decoded: list[str] = []
    real = FileSource.open
    monkeypatch.setattr(FileSource, "open", lambda *of: decoded.append(of[0].paths[of[2]]) or real(*of))
    for form in (table, [str(photos / name) for name in names]):
        decoded.clear()
        written = hs.write_predictions(model, form, tmp_path / "out.csv", on_error="skip", **settings)
        head, *lines = lines_of(written.path)
        assert head == ["file", "class", "probability", "error"]
        assert [Path(line[0]).name for line in lines] == names
        assert [line[1] for line in lines if line[1]] == expected
        assert [line[1] == line[2] == "" for line in lines] == [False, True, True, False, True, False]
        reasons = dict(zip(names, (line[3] for line in lines), strict=True))
        assert "no such file" in reasons.pop("gone.png") and "empty" in reasons.pop("empty.png")
        assert reasons.pop("half.png") and set(reasons.values()) == {""}
        assert (written.images, written.unread, written.not_finite) == (6, 3, 0)
        assert [Path(text.split(":")[0]).name for text in written.examples] == [names[i] for i in (1, 2, 4)]
        assert sum(written.counts.values()) == 3
        assert sorted(Path(path).name for path in decoded) == sorted(set(names) - {"gone.png"})
    with pytest.raises(DataError, match=r"gone\.png"):
        hs.write_predictions(model, table, tmp_path / "out.csv", **settings)
    with pytest.raises(UnknownNameError, match="on_error"):
        hs.write_predictions(model, table, tmp_path / "out.csv", on_error="ignore", **settings)


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
    assert f"written to {tmp_path / 'p.csv'}: 12 images, 1 of them not read: " in out.replace("\n", " ").replace(
        "  ", " "
    )
    head, *lines = lines_of(tmp_path / "p.csv")
    assert [Path(line[0]).name for line in lines[:2]] == ["01, a.png", "03, a.png"]
    assert head[-1] == "error" and [line[-1] for line in lines] == [*[""] * 11, lines[-1][-1]]
    assert Path(lines[-1][0]).name == "bad.png" and lines[-1][1:-1] == [""] * 6 and "but text" in lines[-1][-1]
    assert "1 of 12 images could not be read" in err and "bad.png" in err
    code, out, err = call(*model, photos / "sub", "--on-error", "skip", "--json", tmp_path / "p.json")
    assert code == 0 and "but text" in out, err
    listed = json.loads((tmp_path / "p.json").read_text())
    assert listed[-1]["classes"] == [] and "but text" in listed[-1]["error"] and "error" not in listed[0]
    code, out, err = call(*model, photos / "sub", "--csv", tmp_path / "not.csv")
    assert code == 2 and "bad.png" in err and not (tmp_path / "not.csv").exists()
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


def test_predict_has_rows_of_nan_for_what_cannot_be_read(model: Any, photos: Path, backend: str) -> None:
    place: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4}
    sound = hs.predict(model, photos, **place)
    (photos / "00.png").write_bytes(b"")
    files = [hs.data.images_at(photos, "skip", examine=False).source_name(i) for i in range(12)]
    broken = next(i for i, name in enumerate(files) if name.endswith("00.png"))
    with pytest.raises(ImageError, match=r"00\.png.* empty"):
        hs.predict(model, photos, **place)
    with pytest.warns(
        DataWarning, match=r"^1 of 12 images could not be read, and their rows are NaN: .*00\.png"
    ) as said:
        logits = hs.predict(model, photos, on_error="skip", **place)
    assert len(said) == 1, "what cannot be read has not diverged"
    assert np.isnan(logits[broken]).all() and np.allclose(np.delete(logits, broken, 0), sound, atol=1e-5)
    with pytest.raises(UnknownNameError, match="skipp"):
        hs.predict(model, photos, on_error="skipp", **place)
