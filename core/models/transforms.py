"""torchvision's transforms that somebody composed for evaluation, as a `Preprocess`: a list of steps, as timm's
`create_transform`, open_clip and others publish them, too.

Invariant: a step is read only where it is of a kind that is known here, has the settings of that kind, and stands
where it means the same: a picture is made RGB, resized and cropped, then becomes floats, then is normalised. What
resizes floats does not round, and with a bicubic filter gives numbers outside of any picture's; what resizes
tensors takes other pixels for the nearest, and no filter where it is not to antialias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from headstart.common.errors import SettingError
from headstart.data.preprocess import INTERPOLATIONS, UNIT, Preprocess

PIXELS, FLOATS, NORMALISED = range(3)
"""what a step takes, and gives"""


def is_composed(given: Any) -> bool:
    """Whether it is a list of steps."""
    return isinstance(getattr(given, "transforms", None), list | tuple) and callable(given)


def composed(given: Any) -> Preprocess:
    """SettingError for a step that headstart does not do to images, with which it is."""
    reading = _Reading()
    for step in _flat(given):
        reading.take(step)
    return reading.preprocess()


def _flat(given: Any) -> Iterator[Any]:
    for step in given.transforms:
        yield from _flat(step) if is_composed(step) else [step]


class _Reading:
    """What the steps so far have made."""

    def __init__(self) -> None:
        self.stage = PIXELS
        self.on_tensor = False
        self.size = self.resize = 0
        self.squash = False
        self.interpolation = "bilinear"
        self.scale = 1.0
        self.mean, self.std = (0.0,) * 3, (1.0,) * 3

    def take(self, step: Any) -> None:
        name = getattr(step, "__name__", type(step).__name__)
        read = STEPS.get(name)
        if read is None:
            _refuse(step, f"one of {', '.join(sorted(STEPS))}, as for evaluation")
        read(self, step)

    def preprocess(self) -> Preprocess:
        if not self.resize:
            raise SettingError("preprocess= has no step that resizes, and pictures are of any size")
        if not self.size and not self.squash:
            raise SettingError(
                "preprocess= resizes the shorter side only, and a model takes squares: put a CenterCrop behind "
                "it, or resize both sides to the same: Resize((224, 224))"
            )
        if self.stage == PIXELS:
            raise SettingError("preprocess= has no step that makes floats of a picture, such as ToTensor")
        size, mean, std = self.size or self.resize, self.mean, self.std
        return Preprocess(
            size,
            self.resize,
            self.interpolation,
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
            scale=self.scale,
            pad=self.resize < size,
            squash=self.squash,
        )

    def resized(self, step: Any) -> None:
        self._takes(PIXELS, step)
        if self.resize or self.size:
            _refuse(step, "a single Resize, before CenterCrop")
        sides = _sides(step)
        if getattr(step, "max_size", None) is not None or len(set(sides)) != 1:
            _refuse(step, "a Resize of the shorter side, or of both to the same, without max_size")
        method = getattr(step, "interpolation", None)
        method = getattr(method, "value", method)
        if not isinstance(method, str) or method not in INTERPOLATIONS:
            _refuse(step, f"interpolation {' or '.join(INTERPOLATIONS)}")
        if self.on_tensor and (method == "nearest" or getattr(step, "antialias", True) is not True):
            _refuse(step, "one that antialiases, or to resize before there is a tensor")
        self.resize, self.squash, self.interpolation = sides[0], len(sides) == 2, method

    def cropped(self, step: Any) -> None:
        self._takes(PIXELS, step)
        sides = _sides(step)
        if not self.resize or self.size or len(set(sides)) != 1:
            _refuse(step, "a single CenterCrop to a square, behind Resize")
        self.size = sides[0]

    def to_rgb(self, step: Any) -> None:
        self._takes(PIXELS, step)
        if getattr(step, "mode", "RGB") != "RGB":
            _refuse(step, "RGB")

    def as_pixels(self, step: Any) -> None:
        self._takes(PIXELS, step)
        self.on_tensor = True

    def as_shares(self, step: Any) -> None:
        self._takes(PIXELS, step)
        if self.on_tensor:  # which it refuses, or leaves as it is: 0 to 255
            _refuse(step, "ToDtype(torch.float32, scale=True) behind what makes a tensor")
        self.stage, self.scale = FLOATS, UNIT

    def as_floats(self, step: Any) -> None:
        self._takes(PIXELS, step)
        dtype = str(getattr(step, "dtype", None)).rpartition(".")[2]
        if dtype == "uint8":  # which a picture has already
            return
        if dtype != "float32":
            _refuse(step, "float32")
        self.stage, self.scale = FLOATS, UNIT if getattr(step, "scale", True) else 1.0

    def normalised(self, step: Any) -> None:
        self._takes(FLOATS, step)
        try:
            mean, std = (tuple(map(float, getattr(step, name))) for name in ("mean", "std"))
        except (TypeError, ValueError, AttributeError):
            mean = std = ()
        if len(mean) != 3 or len(std) != 3:
            _refuse(step, "three means and three deviations")
        self.mean, self.std, self.stage = mean, std, NORMALISED

    def _takes(self, stage: int, step: Any) -> None:
        if self.stage != stage:
            order = "what resizes, crops and makes RGB, then ToTensor, then at most one Normalize"
            _refuse(step, f"{order}, in this order")


STEPS: Mapping[str, Callable[[_Reading, Any], None]] = {
    "Resize": _Reading.resized,
    "CenterCrop": _Reading.cropped,
    "ToTensor": _Reading.as_shares,
    "PILToTensor": _Reading.as_pixels,
    "ToImage": _Reading.as_pixels,
    "ConvertImageDtype": _Reading.as_floats,
    "ToDtype": _Reading.as_floats,
    "Normalize": _Reading.normalised,
    "RGB": _Reading.to_rgb,
    # of timm, open_clip and CLIP
    "MaybeToTensor": _Reading.as_shares,
    "MaybePILToTensor": _Reading.as_pixels,
    "MaybeConvertMode": _Reading.to_rgb,
    "_convert_to_rgb": _Reading.to_rgb,
    "_convert_image_to_rgb": _Reading.to_rgb,
}
"""by the names of classes and functions"""


def _sides(step: Any) -> list[int]:
    """One side or two, in pixels."""
    size = getattr(step, "size", None)
    sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size]
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        _refuse(step, "size as one or two numbers of pixels")
    return sides


def _refuse(step: Any, expected: str) -> NoReturn:
    raise SettingError(
        f"preprocess= has the step {step!r:.200}; expected {expected}. Say what it does to images with "
        "hs.Preprocess"
    )
