"""The formats that pictures are read in: the one table from which a walk's endings, the decoder's readers and the
sentences about both follow.

Invariant: content decides. What a file is called says only whether it is worth a look: a GIF called x.jpg is a
GIF. A format whose reader is not installed is told by its first bytes all the same, and the error says what to
install.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

PREFIX_NBYTES = 1024
"""bytes of a file's beginning that tell what it is"""


@dataclass(frozen=True)
class Format:
    """One format."""

    name: str
    """as users know it"""
    suffixes: tuple[str, ...]
    """endings of its files, in small letters"""
    matches: Callable[[bytes], bool]
    """whether a file that begins with these bytes is of it"""
    module: str | None = None
    """what reads it, where that is neither Pillow nor numpy"""
    extra: str | None = None
    """how that is installed: headstart[extra]"""
    convert: str = ""
    """what else a user can do where the reader is missing"""
    believed: bool = True
    """whether a walk takes a file for its ending, without a look at what it holds"""


def _begins(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda prefix: prefix.startswith(marks)


def _brands(*names: bytes) -> Callable[[bytes], bool]:
    return lambda prefix: bool(brands(prefix) & set(names))


def brands(prefix: bytes) -> set[bytes]:
    """What a file in boxes (AVIF, HEIC, MP4) says that it is: the major and the compatible brands of its "ftyp";
    empty for any other file."""
    if prefix[4:8] != b"ftyp":
        return set()
    end = min(max(int.from_bytes(prefix[:4], "big"), 16), 256)
    return {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}


_NETPBM = re.compile(rb"P[1-6f][ \t\r\n]+(#|-?\d)")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: of more than 4 GB

FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), _begins(b"\xff\xd8\xff")),
    Format("PNG", (".png", ".apng"), _begins(b"\x89PNG\r\n\x1a\n")),
    Format("WebP", (".webp",), lambda prefix: prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP"),
    Format("BMP", (".bmp",), _begins(b"BM")),
    Format("GIF", (".gif",), _begins(b"GIF87a", b"GIF89a")),
    # Before TIFF: the first 128 bytes of a DICOM file are anybody's, and some have a TIFF's beginning there.
    Format(
        "DICOM",
        (".dcm", ".dicom"),
        lambda prefix: prefix[128:132] == b"DICM",
        module="pydicom",
        extra="dicom",
        convert="to PNG, in the window that you mean",
        believed=False,
    ),
    # Canon's raw photographs have a mark of their own in it; of others `tiff` finds out.
    Format("TIFF", (".tif", ".tiff"), lambda prefix: prefix.startswith(_TIFF) and prefix[8:10] != b"CR"),
    Format("AVIF", (".avif",), _brands(b"avif", b"avis"), convert="avifdec FILE it.png"),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), lambda prefix: _NETPBM.match(prefix) is not None),
    Format(
        "HEIC",
        (".heic", ".heif"),
        _brands(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        module="pillow_heif",
        extra="heic",
        convert="heif-convert FILE it.jpg, or on macOS sips -s format jpeg FILE --out it.jpg",
        believed=False,
    ),
    Format(
        "JPEG XL",
        (".jxl",),
        _begins(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
        module="pillow_jxl",
        extra="jxl",
        convert="djxl FILE it.png",
        believed=False,
    ),
    Format("NumPy", (".npy",), _begins(b"\x93NUMPY"), believed=False),
)
NAMED = {about.name: about for about in FORMATS}

SUFFIXES = tuple(suffix for about in FORMATS for suffix in about.suffixes)
"""endings of all files that pictures may come in"""

BELIEVED = tuple(suffix for about in FORMATS if about.believed for suffix in about.suffixes)
"""those of which a walk opens no file, as a hundred thousand must not be opened"""

READ = ", ".join(about.name for about in FORMATS)
"""the formats, for a sentence"""


def kind_of(prefix: bytes) -> str | None:
    """The name of the format that a file is in, by its first `PREFIX_NBYTES` bytes; None where it is none of
    these."""
    for about in FORMATS:
        if about.matches(prefix):
            return about.name
    return None


@cache
def lacking(name: str) -> str | None:
    """Why pictures of this format cannot be read here, and what to do; None where they can be."""
    about = NAMED[name]
    if name == "AVIF":
        from PIL import features  # rarely asked, and Pillow is slow to import

        if "avif" in features.get_supported():  # `check` warns in a Pillow that has never heard of it
            return None
        return f"is an AVIF image, which this Pillow does not read: update it to 11.3, or convert: {about.convert}"
    if about.module is None or find_spec(about.module) is not None:
        return None
    return (
        f"is a {name} image, whose reader is not installed: pip install 'headstart[{about.extra}]', or convert "
        f"it: {about.convert}"
    )
