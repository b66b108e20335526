"""JPEG files like those that people photograph: of their size, as costly to decode, with something to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, EACH = 5, 42
WIDTH, HEIGHT = 500, 375
# (width, height, strength): light and shade, shapes, texture. At quality 90 about 60 kB, as photographs have.
LAYERS = ((6, 5, 60.0), (50, 38, 30.0), (250, 188, 12.0))


def make_photographs(root: Path) -> Path:
    """`root/class<k>/<i>.jpg`: noise of three sizes around a colour of its class."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(60, 190, (CLASSES, 3))
    for label, colour in enumerate(colours):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(EACH):
            pixels = sum((_noise(rng, *layer) for layer in LAYERS), colour)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"{i:03}.jpg", quality=90)
    return root


def _noise(rng: np.random.Generator, width: int, height: int, strength: float) -> np.ndarray:
    """float32 `(HEIGHT, WIDTH, 3)` around 0, smooth where the grid is coarse."""
    grid = (128 + rng.normal(0, strength, (height, width, 3))).clip(0, 255).astype(np.uint8)
    large = Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) - 128
