"""From an image of any size to the square of pixels a trunk expects: one implementation for all backends.

The result is that of torchvision's `Resize` + `CenterCrop` on Pillow images (antialiased), to the bit, since
that is what published weights were evaluated with (without `antialias` that of TensorFlow, rounded). The one
exception are endless strips, whose resized form would have more than 16 million pixels (at a shorter side of 256
pixels: longer than 256:1). It stays uint8;
`affine` gives the two vectors with which a backend normalises on its device, so images travel as bytes. Nor is it
torchvision's where `decode` is "scaled": libjpeg then computes a large picture from the lower frequencies of each
block alone, and it is resized from there, by the sides that it has in full; or "gpu", which rounds otherwise.

Rows that earlier versions stored of images longer than 8:1 are up to half a pixel off, under the same key. A
sample's id is the digest of bytes, which need not be decoded for it, nor even read, and is the same whatever the
trunk: so a warm cache cannot tell these rows without opening every image.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from headstart.common.errors import DataError, DataWarning, SettingError, UnknownNameError
from headstart.data.colours import mend_of
from headstart.data.dataset import Dataset
from headstart.data.decode import Jpegs, extent_of, upright
from headstart.data.rows import ALONE, described
from headstart.data.sampling import sampled

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LATER = ("channels", "scale", "pad", "decode", "squash", "floor", "antialias", "crop_first")
CHANNELS = ("rgb", "bgr")
EXACT, SCALED, GPU = "exact", "scaled", "gpu"
DECODES = (EXACT, SCALED, GPU)
SPARE = 2
"""A JPEG that is decoded scaled keeps so many times the pixels a side that it is then resized to. On average,
photographs are then 0.8 of 255 levels from what they are when decoded whole; with 1 that is 2.6, with 3 0.4."""
UNIT = 1 / 255
# An image of 1 x 10,000,000 pixels, its shorter side resized to 256, would be 2.5 billion pixels wide. Where the
# whole would have more pixels than that, only the middle of this aspect, all that reaches the central crop, is
# resized; which moves it by up to half a pixel.
MAX_RESIZED = 1 << 24  # 48 MB
MAX_ASPECT = 8
LARGE = 50_000_000  # pixels; below Pillow's own limit


class Crop(NamedTuple):
    """Which part of an image to take, in its pixels: an augmentation's draw for one sample.

    An empty box (`right == left`) stands for the preprocessing's own resize and central crop.
    """

    left: int
    top: int
    right: int
    bottom: int
    flip: bool  # mirror left and right afterwards


@dataclass(frozen=True)
class Preprocess:
    """How a trunk wants its images."""

    size: int  # side of the final square crop, pixels
    resize: int  # what the shorter side is resized to before it, pixels; at least `size`, unless `pad`
    interpolation: str = "bilinear"  # nearest | bilinear | bicubic | lanczos
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of the scaled channels, in the order of `channels`
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: str = "rgb"  # rgb | bgr: the order in which the trunk takes them
    scale: float = UNIT  # what pixels of 0..255 are multiplied by before mean and std; by default to 0..1
    pad: bool = False  # let `resize` be smaller than `size`, and surround the image with black
    decode: str = EXACT  # exact | scaled | gpu: how JPEGs are decoded, see `jpegs`
    squash: bool = False  # resize both sides to `resize`, whatever shape the image has
    floor: bool = False  # begin a crop between two pixels at the first, as transformers does; else at the even one
    antialias: bool = (
        True  # filter what is resized to less, as Pillow does; False: interpolate only, see `sampling`
    )
    crop_first: bool = False  # crop to the largest central square before that is resized, as Keras does

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
                raise SettingError(f"preprocess.{name} is {value!r}; expected an integer from 1 to 8192 (pixels)")
        for name in ("pad", "squash", "floor", "antialias", "crop_first"):
            if not isinstance(value := getattr(self, name), bool):
                raise SettingError(f"preprocess.{name} is {value!r}; expected True or False")
        if self.resize < self.size and not self.pad:
            raise SettingError(
                f"preprocess.resize is {self.resize}, smaller than size {self.size}: the crop would "
                "reach beyond the image; resize must be at least size, or pad=True surrounds the image with black"
            )
        if self.crop_first and self.squash:
            raise SettingError(
                "preprocess.crop_first cuts off what makes an image longer than wide, preprocess.squash keeps it: "
                "only one of them can be True"
            )
        if self.decode == SCALED and (self.crop_first or not self.antialias):
            raise SettingError(
                "preprocess.decode='scaled' decodes what a filter against aliasing leaves; it goes neither with "
                "antialias=False nor with crop_first=True"
            )
        if self.channels not in CHANNELS:
            raise UnknownNameError("channels", self.channels, CHANNELS)
        if self.decode not in DECODES:
            raise UnknownNameError("way to decode", self.decode, DECODES)
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 < self.scale < np.inf:
            raise SettingError(
                f"preprocess.scale is {self.scale!r}; expected a positive number, such as 1 or 1 / 255"
            )
        object.__setattr__(self, "scale", float(self.scale))
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownNameError("interpolation", self.interpolation, INTERPOLATIONS)
        for name in ("mean", "std"):
            try:
                values = tuple(float(v) for v in getattr(self, name))
            except (TypeError, ValueError):
                values = ()
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                allowed = "three positive numbers" if name == "std" else "three finite numbers"
                raise SettingError(
                    f"preprocess.{name} is {getattr(self, name)!r}; expected {allowed}, one for each channel"
                )
            object.__setattr__(self, name, values)  # lists become tuples: equal settings compare equal
        self._warn_of_other_units()

    def __str__(self) -> str:
        sizes = f"{self.size} px" if self.size == self.resize else f"{self.size} px of {self.resize}"
        sizes += ", squashed" if self.squash else ", cropped first" if self.crop_first else ""
        sizes += "" if self.antialias else ", not antialiased"
        mean, deviation = (", ".join(f"{value:g}" for value in dict.fromkeys(v)) for v in (self.mean, self.std))
        return f"{sizes}, {self.interpolation}, mean {mean}, deviation {deviation}" + (
            {SCALED: "; large JPEGs decoded scaled", GPU: "; JPEGs decoded by a GPU"}.get(self.decode, "")
        )

    def _warn_of_other_units(self) -> None:
        """Mean and deviation of 0..255 with pixels of 0..1, or the other way round, make every picture alike. A
        warning only, since whoever trained so may have to go on."""
        reach = 255 * self.scale
        high = max(self.mean) > 1.01 * reach or min(self.std) > 16 * reach
        low = reach > 16 and 0 < max(self.mean) <= 1 and max(self.std) < 1
        if high or low:
            mend = "divide both by 255, or pass scale=1" if high else "multiply both by 255, or leave scale= out"
            warnings.warn(
                f"preprocess: mean {self.mean} and std {self.std} are not of pixels of 0 to {reach:.4g}, which "
                f"scale={self.scale:.4g} makes of 0 to 255: {mend}",
                DataWarning,
                stacklevel=4,
            )

    def apply(self, image: Image.Image, crop: Crop | None = None) -> np.ndarray:
        """`(size, size, 3)` uint8 of an image of any size and mode. It is turned as its EXIF orientation says, and
        scaled to 8 bits where it has more, as files are by `predict`.

        Without `crop`: shorter side to `resize` (aspect kept; with `squash` both sides), then the central square.
        With one: that box, resized straight to the square, mirrored where the crop says so.
        """
        return np.array(self._square(upright(image, "the image"), crop))  # a copy: asarray would be read-only

    def _square(self, image: Image.Image, crop: Crop | None) -> Image.Image:
        """What `apply` gives, of an image of mode RGB that is upright."""
        if crop is not None and crop.right > crop.left and crop.bottom > crop.top:
            # Cropped before it is resized: the filter must not see pixels outside the box.
            image = self._resized(_cut(image, crop[:4]), (self.size, self.size))
        else:
            image = self._center(image)
        if crop is not None and crop.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def _resized(
        self, image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
    ) -> Image.Image:
        if self.antialias:
            return image.resize(size, INTERPOLATIONS[self.interpolation], box)
        return sampled(image, size, self.interpolation)

    def _center(self, image: Image.Image) -> Image.Image:
        if self.crop_first:
            image = _central(image, min(image.size), min(image.size), floor=True)
        sides: tuple[int, int] = image.size
        box = None
        if (extent := extent_of(image)) is not None:
            sides, box = (extent.width, extent.height), extent.box
        short = min(sides)
        endless = max(sides) > MAX_ASPECT * short and self.resize**2 * max(sides) > MAX_RESIZED * short
        if endless and not self.squash:
            short = min(image.size)
            width, height = (min(side, MAX_ASPECT * short) for side in image.size)
            image = _central(image, width, height)
            sides, box = image.size, None
        # torchvision: the longer side is truncated, not rounded
        width, height = (
            self.resize if self.squash or side == short else int(self.resize * side / short) for side in sides
        )
        if image.size != (width, height) or box is not None:
            image = self._resized(image, (width, height), box)
        if min(image.size) < self.size:  # as torchvision's CenterCrop: an odd pixel goes to the right and below
            whole = Image.new("RGB", (max(width, self.size), max(height, self.size)))
            whole.paste(image, (max(0, self.size - width) // 2, max(0, self.size - height) // 2))
            image = whole
        return _central(image, self.size, self.size, self.floor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image as the trunk sees it."""
        return (self.size, self.size, 3)

    def allocate(self, n: int) -> np.ndarray:
        """Room for `n` images, `(n, size, size, 3)` uint8."""
        return np.empty((n, *self.shape), np.uint8)

    def fill(self, rows: np.ndarray, k: int, image: Image.Image, crop: Crop | None = None) -> None:
        """Write an image that a data set has decoded to row `k`, see `apply`."""
        rows[k] = np.asarray(self._square(image if image.mode == "RGB" else image.convert("RGB"), crop))

    def jpegs(self, part: float | None = None) -> Jpegs:
        """How JPEGs are decoded: "exact" as libjpeg does, large ones "scaled" at a half, a quarter or an eighth of
        their size, or by a "gpu".

        `part`: what a random crop takes of the shorter side at the least; None: nothing is cropped before it is
        resized.
        """
        if self.decode != SCALED:
            return Jpegs(gpu=self.decode == GPU)
        return Jpegs(math.ceil(SPARE * (self.resize if part is None else self.size / part)))

    def check(self, data: Dataset) -> None:
        """DataError unless the data set yields images."""
        if data.entries is None:
            return
        shape, dtype = data.entries.get(ALONE, ((), ""))
        mend = mend_of(np.dtype(dtype)) if len(shape) in (2, 3) and dtype != "bfloat16" else ""
        raise DataError(
            f"the data set {data.name!r} yields {described(data.entries)} a sample, and the model takes images; "
            + (f"images are uint8, 0 to 255{mend}" if len(shape) in (2, 3) else "see hs.wrap for other inputs")
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values; equal settings give equal dicts. Part of a trunk's key."""
        return {
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            **{name: getattr(self, name) for name in self._unusual()},
        }

    def _unusual(self) -> list[str]:
        """Which of the settings that most trunks do without are not as usual. The others are left out of keys and
        records, where these settings once were not."""
        fields = self.__dataclass_fields__
        return [name for name in LATER if getattr(self, name) != fields[name].default]

    def __repr__(self) -> str:
        names = [name for name in self.__dataclass_fields__ if name not in LATER] + self._unusual()
        return f"Preprocess({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Preprocess:
        """The inverse of `as_dict`. Raises `SettingError` for a key that is unknown or missing."""
        names = tuple(cls.__dataclass_fields__)
        for key in settings:
            if key not in names:
                raise UnknownNameError("preprocess setting", key, names)
        if missing := [name for name in names if name not in settings and name not in LATER]:
            raise SettingError(
                f"preprocess settings lack {', '.join(missing)}; expected all of {', '.join(names)}"
            )
        return cls(**settings)

    def with_size(self, size: int) -> Preprocess:
        """The same preprocessing for another crop size; `resize` is scaled in proportion and rounded."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SettingError(f"size is {size!r}; expected a positive integer (pixels)")
        resize = round(self.resize * size / self.size)
        return replace(self, size=size, resize=max(1 if self.pad else size, resize))

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """`(scale, shift)`, each `(3,)` float32: the normalised pixel is `uint8 * scale + shift`, its channels in
        the trunk's order."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scale = 1 / (255 * std) if self.scale == UNIT else self.scale / std
        return scale.astype(np.float32), (-mean / std).astype(np.float32)

    @property
    def reverse(self) -> bool:
        """Whether the trunk takes the channels of an RGB image in reverse."""
        return self.channels == "bgr"

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """`(n, h, w, 3)` float32 of `(n, h, w, 3)` uint8, R, G, B: what the trunk sees."""
        if images.dtype != np.uint8 or images.shape[-1:] != (3,):
            raise SettingError(
                f"images to normalise are {images.dtype} of shape {images.shape}; expected uint8 (n, h, w, 3)"
            )
        scale, shift = self.affine()
        normalised: np.ndarray = (images[..., ::-1] if self.reverse else images) * scale + shift
        return normalised


def _central(image: Image.Image, width: int, height: int, floor: bool = False) -> Image.Image:
    rounded = math.floor if floor else round  # torchvision's rounding
    left, top = rounded((image.width - width) / 2), rounded((image.height - height) / 2)
    return _cut(image, (left, top, left + width, top + height))


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = box
    if (right - left) * (bottom - top) <= LARGE:
        return image.crop(box)
    # Pillow's crop warns, then raises, by a limit of its own; ours was checked when the image was decoded.
    return Image.fromarray(np.asarray(image)[top:bottom, left:right])
