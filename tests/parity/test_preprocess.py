"""Preprocessing and augmentation's crops against torchvision's own, on the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from headstart.data import Crop, Preprocess


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "size", [(300, 200), (200, 301), (256, 256), (57, 33), (33, 58), (17, 120), (640, 479), (900, 11), (3, 2000)]
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("squash", [False, True])
def test_same_as_torchvision_to_the_bit(size: tuple[int, int], interpolation: str, squash: bool) -> None:
    image = noise(*size)
    theirs = transforms.Compose(
        [
            transforms.Resize(
                (72, 72) if squash else 72, transforms.InterpolationMode(interpolation), antialias=True
            ),
            transforms.CenterCrop(63),
        ]
    )(image)
    ours = Preprocess(63, 72, interpolation, squash=squash).apply(image)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_random_crop_same_as_torchvision() -> None:
    image = noise(90, 70)
    theirs = functional.hflip(functional.resized_crop(image, 5, 10, 40, 50, [32, 32]))
    ours = Preprocess(32, 40).apply(image, Crop(10, 5, 60, 45, True))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_normalises_as_torchvision() -> None:
    image, p = noise(32, 32), Preprocess(32, 32)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(p.mean, p.std)])(image)
    np.testing.assert_allclose(p.normalise(p.apply(image)[None])[0], theirs.permute(1, 2, 0).numpy(), atol=2e-6)


@pytest.mark.parametrize("crop", [False, True])
def test_same_as_what_keras_reads_folders_with(crop: bool, tmp_path: Path) -> None:
    import keras

    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (*sides, 3), np.uint8)) for sides in ((90, 90), (101, 60), (40, 131))
    ]
    for place, image in enumerate(images):
        image.save(tmp_path / f"{place}.png")
    read = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=(48, 48), shuffle=False, crop_to_aspect_ratio=crop
    )
    (theirs,) = (np.asarray(batch) for batch in read)
    ours = Preprocess(48, 48, antialias=False, crop_first=crop, squash=not crop)
    np.testing.assert_allclose([ours.apply(image) for image in images], theirs, atol=0.51)
