"""TIFF of every kind that photographs, scans and microscopes make, beside tifffile, which has another reader."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.common.errors import ImageError
from headstart.data import decode
from headstart.data.decode import pixels_of

tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.neutral

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (9, 13)).astype(np.uint16)
GREY = (DEEP >> 8).astype(np.uint8)
DEEP_RGB = RNG.integers(0, 65536, (9, 13, 3)).astype(np.uint16)
RGB = (DEEP_RGB >> 8).astype(np.uint8)
FLOATS = RNG.random((9, 13)).astype(np.float32)
SCALED = np.rint(DEEP / 257).astype(int)


def written(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def by_pillow(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "TIFF", **options)
    return stream.getvalue()


RGB_KIND = {"photometric": "rgb"}
# name -> the array, how it is written, and the 8-bit pixels that are meant
KINDS: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
    "grey": (GREY, {}, GREY),
    "grey, 0 is white": (GREY, {"photometric": "miniswhite"}, 255 - GREY.astype(int)),
    "grey in tiles": (np.tile(GREY, (8, 8)), {"tile": (16, 16)}, np.tile(GREY, (8, 8))),
    "grey of many pages": (np.stack([GREY, 255 - GREY]), {"photometric": "minisblack"}, GREY),
    "black and white": (GREY > 127, {"photometric": "minisblack"}, 255 * (GREY > 127)),
    "16 bits": (DEEP, {}, SCALED),
    "16 bits, big-endian": (DEEP, {"byteorder": ">"}, SCALED),
    "16 bits, deflated": (DEEP, {"compression": "zlib", "byteorder": ">"}, SCALED),
    "16 bits, 0 is white": (DEEP, {"photometric": "miniswhite"}, 255 - SCALED),
    "16 bits with a sign": ((DEEP // 2).astype(np.int16), {}, np.rint((DEEP // 2) / 257)),
    "32 bits with a sign": (DEEP.astype(np.int32), {}, SCALED),
    "32 bits": (DEEP.astype(np.uint32), {}, SCALED),
    "floats": (FLOATS, {}, np.rint(255 * FLOATS)),
    "floats, big-endian": (FLOATS, {"byteorder": ">"}, np.rint(255 * FLOATS)),
    "floats, deflated": (FLOATS, {"compression": "zlib"}, np.rint(255 * FLOATS)),
    "colour": (RGB, RGB_KIND, RGB),
    "colour, a plane each": (np.moveaxis(RGB, 2, 0).copy(), {**RGB_KIND, "planarconfig": "separate"}, RGB),
    "colour in a BigTIFF": (RGB, {**RGB_KIND, "bigtiff": True}, RGB),
    "colour of 16 bits": (DEEP_RGB, RGB_KIND, RGB),  # as PNGs of such: the upper byte
    "colour of 16 bits, deflated": (DEEP_RGB, {**RGB_KIND, "compression": "zlib", "byteorder": ">"}, RGB),
}


@pytest.mark.parametrize("kind", KINDS)
def test_written_by_another_program(kind: str) -> None:
    pixels, options, meant = KINDS[kind]
    encoded = written(pixels, **options)
    expected = meant if meant.ndim == 3 else np.dstack([meant] * 3)
    np.testing.assert_array_equal(np.asarray(decode(encoded, "x")), expected)
    if "many" not in kind:  # opened by Pillow it is the same picture
        opened = pixels_of(Image.open(io.BytesIO(encoded)), "x")
        opened = opened if opened.ndim == 3 else np.dstack([opened] * 3)
        np.testing.assert_array_equal(opened, expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK", "I;16", "RGBA", "1"])
def test_read_as_another_program_reads_it(mode: str, compression: str | None) -> None:
    image = {
        "P": lambda: Image.fromarray(RGB).quantize(32),
        "I;16": lambda: Image.fromarray(DEEP),
        "RGBA": lambda: Image.fromarray(np.dstack([RGB, GREY])),
    }.get(mode, lambda: Image.fromarray(RGB).convert(mode))()
    encoded = by_pillow(image, compression=compression)
    pixels = np.asarray(decode(encoded, "x"))
    if compression == "tiff_lzw":  # for which tifffile needs another library: lossless, so as the one without
        np.testing.assert_array_equal(pixels, np.asarray(decode(by_pillow(image), "x")))
        return
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        raw, page = file.asarray(), file.pages[0]
        if mode == "P":
            raw = (page.colormap[:, raw] >> 8).transpose(1, 2, 0)
        elif mode == "CMYK":
            raw = (255 - raw[..., :3].astype(int)) * (255 - raw[..., 3:].astype(int)) / 255
        elif mode == "I;16":
            raw = np.rint(raw / 257)
        elif mode == "1":
            raw = 255 * raw.astype(int)
    raw = np.dstack([raw] * 3) if raw.ndim == 2 else raw[..., :3]
    assert np.abs(pixels - raw.astype(float)).max() <= (1 if mode == "CMYK" else 0)


def test_twelve_bits_are_twelve() -> None:
    values = np.array([[0, 8, 2048, 4095]])
    packed = b"".join(((int(a) << 12) | int(b)).to_bytes(3, "big") for a, b in values.reshape(-1, 2))
    tags = [(256, 3, 1, 4), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(273, 4, 1, 8 + 2 + 9 * 12 + 4), (278, 3, 1, 1), (279, 4, 1, len(packed))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    encoded = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    assert np.asarray(decode(encoded, "x"))[0, :, 0].tolist() == np.rint(values[0] / 4095 * 255).tolist()


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (FLOATS * 255, {}, "floats from 0.* to 25.*expected 0 to 1"),
        (np.where(FLOATS > 0.9, np.nan, FLOATS).astype(np.float32), {}, "some are NaN"),
        (GREY.astype(np.int32), {}, "read as grey of 16 they would be black"),
        (DEEP.astype(np.int32) - 5000, {}, "reach from -4.* to .*expected grey of 16 bits"),
        (GREY.astype(np.int8), {}, "signed bytes"),
        (FLOATS.astype(np.float64), {}, "whose pixels Pillow does not read"),
        (np.dstack([RGB, RGB[..., :2]]), {"photometric": "minisblack", "planarconfig": "contig"}, "does not read"),
        (GREY, {"subfiletype": 1}, "is a raw photograph, of which the first page is a small preview: develop"),
        (GREY, {"extratags": [(50706, 1, 4, bytes([1, 4, 0, 0]), True)]}, "is a raw photograph"),
    ],
)
def test_what_has_no_one_meaning_is_refused(pixels: np.ndarray, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(written(pixels, **options), "x.tif")


def test_a_directory_that_is_not_there() -> None:
    encoded = by_pillow(Image.fromarray(RGB), compression="tiff_lzw")  # it stands at the end
    with pytest.raises(ImageError, match="breaks off: bytes are missing"):
        decode(encoded[:-20], "x")
    with pytest.raises(ImageError, match="breaks off: its directory is empty"):
        decode(encoded[:100].ljust(len(encoded), b"\0"), "x")
