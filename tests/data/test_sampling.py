"""Pixels that are interpolated and not filtered (beside TensorFlow's own: parity/test_keras_hub.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headstart.common.errors import SettingError
from headstart.data import Preprocess
from headstart.data.sampling import KERNELS, sampled

pytestmark = pytest.mark.neutral
RAW = Preprocess(8, 8, mean=(0,) * 3, std=(1,) * 3, scale=1, antialias=False)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize("size", [(40, 26), (23, 14), (41, 14)])
def test_what_is_enlarged_is_pillows(interpolation: str, size: tuple[int, int]) -> None:
    """Its filter against aliasing filters nothing there; it rounds, and cuts off, after each direction."""
    smooth = noise(5, 4).resize((20, 13), Image.Resampling.BILINEAR)
    ours = np.asarray(sampled(smooth, size, interpolation), int)
    theirs = np.asarray(smooth.resize(size, Image.Resampling[interpolation.upper()]), int)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("interpolation", ["nearest", *KERNELS])
def test_what_has_the_size_stays(interpolation: str) -> None:
    image = noise(20, 13)
    np.testing.assert_array_equal(np.asarray(sampled(image, (20, 13), interpolation)), np.asarray(image))
    flat = Image.new("RGB", (90, 70), (7, 130, 255))
    np.testing.assert_array_equal(np.asarray(sampled(flat, (11, 13), interpolation))[0, 0], (7, 130, 255))


def test_a_quarter_of_the_size_is_the_middle_of_each_four() -> None:
    image = noise(32, 32)
    pixels = np.asarray(image, float)
    middle = sum(pixels[i::4, j::4] for i in (1, 2) for j in (1, 2)) / 4
    np.testing.assert_allclose(RAW.apply(image), middle, atol=0.51)
    assert np.abs(replace(RAW, antialias=True).apply(image) - middle).max() > 10


def test_cropped_first_is_the_central_square() -> None:
    image = noise(21, 8)
    first = replace(RAW, crop_first=True)
    np.testing.assert_array_equal(first.apply(image), np.asarray(image)[:, 6:14])
    square = Image.fromarray(np.asarray(noise(33, 20))[:, 6:26])
    for how in (first, replace(first, antialias=True)):
        np.testing.assert_array_equal(how.apply(noise(33, 20)), how.apply(square))


def test_settings_say_so() -> None:
    how = replace(RAW, crop_first=True)
    assert how.as_dict()["antialias"] is False and how.as_dict()["crop_first"] is True
    assert Preprocess.from_dict(how.as_dict()) == how
    assert not {"antialias", "crop_first"} & Preprocess(8, 8).as_dict().keys()
    assert "cropped first, not antialiased" in str(how)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"antialias": 0}, "preprocess.antialias is 0; expected True or False"),
        ({"crop_first": True, "squash": True}, "only one of them can be True"),
        ({"decode": "scaled"}, "neither with antialias=False nor with crop_first=True"),
        ({"decode": "scaled", "antialias": True, "crop_first": True}, "neither with"),
    ],
)
def test_what_does_not_go_together(change: dict[str, object], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        replace(RAW, **change)  # type: ignore[arg-type]
