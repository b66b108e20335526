"""What other libraries prepare images with, by their settings (for their pixels: parity/test_processors.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from own import P

import headstart as hs
from headstart.common.errors import SettingError
from headstart.data import Preprocess
from headstart.models.processors import is_processor, preprocess_of

HALF = (0.5, 0.5, 0.5)
VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CENTRE = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
VIT_MEANS = Preprocess(224, 224, "bilinear", HALF, HALF, squash=True)


def named(kind: str, **settings: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{kind}ImageProcessor", **settings}


KEPT = {"squash": False, "floor": True}  # the aspect, so that any number of pixels is left over
NEITHER = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"image_processor_type": "ViTImageProcessorFast", "resample": 3}, {"interpolation": "bicubic"}),
        ({"size": {"height": 256, "width": 256}, **CENTRE}, {"resize": 256}),
        ({"size": {"height": 255, "width": 255}, **CENTRE}, {"resize": 255, "floor": True}),
        ({"size": {"shortest_edge": 256}, **CENTRE}, {"resize": 256, **KEPT}),
        ({"size": {"shortest_edge": 192}, **CENTRE}, {"resize": 192, **KEPT, "pad": True}),
        ({"do_normalize": False}, NEITHER),
        ({"do_normalize": False, "do_rescale": False}, {**NEITHER, "scale": 1.0}),
        (named("ConvNext", size={"shortest_edge": 224}, crop_pct=0.875), {"resize": 256, **KEPT}),
        (named("ConvNext", size={"shortest_edge": 384}), {"size": 384, "resize": 384}),
        (named("Levit", size={"shortest_edge": 224}, **CENTRE), {"resize": 256, **KEPT}),
        (named("PoolFormer", size={"shortest_edge": 224}, crop_pct=0.9, **CENTRE), {"resize": 248, **KEPT}),
        (named("PoolFormer", crop_pct=0.9, **CENTRE), {"resize": 248, **KEPT}),
        (named("PoolFormer", crop_pct=None, **CENTRE), {}),
        (named("EfficientNet", include_top=False), {}),
        (
            named("EfficientNet", include_top=True, rescale_offset=True, rescale_factor=1 / 127.5),
            {"mean": (1.5,) * 3, "std": (0.25,) * 3, "scale": 1 / 127.5},
        ),
        (named("MobileViT", do_normalize=None, do_flip_channel_order=True), {**NEITHER, "channels": "bgr"}),
    ],
)
def test_what_settings_mean(change: dict[str, Any], expected: dict[str, Any]) -> None:
    meant = replace(VIT_MEANS, **expected)
    assert preprocess_of(json.loads(json.dumps(VIT | change))) == meant
    assert preprocess_of(SimpleNamespace(to_dict=lambda: VIT | change)) == meant


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            named("Perceiver"),
            "is PerceiverImageProcessor; expected .*ConvNext.*ViT",
        ),
        ({"do_resize": False}, "do_resize False"),
        ({"size": 224}, "size 224; expected a shortest_edge"),
        ({"size": {"height": 224, "width": 448}}, "a height and a width that are the same"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "size .*longest_edge"),
        ({"size": {"shortest_edge": 224}}, "do_center_crop None; expected true"),
        ({"do_center_crop": True}, "crop_size None"),
        ({"do_pad": True}, "do_pad True"),
        ({"resample": 4}, r"resample 4; expected .*2 \(bilinear\)"),
        ({"resample": None}, "resample None"),
        ({"image_mean": 0.5}, "image_mean 0.5; expected three numbers"),
        ({"rescale_factor": 0}, "rescale_factor 0; expected a positive number"),
        (
            named("MobileViT", do_flip_channel_order=True),
            "do_normalize True; expected not beside do_flip_channel_order",
        ),
    ],
)
def test_what_headstart_does_not_do_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        preprocess_of(VIT | change)


@pytest.mark.neutral
def test_published_transforms() -> None:
    bilinear = Enum("Interpolation", {"BILINEAR": "bilinear"})["BILINEAR"]
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    preset = SimpleNamespace(crop_size=[224], resize_size=[232], mean=mean, std=std, interpolation=bilinear)
    assert preprocess_of(preset) == Preprocess(224, 232)
    assert not is_processor(P) and not is_processor("224") and not is_processor((224, 256))


class Step:
    """With the name and the settings of a transform."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.__class__ = type(kind, (Step,), {"__init__": object.__init__, "__repr__": lambda _: f"{kind}()"})
        vars(self).update(settings)

    def __call__(self, image: Any) -> Any:
        raise AssertionError("a transform that is read is not called")


SHORTER = Step("Resize", size=72, interpolation=Enum("Mode", {"BICUBIC": "bicubic"})["BICUBIC"], antialias=True)
CROP, FLOATS = Step("CenterCrop", size=(64, 64)), Step("ToTensor")
NORMALISED = Step("Normalize", mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])


def composed(*steps: Step) -> Step:
    return Step("Compose", transforms=list(steps))


@pytest.mark.neutral
def test_what_composed_transforms_mean() -> None:
    seen = Preprocess(64, 72, "bicubic", HALF, (0.25,) * 3)
    assert preprocess_of(composed(SHORTER, CROP, FLOATS, NORMALISED)) == seen
    assert preprocess_of(composed(SHORTER, composed(CROP, FLOATS), NORMALISED)) == seen
    assert preprocess_of(composed(SHORTER, CROP, FLOATS)) == replace(seen, **NEITHER)
    units = Step("ToDtype", dtype="torch.float32", scale=False)
    assert preprocess_of(composed(SHORTER, CROP, units)) == replace(seen, **NEITHER, scale=1.0)
    both = Step("Resize", size=(72, 72), interpolation="bilinear")
    squashed = Preprocess(72, 72, "bilinear", HALF, (0.25,) * 3, squash=True)
    assert preprocess_of(composed(both, FLOATS, NORMALISED)) == squashed
    assert preprocess_of(composed(both, CROP, FLOATS, NORMALISED)) == replace(squashed, size=64)
    padded = composed(SHORTER, Step("CenterCrop", size=80), FLOATS, NORMALISED)
    assert preprocess_of(padded) == replace(seen, size=80, pad=True)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (
            [Step("RandomResizedCrop", size=64), FLOATS],
            r"the step RandomResizedCrop\(\); expected one of CenterCrop",
        ),
        ([CROP, FLOATS], r"CenterCrop\(\); expected a single CenterCrop to a square, behind Resize"),
        ([SHORTER, CROP, SHORTER, FLOATS], "a single Resize, before CenterCrop"),
        ([SHORTER, FLOATS], "resizes the shorter side only, and a model takes squares: put a CenterCrop"),
        ([SHORTER, CROP], "no step that makes floats"),
        ([FLOATS, NORMALISED], "no step that resizes"),
        ([FLOATS, SHORTER, CROP], r"Resize\(\); expected what resizes, crops .* in this order"),
        ([SHORTER, CROP, NORMALISED], r"Normalize\(\); expected what resizes, crops .* in this order"),
        ([SHORTER, CROP, FLOATS, NORMALISED, NORMALISED], r"Normalize\(\); expected .* at most one Normalize"),
        ([Step("Resize", size=(64, 72), interpolation="bilinear")], "of both to the same"),
        ([Step("Resize", size=64, max_size=90, interpolation="bilinear")], "without max_size"),
        ([Step("Resize", size=64, interpolation="box")], "interpolation nearest or bilinear"),
        ([Step("Resize", height=64, width=64, interpolation=1)], "size as one or two numbers of pixels"),
        ([Step("ToImage"), Step("Resize", size=64, interpolation="nearest")], "before there is a tensor"),
        ([Step("ToImage"), Step("Resize", size=64, interpolation="bilinear", antialias=False)], "antialiases"),
        ([SHORTER, CROP, FLOATS, Step("Normalize", mean=[0.5], std=[0.5])], "three means and three deviations"),
        ([SHORTER, CROP, Step("ToDtype", dtype="torch.float16")], "expected float32"),
        ([Step("MaybeConvertMode", mode="L"), SHORTER], "expected RGB"),
        ([Step("ToImage"), SHORTER, CROP, FLOATS], r"ToTensor\(\); expected ToDtype\(torch.float32, scale=True\)"),
        ([SHORTER, CROP, Step("PILToTensor"), Step("MaybeToTensor")], r"expected ToDtype\(torch.float32, scale"),
    ],
)
def test_a_step_that_headstart_does_not_do_is_refused(steps: list[Step], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        preprocess_of(composed(*steps))


@pytest.mark.of("torch")
def test_a_module_is_wrapped_with_its_processor() -> None:
    import own_torch

    module, small = own_torch.small(), VIT | {"size": {"height": 16, "width": 16}}
    assert hs.wrap(module, preprocess=small).preprocess == replace(VIT_MEANS, size=16, resize=16)
    with pytest.raises(SettingError, match=r"preprocess=224; expected an hs\.Preprocess, torchvision's"):
        hs.wrap(module, preprocess=224)
    seen = composed(Step("Resize", size=16, interpolation="bilinear"), Step("CenterCrop", size=16), FLOATS)
    assert hs.wrap(module, preprocess=seen).preprocess == Preprocess(16, 16, "bilinear", **NEITHER)


class ImageConverter:
    """As KerasHub has it, as far as it is read; its pixels are in parity/test_keras_hub.py."""

    def __init__(self, **settings: Any) -> None:
        usual = {"scale": None, "offset": None, "crop_to_aspect_ratio": True, "pad_to_aspect_ratio": False}
        usual |= {"image_size": (64, 64), "interpolation": "bilinear", "antialias": True}
        vars(self).update(usual | settings)

    def call(self, images: Any) -> Any:
        raise NotImplementedError

    _call_python = call


class OtherConverter(ImageConverter):
    def call(self, images: Any) -> Any:
        raise NotImplementedError


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Preprocess(64, 64, mean=(0,) * 3, std=(1,) * 3, scale=1, crop_first=True)),
        ({"scale": 1 / 255}, Preprocess(64, 64, mean=(0,) * 3, std=(1,) * 3, crop_first=True)),
        (
            {"scale": 1 / 127.5, "offset": -1, "antialias": False},
            Preprocess(64, 64, mean=HALF, std=HALF, crop_first=True, antialias=False),
        ),
        (
            {"scale": (1 / 51, 1 / 102, 1 / 51), "offset": (-1, -2, -3), "crop_to_aspect_ratio": False},
            Preprocess(64, 64, mean=(0.2, 0.8, 0.6), std=(0.2, 0.4, 0.2), squash=True),
        ),
        (
            {"offset": (-103, -116, -123), "interpolation": "lanczos3"},
            Preprocess(64, 64, "lanczos", (103, 116, 123), (1,) * 3, scale=1, crop_first=True),
        ),
    ],
)
def test_what_a_converter_does(settings: dict[str, Any], expected: Preprocess) -> None:
    found = preprocess_of(ImageConverter(**settings))
    for ours, theirs in zip(found.affine(), expected.affine(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert replace(found, mean=expected.mean, std=expected.std) == expected
    assert "-0" not in str(found)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"image_size": None}, "image_size None; expected a height and a width that are the same"),
        ({"image_size": (64, 96)}, r"image_size \(64, 96\)"),
        ({"pad_to_aspect_ratio": True}, "pad_to_aspect_ratio True; expected False"),
        ({"interpolation": "lanczos5"}, "interpolation 'lanczos5'; expected nearest, bilinear"),
    ],
)
def test_what_a_converter_does_that_headstart_does_not(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        preprocess_of(ImageConverter(**settings))


@pytest.mark.neutral
def test_a_converter_of_another_kind_is_not_read() -> None:
    assert is_processor(ImageConverter()) and not is_processor(OtherConverter())
