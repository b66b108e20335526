"""Random crops and flips, drawn in core so that every backend sees the same ones.

A draw is a function of (seed, epoch, sample id) and the image's size alone: not of the order, the batch, the
thread or the backend. A sample that stands twice in an epoch is therefore seen twice the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.common.errors import SettingError, UnknownNameError
from headstart.data.preprocess import Crop

ATTEMPTS = 10
LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True)
class Augment:
    """What may be done at random to a training image."""

    flip: bool = True  # mirror left and right, half of the time
    crop: tuple[float, float] | None = (0.35, 1.0)  # range of a random crop's share of the image's area

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise SettingError(f"augment.flip is {self.flip!r}; expected True or False")
        if self.crop is None:
            return
        try:
            low, high = (float(share) for share in self.crop)
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not 0 < low <= high <= 1:
            raise SettingError(
                f"augment.crop is {self.crop!r}; expected None or two shares of the area, 0 < low <= high <= 1"
            )
        object.__setattr__(self, "crop", (low, high))

    @classmethod
    def parse(cls, text: str | Augment | None) -> Augment | None:
        """`"flip,crop"`, `"flip"`, `"crop"`, `"none"` or an `Augment`; None where nothing is to be done."""
        if text is None:
            return None
        if isinstance(text, Augment):
            return text if text.flip or text.crop is not None else None
        words = {word.strip() for word in str(text).split(",")}
        if unknown := sorted(words - {"flip", "crop", "none"}):
            raise UnknownNameError("augmentation", unknown[0], ("flip", "crop", "none"))
        if words == {"none"}:
            return None
        if "none" in words:
            raise SettingError(f"augmentation {text!r} asks for none and for some; expected e.g. 'flip,crop'")
        return cls(flip="flip" in words, crop=cls.crop if "crop" in words else None)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values; equal settings give equal dicts."""
        return {"flip": self.flip, "crop": None if self.crop is None else list(self.crop)}

    @property
    def narrowest(self) -> float | None:
        """What a random crop takes of a picture's shorter side at the least; None without crops."""
        return None if self.crop is None else math.exp(LOG_ASPECT[0] / 2) * math.sqrt(self.crop[0])

    def draw(self, seed: int, epoch: int, sample_id: str, width: int, height: int) -> Crop:
        """The crop of one sample in one epoch, for an image of `width` x `height` pixels.

        The algorithm is torchvision's `RandomResizedCrop`: an area, a log-uniform aspect from 3/4 to 4/3, ten
        attempts, else a central crop. Without random crops the box is empty (see `Crop`).
        """
        if seed < 0 or epoch < 0:
            raise SettingError(f"seed is {seed}, epoch is {epoch}; neither may be negative")
        # Only `random()`, whose doubles numpy has never changed; its other methods' streams may change.
        rng = np.random.default_rng([seed, epoch, int.from_bytes(sample_id.encode(), "big")])
        flip = bool(rng.random() < 0.5) and self.flip
        if self.crop is None:
            return Crop(0, 0, 0, 0, flip)
        low, high = self.crop
        for area_draw, aspect_draw, left_draw, top_draw in rng.random((ATTEMPTS, 4)).tolist():
            area = width * height * (low + (high - low) * area_draw)
            aspect = math.exp(LOG_ASPECT[0] + (LOG_ASPECT[1] - LOG_ASPECT[0]) * aspect_draw)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1))
                return Crop(left, top, left + w, top + h, flip)
        w = min(width, round(height * 4 / 3))
        h = min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return Crop(left, top, left + w, top + h, flip)
