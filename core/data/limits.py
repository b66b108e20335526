"""How large an image may be. Pixels are counted from headers, before anything is decoded or allocated."""

from __future__ import annotations

import os
from pathlib import Path

from headstart.common.errors import ImageError, SettingError

MAX_PIXELS = 50_000_000
MAX_NBYTES = 256 << 20
"""of one encoded picture that comes out of something larger, or from elsewhere"""


def max_pixels() -> int:
    """The largest number of pixels an image may have: `HEADSTART_MAX_PIXELS`, else 50 million."""
    text = os.environ.get("HEADSTART_MAX_PIXELS", "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise SettingError(f"HEADSTART_MAX_PIXELS is {text!r}; expected a positive whole number of pixels")
    return int(text)


def check_size(width: int, height: int, source: str | Path) -> None:
    """ImageError for an image of more pixels than are allowed."""
    limit = max_pixels()
    if width * height > limit:
        raise ImageError(
            source,
            f"{width} x {height} is {width * height:,} pixels, allowed are {limit:,}; scale the image "
            "down, or raise HEADSTART_MAX_PIXELS",
        )
