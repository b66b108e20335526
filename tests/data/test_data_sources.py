"""Where data sets come from: folders in every state, arrays, digits, CIFAR-10 in its published layouts."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart import data
from headstart.common.errors import DataError, ImageError, UnknownNameError
from headstart.data import sources

pytestmark = pytest.mark.neutral

# Folders ---------------------------------------------------------------------------------------------------


def picture(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (grey, grey, grey)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for k, name in enumerate(["dog", "cat", "ant"]):
        for i in range(3):
            picture(root / name / f"{i}.png", 50 * k + i)
    return root


def test_folder_a_class(photos: Path) -> None:
    dataset = data.folder(photos)
    assert dataset.name == "photos"
    assert dataset.classes == ("ant", "cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [int(sample.image[0, 0, 0]) for sample in dataset] == [100, 101, 102, 50, 51, 52, 0, 1, 2]
    assert dataset[0].image.shape == (5, 6, 3)
    assert dataset.skipped == ()


def test_what_lies_beside_and_litter_is_ignored(photos: Path) -> None:
    (photos / "LICENSE.txt").write_text("free")
    (photos / ".git").mkdir()
    (photos / "__MACOSX").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (photos / "cat" / name).write_text("litter")
    assert len(data.folder(photos)) == 9


def test_nested_folders_and_capitals(photos: Path) -> None:
    picture(photos / "cat" / "2024" / "may" / "x.JPG")
    picture(photos / "cat" / "y.WebP")
    dataset = data.folder(str(photos))
    assert dataset.labels.tolist().count(1) == 5
    assert {Path(dataset.source_name(i)).name for i in range(len(dataset))} >= {"x.JPG", "y.WebP"}


def test_links_are_followed_but_not_in_circles(photos: Path, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "z.png")
    (photos / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "cat" / "loop").symlink_to(photos / "cat")
    assert data.folder(photos).labels.tolist().count(1) == 4


def test_order_of_the_file_system_does_not_matter(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data.folder(photos).ids
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("headstart.data.sources.os.scandir", Backwards)
    assert data.folder(photos).ids == before


def test_stray_file_in_a_class_is_an_error(photos: Path) -> None:
    (photos / "cat" / "notes.txt").write_text("three cats")
    with pytest.raises(ImageError, match=r"notes\.txt.*on_error") as caught:
        data.folder(photos)
    assert caught.value.source == str(photos / "cat" / "notes.txt")


def test_skip_lists_what_it_leaves_out(photos: Path) -> None:
    (photos / "cat" / "notes.txt").write_text("three cats")
    (photos / "cat" / "text.jpg").write_text("no image at all")
    whole = picture(photos / "dog" / "cut.jpg").read_bytes()
    (photos / "dog" / "cut.jpg").write_bytes(whole[:-100])
    (photos / "ant" / "gone.png").symlink_to(photos / "nowhere.png")
    dataset = data.folder(photos, on_error="skip")
    assert len(dataset) == 9
    assert [int(sample.image[0, 0, 0]) for sample in dataset] == [100, 101, 102, 50, 51, 52, 0, 1, 2]
    reasons = {Path(path).name: reason for path, reason in dataset.skipped}
    assert set(reasons) == {"notes.txt", "text.jpg", "cut.jpg", "gone.png"}
    assert "not an image" in reasons["text.jpg"]
    assert "breaks off" in reasons["cut.jpg"]
    assert "not there" in reasons["gone.png"]
    assert dataset.split(0.5)[0].skipped == dataset.skipped


def test_without_skip_a_damaged_image_is_an_error_when_it_is_loaded(photos: Path) -> None:
    (photos / "cat" / "text.jpg").write_text("no image at all")
    dataset = data.folder(photos)
    with pytest.raises(ImageError, match=r"text\.jpg: is not an image"):
        list(dataset)


def test_pipe_does_not_hang(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")
    assert [Path(s.path).name for s in data.folder(photos, on_error="skip").skipped] == ["pipe.png"]


def test_class_left_empty_by_skipping(photos: Path) -> None:
    for i in range(3):
        (photos / "cat" / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"in its class folder 'cat'\. 3 files left out, the first: .*/0\.png .*Expected at least one",
    ):
        data.folder(photos, on_error="skip")


def test_a_folder_nearly_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    with pytest.raises(DataError, match="there is no folder photo here; did you mean photos/"):
        sources.open_data("photo")
    with pytest.raises(UnknownNameError, match=r"unknown data set 'digit'.*did you mean 'digits'"):
        sources.open_data("digit")


def test_classes_below_folders_that_hold_one_alone_are_named(photos: Path) -> None:
    root = photos.parent / "download"
    (root / "a").mkdir(parents=True)
    photos.rename(root / "a" / "b")
    hint = f"Do you mean {root / 'a' / 'b'}, which holds 'ant', 'cat', 'dog'?"
    with pytest.raises(DataError, match=f"only one class folder, 'a'.* {re.escape(hint)}"):
        data.folder(root)


def test_folders_that_cannot_be_trained_on(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        data.folder(tmp_path / "missing")
    with pytest.raises(DataError, match=r"is one image \(PNG\)"):
        data.folder(picture(tmp_path / "a.png"))
    hint = f"Do you mean {photos}, which holds 'ant', 'cat', 'dog'? Left out: {photos / 'cat'} holds 3 images"
    with pytest.raises(DataError, match=f"no class folders.* {re.escape(hint)} right in it"):
        data.folder(photos / "cat")
    (photos / "notes").mkdir()
    with pytest.raises(DataError, match=r"no class folders.*Sort its images into such.*headstart predict"):
        data.folder(photos / "cat")
    (photos / "notes").rmdir()
    for table, said in (("a.csv", "the table in it, .*a.csv"), ("b.tsv", "the tables 'a.csv', 'b.tsv'")):
        (photos / "cat" / table).touch()
        with pytest.raises(DataError, match=said):
            data.folder(photos / "cat")
    for name in ("a.csv", "b.tsv"):
        (photos / "cat" / name).rename(photos / "cat" / f"{name}.parquet")
    with pytest.raises(DataError, match="It holds 2 Parquet files"):
        data.folder(photos / "cat")
    for name in ("a.csv", "b.tsv"):
        (photos / "cat" / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match="only one class folder, 'photos'"):
        data.folder(photos.parent)
    (photos / "bee").mkdir()
    with pytest.raises(
        DataError,
        match=r"no usable image in its class folder 'bee'\. Expected at least one .* or remove the folder",
    ):
        data.folder(photos)
    for kind in ("ant", "cat", "dog"):
        shutil.rmtree(photos / kind)
        (photos / kind).mkdir()
    with pytest.raises(
        DataError, match=r"any of its class folders, 'ant', 'bee', 'cat', 'dog'\. .* above or below"
    ):
        data.folder(photos)
    with pytest.raises(UnknownNameError, match="on_error 'ignore'"):
        data.folder(photos, on_error="ignore")


# Arrays ----------------------------------------------------------------------------------------------------


def test_arrays_of_every_kind() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for images in (grey, grey[..., None]):
        dataset = data.arrays(images, [1, 0])
        np.testing.assert_array_equal(dataset[1].image, np.dstack([grey[1]] * 3))
        assert dataset.classes == ("0", "1")
    rgba = np.arange(96, dtype=np.uint8).reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(data.arrays(rgba, np.array([1, 0], np.uint8))[1].image, rgba[1, ..., :3])
    mixed = data.arrays([grey[0], rgba[0, :2, :, :3], rgba[1]], [0, 1, 2], classes=["a", "b", "c"])
    assert [sample.image.shape for sample in mixed] == [(3, 4, 3), (2, 4, 3), (3, 4, 3)]
    assert mixed.classes == ("a", "b", "c")


def test_array_ids_tell_shapes_apart() -> None:
    values = np.arange(12, dtype=np.uint8)
    dataset = data.arrays([values.reshape(3, 4), values.reshape(4, 3), values.reshape(3, 4)], [0, 1, 1])
    assert dataset.ids[0] == dataset.ids[2] != dataset.ids[1]
    assert all(len(id) == 32 for id in dataset.ids)


def test_arrays_from_a_view_that_is_not_contiguous() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    view = np.moveaxis(images, 1, -1)
    dataset = data.arrays(view, [0, 1])
    np.testing.assert_array_equal(dataset[1].image, view[1])
    assert dataset.ids == data.arrays(view.copy(), [0, 1]).ids


ZEROS = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        ([*ZEROS.astype(np.float32)], [0, 1], None, r"float32.*255 \* images"),
        ([*ZEROS.astype(np.int64)], [0, 1], None, "int64; expected uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8)[..., :2], [0, 1], None, "channels come last"),
        (ZEROS[0, 0], [0, 1], None, "shape"),
        ([ZEROS[0], ZEROS[0].astype(float)], [0, 1], None, "image 1: the pixels are float64"),
        ([ZEROS[0], ZEROS], [0, 1], None, "image 1: the shape"),
        (np.zeros((2, 0, 4), np.uint8), [0, 1], None, "no pixels"),
        (np.zeros((0, 4, 4), np.uint8), [], None, "no images"),
        (ZEROS, [0], None, "2 images and 1 labels"),
        (ZEROS, [0.0, 1.0], None, "labels are float64"),
        (ZEROS, [[0, 1], [1, 0]], None, "argmax"),
        (ZEROS, [0, -1], None, "label -1 of image 1 is out of range"),
        (ZEROS, [0, 2], ["a", "b"], "label 2 of image 1 is out of range; allowed are 0 to 1"),
        (ZEROS, [0, 1], ["a", "a"], "twice"),
        (ZEROS, [0, 1], "ab", "list of names"),
    ],
)
def test_wrong_arrays(images: object, labels: object, classes: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.arrays(images, labels, classes)  # type: ignore[arg-type]


@pytest.mark.parametrize("lies_elsewhere", [False, True])
def test_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch, lies_elsewhere: bool) -> None:
    """Read from its file, or by itself where that cannot be found."""
    from sklearn.datasets import load_digits

    data.sources._bundled_digits.cache_clear()
    if lies_elsewhere:
        monkeypatch.setattr(data.sources, "find_spec", lambda name: None)
    dataset = data.digits()
    assert len(dataset) == 1797
    assert dataset.name == "digits"
    assert dataset.classes == tuple("0123456789")
    assert np.bincount(dataset.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    theirs = load_digits()
    assert dataset[7].image.shape == (8, 8, 3)
    grey = np.stack([dataset[i].image[..., 2] for i in range(len(dataset))])
    np.testing.assert_allclose(grey, theirs.images * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(dataset.labels, theirs.target)
    assert dataset[7].image.max() == 255


# CIFAR-10 --------------------------------------------------------------------------------------------------

BATCHES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def records(name: str) -> tuple[np.ndarray, list[int]]:
    """Four images a batch, `(4, 32, 32, 3)`, and their labels."""
    rng = np.random.default_rng(BATCHES.index(name))
    return rng.integers(0, 256, (4, 32, 32, 3), np.uint8), rng.integers(0, 10, 4).tolist()


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(-1, 3072)


def binary_batch(name: str) -> bytes:
    images, labels = records(name)
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes(images), strict=True))


def python2_batch(name: str) -> bytes:
    """The opcodes that Python 2's cPickle and numpy 1 wrote, as in the published archive: str is bytes."""
    images, labels = records(name)
    raw = planes(images).tobytes()

    def text(value: bytes) -> bytes:  # SHORT_BINSTRING
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        b"(K\1M" + struct.pack("<H", len(labels)) + b"M" + struct.pack("<H", 3072) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R"
        b"(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def python3_batch(name: str) -> bytes:
    images, labels = records(name)
    return pickle.dumps({"data": planes(images), "labels": labels}, protocol=2)


LAYOUTS: dict[str, tuple[str, str, str, Callable[[str], bytes]]] = {
    "binary": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", binary_batch),
    "python2": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", python2_batch),
    "python3": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", python3_batch),
}


def lay(root: Path, layout: str, packed: bool, **replaced: bytes) -> Path:
    folder, archive, suffix, encode = LAYOUTS[layout]
    contents = {name + suffix: replaced.get(name, encode(name)) for name in BATCHES}
    contents["batches.meta" + (".txt" if suffix else "")] = b"not read"
    if packed:
        pack(root / archive, {f"{folder}/{name}": content for name, content in contents.items()})
    else:
        (root / folder).mkdir()
        for name, content in contents.items():
            (root / folder / name).write_bytes(content)
    return root


def pack(archive: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cifar10_in_every_layout(tmp_path: Path, layout: str, packed: bool) -> None:
    lay(tmp_path, layout, packed)
    for split, names in (("train", BATCHES[:5]), ("test", BATCHES[5:]), ("all", BATCHES)):
        dataset = data.cifar10(tmp_path, split=split, download=False)
        expected = [records(name) for name in names]
        assert dataset.labels.tolist() == [label for _, labels in expected for label in labels]
        images = np.concatenate([images for images, _ in expected])
        np.testing.assert_array_equal(np.stack([sample.image for sample in dataset]), images)
        assert dataset.classes[3] == "cat"
        assert dataset.name == "cifar10"


def test_cifar10_layouts_give_the_same_ids(tmp_path: Path) -> None:
    ids = set()
    for layout in LAYOUTS:
        (tmp_path / layout).mkdir()
        ids.add(data.cifar10(lay(tmp_path / layout, layout, packed=False), "test").ids)
    assert len(ids) == 1


def test_cifar10_root_may_be_the_folder_or_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "binary", packed=False)
    assert len(data.cifar10(tmp_path / "cifar-10-batches-bin", download=False)) == 20
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path))
    assert len(data.open_data("cifar10")) == 20


def test_cifar10_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="download=False; put the file from https://"):
        data.cifar10(tmp_path, download=False)
    with pytest.raises(UnknownNameError, match="split 'val'"):
        data.cifar10(tmp_path, split="val")


class Touch:
    """Unpickled carelessly, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_does_not_run(tmp_path: Path, packed: bool, protocol: int) -> None:
    victim = tmp_path / "victim"
    hostile = pickle.dumps({"data": Touch(victim), "labels": [0]}, protocol)
    lay(tmp_path, "python3", packed, data_batch_3=hostile)
    with pytest.raises(DataError, match=r"data_batch_3 asks for .*it was not run"):
        data.cifar10(tmp_path)
    assert not victim.exists()
    pickle.loads(hostile)  # the attack is real
    assert victim.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(Vtrue\ntR.",
        b"cbuiltins\neval\n(V1\ntR.",
        b"\x80\4\x8c\5numpy\x8c\4load\x93\x8c\1x\x85R.",
        b"\x80\4\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"ccopyreg\n_reconstructor\n.",
        b"c_codecs\nencode\n(Vx\nVzip\ntR.",
        b"\x80\2}(U\4datacnumpy\nndarray\n)R(K\1K\2tbU\6labels](K\1eu.",
        b"\x80\2}U\4dataK\1s.",
        b"\x80\2]." + bytes(5),
        b"garbage",
        b"",
    ],
)
def test_pickles_that_are_no_batches(tmp_path: Path, program: bytes) -> None:
    lay(tmp_path, "python2", packed=False, data_batch_1=program)
    with pytest.raises(DataError, match="data_batch_1"):
        data.cifar10(tmp_path)


def test_pickle_with_a_false_shape_or_label(tmp_path: Path) -> None:
    images, labels = records("test_batch")
    wrong = {
        "shape": {"data": planes(images)[:, :3000], "labels": labels},
        "count": {"data": planes(images), "labels": labels[:3]},
        "dtype": {"data": planes(images).astype(np.int16), "labels": labels},
        "label": {"data": planes(images), "labels": [1, 2, 3, 10]},
        "huge": {"data": planes(images), "labels": [1, 2, 3, 1 << 80]},
        "kind": {"data": planes(images), "labels": [1, 2, 3, "4"]},
    }
    for name, batch in wrong.items():
        (tmp_path / name).mkdir()
        lay(tmp_path / name, "python3", packed=False, test_batch=pickle.dumps(batch, 2))
        with pytest.raises(DataError, match="test_batch"):
            data.cifar10(tmp_path / name, "test")


def test_damaged_binary_batches(tmp_path: Path) -> None:
    cases = {"short": binary_batch("test_batch")[:-1], "empty": b"", "label": b"\x0a" + bytes(3072)}
    for name, content in cases.items():
        (tmp_path / name).mkdir()
        lay(tmp_path / name, "binary", packed=True, test_batch=content)
        with pytest.raises(DataError, match=r"test_batch\.bin"):
            data.cifar10(tmp_path / name, "test")


def test_missing_batch_and_truncated_archive(tmp_path: Path) -> None:
    lay(tmp_path, "binary", packed=False)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_4\.bin"):
        data.cifar10(tmp_path)
    assert len(data.cifar10(tmp_path, "test")) == 4
    other = tmp_path / "other"
    other.mkdir()
    lay(other, "binary", packed=True)
    archive = other / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        data.cifar10(other)


def test_archive_cannot_write_or_read_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.bin").write_bytes(binary_batch("test_batch"))
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as tar:
        escape = tarfile.TarInfo("../outside.txt")
        tar.addfile(escape)
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret.bin"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"lacks test_batch\.bin"):
        data.cifar10(root, "test")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cifar-10-binary.tar.gz", "root", "secret.bin"]


# Flowers, unpacking, names ---------------------------------------------------------------------------------


def test_flowers_from_a_folder_that_is_there(tmp_path: Path) -> None:
    for name in ("daisy", "roses"):
        picture(tmp_path / "flower_photos" / name / "1.jpg")
    (tmp_path / "flower_photos" / "LICENSE.txt").write_text("CC BY")
    assert data.flowers(tmp_path, download=False).classes == ("daisy", "roses")
    with pytest.raises(DataError, match="no flower_photos in"):
        data.flowers(tmp_path / "other", download=False)


def test_flowers_archive_is_verified_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.common.download import digest

    jpeg = picture(tmp_path / "one.jpg").read_bytes()
    contents = {f"flower_photos/{name}/1.jpg": jpeg for name in ("daisy", "roses")}
    archive = pack(tmp_path / "flower_photos.tgz", contents)
    with pytest.raises(DataError, match="sha256"):
        data.flowers(tmp_path)
    assert not (tmp_path / "flower_photos").exists()
    monkeypatch.setattr(sources, "FLOWERS_SHA256", digest(archive))
    assert len(data.flowers(tmp_path, download=False)) == 2
    archive.unlink()
    assert len(data.flowers(tmp_path, download=False)) == 2  # unpacked once, used again
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["../escaped.txt", "flower_photos/../../escaped.txt", "/tmp/../escaped.txt"])
def test_unpacking_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    archive = pack(root / "x.tgz", {"flower_photos/fine.txt": b"fine", name: b"escaped"})
    with pytest.raises(DataError, match="cannot be unpacked"):
        sources.unpack(archive, root / "flower_photos")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [archive]


def test_unpacking_refuses_links_outside(tmp_path: Path) -> None:
    archive = tmp_path / "x.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("flower_photos/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="cannot be unpacked"):
        sources.unpack(archive, tmp_path / "flower_photos")
    assert list(tmp_path.iterdir()) == [archive]


def test_archive_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold a folder flower_photos"):
        sources.unpack(pack(tmp_path / "x.tgz", {"other/1": b"1"}), tmp_path / "flower_photos")
    (tmp_path / "y.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        sources.unpack(tmp_path / "y.tgz", tmp_path / "flower_photos")


def test_open_data(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.open_data("digits").name == "digits"
    assert data.open_data(str(photos)).name == "photos"
    monkeypatch.chdir(photos.parent)
    assert data.open_data("photos").name == "photos"
    with pytest.raises(UnknownNameError, match=r"'digit'.*did you mean 'digits'"):
        data.open_data("digit")
    with pytest.raises(DataError, match="does not exist"):
        data.open_data("./digit")


def test_importing_data_is_light() -> None:
    """So are scikit-learn's digits."""
    heavy = ["sklearn", "rich", "tarfile", "urllib.request", "platformdirs"]
    heavy += ["torch", "tensorflow", "jax", "keras"]
    code = "import sys, headstart.data; headstart.data.digits()\n"
    code += f"print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
