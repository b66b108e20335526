"""Data that comes from anywhere: bombs, archives and names made to do harm. Typed errors or right results,
bounded memory and time, nothing written outside. `tox -e faults` does the same with bombs of gigabytes."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.campaigns import campaign
from faults.hostile_data import ODD_NAMES, jpeg, odd_folder, png, png_chunk, tree
from PIL import Image

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import DataError, ImageError
from headstart.data import cifar, decode

pytestmark = pytest.mark.neutral

NAMED_NONE = pytest.mark.filterwarnings("ignore:a class is called 'None', which is what a missing label becomes")
"""of the odd names one is, and that is said"""


def test_hostile_archives(tmp_path: Path) -> None:
    found = campaign("hostile_archives", tmp_path, mebibytes=4)
    assert found["archives"] == found["refused"] + found["right"] > 200
    assert found["right"] > 50 and found["refused"] > 100


def test_image_bombs(tmp_path: Path) -> None:
    found = campaign("image_bombs", tmp_path, mebibytes=64)
    assert found["bombs"] == found["refused"] + found["decoded"] > 40


def test_a_bomb_among_images_is_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "1.png")
    (root / "a" / "bomb.png").write_bytes(png(100_000, 100_000, png_chunk(b"IDAT", b"")))
    data = hs.data.folder(root, on_error="skip")
    assert [(Path(left.path).name, left.reason[:16]) for left in data.skipped] == [
        ("bomb.png", "100000 x 100000 ")
    ]
    assert len(data) == 2
    with pytest.raises(ImageError, match=r"a/bomb\.png: 100000 x 100000 is 10,000,000,000 pixels"):
        list(hs.data.folder(root))


# ---------------------------------------------------------------------------------------------- scans of a JPEG


def scans(image: bytes, count: int) -> bytes:
    """The image with its last scan again and again."""
    scan = image[image.rindex(b"\xff\xda") : -2]
    return image[:-2] + scan * count + image[-2:]


def test_a_jpeg_of_many_scans_is_refused() -> None:
    image = jpeg(Image.effect_noise((64, 64), 50).convert("RGB"), progressive=True)
    assert decode(scans(image, 50), "it").size == (64, 64)
    with pytest.raises(ImageError, match=r"has 1\d\d scans, a sound JPEG about ten; 100 are allowed"):
        decode(scans(image, 100), "it")


def test_what_lies_in_a_jpegs_metadata_is_no_scan() -> None:
    image = jpeg(Image.effect_noise((64, 64), 50).convert("RGB"), progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2 * 300) + b"\xff\xda" * 300
    behind = b"\xff\xda\x00\x02" * 300  # such as the film that a phone puts behind a photograph
    with_both = image[:2] + comment + image[2:] + behind
    assert with_both.count(b"\xff\xda") > 600
    assert np.array_equal(np.asarray(decode(with_both, "it")), np.asarray(decode(image, "it")))


# -------------------------------------------------------------------------------------------------------- CIFAR-10


def test_a_pickle_that_names_a_far_place_of_its_memo_takes_no_memory(tmp_path: Path) -> None:
    """In C, the memo would become an array of that many places."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    hostile = (
        pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", (1 << 32) - 1) + pickle.STOP
    )
    for name in (*cifar.PARTS["train"], *cifar.PARTS["test"]):
        (folder / name).write_bytes(hostile)
    with pytest.raises(DataError, match="holds a NoneType; a CIFAR-10 batch is a dict"):
        hs.data.cifar10(tmp_path, download=False)


def test_an_unpacked_batch_of_any_size_is_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*cifar.PARTS["train"], *cifar.PARTS["test"]):
        (folder / f"{name}.bin").touch()
        os.truncate(folder / f"{name}.bin", 1 << 40)  # a hole
    with pytest.raises(DataError, match="has 1099511627776 bytes; a CIFAR-10 batch has 31 MB"):
        hs.data.cifar10(tmp_path, download=False)


# ----------------------------------------------------------------------------------------------------- odd names


@NAMED_NONE
def test_folders_and_files_of_any_name(tmp_path: Path) -> None:
    made = odd_folder(tmp_path / "photos")
    assert len(made) > 50, "the file system takes hardly any of these names"
    before = tree(tmp_path, but=tmp_path)
    for on_error in ("raise", "skip"):
        data = hs.data.folder(tmp_path / "photos", on_error)
        assert list(data.classes) == sorted(made)
        assert not data.skipped
        assert data.ids == tuple(id for name in sorted(made) for id in made[name])
        for i in range(len(data)):
            sample = data[i]
            k = ODD_NAMES.index(data.classes[sample.label])
            assert (sample.image[..., 0] == k).all() and sample.image.shape == (4, 5, 3)
            assert data.source_name(i).startswith(str(tmp_path / "photos" / data.classes[sample.label]))
    assert tree(tmp_path, but=tmp_path) == before


@NAMED_NONE
@pytest.mark.slow("keras", "jax")  # core handles files
@pytest.mark.each
def test_odd_names_through_a_run_and_the_command_line(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on, saved, loaded, printed: also what no terminal can show."""
    made = odd_folder(tmp_path / "photos")
    data = hs.data.folder(tmp_path / "photos")
    classes = sorted(made)
    model = hs.model("lenet", classes=data.classes)
    run = hs.fit(model, data, None, epochs=1, backend=backend, device="cpu")
    run.save(tmp_path / "run")
    assert list(hs.load(tmp_path / "run", backend=backend).model.classes) == classes
    odd = [tmp_path / "photos" / name for name in classes if name in ("\udcff\udcfe", "[red]markup", "new\nline")]
    assert len(odd) == 3
    (odd[0] / "no image\udcff.png").write_bytes(b"no image")
    (odd[1] / "[bold]\x1b[2J.txt").write_bytes(b"no image")
    pictures = [
        str(path) for folder in odd for path in sorted(folder.glob("*.png")) if "no image" not in path.name
    ]

    def told(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["headstart", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    settings = ["--backend", backend, "--device", "cpu"]
    figures = tmp_path / "figures.json"
    code, out, _ = told("predict", "--run", str(tmp_path / "run"), *settings, "--json", str(figures), *pictures)
    assert code == 0
    assert [row["image"] for row in json.loads(figures.read_text())] == pictures
    assert out.replace("\n", "").isprintable()
    assert "[red]markup" in out.replace("\n", "") and r"\udcff\udcfe" in out.replace("\n", "")
    data_options = ["--data", str(tmp_path / "photos"), "--model", "lenet", "--cuts", "relu4"]
    code, out, err = told("extract", *data_options, *settings)
    assert code == 2 and "is not an image" in err and err.replace("\n", "").isprintable()
    code, out, err = told("extract", *data_options, *settings, "--on-error", "skip")
    assert code == 0 and err.count("skipped ") == 2 and (out + err).replace("\n", "").isprintable()
