"""Pixels as torchvision's published transforms and transformers' image processors give them, and ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torchvision import transforms as v1
from torchvision.models import get_weight
from torchvision.transforms import v2

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


@pytest.mark.parametrize("size", [(300, 200), (203, 277), (64, 64), (231, 226)])
@pytest.mark.parametrize("which", ["usual", "squashed", "tensors", "units", "not normalised", "timm", "padding"])
def test_composed_transforms_pixels(which: str, size: tuple[int, int]) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    resize, crop, normalise = v1.Resize(72), v1.CenterCrop(64), v1.Normalize(mean, std)
    floats, bicubic = v2.ToDtype(torch.float32, scale=True), v1.InterpolationMode.BICUBIC
    timms = {"interpolation": "bicubic", "mean": mean, "std": std, "crop_pct": 0.9}
    transform = {
        "usual": lambda: v1.Compose([resize, crop, v1.ToTensor(), normalise]),
        "squashed": lambda: v1.Compose([v1.Resize((64, 64), bicubic), v1.Compose([v1.ToTensor(), normalise])]),
        "tensors": lambda: v2.Compose([v2.ToImage(), v2.Resize(72), v2.CenterCrop(64), floats, normalise]),
        "units": lambda: v2.Compose([v2.RGB(), resize, crop, v2.ToImage(), v2.ToDtype(torch.float32)]),
        "not normalised": lambda: v2.Compose(
            [resize, crop, v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]
        ),
        "timm": lambda: timm.data.create_transform((3, 64, 64), **timms),
        "padding": lambda: v1.Compose([v1.Resize([60]), crop, v1.ToTensor()]),
    }[which]()
    image, ours = noise(*size), preprocess_of(transform)
    pixels = ours.normalise(ours.apply(image)[None])[0]
    level = float(ours.affine()[0].max())
    bound = {"atol": 1.01 * level} if which == "tensors" else {"atol": 1e-5 * 255 * level}
    np.testing.assert_allclose(pixels, transform(image).permute(1, 2, 0).numpy(), **bound)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
