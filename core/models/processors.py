"""What other libraries prepare images with, as a `Preprocess`: torchvision's `weights.transforms()`, composed
transforms, the image processors of Hugging Face's transformers, or what their preprocessor_config.json says, and
KerasHub's converters.

A processor is read only where it is of a kind that is known here: many kinds resize or scale in ways that their
settings do not show. Where an odd number of pixels is left over, they cut the middle out half a pixel further up
and left (`floor`), where torchvision takes the even place. Those on tensors resize with other rounding, by one of
255 levels now and then; those on Pillow's images have the larger half of an odd padding above and on the left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from headstart.common.errors import SettingError
from headstart.data.preprocess import INTERPOLATIONS, UNIT, Preprocess
from headstart.models.transforms import composed, is_composed

# What a kind of processor does besides what all do.
SHRINKING, STRETCHING, OFFSETTING, FLIPPING = "shrinking", "stretching", "offsetting", "flipping"
CROPPING = "cropping"
KINDS = {
    "Beit": "",
    "Bit": "",
    "Blip": "",
    "CLIP": "",
    "ConvNext": SHRINKING,
    "DINOv3ViT": "",
    "DeiT": "",
    "EfficientNet": OFFSETTING,
    "Levit": STRETCHING,
    "MobileNetV1": "",
    "MobileNetV2": "",
    "MobileViT": FLIPPING,
    "PoolFormer": CROPPING,
    "Pvt": "",
    "Siglip": "",
    "ViT": "",
}
"""by the names of their classes, which end in one of these"""
ENDS = re.compile(r"(ImageProcessor|FeatureExtractor)(Pil|Fast)?$")
CONVERTER = "ImageConverter"
LARGE = 384  # pixels; from there on ConvNeXt's processor crops nothing
LEVITS = 256 / 224


def is_processor(given: Any) -> bool:
    """Whether it is one of those that `preprocess_of` may read."""
    known = (_is_preset(given), is_composed(given), is_converter(given), isinstance(given, Mapping))
    return any(known) or callable(getattr(given, "to_dict", None))


def preprocess_of(given: Any) -> Preprocess:
    """`given`: such an object, or the content of a preprocessor_config.json. SettingError for what headstart does
    not do to images, with what it is."""
    if _is_preset(given):
        (size,), (resize,) = given.crop_size, given.resize_size
        pad = resize < size
        return Preprocess(size, resize, given.interpolation.value, tuple(given.mean), tuple(given.std), pad=pad)
    if is_composed(given):
        return composed(given)
    if is_converter(given):
        return _of_converter(given)
    said = dict(given if isinstance(given, Mapping) else given.to_dict())
    name = said.get("image_processor_type") or said.get("feature_extractor_type") or type(given).__name__
    kind = KINDS.get(ENDS.sub("", name))
    if kind is None:
        raise SettingError(
            f"preprocess= is {name}; expected an hs.Preprocess, torchvision's transforms, KerasHub's image "
            f"converter, or an image processor of {', '.join(sorted(KINDS))}"
        )
    return _Reading(name, kind, said).preprocess()


def _is_preset(given: Any) -> bool:
    return all(hasattr(given, name) for name in ("crop_size", "resize_size", "interpolation", "mean", "std"))


def is_converter(given: Any) -> bool:
    """Whether it is an ImageConverter, as Keras's library of models has them, of a kind that does nothing else."""
    base = next((kind for kind in type(given).__mro__ if kind.__name__ == CONVERTER), None)
    return base is not None and all(
        getattr(type(given), name, None) is getattr(base, name, None) for name in ("call", "_call_python")
    )


def _of_converter(given: Any) -> Preprocess:
    def refuse(name: str, expected: str) -> NoReturn:
        raise SettingError(
            f"preprocess= is {type(given).__name__} with {name} {getattr(given, name)!r}; expected {expected}. "
            "Say what it does to images with hs.Preprocess"
        )

    sides = given.image_size
    if sides is None or sides[0] != sides[1]:
        refuse("image_size", "a height and a width that are the same")
    if given.pad_to_aspect_ratio:
        refuse("pad_to_aspect_ratio", "False")
    interpolation = {"lanczos3": "lanczos"}.get(given.interpolation, given.interpolation)
    if interpolation not in INTERPOLATIONS:
        refuse("interpolation", "nearest, bilinear, bicubic or lanczos3")
    scale, offset = (
        np.broadcast_to(np.asarray(value if value is not None else usual, float).ravel(), 3)
        for value, usual in ((given.scale, 1), (given.offset, 0))
    )
    unit = 1.0 if given.scale is None else UNIT
    mean, std = (0 - offset) * unit / scale, unit / scale  # of no offset 0, and not -0
    return Preprocess(
        int(sides[0]),
        int(sides[0]),
        interpolation,
        (float(mean[0]), float(mean[1]), float(mean[2])),
        (float(std[0]), float(std[1]), float(std[2])),
        scale=unit,
        squash=not given.crop_to_aspect_ratio,
        antialias=bool(given.antialias),
        crop_first=bool(given.crop_to_aspect_ratio),
    )


class _Reading:
    """One processor's settings, while they are read."""

    def __init__(self, name: str, kind: str, said: Mapping[str, Any]) -> None:
        self.name, self.kind, self.said = name, kind, said

    def preprocess(self) -> Preprocess:
        size, resize, squash = self._sizes()
        scale = self._number("rescale_factor", UNIT) if self._does("do_rescale") else 1.0
        mean, std = [0.0] * 3, [1.0] * 3
        if normalizes := self._does("do_normalize", self.kind != FLIPPING):
            mean, std = self._channels("image_mean"), self._channels("image_std")
        channels = "rgb"
        if self.kind == OFFSETTING:
            if self._does("do_rescale") and self._does("rescale_offset", False):
                mean = [value + 1 for value in mean]
            if self._does("include_top"):
                std = [a * b for a, b in zip(std, self._channels("image_std"), strict=True)]
        if self.kind == FLIPPING and self._does("do_flip_channel_order"):
            channels = "bgr"
            if normalizes:
                self._refuse("do_normalize", "not beside do_flip_channel_order")
        return Preprocess(
            size,
            resize,
            self._interpolation(),
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
            channels,
            scale,
            pad=resize < size,
            squash=squash,
            floor=not squash or (resize - size) % 2 == 1,
        )

    def _sizes(self) -> tuple[int, int, bool]:
        """The crop, what is resized to before it, and whether both sides are."""
        if not self._does("do_resize"):
            self._refuse("do_resize", "true, as pictures are of any size")
        if self._does("do_pad", False):
            self._refuse("do_pad", "false")
        said = self.said.get("size")
        sides = {name: value for name, value in said.items() if value} if isinstance(said, Mapping) else {}
        if sides.keys() == {"height", "width"} and sides["height"] == sides["width"]:
            resize, squash = int(sides["height"]), True
        elif sides.keys() == {"shortest_edge"}:
            resize, squash = int(sides["shortest_edge"]), False
        else:
            self._refuse("size", "a shortest_edge, or a height and a width that are the same")
        if self.kind == CROPPING and self._does("crop_pct"):
            resize, squash = int(resize / self._number("crop_pct", 0.9)), False
        size = None if squash else 0
        if self.kind == SHRINKING and not squash:
            size, squash = resize, resize >= LARGE
            resize = resize if squash else int(resize / self._number("crop_pct", 224 / 256))
        if self.kind == STRETCHING and not squash:
            resize = int(LEVITS * resize)
        if self._does("do_center_crop", False):
            crop = self.said.get("crop_size")
            if not isinstance(crop, Mapping) or not crop.get("height") or crop["height"] != crop.get("width"):
                self._refuse("crop_size", "a height and a width that are the same")
            if size:  # of pictures that are square by then
                self._refuse("do_center_crop", "false")
            size = int(crop["height"])
        if size == 0:
            self._refuse("do_center_crop", "true, where the sides of a picture are not made the same")
        return size or resize, resize, squash

    def _does(self, name: str, usually: bool = True) -> bool:
        value = self.said.get(name, usually)
        return value is not None and bool(value)

    def _number(self, name: str, usually: float) -> float:
        value = self.said.get(name, usually)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            self._refuse(name, "a positive number")
        return float(value)

    def _channels(self, name: str) -> list[float]:
        values = self.said.get(name)
        if not isinstance(values, list | tuple) or len(values) != 3:
            self._refuse(name, "three numbers")
        return [float(value) for value in values]

    def _interpolation(self) -> str:
        value = self.said.get("resample")
        known = {int(method): name for name, method in INTERPOLATIONS.items()}
        if not isinstance(value, int | Image.Resampling) or int(value) not in known:
            self._refuse("resample", " or ".join(f"{number} ({name})" for number, name in known.items()))
        return known[int(value)]

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise SettingError(
            f"preprocess= is {self.name} with {name} {self.said.get(name)!r}; expected {expected}. Say what it "
            "does to images with hs.Preprocess"
        )
