"""Decoding: known pixels in every mode, and files that are damaged, hostile or not images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from headstart.common.errors import ImageError, SettingError
from headstart.data import decode, read_file

pytestmark = pytest.mark.neutral


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(content: bytes) -> np.ndarray:
    image = decode(content, "it")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG made by hand, so that Pillow's writer is not the only witness."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_keep_every_pixel(format: str, colours: np.ndarray) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(colours), format, **options)), colours)


def test_jpeg_keeps_a_flat_colour() -> None:
    content = encoded(Image.new("RGB", (16, 16), (200, 100, 50)), "JPEG", quality=95)
    assert np.abs(pixels(content).astype(int) - [200, 100, 50]).max() <= 2


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(0, 250, 10, np.uint8).reshape(5, 5)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey), "PNG")), np.dstack([grey] * 3))


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert pixels(encoded(image, "PNG"))[..., 0].tolist() == [[0, 255], [255, 0]]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = [0, 128, 257, 32768, 65407, 65535]
    content = png(6, 1, 16, 0, png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">6H", *values))))
    assert pixels(content)[0, :, 0].tolist() == [round(v / 257) for v in values] == [0, 0, 1, 128, 255, 255]


def test_palette_with_transparency_gives_its_colours_without_a_warning() -> None:
    palette, alpha = bytes([255, 0, 0, 0, 0, 255]), bytes([0, 128])
    rows = zlib.compress(b"\0\0\1")
    content = png(2, 1, 8, 3, png_chunk(b"PLTE", palette), png_chunk(b"tRNS", alpha), png_chunk(b"IDAT", rows))
    assert pixels(content).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_alpha_is_dropped(colours: np.ndarray) -> None:
    rgba = np.dstack([colours, np.full(colours.shape[:2], 40, np.uint8)])
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(rgba), "PNG")), colours)
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 2), 77), Image.new("L", (2, 2), 0)])
    assert (pixels(encoded(grey_alpha, "PNG")) == 77).all()


def test_cmyk_jpeg_is_not_inverted() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(encoded(red, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() <= 4


# What the EXIF standard says the stored first row and first column are, seen upright
ORIENTATIONS = {
    1: [[0, 1], [2, 3], [4, 5]],
    2: [[1, 0], [3, 2], [5, 4]],
    3: [[5, 4], [3, 2], [1, 0]],
    4: [[4, 5], [2, 3], [0, 1]],
    5: [[0, 2, 4], [1, 3, 5]],
    6: [[4, 2, 0], [5, 3, 1]],
    7: [[5, 3, 1], [4, 2, 0]],
    8: [[1, 3, 5], [0, 2, 4]],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation: int, format: str) -> None:
    # blocks of 16 pixels, so that JPEG keeps the six greys apart
    stored = Image.fromarray(np.kron(np.arange(6).reshape(3, 2) * 40, np.ones((16, 16))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = pixels(encoded(stored.convert("RGB"), format, exif=exif.tobytes()))[8::16, 8::16, 0]
    assert np.rint(upright / 40).astype(int).tolist() == ORIENTATIONS[orientation]


def test_broken_exif_does_not_cost_the_image() -> None:
    content = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0garbage!")
    assert pixels(content).shape == (8, 8, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_errors(format: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), format)
    with pytest.raises(ImageError, match=r"holiday\.jpg: breaks off: .*get it again"):
        decode(content[: int(share * len(content))], Path("holiday.jpg"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_files_of_which_the_rest_is_still_zeros_are_errors(format: str, share: float) -> None:
    """As copying and downloads leave them that were broken off: whole by their size."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), format, quality=100)
    for filling in (b"\0", b"A" if format == "JPEG" else b"\0"):
        half = content[: int(share * len(content))].ljust(len(content), filling)
        with pytest.raises(ImageError, match=r"holiday\.jpg: (breaks off|cannot be decoded)"):
            decode(half, Path("holiday.jpg"))


def test_what_follows_a_pictures_end_does_not_matter() -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    for format in ("JPEG", "WEBP"):
        content = encoded(picture, format, quality=90)
        for more in (bytes(1000), b"PK\x03\x04", content[:100]):
            assert (pixels(content + more) == pixels(content)).all()
        assert pixels(encoded(Image.new("RGB", (300, 300)), format)).max() == 0


def test_truncated_files_are_refused_where_a_library_allowed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SettingError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encoded(Image.new("RGB", (8, 8)), "JPEG"), "it")


@pytest.mark.parametrize("damage", [slice(20, 60), slice(300, 340)])
def test_damaged_png_is_an_error(damage: slice) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), "PNG"))
    content[damage] = bytes(40)
    with pytest.raises(ImageError):
        decode(bytes(content), "it")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"just some text\n" * 10, "not an image that is read here but text"),
        (b"GIF89a" + bytes(100), "breaks off"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image .* but a PostScript"),  # would start Ghostscript
        (b"\xff\xd8\xff", "cannot be decoded|breaks off"),  # as Pillow's version has it
        (b"BM" + bytes(60), "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBP" + bytes(60), "cannot be decoded"),
    ],
)
def test_what_is_not_an_image_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(content, "cat.jpg")
    assert caught.value.source == "cat.jpg"


def test_bomb_is_refused_from_its_header() -> None:
    # 100,000 x 100,000 pixels in a hundred bytes; the counts in between are where Pillow would only warn
    for side in (100_000, 10_000, 8_000):
        bomb = png(side, side, 8, 2, png_chunk(b"IDAT", zlib.compress(bytes(1000))))
        with pytest.raises(ImageError, match=rf"{side} x {side} is .*allowed are 50,000,000") as caught:
            decode(bomb, "bomb.png")
        assert "HEADSTART_MAX_PIXELS" in str(caught.value)


def test_webp_bomb_is_refused() -> None:
    canvas = struct.pack("<I", 16_000_000 - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + canvas
    with pytest.raises(ImageError):
        decode(b"RIFF" + struct.pack("<I", len(body)) + body, "bomb.webp")


def test_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (10, 10)), "PNG")
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "100")
    assert decode(content, "it").size == (10, 10)
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "99")
    with pytest.raises(ImageError, match="100 pixels, allowed are 99"):
        decode(content, "it")
    for wrong in ("many", "0", "-5", "1e6"):
        monkeypatch.setenv("HEADSTART_MAX_PIXELS", wrong)
        with pytest.raises(SettingError, match="HEADSTART_MAX_PIXELS"):
            decode(content, "it")


def test_reading_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    assert read_file(tmp_path / "a.png") == b"content"
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "missing.png", "no such file")):
        with pytest.raises(ImageError, match=reason):
            read_file(path)
