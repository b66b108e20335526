"""Float pixels are normalised for the model, or refused with what they look like."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.common.errors import SettingError
from headstart.data import Preprocess
from headstart.data.ranges import check_normalised

pytestmark = pytest.mark.neutral

IMAGENET = Preprocess(size=32, resize=32)
HALVES = Preprocess(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
UNIT = Preprocess(size=32, resize=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PLAIN = Preprocess(size=32, resize=32, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
MODELS = {"imagenet": IMAGENET, "halves": HALVES, "unit": UNIT, "plain": PLAIN}


def photographs(dark: int = 3, bright: int = 250) -> np.ndarray:
    """uint8 `(3, 20, 24, 3)`."""
    noise = np.random.default_rng(dark).normal(0, 12, (3, 20, 24, 3))
    ramp = np.linspace(dark, bright, 24)[None, None, :, None]
    return np.clip(ramp + noise, max(0, dark - 3), min(255, bright + 5)).astype(np.uint8)


def resized(images: np.ndarray) -> np.ndarray:
    """As a resize of floats leaves them: between the levels."""
    return (images[:, ::2] * 0.625 + images[:, 1::2] * 0.375).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_normalised_passes(name: str, dtype: str) -> None:
    preprocess = MODELS[name]
    for images in (photographs(), photographs(200, 255), photographs(0, 30), photographs(120, 140)):
        ready = preprocess.normalise(images).astype(dtype)
        check_normalised(ready, preprocess.affine())
        check_normalised(resized(ready), preprocess.affine())


@pytest.mark.parametrize("name", MODELS)
def test_probes_pass(name: str) -> None:
    affine = MODELS[name].affine()
    for x in (
        np.zeros((2, 4, 4, 3), np.float32),
        np.ones((2, 4, 4, 3), np.float32),
        np.random.default_rng(0).normal(size=(4, 32, 32, 3)),
        np.zeros((0, 4, 4, 3), np.float32),
        np.full((1, 4, 4, 3), np.float32(0.07)),
    ):
        check_normalised(x, affine)


@pytest.mark.parametrize(
    ("name", "likely"), [("imagenet", "pixels 0..255"), ("halves", "pixels 0..255"), ("unit", "pixels 0..255")]
)
def test_bytes_as_floats(name: str, likely: str) -> None:
    for images in (photographs(), photographs(0, 20), np.full((1, 4, 4, 3), 255)):
        for x in (images.astype(np.float32), images.astype(np.float64)):
            with pytest.raises(SettingError, match=rf"look like {likely}: pass the uint8 pixels"):
                check_normalised(x, MODELS[name].affine())
    with pytest.raises(SettingError, match=f"look like {likely}"):
        check_normalised(resized(photographs()), MODELS[name].affine())


@pytest.mark.parametrize("name", ["imagenet", "halves", "plain"])
def test_shares_of_one(name: str) -> None:
    x = (photographs() / 255).astype(np.float32)
    black_and_white = [] if name == "plain" else [np.round(x)]  # of bytes as floats, 0 and 1 are both black
    for shares in (x, resized(x), x.astype(np.float64), *black_and_white):
        with pytest.raises(
            SettingError, match=r"look like pixels 0..1: .*\(255 \* x\).round\(\).astype\('uint8'\)"
        ):
            check_normalised(shares, MODELS[name].affine())


@pytest.mark.parametrize(
    ("made_for", "name", "likely"),
    [
        ("halves", "imagenet", "pixels -1..1"),
        ("halves", "unit", "pixels -1..1"),
        ("imagenet", "halves", "normalised with ImageNet's"),
        ("imagenet", "unit", "normalised with ImageNet's"),
        ("plain", "unit", "pixels 0..255"),
    ],
)
def test_made_for_another_model(made_for: str, name: str, likely: str) -> None:
    with pytest.raises(SettingError, match=f"look like pixels .*{likely}" if "ImageNet" in likely else likely):
        check_normalised(MODELS[made_for].normalise(photographs()), MODELS[name].affine())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    x = IMAGENET.normalise(photographs())
    x[1, 2, 3, 0] = value
    with pytest.raises(SettingError, match=r"the images hold -?(nan|inf) at \[1, 2, 3, 0\]"):
        check_normalised(x, IMAGENET.affine())
