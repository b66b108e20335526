"""The same pictures from a folder, tables, tars and other libraries' sets: the same ids, split and history."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, ImageError, SettingError, UnknownNameError
from headstart.data import Dataset
from headstart.data.dataset import sample_id
from headstart.data.pictures import images_at, pictures_of
from headstart.data.sources import open_data
from headstart.data.table import Columns

CLASSES = ("ant", "bee", "cow")
KINDS = (".png", ".cls")


def pictures(root: Path, per_class: int = 8) -> Path:
    rng = np.random.default_rng(7)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(rng.integers(60 * k, 60 * k + 120, (16, 16, 3)).astype(np.uint8)).save(
                root / name / f"{i}.{'png' if i % 2 else 'jpg'}"
            )
    return root


def paths_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.*g"))


def by_csv(root: Path) -> Dataset:
    table = root.parent / "t.csv"
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in paths_of(root)]
    table.write_text("\n".join(["file,label", *rows]))
    return hs.data.table(table, root=root)


def by_parquet(root: Path) -> Dataset:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": [path.read_bytes() for path in paths_of(root)], "label": names_of(root)}
    parquet.write_table(pa.table(columns), root.parent / "t.parquet")
    return hs.data.table(root.parent / "t.parquet")


def names_of(root: Path) -> list[str]:
    return [path.parent.name for path in paths_of(root)]


def hub_set(root: Path) -> Any:
    library = pytest.importorskip("datasets")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(CLASSES))})
    cells = [{"bytes": path.read_bytes(), "path": None} for path in paths_of(root)]
    return library.Dataset.from_dict({"image": cells, "label": names_of(root)}, features=features)


def by_hub_on_disk(root: Path) -> Dataset:
    hub_set(root).save_to_disk(root.parent / "hub")
    return hs.data.huggingface(root.parent / "hub")


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def by_tars(root: Path) -> Dataset:
    shards: list[dict[str, bytes]] = [{}, {}]
    for i, path in enumerate(paths_of(root)):
        shard = shards[2 * i // len(paths_of(root))]
        shard[f"set/{i:03d}{path.suffix}"] = path.read_bytes()
        shard[f"set/{i:03d}.cls"] = str(CLASSES.index(path.parent.name)).encode()
    for number, shard in enumerate(shards):
        write_tar(root.parent / f"s-{number:02d}.tar", shard)
    return hs.data.webdataset(root.parent / "s-{00..01}.tar", classes=CLASSES)


def by_pairs(root: Path) -> Dataset:
    return hs.data.wrap([(str(path), path.parent.name) for path in paths_of(root)])


def by_bytes(root: Path) -> Dataset:
    return hs.data.wrap([(path.read_bytes(), path.parent.name) for path in paths_of(root)])


WAYS: dict[str, Callable[[Path], Dataset]] = {
    "csv": by_csv,
    "parquet": by_parquet,
    "hub": lambda root: hs.data.huggingface(hub_set(root)),
    "hub on disk": by_hub_on_disk,
    "tars": by_tars,
    "pairs of paths": by_pairs,
    "pairs of bytes": by_bytes,
}


@pytest.mark.neutral
@pytest.mark.parametrize("way", WAYS)
def test_ids_labels_and_splits_are_the_folders(tmp_path: Path, way: str) -> None:
    folder = hs.data.folder(pictures(tmp_path / "photos"))
    data = WAYS[way](tmp_path / "photos")
    assert (data.ids, data.classes, data.task) == (folder.ids, folder.classes, "single")
    assert data.labels.tolist() == folder.labels.tolist() and data.named_classes
    for mine, theirs in zip(data.split(0.7, seed=2), folder.split(0.7, seed=2), strict=True):
        assert mine.ids == theirs.ids
    for i in (0, 9, 23):
        assert np.array_equal(data[i].image, folder[i].image), "one way of decoding"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_history_is_the_folders(tmp_path: Path, backend: str) -> None:
    root = pictures(tmp_path / "photos")
    model = hs.model("lenet", classes=CLASSES, size=32)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 8, "epochs": 2}
    runs = {}
    for way in (hs.data.folder, by_csv, by_tars, by_pairs):
        train, val = way(root).split(0.7, seed=2)
        runs[way.__name__] = hs.fit(model, train, val, **settings)
    expected = [(record.loss, record.val_loss) for record in runs.pop("folder").history]
    for way_name, run in runs.items():
        assert [(record.loss, record.val_loss) for record in run.history] == expected, way_name
        assert run.extraction is not None and run.extraction.extracted == 0, "the folder's features serve"


# What other libraries have ----------------------------------------------------------------------------------


@pytest.mark.neutral
def test_pictures_of_the_hub_need_no_labels(tmp_path: Path) -> None:
    """For predictions: of all splits, one after another; of a folder that was saved, too."""
    library = pytest.importorskip("datasets")
    files = [str(file) for file in paths_of(pictures(tmp_path / "photos", 4))]
    sets = [
        library.Dataset.from_dict({"n": [1] * len(part), "photo": part}).cast_column("photo", library.Image())
        for part in (files[:5], files[5:])
    ]
    splits = library.DatasetDict({"train": sets[0], "test": sets[1]})
    ids = pictures_of(files).ids
    assert pictures_of(splits).ids == ids
    assert pictures_of(sets[1]).ids == ids[5:]
    sets[0].save_to_disk(tmp_path / "saved")
    assert pictures_of(tmp_path / "saved").ids == hs.data.images_at([tmp_path / "saved"]).ids == ids[:5]
    assert hs.data.images_at(tmp_path / "saved", image="photo").ids == ids[:5]
    with pytest.raises(UnknownNameError, match="photo"):
        hs.data.images_at(tmp_path / "saved", image="foto")


def test_splits_of_the_hub_are_parts(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    whole = hub_set(pictures(tmp_path / "photos"))
    every_third = {name: whole.select(range(k, 24, 3)) for k, name in enumerate(("train", "validation", "test"))}
    data = hs.data.huggingface(library.DatasetDict(every_third))
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 8, "val": 8, "test": 8}
    assert data.val.ids == tuple(hs.data.huggingface(whole).ids[1::3])
    assert "row 2 of val" in data.val.source_name(1)
    with pytest.raises(DataError, match=r"the splits are train, extra; expected train, validation and test"):
        hs.data.huggingface(library.DatasetDict({"train": every_third["train"], "extra": every_third["test"]}))
    for only, notes in (("train", 1), ("test", 2)):
        alone = hs.data.huggingface(library.DatasetDict({only: whole}))
        assert len(alone.notes) == notes and alone.labels.tolist() == hs.data.huggingface(whole).labels.tolist()
    assert alone.notes[-1].endswith("all rows are of one part, test; taken in one piece")
    with_parts = whole.add_column("split", ["train", "test", "train"] * (len(whole) // 3))
    (note,) = hs.data.huggingface(with_parts).notes
    assert note.endswith("'split' is not taken as split (the parts of a DatasetDict are)")
    data = hs.data.huggingface(whole, classes=["cow", "ant", "bee"])
    assert [data.classes[k] for k in data.labels] == names_of(tmp_path / "photos")
    with pytest.raises(DataError, match="classes= does not name cow"):
        hs.data.huggingface(whole, classes=["ant", "bee"])
    several = library.Dataset.from_dict(
        {"image": whole["image"][:2], "tags": [[0, 2], []]},
        features=library.Features(
            {"image": library.Image(), "tags": library.Sequence(library.ClassLabel(names=list(CLASSES)))}
        ),
    )
    data = hs.data.huggingface(several, label="tags")
    assert (data.task, data.labels.tolist()) == ("multi", [[1, 0, 1], [0, 0, 0]])
    data = hs.data.huggingface(several, label="tags", classes=["cow", "owl", "ant"])
    assert (data.classes, data.labels.tolist()) == (("cow", "owl", "ant"), [[1, 0, 1], [0, 0, 0]])
    with pytest.raises(DataError, match="classes= does not name cow of column 'tags'"):
        hs.data.huggingface(several, label="tags", classes=["ant", "bee"])
    hot = several.map(lambda row, i: {"tags": [[1, 0, 1], [0, 0, 0]][i]}, with_indices=True)
    with pytest.raises(
        DataError, match=r"column 'tags' are of the numbers of classes, and each is of 3 numbers, 0 or 1"
    ):
        hs.data.huggingface(hot, label="tags")
    with pytest.raises(DataError, match="24 of 24 rows have no label in 'label', the first: row 1, row 2, row 3"):
        hs.data.huggingface(whole.map(lambda row: {"label": -1}))
    empty = library.DatasetDict({"train": whole, "validation": whole.select([])})
    with pytest.raises(DataError, match="the part 'val' of the data set has no rows"):
        hs.data.huggingface(empty)
    with pytest.raises(DataError, match="cannot be opened as a Hugging Face data set"):
        hs.data.huggingface(tmp_path)
    with pytest.raises(DataError, match="the data set is a list"):
        hs.data.huggingface([1, 2])


@pytest.mark.neutral
def test_classes_and_images_of_the_hub_are_looked_at(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    cells = [{"bytes": path.read_bytes(), "path": None} for path in paths_of(pictures(tmp_path / "photos", 1))]

    def rows(images: list[Any], feature: Any, *names: str) -> Any:
        features = library.Features({"image": feature, "label": library.ClassLabel(names=list(names))})
        return library.Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features=features)

    with pytest.warns(DataWarning, match="the classes 'Cat' and 'cat' differ in how they are written alone"):
        hs.data.huggingface(rows(cells, library.Image(), "Cat", "cat", "dog"))
    with pytest.raises(DataError, match=r"the classes 'cat', 'cat\\u200b' look the same"):
        hs.data.huggingface(rows(cells, library.Image(), "cat", "cat\u200b"))
    pixels = [np.zeros((2, 2, 3), np.uint8).tolist()] * 3
    for images, feature in (
        (pixels, library.Array3D((2, 2, 3), "uint8")),
        ([[cell] for cell in cells], library.Sequence(library.Image())),
    ):
        with pytest.raises(DataError, match=r"column 'image' holds .*; expected images, their bytes or the names"):
            hs.data.huggingface(rows(images, feature, "ant", "bee"))


@pytest.mark.neutral
def test_what_a_set_of_the_hub_makes_of_its_rows_is_said(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    rows = hub_set(pictures(tmp_path / "photos", 2))
    plain = hs.data.huggingface(rows)
    for changes in (
        lambda batch: {"pixels": [image.rotate(90) for image in batch["image"]], "label": batch["label"]},
        lambda batch: {"label": [np.eye(3)[label] for label in batch["label"]]},
        lambda batch: {"label": [np.int64(label) for label in batch["label"]]},
        lambda batch: {"label": [CLASSES[label] for label in batch["label"]]},
        lambda batch: 1 / 0,
    ):
        data = hs.data.huggingface(rows.with_transform(changes))
        assert data.labels.tolist() == plain.labels.tolist() and data.ids == plain.ids
        assert data.notes[-1].endswith("its transform is not applied, as preprocessing is the model's")
    merged = rows.with_transform(lambda batch: {"label": [min(label, 1) for label in batch["label"]]})
    for source, part in ((merged, ""), (library.DatasetDict({"train": rows, "test": merged}), " of test")):
        with pytest.raises(DataError, match=rf"makes 1 of 2 in column 'label', row 5{part}, and is not applied"):
            hs.data.huggingface(source)
    grey = hs.data.huggingface(rows.cast_column("image", library.Image(mode="L")))
    assert grey.ids == plain.ids and "are read in RGB, and not in the mode 'L'" in grey.notes[-1]
    assert not any("transform" in note for note in hs.data.huggingface(rows.with_format("numpy")).notes)


@pytest.mark.neutral
def test_columns_of_the_hub_that_name_their_numbers(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    cells = [{"bytes": path.read_bytes(), "path": None} for path in paths_of(pictures(tmp_path / "photos", 1))]

    def rows(*names: str) -> Any:
        kind = library.ClassLabel(names=list(names))
        features = library.Features({"image": library.Image(), "red": kind, "big": library.Value("int64")})
        return library.Dataset.from_dict({"image": cells, "red": [0, 1, 1], "big": [1, 1, 0]}, features=features)

    data = hs.data.huggingface(rows("no", "yes"), label=["red", "big"])
    assert (data.classes, data.labels.tolist()) == (("red", "big"), [[0, 1], [1, 1], [1, 0]])
    with pytest.raises(
        DataError, match=r"in column 'red' 0 is 'yes' and 1 is 'no', .*\{'red': 1 - row\['red'\]\}"
    ):
        hs.data.huggingface(rows("Yes", "No"), label=["red", "big"])


@pytest.mark.neutral
def test_rows_of_the_hub_without_labels(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    root = pictures(tmp_path / "photos", 2)
    images = [{"bytes": path.read_bytes(), "path": None} for path in paths_of(root)[:6]]
    ids = hs.data.folder(root).ids[:6:2]
    kinds = library.ClassLabel(names=list(CLASSES))
    missing = "3 of 6 rows have no label in 'label', the first: row 2, row 4, row 6"
    forms: dict[str, tuple[Any, list[Any], list[Any]]] = {
        "names": (library.Value("string"), ["ant", None], [0, 0, 0]),
        "classes": (kinds, [1, None], [1, 1, 1]),
        "classes, -1": (kinds, [1, -1], [1, 1, 1]),
        "several": (library.Sequence(kinds), [[0, 2], None], [[1, 0, 1]] * 3),
        "several, -1": (library.Sequence(kinds), [[0, 2], [1, -1]], [[1, 0, 1]] * 3),
        "targets": (library.Value("float32"), [0.5, float("nan")], [[0.5]] * 3),
    }
    for what, (feature, labels, left) in forms.items():
        features = library.Features({"image": library.Image(), "label": feature})
        rows = library.Dataset.from_dict({"image": images, "label": labels * 3}, features=features)
        with pytest.raises(DataError, match=missing):
            hs.data.huggingface(rows)
        data = hs.data.huggingface(rows, on_error="skip")
        assert data.labels.tolist() == left, what
        assert [data.source_name(i)[-5:] for i in range(3)] == ["row 1", "row 3", "row 5"]
        assert data.ids == ids, what
        assert "3 of 6 rows have no label" in data.skipped[0].reason


@pytest.mark.neutral
def test_tars_as_they_come(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 8, 7)).save(png, "PNG")
    picture = png.getvalue()
    members = {
        "a.png": picture,
        "a.json": b'{"kind": "cat", "x": 0.5}',
        "b.png": picture,
        "b.json": b'\xef\xbb\xbf{"kind": "dog"}',  # with a mark, as editors of Windows write it
    }
    path = write_tar(tmp_path / "a.tar", {**members, "c.txt": b"a sample without an image", ".hidden": b""})
    data = hs.data.webdataset(path, label="kind")
    assert (data.classes, data.labels.tolist(), data.source_name(1)) == (("cat", "dog"), [0, 1], f"b in {path}")
    with pytest.raises(DataError, match=r"2 of 2 samples have no label \(label\), the first: a in"):
        hs.data.webdataset(path)
    with pytest.raises(DataError, match="1 of 2 samples have no label \\(x\\), the first: b in"):
        hs.data.webdataset(path, label="x")
    numbers = write_tar(tmp_path / "n.tar", {"a.png": picture, "a.cls": b"0", "b.png": picture, "b.cls": b"3"})
    with pytest.raises(DataError, match=r"the label of b in \S+n\.tar is 3; classes= names 2, numbered from 0"):
        hs.data.webdataset(numbers, classes=["cat", "dog"])
    assert hs.data.webdataset(numbers, classes=["3", "0"]).labels.tolist() == [1, 0], (
        "names, as not all are places"
    )
    zeros = write_tar(tmp_path / "zeros.tar", {"a.png": picture, "a.cls": b"0", "b.png": picture, "b.cls": b"0"})
    with pytest.warns(
        DataWarning, match=r"numbers, taken for the classes that are called so: 0 is '0', and not '3'; if"
    ):
        assert hs.data.webdataset(zeros, classes=["3", "0"]).labels.tolist() == [1, 1]
    assert hs.data.webdataset(zeros, classes=["0", "3"]).labels.tolist() == [0, 0]
    of_a_run = open_data(str(zeros), classes=["3", "0"])
    assert of_a_run.labels.tolist() == [1, 1] and "0 is '0', and not '3'" in of_a_run.notes[0]
    marked = {"a.png": picture, "a.cls": b"\xef\xbb\xbfcat\r\n", "b.png": picture, "b.cls": b"dog"}
    assert hs.data.webdataset(write_tar(tmp_path / "m.tar", marked)).classes == ("cat", "dog")
    ages = hs.data.webdataset(numbers, classes=["cls"], task="regression")
    assert (ages.classes, ages.labels.tolist()) == (("cls",), [[0.0], [3.0]])
    named = hs.data.webdataset(numbers, classes=["age"], task="regression")  # as a run calls it that is evaluated
    assert (named.classes, named.labels.tolist()) == (("age",), [[0.0], [3.0]])
    for name, message in (("gone.tar", "there is no file"), ("x-{3..1}.tar", "names -1 shards")):
        with pytest.raises(DataError, match=message):
            hs.data.webdataset(tmp_path / name)
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut\.tar (breaks off|cannot be read)"):
        hs.data.webdataset(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(path, "a.png")
    with pytest.raises(DataError, match="it is compressed; unpack it"):
        hs.data.webdataset(tmp_path / "z.tar")
    for content, said in (
        (b"PK\3\4" + bytes(600), "it is a ZIP archive .*; unpack it, .*tar cf samples.tar"),
        (b"%PDF-1.4", "it is a PDF document: export its pictures"),
        (bytes(9), "it is nothing"),
    ):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(DataError, match=f"a.zip cannot be read as a tar: {said}"):
            hs.data.webdataset(tmp_path / "a.zip")
    with pytest.raises(DataError, match="holds no image"):
        hs.data.webdataset(write_tar(tmp_path / "n.tar", {"a.cls": b"1"}))
    with pytest.raises(DataError, match="two images under the key"):
        hs.data.webdataset(write_tar(tmp_path / "t.tar", {"a.png": picture, "a.jpg": picture, "a.cls": b"1"}))
    many = {f"{i:02d}{kind}": picture if kind == ".png" else f"{i}".encode() for i in range(11) for kind in KINDS}
    first = hs.data.webdataset(write_tar(tmp_path / "many.tar", many))
    again = hs.data.webdataset(tmp_path / "many.tar", classes=first.classes)
    assert [again.classes[k] for k in again.labels] == [str(i) for i in range(11)], "names, and no positions"
    bad = write_tar(tmp_path / "b.tar", {"a.png": b"no image", "a.cls": b"x", "b.png": picture, "b.cls": b"y"})
    with pytest.raises(ImageError, match="a in"):
        _ = hs.data.webdataset(bad)[0]
    assert len(hs.data.webdataset(bad, on_error="skip")) == 1


def pngs(count: int) -> list[bytes]:
    """Files of one colour each."""
    encoded = []
    for i in range(count):
        png = io.BytesIO()
        Image.new("RGB", (5, 4), (9, 8, i)).save(png, "PNG")
        encoded.append(png.getvalue())
    return encoded


@pytest.mark.neutral
def test_what_a_tar_leaves_out_is_said(tmp_path: Path) -> None:
    pair = pngs(2)
    plain = {"a.png": pair[0], "a.cls": b"x", "b.png": pair[1], "b.cls": b"y"}
    for name, more, message in (
        ("c.img", {"c.cls": b"x"}, r"1 of 3 samples have a label \(cls\) and no image .* the first: c in"),
        ("d.png", {}, r"1 of 3 samples have no label \(cls\).*on_error=\"skip\""),
    ):
        content = b"no image" if name == "c.img" else pair[0]
        path = write_tar(tmp_path / f"{name}.tar", {**plain, name: content, **more})
        with pytest.raises(DataError, match=message):
            hs.data.webdataset(path)
        data = hs.data.webdataset(path, on_error="skip")
        assert len(data) == 2 and "1 of 3 samples have" in data.skipped[0].reason
    path = tmp_path / "changed.tar"
    before = hs.data.webdataset(write_tar(path, plain))
    write_tar(path, {"a.png": pair[1], "b.png": pair[0], "a.cls": b"y", "b.cls": b"x", "c.txt": b""})
    with pytest.raises(DataError, match="was changed since it was opened; open the data set again"):
        _ = before.ids


@pytest.mark.neutral
def test_a_tar_holds_what_its_files_are_and_ends_where_it_ends(tmp_path: Path) -> None:
    pair = pngs(3)
    named = {
        "a.png": pair[0],
        "b": pair[1],
        "c.img": pair[2],
        "d.bin": b"other data",
        "a.mask": pair[1],
        "e.x": b"\x93NUMPY",
    }
    litter = {"__MACOSX/a.png": pair[2], "./.cache/e.png": pair[0], "@eaDir/b/f.jpg": pair[1]}
    path = write_tar(tmp_path / "t.tar", named | litter)
    data = images_at(path)
    assert [data.load(i)[1] for i in range(len(data))] == [sample_id(content) for content in pair]
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        header = tar.getmember("b").offset
    (tmp_path / "damaged.tar").write_bytes(whole[:header] + b"x" + whole[header + 1 :])
    (tmp_path / "joined.tar").write_bytes(whole + whole)
    for name in ("damaged.tar", "joined.tar"):
        with pytest.raises(DataError, match=rf"{name} goes on behind its end, which is at byte .* one by one"):
            images_at(tmp_path / name)
    (tmp_path / "cut.tar").write_bytes(whole[:header])
    with pytest.warns(DataWarning, match=r"cut\.tar has no mark of its end: if it was cut off"):
        assert len(images_at(tmp_path / "cut.tar")) == 1
    dotted = write_tar(tmp_path / "dots.tar", {"p/x.1.png": pair[0], "p/x.2.png": pair[1]})
    with pytest.raises(DataError, match=r"key 'p/x', .* first dot: 'p/x\.1\.png' and 'p/x\.2\.png'"):
        images_at(dotted)


@pytest.mark.neutral
def test_links_in_a_tar_are_what_they_lead_to(tmp_path: Path) -> None:
    pair = {}
    for name in ("a.png", "d/b.png"):
        png = io.BytesIO()
        Image.new("RGB", (5, 4), (9, 8, len(name))).save(png, "PNG")
        pair[name] = png.getvalue()

    def tar(*links: tuple[bytes, str, str]) -> Path:
        """Before the files that they lead to, which `tar` makes of hard links never, and others do."""
        path = tmp_path / "links.tar"
        with tarfile.open(path, "w") as out:
            for kind, name, target in links:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = kind, target
                out.addfile(link)
            for name, content in {**pair, "a.cls": b"x", "d/b.cls": b"y", "d/c.cls": b"y", "e.cls": b"y"}.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                out.addfile(about, io.BytesIO(content))
        return path

    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    path = tar((hard, "d/c.png", "a.png"), (soft, "e.png", "d/./f.png"), (soft, "d/f.png", "../d/c.png"))
    for data in (hs.data.webdataset(path, on_error="skip"), images_at(path)):
        by_key = {data.source_name(i).partition(" ")[0]: id for i, id in enumerate(data.ids)}
        assert by_key["d/c"] == by_key["e"] == by_key["a"] != by_key["d/b"]
    path = tar((hard, "d/c.png", "a.png"), (soft, "e.png", "../../elsewhere.png"))
    for opened in (hs.data.webdataset, images_at):
        with pytest.raises(
            DataError, match=r"e in \S+ ?.*is a link to '../../elsewhere.png', which is no file in"
        ):
            opened(path)
        assert len(opened(path, on_error="skip")) == 3
    data = images_at(path, "skip", examine=False)
    lost = next(i for i in range(len(data)) if data.source_name(i).startswith("e in"))
    with pytest.raises(ImageError, match="is a link to"):
        _ = data[lost]
    circle = tar((soft, "d/c.png", "../e.png"), (soft, "e.png", "d/c.png"))
    with pytest.raises(DataError, match="2 of 4 images cannot be read"):
        images_at(circle)


@pytest.mark.neutral
def test_numbers_of_a_tar_as_positions_in_others_classes_are_said(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 8, 7)).save(png, "PNG")
    path = write_tar(tmp_path / "n.tar", {"a.png": png.getvalue(), "a.cls": b"1"})
    with pytest.warns(DataWarning, match=r"n\.tar: labels \(cls\) are numbers, .* in the classes: 1 is 'dog'"):
        data = open_data(str(path), classes=["cat", "dog"])
    assert data.labels.tolist() == [1]
    (note,) = hs.data.webdataset(
        path, classes=["cat", "dog"]
    ).notes  # who names them has read how numbers are taken
    assert "1 is 'dog'" in note


@pytest.mark.neutral
def test_data_stay_where_they_were_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that goes to another folder does not read the files of the same names there."""
    ways: dict[str, Callable[[], Dataset]] = {
        "folder": lambda: hs.data.folder("photos"),
        "pairs": lambda: hs.data.wrap([(str(path), path.parent.name) for path in paths_of(Path("photos"))]),
        "tar": lambda: hs.data.webdataset("photos.tar"),
        "bytes and names": lambda: hs.data.table(cells_of(paths_of(Path("photos")))),
    }

    def cells_of(paths: list[Path]) -> dict[str, list[Any]]:
        first, *others = paths
        images = [first.read_bytes(), *map(str, others)]
        return {"image": images, "label": [path.parent.name for path in paths]}

    opened: dict[str, list[Dataset]] = {way: [] for way in ways}
    for number in range(2):
        root = pictures(tmp_path / str(number) / "photos", 1)
        for path in paths_of(root):
            path.write_bytes(path.read_bytes() + bytes([number]))
        members = {f"{path.parent.name}.jpg": path.read_bytes() for path in paths_of(root)}
        write_tar(root.with_suffix(".tar"), members | {f"{name}.cls": name.encode() for name in CLASSES})
        monkeypatch.chdir(root.parent)
        for way, make in ways.items():
            opened[way].append(make())
    expected = [hs.data.folder(tmp_path / str(number) / "photos").ids for number in range(2)]
    for way, data in opened.items():
        assert [opened.ids for opened in data] == expected, way
    assert opened["folder"][0].source_name(0) == "photos/ant/0.jpg", "as it was named"
    (tmp_path / "0" / "photos" / "ant" / "0.jpg").unlink()
    with pytest.raises(ImageError, match=r"^photos/ant/0\.jpg: there is no such file"):
        _ = opened["folder"][0][0]


class MapStyle:
    """As torchvision's sets: labels listed, images decoded when they are asked for."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        self.read = 0
        if classes is not None:
            self.classes = classes
            self.targets = [label for _, label in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self.items):
            raise IndexError
        self.read += 1
        return self.items[index]


class Part:
    """As torch's subsets."""

    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]


class Chain:
    """As torch's concatenated sets."""

    def __init__(self, datasets: list[Any]) -> None:
        self.datasets = datasets

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def __getitem__(self, index: int) -> Any:
        return [item for items in self.datasets for item in items][index]


@pytest.mark.neutral
def test_map_style_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4 + i, 5, 3)).astype(np.uint8) for i in range(6)]
    expected = hs.data.arrays(images, [0, 1, 2] * 2, classes=CLASSES)
    for items in (images, [Image.fromarray(image) for image in images]):
        source = MapStyle(list(zip(items, [0, 1, 2] * 2, strict=True)), list(CLASSES))
        data = hs.data.wrap(source)
        assert (data.ids, data.classes, data.labels.tolist()) == (
            expected.ids, expected.classes, expected.labels.tolist()
        )  # fmt: skip
    plain = hs.data.wrap(MapStyle([(image, "bee") for image in images]))
    assert plain.classes == ("bee",) and plain.ids == expected.ids
    root = pictures(tmp_path / "photos", 2)
    listed = MapStyle([])
    listed.samples = [(str(path), CLASSES.index(path.parent.name)) for path in paths_of(root)]  # type: ignore[attr-defined]
    listed.items, listed.classes = listed.samples, list(CLASSES)  # type: ignore[attr-defined]
    folder = hs.data.folder(root)
    assert hs.data.wrap(listed).ids == folder.ids
    some = MapStyle([listed.items[i] for i in (0, 1, 3)], list(CLASSES))
    some.samples = listed.items  # type: ignore[attr-defined]
    assert hs.data.wrap(some).ids == (*folder.ids[:2], folder.ids[3]), (
        "those that it gives, and not the first that it lists"
    )
    part = Part(Part(listed, [5, 1, 0, 3]), np.array([2, 0]))
    for items, positions in ((part, [0, 5]), (Chain([part, listed]), [0, 5, *range(6)])):
        data = hs.data.wrap(items)
        assert data.ids == tuple(folder.ids[i] for i in positions) and data.classes == folder.classes
        assert data.labels.tolist() == [folder.labels[i] for i in positions]
        assert "not what its own __getitem__ makes of them" in data.notes[0]
    listed.transform = listed.target_transform = lambda value: 5  # type: ignore[attr-defined]
    listed.items = [(path, 5) for path, _ in listed.items]
    data = hs.data.wrap(part)
    assert data.notes[0] == "part: its files are read without its transform, as preprocessing is the model's"
    assert data.ids == (folder.ids[0], folder.ids[5]) and data.labels.tolist() == [5, 5] and not data.named_classes
    in_memory = Part(MapStyle(list(zip(images, [0, 1, 2] * 2, strict=True)), list(CLASSES)), [4, 2, 0])
    data = hs.data.wrap(in_memory)
    assert (data.ids, data.labels.tolist(), data.classes) == (
        (expected.ids[4], expected.ids[2], expected.ids[0]), [1, 2, 0], CLASSES
    )  # fmt: skip
    for source, message in (
        (MapStyle([]), "has no samples"),
        (3, "the set is a int"),
        ("photos", "the set is a str"),
        ([1, 2], "sample 0 of the set is a int; expected a pair"),
        ([{"image": 1}], "sample 0 of the set is a dict"),
        ([(images[0].astype(np.float32) / 255, 0)], r"the pixels are float32"),
        ([(images[0], Image.new("L", (3, 3)))], "label of sample 0 is an image"),
        ([(images[0], None)], "label 0 is None"),
        (
            Part(in_memory, [True, False, True]),
            r"indices of a part of a set are booleans.*np\.flatnonzero\(mask\)",
        ),
        (Part(in_memory, np.array([False, True])), "indices of a part of a set are booleans"),
    ):
        with pytest.raises(DataError, match=message):
            hs.data.wrap(source)


class Relabelled(Part):
    """As people change the labels of a set."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image, self.names[label]

    names: Any = (0, 1, 0)


class Longer(MapStyle):
    """With fewer samples than it says."""

    def __len__(self) -> int:
        return len(self.items) + 1


class Seeking(MapStyle):
    """With one place in one file for all threads."""

    at = 0

    def __getitem__(self, index: int) -> Any:
        self.at = index
        time.sleep(0.0005)
        return super().__getitem__(self.at)


@pytest.mark.neutral
def test_a_set_of_the_users_is_asked_by_one_thread_at_a_time() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (40, 4, 5, 3)).astype(np.uint8))
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    for items in (images, files):
        pairs = [(item, k % 2) for k, item in enumerate(items)]
        data, expected = hs.data.wrap(Seeking(pairs)), hs.data.wrap(pairs)
        assert data.ids == expected.ids
    for first, second in ((files[0], images[0]), ("a.png", files[0]), (images[0], "a.png")):
        with pytest.raises(DataError, match=r"expected (one kind|an array)"):
            _ = hs.data.wrap([(first, 0), (second, 1)]).ids


@pytest.mark.neutral
def test_labels_are_those_of_a_sets_samples() -> None:
    """Whatever it lists; and none is made of a number with a fraction."""
    images = list(np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8))
    source = MapStyle(list(zip(images, [0, 1, 2] * 2, strict=True)), list(CLASSES))
    relabelled = Relabelled(source, [5, 4, 3])
    data = hs.data.wrap(relabelled)
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [0, 1, 0]) and "not those that" in data.notes[0]
    many = MapStyle([(images[0], k % 3) for k in range(900)], list(CLASSES))
    assert hs.data.wrap(many).classes == CLASSES and many.read < 300, (
        "some show what the rest is, and not all are read"
    )
    many.items = [(images[0], (k + (k > 5 and k % 10 == 0)) % 3) for k in range(900)]  # a tenth has another
    assert hs.data.wrap(many).labels.tolist() == [label for _, label in many.items]
    relabelled.names = ["x", "y", "x"]
    data = hs.data.wrap(relabelled)
    assert (data.classes, data.labels.tolist()) == (("x", "y"), [0, 1, 0])
    other = MapStyle(source.items, ["bee", "ant", "cow"])
    with pytest.raises(DataError, match="class 0 is 'bee' in one and 'ant' in another"):
        hs.data.wrap(Chain([source, other]))
    assert hs.data.wrap(Chain([source, other]), classes=CLASSES).classes == CLASSES
    assert hs.data.wrap(Chain([source, MapStyle(source.items, [*CLASSES, "dog"])])).classes == (*CLASSES, "dog")
    source.class_to_idx = {"ant": 2, "bee": 0, "cow": 1}  # type: ignore[attr-defined]
    assert hs.data.wrap(source).classes == ("bee", "cow", "ant"), "as the set numbers its names"
    source.class_to_idx["ant"] = 0  # type: ignore[attr-defined]
    assert hs.data.wrap(source).classes == ("0", "1", "2"), "no names where two of them have one number"
    for label, message in (
        (np.float32(0.7), "task='regression'"),
        (np.float32("nan"), "Label 0 is nan"),
        (np.eye(2)[0], r"np\.argmax\(labels, axis=1\)"),
    ):
        with pytest.raises(DataError, match=message):
            hs.data.wrap([(image, label) for image in images])
    for items, message in ((Longer(source.items), "a length of 7, and no sample 6"), (Part(3, [0]), "TypeError")):
        with pytest.raises(DataError, match=message):
            hs.data.wrap(items)


@pytest.mark.neutral
def test_what_a_text_opens(tmp_path: Path) -> None:
    """The command's --data, and paths at every door."""
    root = pictures(tmp_path / "photos", 2)
    expected = hs.data.folder(root).ids
    by_csv(root)
    by_tars(root)
    assert hs.data.open_data(str(tmp_path / "t.csv"), columns=Columns(root=str(root))).ids == expected
    assert hs.data.open_data(str(tmp_path / "s-{00..01}.tar")).ids == expected
    with pytest.raises(SettingError, match="image=, group=: of a tar only label, task, separator can be named"):
        hs.data.open_data(str(tmp_path / "s-00.tar"), columns=Columns(image="jpg", group="who"))
    by_hub_on_disk(root)
    assert hs.data.open_data(str(tmp_path / "hub")).ids == expected


@pytest.mark.neutral
def test_a_part_is_one_object(tmp_path: Path) -> None:
    pictures(tmp_path / "photos" / "train", 2)
    pictures(tmp_path / "photos" / "val", 1)
    data = hs.data.folder(tmp_path / "photos")
    assert data.train is data.train is data.parts["train"] and data.val is not data.train
