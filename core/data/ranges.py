"""Whether float pixels can be what they are taken for: pixels normalised for this model.

float32 `(n, h, w, 3)` is documented as preprocessed already. Keras' `img_to_array`, `x / 255` and torchvision's
`ToTensor` give floats as well, which a network answers with confident nonsense. Normalised pixels are 256 known
levels a channel, or lie between them where they were resized afterwards, so most of what is something else shows.

Invariant: nothing is changed or guessed here. What cannot be meant is refused with what it looks like; probes such
as constants and noise pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.common.errors import SettingError

Levels = tuple[np.ndarray, np.ndarray]
"""(scale, shift), each of 3: pixel values are `level * scale + shift`, of levels 0 to 255"""

SAMPLED = 100_000  # values that are looked at closely
OFF = 0.02  # of a level, that a value may lie beside one
SPREAD = 0.5
UINT8 = "pass the uint8 pixels themselves"
KNOWN: dict[str, tuple[Levels, str]] = {
    "pixels 0..1": (
        (np.full(3, 1 / 255), np.zeros(3)),
        f"{UINT8}: (255 * x).round().astype('uint8')",
    ),
    "pixels -1..1": (
        (np.full(3, 2 / 255), np.full(3, -1.0)),
        f"{UINT8}: (127.5 * (x + 1)).round().astype('uint8')",
    ),
    "pixels normalised with ImageNet's mean and deviation": (
        (1 / (255 * np.array([0.229, 0.224, 0.225])), -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        f"{UINT8}, or normalise with this model's: model.preprocess.normalise",
    ),
}
WHOLE = "pixels 0..255", f"{UINT8}: x.round().clip(0, 255).astype('uint8')"


def check_normalised(images: np.ndarray, affine: Levels) -> None:
    """SettingError where `images`, float `(n, h, w, 3)`, are surely not normalised with `affine`, the
    `(scale, shift)` that make normalised pixels of uint8."""
    if not images.size:
        return
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.argwhere(~np.isfinite(images))[0].tolist()
        raise SettingError(f"the images hold {images[tuple(bad)]} at {bad}; expected finite pixels")
    scale, shift = (np.asarray(part, np.float64) for part in affine)
    ends = np.stack([shift, 255 * scale + shift])
    least, most = float(ends.min()), float(ends.max())
    sample = _sample(images)
    if _on_levels(sample, (scale, shift)):
        return
    likely = _likely(sample, low, high, least, most)
    if likely is not None:
        raise SettingError(
            f"float images are taken as normalised for this model, {least:.3g} to {most:.3g}; these reach from "
            f"{low:.3g} to {high:.3g} and look like {likely[0]}: {likely[1]}"
        )


def _likely(sample: np.ndarray, low: float, high: float, least: float, most: float) -> tuple[str, str] | None:
    """What the images look like, and what to do about it; None where they may be what they should."""
    span = most - least
    whole = bool((np.abs(sample - sample.round()) < OFF).all())
    if low >= 0 and high <= 256 and high > most + max(2 * span, 8):
        return WHOLE
    if whole and low >= 0 and 1.5 < high <= 256 and high > most + span / 4 and len(np.unique(sample)) > 2:
        return WHOLE
    far = max(2 * span, 8)
    if high > most + far or low < least - far:
        return "pixels that were prepared for another model", f"{UINT8}, or model.preprocess.normalise of them"
    if low == high:
        return None  # a constant: nothing to tell it by
    if len(np.unique(sample)) <= 2:
        if low == 0 and high == 1 and (least < -SPREAD or most > 2):
            return "pixels 0..1", KNOWN["pixels 0..1"][1]
        return None
    for name, (levels, mend) in KNOWN.items():
        if _on_levels(sample, levels):
            return name, mend
    # Resized as floats, they lie between the levels. Where half of what is possible lies in 0..1, only a
    # picture from deepest black to white is surely not normalised.
    legit = least >= -0.1 and most <= 1.1
    bright = span < 2.5
    if (
        not legit
        and low >= 0
        and high <= 1
        and high - low > (0.8 if bright else SPREAD)
        and (low < 0.1 or not bright)
    ):
        return "pixels 0..1", KNOWN["pixels 0..1"][1]
    return None


def _sample(images: np.ndarray) -> np.ndarray:
    """Some of the pixels, float64 `(m, 3)`."""
    pixels = images.reshape(-1, 3)
    step = max(1, len(pixels) * 3 // SAMPLED)
    return pixels[::step].astype(np.float64)


def _on_levels(sample: np.ndarray, levels: Levels) -> bool:
    scale, shift = levels
    level = (sample - shift) / scale
    near: Any = np.abs(level - level.round()) < OFF
    return bool(near.all() and level.min() > -0.5 and level.max() < 255.5)
