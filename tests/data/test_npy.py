"""Pictures in .npy files: the numbers that are meant, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import ImageError
from headstart.data import decode

pytestmark = pytest.mark.neutral

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
FLOATS = RNG.random((5, 7)).astype(np.float32)


def saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def three(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey] * 3)


KINDS = {
    "colour": (RGB, RGB),
    "colour, column by column": (np.asfortranarray(RGB), RGB),
    "grey": (RGB[..., 0], three(RGB[..., 0])),
    "grey with its axis": (RGB[..., :1], three(RGB[..., 0])),
    "alpha": (np.dstack([RGB, RGB[..., :1]]), RGB),
    "16 bits": (DEEP, three(np.rint(DEEP / 257))),
    "16 bits, big-endian": (DEEP.astype(">u2"), three(np.rint(DEEP / 257))),
    "floats": (FLOATS, three(np.rint(255 * FLOATS))),
    "double floats": (FLOATS.astype(np.float64), three(np.rint(255 * FLOATS))),
    "half floats": (np.array([[0, 0.5, 1]], np.float16), three(np.array([[0, 128, 255]]))),
    "black and white": (RGB[..., 0] > 127, three(255 * (RGB[..., 0] > 127))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_that_are_meant(kind: str) -> None:
    array, expected = KINDS[kind]
    np.testing.assert_array_equal(np.asarray(decode(saved(array), "x")), expected)


def test_sixteen_bits_are_those_of_a_png() -> None:
    stream = io.BytesIO()
    Image.fromarray(DEEP).save(stream, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(saved(DEEP), "x")), np.asarray(decode(stream.getvalue(), "x")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(FLOATS * 255), "floats from .* expected 0 to 1"),
        (saved(np.where(FLOATS > 0.5, np.inf, FLOATS)), "NaN or infinite"),
        (saved(RGB.astype(np.int64)), "is an array of int64; expected one picture of uint8, uint16, bool"),
        (saved(RGB[None]), r"is an array \(1, 5, 7, 3\).*of many, hs.data.arrays takes"),
        (saved(np.moveaxis(RGB, 2, 0)), r"is an array \(3, 5, 7\).*channels come last: np.moveaxis"),
        (saved(np.zeros(512, np.float32)), r"is an array \(512,\); expected one picture"),
        (saved(RGB[:0]), r"is an array \(0, 7, 3\)"),
        (saved(np.array([{"a": 1}], object)), "is an array of object"),
        (saved(RGB)[:-10], "breaks off: bytes are missing"),
        (saved(RGB)[:20], "breaks off|cannot be decoded"),
        (saved(np.empty((1, 1), np.uint8)).replace(b"(1, 1), }", b"(90000, 90000), }"), "8,100,000,000 pixels"),
    ],
)
def test_what_is_no_picture_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(content, "x.npy")


def test_a_folder_of_them(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            np.save(tmp_path / name / f"{i}.npy", RGB // (1 + k) + np.uint8(i))
    data = hs.data.folder(tmp_path)
    np.testing.assert_array_equal(data[4].image, RGB // 2 + 1)
    with pytest.raises(hs.errors.DataError, match="is a NumPy array"):
        hs.data.folder(tmp_path / "cat" / "0.npy")
