"""Encoded bytes, or a Pillow image, become an upright 8-bit RGB image, or an `ImageError`: nothing else ever
leaves this module. There is one way for both, so that a picture is the same however it came.

* The formats are a closed table (`formats`, `readers`), told by content: a file's name is not believed, and
  Pillow's many other parsers are never reached.
* Pixels are counted from the header, before anything is decoded; and a JPEG's scans.
* A picture that breaks off is an error. Pillow's global `LOAD_TRUNCATED_IMAGES` would make it a picture with
  a grey bottom, so with that set we refuse to decode at all. `truncated="keep"` takes just that of a JPEG, which
  is counted and said. Either way bytes have one picture at most, so an id never stands for two.
* What the numbers mean that pixels are made of: `colours`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from headstart.common.errors import ImageError, SettingError, UnknownNameError
from headstart.data.breaks import HALF, MISSING
from headstart.data.colours import check_samples, to_rgb
from headstart.data.formats import PREFIX_NBYTES, kind_of
from headstart.data.limits import check_size
from headstart.data.limits import max_pixels as max_pixels
from headstart.data.readers import READERS, Opened
from headstart.data.signatures import no_image

ORIENTATION = 0x0112  # the EXIF tag
TRUNCATED = ("raise", "keep")
SAID_OF_HALF = ("truncated", "unexpected end", "end of file", "less than expected", "requires a buffer")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Decoded(NamedTuple):
    """A picture, and what was done for it."""

    image: Image.Image
    """mode RGB, upright"""
    remarks: Sequence[str]
    """keys of `remarks.TEXTS`"""


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


def check_truncated(truncated: str) -> None:
    """UnknownNameError for what is no way to take a picture that breaks off."""
    if truncated not in TRUNCATED:
        raise UnknownNameError("truncated", truncated, TRUNCATED)


def decode(encoded: bytes, source: str | Path, truncated: str = "raise") -> Image.Image:
    """Decode a picture in one of the formats of `headstart.data.formats` to a Pillow image of mode RGB, turned as
    its EXIF orientation says.

    Grey of 16 bits is scaled to 8, not clipped; of several frames or pages the first is taken. `source` names the
    image in errors. `truncated`: "keep" takes a JPEG that breaks off, what is missing of it grey. Raises
    `ImageError` for everything that is wrong with the image, `SettingError` for a limit that makes no sense.
    """
    check_truncated(truncated)
    return decoded(encoded, source, truncated == "keep").image


def decoded(encoded: bytes, source: str | Path, keep: bool = False) -> Decoded:
    """What `decode` gives, and what was done for it; with `keep` a JPEG may break off."""
    _forbid_half_pictures()
    with _as_image_errors(source):
        image, remarks = _open(encoded, source, keep)
        return Decoded(_upright(image, source), remarks)


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
        said = " ".join(str(error).split()) or type(error).__name__
        if any(words in said.lower() for words in SAID_OF_HALF):
            raise ImageError(source, HALF.format(MISSING)) from error
        raise ImageError(source, f"cannot be decoded: {said}") from error


def _upright(image: Image.Image, source: str | Path) -> Image.Image:
    turn = UPRIGHT.get(_load(image, source))
    rgb = to_rgb(image, source)
    return rgb if turn is None else rgb.transpose(turn)


def _load(image: Image.Image, source: str | Path) -> int:
    """Decode the pixels, if there are not too many; returns the EXIF orientation."""
    check_size(*image.size, source)
    check_samples(image, source)
    try:
        image.load()
    except ValueError as error:
        if "closed" in str(error):
            raise ImageError(source, "the image was closed before its pixels were read; open it again") from error
        raise
    return _orientation(image)


def _open(encoded: bytes, source: str | Path, keep: bool) -> Opened:
    prefix = encoded[:PREFIX_NBYTES]
    if (reason := no_image(prefix)) is not None:
        raise ImageError(source, reason)
    return READERS[str(kind_of(prefix))](encoded, source, keep)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
