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
from PIL.JpegImagePlugin import JpegImageFile

from headstart.common.errors import ImageError, SettingError, UnknownNameError
from headstart.data import gpu_jpegs
from headstart.data.breaks import HALF, MISSING
from headstart.data.colours import check_samples, is_deep, is_nearly_black, to_rgb
from headstart.data.formats import PREFIX_NBYTES, kind_of
from headstart.data.limits import check_size
from headstart.data.limits import max_pixels as max_pixels
from headstart.data.readers import READERS, Opened
from headstart.data.remarks import BLACK
from headstart.data.signatures import no_image

ORIENTATION = 0x0112  # the EXIF tag
TURNED_BY = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""where Pillow finds the orientation of an image that is no file any more"""
YCBCR = (1, 2, 3)  # the names that a JPEG's components have in that
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
TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""orientation -> whether rows become columns, and which then run backwards, columns and rows"""
EXTENT = "headstart.extent"
"""the `Extent` in the `info` of an image that was decoded at a part of its size"""


class Extent(NamedTuple):
    """How large a picture is that was decoded at a part of its size, and where it lies in that: its last pixels
    stand for columns and rows beyond its edge, where its sides are no multiples of that part."""

    width: int
    height: int
    box: tuple[float, float, float, float]
    """left, top, right, bottom, in pixels of what was decoded"""
    decoded: tuple[int, int]
    """width and height of that"""

    def turned(self, orientation: int) -> Extent:
        """That of the picture once it is upright."""
        swapped, mirrored, inverted = TURNS.get(orientation, (False, False, False))
        width, height, (left, top, right, bottom), (columns, rows) = self
        if swapped:
            width, height, left, top, right, bottom = height, width, top, left, bottom, right
            columns, rows = rows, columns
        if mirrored:
            left, right = columns - right, columns - left
        if inverted:
            top, bottom = rows - bottom, rows - top
        return Extent(width, height, (left, top, right, bottom), (columns, rows))


class Jpegs(NamedTuple):
    """How JPEGs are decoded. Other formats have one way."""

    enough: int | None = None
    """How many pixels suffice of a picture's shorter side: one that keeps as many at a half, a quarter or an
    eighth of its size is decoded at that size, which spares most of the work; its pixels are then others than
    those of the picture made smaller. None: every picture as it is"""
    gpu: bool = False
    """Whether a GPU decodes those of three colours, whose pixels are then a few levels off"""


WHOLE = Jpegs()


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


def decoded(encoded: bytes, source: str | Path, keep: bool = False, jpegs: Jpegs = WHOLE) -> Decoded:
    """What `decode` gives, and what was done for it; with `keep` a JPEG may break off. SettingError as well where
    a GPU is to decode and none can."""
    _forbid_half_pictures()
    with _as_image_errors(source):
        image, remarks = _open(encoded, source, keep)
        extent = None if jpegs.enough is None else _reduced(image, jpegs.enough, source)
        if jpegs.gpu and not remarks and (pixels := _by_gpu(image, encoded, source)) is not None:
            return Decoded(_turned(Image.fromarray(pixels), _orientation(image)), remarks)
        deep = is_deep(image)
        upright = _upright(image, source)
        if deep and is_nearly_black(upright):
            remarks = [*remarks, BLACK]
        if extent is not None:
            upright.info[EXTENT] = extent.turned(_orientation(image))
        return Decoded(upright, remarks)


def _reduced(image: Image.Image, enough: int, source: str | Path) -> Extent | None:
    """Have a JPEG that is not loaded yet decoded at the smallest size that keeps `enough` pixels of its shorter
    side; None where that is its own, and for other formats."""
    if not isinstance(image, JpegImageFile):
        return None
    width, height = image.size
    check_size(width, height, source)  # as it is: whether a picture is refused does not depend on its use
    image.draft(None, (enough, enough))
    step = round(width / image.width)
    return Extent(width, height, (0, 0, width / step, height / step), image.size) if step > 1 else None


def _by_gpu(image: Image.Image, encoded: bytes, source: str | Path) -> np.ndarray | None:
    """The pixels of a JPEG that is not loaded yet; None where libjpeg is to decode it. Of what is surely YCbCr
    alone: whether another is RGB or CMYK already, decoders tell by rules of their own."""
    if not isinstance(image, JpegImageFile) or image.info.get("adobe_transform", 1) != 1:
        return None
    if tuple(part[0] for part in image.layer) != YCBCR:
        return None
    check_size(*image.size, source)
    pixels = gpu_jpegs.pixels_of(encoded)
    return None if pixels is None or pixels.shape != (image.height, image.width, 3) else pixels


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


def upright(image: Image.Image, source: str | Path) -> Image.Image:
    """A Pillow image of any mode, opened from a file or made in memory, as `decode` gives it. Raises `ImageError`
    as that does."""
    with _as_image_errors(source):
        return _upright(image, source)


def extent_of(image: Image.Image) -> Extent | None:
    """Of an image that was decoded at a part of its size; None of others. A PNG may bring texts of that name."""
    extent = image.info.get(EXTENT)
    return extent if isinstance(extent, Extent) else None


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
    orientation = _load(image, source)
    return _turned(to_rgb(image, source), orientation)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = UPRIGHT.get(orientation)
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in TURNED_BY:  # else who turns it by these turns it once more
        turned.info.pop(key, None)
    return turned


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
