"""Pixels of every mode become 8-bit RGB, by one rule for files and for Pillow images in memory.

* Grey of 16 bits is scaled, from 0..65535 to 0..255, and never clipped. Of a camera's 10 or 12 bits in 16 nobody
  knows which those are; what comes out nearly black is remarked.
* Integers of 32 bits are read as 16 bits are, where they fit; where all are below 256 nobody knows what was meant.
* Floats are read from 0 (black) to 1 (white); whatever reaches beyond has a range that nobody knows.
* Alpha is dropped, not composited, as torchvision's and timm's loaders do: published weights were made so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import ImageError

STEP = {"RGBa": "RGBA", "La": "LA"}  # premultiplied: Pillow has no direct way
LAB = "is in LAB colours, which need a colour profile to become RGB; convert it with PIL.ImageCms"
BITS, MEANING_OF_ZERO, KIND_OF_SAMPLES = 258, 262, 339  # TIFF's tags
WHITE, SIGNED = 0, (2,)
TOP = 65535


NEARLY_BLACK = 16
"""the greatest 8-bit value of 12 bits that were not scaled up to 16: rounded of grey; of colour it is cut to 15"""


def mend_of(dtype: np.dtype) -> str:
    """How pixels of `dtype` become uint8, for the end of an error, by what their range may be; "" of others."""
    to_255 = "of 0 to 255: images.astype('uint8')"
    if dtype.kind == "f":
        return (
            " (floats of 0 to 1: (255 * images).round().astype('uint8'); of 0 to 255: "
            "images.round().clip(0, 255).astype('uint8'))"
        )
    if dtype.kind == "b":
        return " (of black and white: 255 * images.astype('uint8'))"
    if dtype.kind == "u" and dtype.itemsize == 2:
        return f" (of 16 bits: (images / 257).round().astype('uint8'); {to_255})"
    return f" ({to_255})" if dtype.kind in "iu" and dtype.itemsize > 1 else ""


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits a value: grey ones, and colours, of which
    Pillow's decoder leaves the upper byte. BGR;16 of BMP is 16 bits a pixel."""
    raw = [str(tile[3]).lstrip("('") for tile in getattr(image, "tile", None) or ()]
    return image.mode.startswith("I") or any(";16" in mode and not mode.startswith("BGR") for mode in raw)


def is_nearly_black(image: Image.Image) -> bool:
    """Whether an 8-bit image that was made of 16 bits looks as if the bits were fewer and not scaled up."""
    tops = [int(high) for _, high in np.atleast_2d(image.getextrema())]
    return max(tops[:3]) <= NEARLY_BLACK


def deep_to_8(pixels: np.ndarray, top: int = TOP) -> np.ndarray:
    """uint8 of unsigned integers from 0 (black) to `top` (white), rounded."""
    wide = pixels.astype(np.uint32 if top <= TOP else np.uint64)
    scaled: np.ndarray = ((wide * 255 + top // 2) // top).astype(np.uint8)
    return scaled


def floats_to_8(pixels: np.ndarray, source: str | Path) -> np.ndarray:
    """uint8 of floats from 0 (black) to 1 (white), rounded; ImageError for others, NaN among them."""
    if not np.isfinite(pixels).all():
        raise ImageError(source, "its pixels are floats, and some are NaN or infinite; expected 0 to 1")
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 1:
        raise ImageError(
            source,
            f"its pixels are floats from {pixels.min():.6g} to {pixels.max():.6g}, of which nobody knows what is "
            "black and white; expected 0 to 1. Convert it in the range that you mean, e.g. of 0 to 255: "
            "Image.fromarray(np.asarray(image).round().astype('uint8'))",
        )
    rounded: np.ndarray = np.rint(pixels * np.float32(255)).astype(np.uint8)
    return rounded


def to_rgb(image: Image.Image, source: str | Path) -> Image.Image:
    """The loaded image as mode RGB. Raises ImageError where nobody knows what its numbers mean."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I"):  # "I;16" and its kin; before Pillow 11 also "I". convert() would clip
        image = Image.fromarray(_grey(image, source, tags))
    elif image.mode == "F":
        bright = floats_to_8(np.asarray(image), source)
        image = Image.fromarray(255 - bright if tags.get(MEANING_OF_ZERO) == WHITE else bright)
    elif image.mode == "LAB":
        raise ImageError(source, LAB)
    if "transparency" in image.info:
        # Pillow warns where it converts a transparent palette, and the transparency is not used anyway.
        image = image.copy()
        del image.info["transparency"]
    if image.mode in STEP:
        image = image.convert(STEP[image.mode])
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _grey(image: Image.Image, source: str | Path, tags: Any) -> np.ndarray:
    grey = np.asarray(image)
    # Of mode I, 16 bits are what Pillow's readers of PNG and PPM make; TIFF and memory have 32.
    if image.mode == "I" and image.format in (None, "TIFF") and 0 < grey.max() <= 255 and grey.min() >= 0:
        raise ImageError(
            source,
            f"its pixels reach from {grey.min()} to {grey.max()} and are of 32 bits (mode I), read as grey of "
            "16 they would be black; of 8 bits make Image.fromarray(np.asarray(image).astype('uint8'))",
        )
    if image.mode == "I" and not 0 <= grey.min() <= grey.max() <= TOP:
        raise ImageError(
            source,
            f"its pixels reach from {grey.min()} to {grey.max()} (mode I); expected grey of 16 bits, 0 to 65535",
        )
    scaled = deep_to_8(grey, 4095 if tags.get(BITS) == (12,) else TOP)
    # Pillow turns those round that have 8 bits, and not the deeper ones.
    return 255 - scaled if tags.get(MEANING_OF_ZERO) == WHITE else scaled


def check_samples(image: Image.Image, source: str | Path) -> None:
    """ImageError for 8-bit pixels with a sign, which Pillow reads as if they had none."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(KIND_OF_SAMPLES) == SIGNED and tags.get(BITS) == (8,):
        raise ImageError(source, "its pixels are signed bytes, -128 to 127; convert it to 0 to 255")
