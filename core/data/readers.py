"""How each format is opened: the table beside `formats`, from a format's name to its reader.

Pillow's classes are called directly, as `Image.open` tries its many other parsers and compares with Pillow's own
limit first, which *warns*, from whatever thread it runs in. Those that few need are imported when they are needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from headstart.common.errors import ImageError
from headstart.data import breaks
from headstart.data.breaks import HALF, KEEP, MAX_SCANS
from headstart.data.dicom import open_dicom
from headstart.data.jxl import open_jxl
from headstart.data.npy import open_npy
from headstart.data.remarks import FRAMES, KEPT, PAGES
from headstart.data.signatures import RAW

NEW_SUBFILE, DNG_VERSION = 254, 50706  # TIFF's tags
REDUCED = 1


class Opened(NamedTuple):
    """A picture, perhaps not decoded yet."""

    image: Image.Image
    remarks: Sequence[str] = ()


Reader = Callable[[bytes, "str | Path", bool], Opened]


def _jpeg(encoded: bytes, source: str | Path, keep: bool) -> Opened:
    if (scans := breaks.jpeg_scans(encoded)) > MAX_SCANS:
        raise ImageError(source, f"has {scans} scans, a sound JPEG about ten; {MAX_SCANS} are allowed")
    if not breaks.jpeg_never_ends(encoded):
        return Opened(JpegImageFile(io.BytesIO(encoded)))
    if not keep:
        raise ImageError(source, HALF.format("no mark of its end") + KEEP)
    # With an end, the decoder fills in what is missing, as it does where Pillow may load half pictures.
    return Opened(JpegImageFile(io.BytesIO(encoded + breaks.END_OF_JPEG)), [KEPT])


def _png(encoded: bytes, source: str | Path, keep: bool) -> Opened:
    return _framed(PngImageFile(io.BytesIO(encoded)))


def _pillow(plugin: str, check: Callable[[bytes], str | None] | None = None) -> Reader:
    """The reader of one of Pillow's plugins; `check` tells how a file breaks off."""

    def read(encoded: bytes, source: str | Path, keep: bool) -> Opened:
        if check is not None and (how := check(encoded)) is not None:
            raise ImageError(source, HALF.format(how))
        module = import_module(f"PIL.{plugin}ImagePlugin")
        return _framed(getattr(module, f"{plugin}ImageFile")(io.BytesIO(encoded)))

    return read


def _tiff(encoded: bytes, source: str | Path, keep: bool) -> Opened:
    if (how := breaks.tiff_break(encoded)) is not None:
        raise ImageError(source, HALF.format(how))
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        image: Any = TiffImageFile(io.BytesIO(encoded))
    except SyntaxError as error:
        raise ImageError(
            source,
            f"is a TIFF whose pixels Pillow does not read ({error}): other than grey of 1 to 16 bits, RGB of 8 or "
            "16, CMYK, palettes, and integers or floats of 32; convert it to one of these",
        ) from error
    tags = image.tag_v2
    if DNG_VERSION in tags or int(tags.get(NEW_SUBFILE) or 0) & REDUCED:
        raise ImageError(source, f"is a raw photograph, of which the first page is a small preview: {RAW}")
    return Opened(image, [PAGES] if image.is_animated else [])


def _heic(encoded: bytes, source: str | Path, keep: bool) -> Opened:
    if (how := breaks.boxes_break(encoded)) is not None:
        raise ImageError(source, HALF.format(how))
    from pillow_heif import HeifImageFile

    return _framed(HeifImageFile(io.BytesIO(encoded)))


def _framed(image: Any) -> Opened:
    return Opened(image, [FRAMES] if _is_animated(image) else [])


def _is_animated(image: Any) -> bool:
    """Whether there are more frames than the first. To be asked before it is loaded: of a GIF, this looks at the
    second and goes back."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is damaged, and not taken anyway
        return False


READERS: dict[str, Reader] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _pillow("WebP", breaks.webp_break),
    "BMP": _pillow("Bmp"),
    "GIF": _pillow("Gif", breaks.gif_break),
    "TIFF": _tiff,
    "AVIF": _pillow("Avif", breaks.boxes_break),
    "PPM": _pillow("Ppm"),
    "HEIC": _heic,
    "JPEG XL": lambda encoded, source, keep: Opened(open_jxl(encoded, source)),
    "DICOM": lambda encoded, source, keep: Opened(*open_dicom(encoded, source)),
    "NumPy": lambda encoded, source, keep: Opened(*open_npy(encoded, source)),
}
