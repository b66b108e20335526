"""Encoded bytes, or a Pillow image, become an upright 8-bit RGB image, or an `ImageError`: nothing else ever
leaves this module. There is one way for both, so that a picture is the same however it came.

* The formats are a closed table, found by signature: a file's name is not believed, and Pillow's many other
  parsers are never reached. Its classes are called directly because `Image.open` compares with Pillow's own
  limit first and *warns*, from whatever thread it runs in.
* Pixels are counted from the header, before anything is decoded; and a JPEG's scans, each of which may take
  seventy bytes and as long as an image.
* A picture that breaks off is an error. Pillow's global `LOAD_TRUNCATED_IMAGES` would make it a picture with
  a grey bottom, so with that set we refuse to decode at all.
* Alpha is dropped, not composited, as torchvision's and timm's loaders do: published weights were made so.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from headstart.common.errors import ImageError, SettingError
from headstart.data.signatures import PREFIX_NBYTES, no_image

MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # progressive JPEGs have about ten
ORIENTATION = 0x0112  # the EXIF tag
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of JPEG: neither a byte of data, nor filling, nor a restart
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BLANK = 256  # zero bytes in a row, which compressed pixels never end in
HALF = "breaks off: {}. It was not copied or downloaded whole; get it again"
STEP = {"RGBa": "RGBA", "La": "LA"}  # premultiplied: Pillow has no direct way
NOT_PIXELS = {
    "F": "its pixels are floats (mode F), whose range nobody knows; convert it, e.g. of 0 to 1: "
    "Image.fromarray((255 * np.asarray(image)).round().astype('uint8'))",
    "LAB": "is in LAB colours, which need a colour profile to become RGB; convert it with PIL.ImageCms",
}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def max_pixels() -> int:
    """The largest number of pixels an image may have: `HEADSTART_MAX_PIXELS`, else 50 million."""
    text = os.environ.get("HEADSTART_MAX_PIXELS", "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise SettingError(f"HEADSTART_MAX_PIXELS is {text!r}; expected a positive whole number of pixels")
    return int(text)


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file. Raises `ImageError` where there is none, or none that may be read."""
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            what = (
                "is a folder, and no image"
                if path.is_dir()
                else "there is no such file, or it is not a regular one"
            )
            raise ImageError(path, what)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error


def decode(encoded: bytes, source: str | Path) -> Image.Image:
    """Decode JPEG, PNG, WebP or BMP to a Pillow image of mode RGB, turned as its EXIF orientation says.

    Grey of 16 bits is scaled to 8, not clipped. `source` names the image in errors. Raises `ImageError` for
    everything that is wrong with the image, `SettingError` for a limit that makes no sense.
    """
    _forbid_half_pictures()
    if not encoded:
        raise ImageError(source, "the file is empty")
    with _as_image_errors(source):
        return _upright(_open(encoded, source), source)


def pixels_of(image: Image.Image, source: str | Path) -> np.ndarray:
    """The pixels of a Pillow image of any mode, opened from a file or made in memory, turned as its EXIF
    orientation says: uint8 `(h, w, 3)`; grey ones as `(h, w)` and those with alpha as `(h, w, 4)` where that is
    what the image holds.

    RGB pixels are those that `decode` gives of the same picture's file, to the bit. Of several frames, the one at
    which the image stands. The image is loaded where it was not, and not changed otherwise. Raises as `decode`.
    """
    _forbid_half_pictures()
    with _as_image_errors(source):
        if image.mode not in ("L", "RGB", "RGBA"):
            return np.asarray(_upright(image, source))
        turn = UPRIGHT.get(_load(image, source))
        return np.asarray(image if turn is None else image.transpose(turn))


def _forbid_half_pictures() -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SettingError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damaged images would be taken for sound ones; "
            "set it to False (some library may have set it on import)"
        )


@contextmanager
def _as_image_errors(source: str | Path) -> Iterator[None]:
    try:
        yield
    except (ImageError, SettingError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error and more
        said = str(error) or type(error).__name__
        if "truncated" in said.lower():
            raise ImageError(source, HALF.format("bytes are missing")) from error
        raise ImageError(source, f"cannot be decoded: {said}") from error


def _upright(image: Image.Image, source: str | Path) -> Image.Image:
    turn = UPRIGHT.get(_load(image, source))
    rgb = _to_rgb(image, source)
    return rgb if turn is None else rgb.transpose(turn)


def _load(image: Image.Image, source: str | Path) -> int:
    """Decode the pixels, if there are not too many; returns the EXIF orientation."""
    limit = max_pixels()
    width, height = image.size
    if width * height > limit:
        raise ImageError(
            source,
            f"{width} x {height} is {width * height:,} pixels, allowed are {limit:,}; scale the image "
            "down, or raise HEADSTART_MAX_PIXELS",
        )
    try:
        image.load()
    except ValueError as error:
        if "closed" in str(error):
            raise ImageError(source, "the image was closed before its pixels were read; open it again") from error
        raise
    return _orientation(image)


def _open(encoded: bytes, source: str | Path) -> ImageFile.ImageFile:
    stream = io.BytesIO(encoded)
    if encoded.startswith(b"\xff\xd8\xff"):
        # The count tells little, as metadata may hold these bytes; it spares sound files the closer look.
        if encoded.count(bytes([0xFF, START_OF_SCAN])) > MAX_SCANS and (scans := _scans(encoded)) > MAX_SCANS:
            raise ImageError(source, f"has {scans} scans, a sound JPEG about ten; {MAX_SCANS} are allowed")
        if _never_ends(encoded):
            raise ImageError(source, HALF.format("no mark of its end"))
        return JpegImageFile(stream)
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(stream)
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        if int.from_bytes(encoded[4:8], "little") + 8 > len(encoded):
            raise ImageError(source, HALF.format("bytes are missing"))
        if _ends_in_zeros(encoded):
            raise ImageError(source, HALF.format(f"its pixels end in {BLANK} zero bytes or more"))
        return WebPImageFile(stream)
    if encoded.startswith(b"BM"):
        return BmpImageFile(stream)
    raise ImageError(source, no_image(encoded[:PREFIX_NBYTES]))


def _never_ends(encoded: bytes) -> bool:
    """Whether a JPEG has no end behind its first scan. What copying left to be filled in, zeros for example, the
    decoder reads as pixels, and the picture has a grey bottom."""
    end = bytes([0xFF, END_OF_IMAGE])
    if encoded.endswith(end):  # as nearly all do; to search takes a twentieth of decoding
        return False
    place = 2
    while (marker := MARKER.search(encoded, place)) is not None:
        if encoded[marker.end() - 1] == START_OF_SCAN:
            return encoded.find(end, marker.end()) < 0
        place = marker.end() + int.from_bytes(encoded[marker.end() : marker.end() + 2], "big")
    return False  # there is no scan, and the decoder says so


def _ends_in_zeros(encoded: bytes) -> bool:
    """The same of a WebP, which has no such mark: its compressed pixels end in zeros."""
    place = 12
    while place + 8 <= len(encoded):
        end = place + 8 + int.from_bytes(encoded[place + 4 : place + 8], "little")
        is_pixels = encoded[place : place + 4] in (b"VP8 ", b"VP8L", b"ANMF") and end - place > 2 * BLANK
        if is_pixels and not any(encoded[end - BLANK : end]):
            return True
        place = end + end % 2
    return False


def _scans(encoded: bytes) -> int:
    """How many scans a JPEG has: its markers are followed, from one to the next, to the image's end."""
    scans, place = 0, 2
    while (marker := MARKER.search(encoded, place)) is not None:
        kind, place = encoded[marker.end() - 1], marker.end()
        if kind == END_OF_IMAGE:
            break
        scans += kind == START_OF_SCAN
        place += int.from_bytes(encoded[place : place + 2], "big")  # the segment's own length
    return scans


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _to_rgb(image: Image.Image, source: str | Path) -> Image.Image:
    if image.mode.startswith("I"):  # "I;16" and its kin; before Pillow 11 also "I". convert() would clip
        grey = np.asarray(image)
        if image.mode == "I" and image.format is None and 0 < grey.max() <= 255 and grey.min() >= 0:
            raise ImageError(
                source,
                f"its pixels reach from {grey.min()} to {grey.max()} and are of 32 bits (mode I), read as grey of "
                "16 they would be black; of 8 bits make Image.fromarray(np.asarray(image).astype('uint8'))",
            )
        if image.mode == "I" and not 0 <= grey.min() <= grey.max() <= 65535:
            raise ImageError(
                source,
                f"its pixels reach from {grey.min()} to {grey.max()} (mode I); expected grey of 16 bits, "
                "0 to 65535",
            )
        grey = grey.astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in NOT_PIXELS:
        raise ImageError(source, NOT_PIXELS[image.mode])
    if "transparency" in image.info:
        # Pillow warns where it converts a transparent palette, and the transparency is not used anyway.
        image = image.copy()
        del image.info["transparency"]
    if image.mode in STEP:
        image = image.convert(STEP[image.mode])
    return image.convert("RGB")
