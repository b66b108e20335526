"""Pixels as torchvision's published transforms and transformers' image processors give them, and ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from torchvision.models import get_weight

from headstart.models.processors import KINDS, preprocess_of

SETTINGS: dict[str, dict[str, Any]] = {
    "ConvNext": {"size": {"shortest_edge": 224}},
    "PoolFormer": {"crop_pct": None, "size": {"height": 256, "width": 256}},
    "EfficientNet": {"rescale_offset": True, "rescale_factor": 1 / 127.5},
}


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (268, 200), (203, 277), (231, 226)])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_image_processors_pixels(kind: str, size: tuple[int, int]) -> None:
    image = noise(*size)
    for settings in ({}, SETTINGS.get(kind)):
        if settings is None:
            continue
        on_tensors = getattr(transformers, f"{kind}ImageProcessor")
        made = getattr(transformers, f"{kind}ImageProcessorPil", on_tensors)
        processor = made(**settings)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
        ours = preprocess_of(processor)
        pixels = ours.normalise(ours.apply(image)[None])[0]
        # one that works on tensors rounds otherwise, one (DINOv3's) not at all before it has resized
        level = float(ours.affine()[0].max())
        bound = {"atol": 1e-5} if made.__name__.endswith("Pil") else {"atol": 1.01 * level}
        np.testing.assert_allclose(pixels, theirs, **bound)


@pytest.mark.parametrize("name", ["ResNet50_Weights.IMAGENET1K_V2", "EfficientNet_B1_Weights.IMAGENET1K_V2"])
def test_published_transforms_pixels(name: str) -> None:
    image, transform = noise(300, 201), get_weight(name).transforms()
    ours = preprocess_of(transform)
    pixels = ours.normalise(ours.apply(image)[None])[0]
    np.testing.assert_allclose(pixels, transform(image).permute(1, 2, 0).numpy(), atol=2e-6)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
