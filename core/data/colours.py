"""Pixels of every mode become 8-bit RGB, by one rule for files and for Pillow images in memory.

* Grey of 16 bits is scaled, from 0..65535 to 0..255, and never clipped.
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
