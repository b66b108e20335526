"""Encoded bytes become an upright 8-bit RGB image, or an `ImageError`: nothing else ever leaves this module.

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
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from headstart.data.signatures import HEAD_NBYTES, no_image
from headstart.errors import ImageError, SettingError

MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # progressive JPEGs have about ten
ORIENTATION = 0x0112  # the EXIF tag
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of JPEG: neither a byte of data, nor filling, nor a restart
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
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
            raise ImageError(path, "there is no such file, or it is not a regular one")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error


def decode(encoded: bytes, source: str | Path) -> Image.Image:
    """Decode JPEG, PNG, WebP or BMP to a Pillow image of mode RGB, turned as its EXIF orientation says.

    Grey of 16 bits is scaled to 8, not clipped. `source` names the image in errors. Raises `ImageError` for
    everything that is wrong with the image, `SettingError` for a limit that makes no sense.
    """
    limit = max_pixels()
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SettingError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damaged images would be taken for sound ones; "
            "set it to False (some library may have set it on import)"
        )
    if not encoded:
        raise ImageError(source, "the file is empty")
    try:
        image = _open(encoded, source)
        width, height = image.size
        if width * height > limit:
            raise ImageError(
                source,
                f"{width} x {height} is {width * height:,} pixels, allowed are {limit:,}; scale the image "
                "down, or raise HEADSTART_MAX_PIXELS",
            )
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error and more
        raise ImageError(source, f"cannot be decoded: {error or type(error).__name__}") from error


def _open(encoded: bytes, source: str | Path) -> ImageFile.ImageFile:
    stream = io.BytesIO(encoded)
    if encoded.startswith(b"\xff\xd8\xff"):
        # The count tells little, as metadata may hold these bytes; it spares sound files the closer look.
        if encoded.count(bytes([0xFF, START_OF_SCAN])) > MAX_SCANS and (scans := _scans(encoded)) > MAX_SCANS:
            raise ImageError(source, f"has {scans} scans, a sound JPEG about ten; {MAX_SCANS} are allowed")
        return JpegImageFile(stream)
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(stream)
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return WebPImageFile(stream)
    if encoded.startswith(b"BM"):
        return BmpImageFile(stream)
    raise ImageError(source, no_image(encoded[:HEAD_NBYTES]))


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # "I;16" and its kin; before Pillow 11 also "I". convert() would clip
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    # Pillow warns where it converts a transparent palette, and the transparency is not used anyway.
    image.info.pop("transparency", None)
    return image.convert("RGB")
