"""JPEG XL, read by pillow-jxl-plugin (extra `jxl`).

That reader decodes as it opens, so the size is taken from the header first: a hundred bytes may stand for a
billion pixels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from headstart.common.errors import ImageError
from headstart.data.limits import check_size

BARE = b"\xff\x0a"
BITS_OF_SIDE = (9, 13, 18, 30)  # of the four forms in which a side is written
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width : height


def open_jxl(encoded: bytes, source: str | Path) -> Image.Image:
    """The picture, in any mode. ImageError where it is too large or cannot be decoded."""
    size = size_of(encoded)
    if size is None:
        raise ImageError(source, "is a JPEG XL image without its header; get it again")
    check_size(*size, source)
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    try:
        image: Any = JXLImageFile(io.BytesIO(encoded))
        image.load()
    except Exception as error:  # its own words are about how to build it
        raise ImageError(source, "is a JPEG XL image that is damaged or breaks off; get it again") from error
    if not image.jpeg:
        # Its pixels are upright: how to turn them stands in its header. Its EXIF may still say how they once lay.
        image.info.pop("exif", None)
    return image  # type: ignore[no-any-return]


def size_of(encoded: bytes) -> tuple[int, int] | None:
    """Width and height by the header; None where there is none."""
    start = _codestream(encoded)
    header = encoded[start + 2 : start + 14] if start is not None else b""
    if len(header) < 10:
        return None
    bits, place = int.from_bytes(header, "little"), 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return (bits >> (place - count)) & ((1 << count) - 1)

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(BITS_OF_SIDE[take(2)]) + 1

    height = side()
    ratio = take(3)
    return (side() if ratio == 0 else height * RATIOS[ratio][0] // RATIOS[ratio][1]), height


def _codestream(encoded: bytes) -> int | None:
    """Where the picture itself begins, bare or in the boxes of a container."""
    if encoded.startswith(BARE):
        return 0
    place = 0
    while place + 8 <= len(encoded):
        nbytes, kind, head = int.from_bytes(encoded[place : place + 4], "big"), encoded[place + 4 : place + 8], 8
        if nbytes == 1:
            nbytes, head = int.from_bytes(encoded[place + 8 : place + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            begin = place + head + (4 if kind == b"jxlp" else 0)  # of parts, the first has its number before it
            return begin if encoded[begin : begin + 2] == BARE else None
        if nbytes < head:
            return None
        place += nbytes
    return None
