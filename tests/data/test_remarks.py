"""Of several frames or pages the first is taken, and that is said once, with counts, when it is done."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import headstart as hs
from headstart.data.decode import decode, decoded
from headstart.data.preprocess import Preprocess
from headstart.data.remarks import BLACK, FRAMES, PAGES, Remarks
from headstart.data.summary import say

pytestmark = pytest.mark.neutral

SMALL = Preprocess(8, 8)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 1)) // [[[1, 2, 3]]]
    return Image.fromarray(pixels.astype(np.uint8))


def frames(kind: str, count: int = 3, **options: Any) -> bytes:
    stream = io.BytesIO()
    first, *others = [picture(seed) for seed in range(count)]
    first.save(stream, kind, save_all=True, append_images=others, **options)
    return stream.getvalue()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    with caplog.at_level(logging.INFO, "headstart"):
        yield lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


KINDS = {
    "GIF": ({}, FRAMES),
    "PNG": ({}, FRAMES),
    "WEBP": ({"lossless": True}, FRAMES),
    "TIFF": ({}, PAGES),
    "AVIF": ({"quality": 100, "subsampling": "4:4:4"}, FRAMES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_is_taken_and_remarked(kind: str) -> None:
    if kind == "AVIF" and "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    options, remark = KINDS[kind]
    image, remarks = decoded(frames(kind, **options), "x")
    assert remarks == [remark]
    expected = picture().quantize(256, dither=Image.Dither.NONE).convert("RGB") if kind == "GIF" else picture()
    off = np.abs(np.asarray(image, int) - np.asarray(expected, int)).max()
    assert off <= {"AVIF": 6, "GIF": 2}.get(kind, 0)
    alone = decoded(frames(kind, 1, **options), "x")
    assert list(alone.remarks) == []
    np.testing.assert_array_equal(np.asarray(alone.image), np.asarray(image)) if kind != "AVIF" else None


def test_a_gif_whose_later_frames_are_damaged_keeps_its_first() -> None:
    encoded = frames("GIF")
    image, _ = decoded(encoded[: len(frames("GIF", 1)) + 30], "x")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode(encoded, "x")))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a value, `(h, w)` or `(h, w, 3)`; Pillow writes no such colours."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def written(values: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    # of 16 bits Pillow below 11 writes PPM from a wider mode alone
    picture = Image.fromarray(values.astype(np.int32) if kind == "PPM" else values)
    np.save(stream, values) if kind == "npy" else picture.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "npy", "colours"])
def test_fewer_bits_in_16_that_were_not_scaled_up_are_remarked(kind: str) -> None:
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    of = {"colours": lambda values: png16(np.dstack([values] * 3))}.get(kind, lambda values: written(values, kind))
    assert list(decoded(of(grey), "x").remarks) == [BLACK]
    assert list(decoded(of(grey // 16), "x").remarks) == [BLACK]
    assert list(decoded(of(grey * 4), "x").remarks) == []  # of 14 bits there is enough to see
    dark = written((grey // 512).astype(np.uint8), "PNG")
    assert list(decoded(dark, "x").remarks) == []  # of 8 bits, so that dark is what it is


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k, name in enumerate(("ants", "bees")):
        (tmp_path / name).mkdir()
        for i in range(4):
            picture(10 * k + i).save(tmp_path / name / f"{i}.png")
        (tmp_path / name / "moving.gif").write_bytes(frames("GIF", 2 + k))
    (tmp_path / "bees" / "scan.tif").write_bytes(frames("TIFF"))
    return tmp_path


def test_it_is_said_once_and_counted(photos: Path, lines: Any) -> None:
    data = hs.data.folder(photos)
    for _ in range(2):
        list(hs.data.batches(data, SMALL, range(len(data)), 4))
    assert lines() == [
        (
            "WARNING",
            f"{photos.name}: 2 pictures have several frames and give the first ({photos}/ants/moving.gif, "
            f"{photos}/bees/moving.gif)",
        ),
        ("WARNING", f"{photos.name}: 1 picture has several pages and gives the first ({photos}/bees/scan.tif)"),
    ]


def test_parts_of_one_data_set_say_what_is_new(photos: Path, lines: Any) -> None:
    data = hs.data.folder(photos)
    first, second = data.subset(range(5)), data.subset(range(5, 11))
    for part in (first, second, first):
        list(hs.data.batches(part, SMALL, range(len(part)), 4))
    said = [line.split(": ", 1)[1].split(" (")[0] for _, line in lines()]
    assert said == [
        "1 picture has several frames and gives the first",
        "1 more picture has several frames and gives the first",
        "1 picture has several pages and gives the first",
    ]


def test_where_all_are_decoded_as_they_are_opened_the_paragraph_says_it(photos: Path, lines: Any) -> None:
    for _ in range(2):  # what is known to decode is not decoded again, but for these
        data = hs.data.folder(photos, on_error="skip")
        say(data)
    texts = [line.split(" (")[0] for _, line in lines()]
    assert (
        texts
        == [
            f"{photos.name}: 11 images in 2 classes: ants 5, bees 6",
            f"{photos.name}: 2 pictures have several frames and give the first",
            f"{photos.name}: 1 picture has several pages and gives the first",
        ]
        * 2
    )


def test_many_are_counted_and_a_few_named() -> None:
    remarks = Remarks()
    for i in range(2000):
        remarks.add(i, [FRAMES])
    ((_, line),) = remarks.lines(lambda i: f"{i}.gif")
    assert line == "2,000 pictures have several frames and give the first (0.gif, 1.gif, 2.gif and 1,997 more)"
    assert remarks.lines(str) == []
    remarks.add(5, [FRAMES])  # again, in the next epoch
    assert remarks.lines(str) == []
