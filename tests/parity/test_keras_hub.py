"""KerasHub's models, small and with weights drawn at random, beside what they themselves compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import SettingError
from headstart.models.processors import preprocess_of
from headstart.testing import relative_error

hub = pytest.importorskip("keras_hub")
SIDE = 56
VIT = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32}
TEXT = {"vocabulary_size": 50, "intermediate_dim": 48, "max_sequence_length": 12, **VIT}
IMAGE = {"image_shape": (SIDE, SIDE, 3)}


def resnet(**settings: Any) -> Any:
    return hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        **{"block_type": "basic_block", "use_pre_activation": False, **IMAGE, **settings},
    )


def vit(**settings: Any) -> Any:
    return hub.models.ViTBackbone(patch_size=14, mlp_dim=48, **VIT, **IMAGE, **settings)


def bert() -> Any:
    return hub.models.BertBackbone(**TEXT)


def efficientnet() -> Any:
    two = {"kernel_sizes": [3, 3], "num_repeats": [1, 1], "input_filters": [16, 16], "output_filters": [16, 24]}
    two |= {"expansion_ratios": [1, 6], "strides": [1, 2], "block_types": ["v1", "v1"]}
    two |= {"squeeze_and_excite_ratios": [0.25, 0.25]}
    two |= {"width_coefficients": [1.0, 1.0], "depth_coefficients": [1.0, 1.0]}
    return hub.models.EfficientNetBackbone(
        **{f"stackwise_{name}": value for name, value in two.items()},
        min_depth=None,
        include_stem_padding=True,
        use_depth_divisor_as_min_depth=True,
    )


MODELS: dict[str, Callable[[], Any]] = {
    "ResNet": lambda: resnet(block_type="bottleneck_block", use_pre_activation=True),
    "EfficientNet": efficientnet,
    "DenseNet": lambda: hub.models.DenseNetBackbone(
        stackwise_num_repeats=[2, 2], compression_ratio=0.5, growth_rate=8, **IMAGE
    ),
    "ViT": lambda: vit(use_patch_bias=False, use_class_token=False),
    "DeiT": lambda: hub.models.DeiTBackbone(patch_size=14, intermediate_dim=48, **VIT, **IMAGE),
    "DINOV2": lambda: hub.models.DINOV2Backbone(patch_size=14, intermediate_dim=48, **VIT, **IMAGE),
    "SigLIP": lambda: hub.models.SigLIPVisionEncoder(patch_size=14, intermediate_dim=48, **VIT, **IMAGE),
    "MiT": lambda: hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, 16],
        image_shape=(64, 64, 3),
    ),
    "Bert": bert,
}
GIVEN = {"Bert": "pooled_output"}
"""of several outputs"""
SELDOM = ("DeiT", "DINOV2", "SigLIP", "MiT")
"""built as ViT is; what is special in each (layers without a whole configuration) tests/models has in small"""


def rows_for(model: Any, n: int = 4) -> Any:
    rng = np.random.default_rng(0)
    if len(model.inputs) > 1:
        rows = {x.name: np.ones((n, 12), "int32") for x in model.inputs}
        rows["token_ids"] = rng.integers(0, 50, (n, 12)).astype("int32")
        return rows
    shape = [SIDE if side is None else side for side in model.inputs[0].shape[1:3]]
    return rng.standard_normal((n, *shape, 3)).astype(np.float32)


def shaken(model: Any) -> Any:
    """With weights of which none is as it is made, but positions, of which some keep a second form."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "position" not in weight.path:
            weight.assign(np.asarray(weight) + rng.uniform(0, 0.1, weight.shape).astype(weight.dtype))
    return model


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SELDOM else []) for kind in MODELS]
)
def test_a_backbones_features(kind: str) -> None:
    model = shaken(MODELS[kind]())
    rows = rows_for(model)
    alone = isinstance(model.input, dict) and len(model.inputs) == 1
    expected = model({"images": rows} if alone else rows, training=False)
    expected = expected[GIVEN[kind]] if kind in GIVEN else expected
    made = hs.wrap(model, head="linear", classes=3, example=rows)
    assert relative_error(hs.forward(made, rows, "trunk")["trunk"], np.asarray(expected)) < 1e-5


def test_tokens_beside_a_padding_mask_are_not_averaged() -> None:
    model = hub.models.GPT2Backbone(**TEXT)
    with pytest.raises(SettingError, match="'padding_mask' says that some are padding"):
        hs.wrap(model, head="linear", classes=3, example=rows_for(model))


@pytest.mark.parametrize("kind", ["image", "tokens", "text"])
def test_a_task_is_cut_before_its_classifier(kind: str) -> None:
    backbone = {"image": resnet, "tokens": vit, "text": bert}[kind]()
    task = {
        "image": hub.models.ImageClassifier,
        "tokens": hub.models.ViTImageClassifier,
        "text": hub.models.BertTextClassifier,
    }[kind](backbone=backbone, num_classes=5, preprocessor=None)
    rows = rows_for(shaken(task))
    made = hs.wrap(task, example=rows)
    expected = np.asarray(task(rows, training=False))
    assert relative_error(hs.forward(made, rows, "head")["head"], expected) < 1e-5
    width = {"image": 64, "tokens": 32, "text": 32}[kind]
    assert hs.forward(made, rows, "trunk")["trunk"].shape == (4, width)


@pytest.mark.parametrize("sides", [(90, 90), (101, 60), (64, 131), (40, 30)])
@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 1 / 255},
        {"scale": 1 / 255, "antialias": True},
        {"scale": (0.02, 0.017, 0.0175), "offset": (-2.1, -2.0, -1.8), "interpolation": "nearest"},
        {"scale": 1 / 127.5, "offset": -1, "crop_to_aspect_ratio": False},
        {"scale": 1 / 127.5, "offset": -1, "crop_to_aspect_ratio": False, "antialias": True},
        {"offset": (-103.0, -116.0, -123.0), "interpolation": "bicubic"},
        {"offset": (-103.0, -116.0, -123.0), "interpolation": "bicubic", "antialias": True},
        {"interpolation": "lanczos3"},
    ],
)
def test_a_converters_pixels(settings: dict[str, Any], sides: tuple[int, int]) -> None:
    converter = hub.layers.ImageConverter(image_size=(48, 48), **settings)
    ours = preprocess_of(converter)
    pixels = np.random.default_rng(0).integers(
        90, 166, (*sides, 3), np.uint8
    )  # of which no kernel leaves 0 to 255
    theirs = np.asarray(converter(pixels[None].astype(np.float32)))[0]
    level = float(ours.affine()[0].max())
    # Rounded to bytes: by Pillow, which filters, after each of its two directions. TensorFlow has bicubic weights
    # in a table.
    bound = 1.5 if settings.get("antialias") else 0.55
    made = ours.normalise(ours.apply(Image.fromarray(pixels))[None])[0]
    np.testing.assert_allclose(made, theirs, atol=bound * level)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_tasks_preprocessor_is_read() -> None:
    converter = hub.layers.ImageConverter(image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0)
    preprocessor = hub.models.ImageClassifierPreprocessor(image_converter=converter)
    task = hub.models.ImageClassifier(backbone=resnet(), num_classes=5, preprocessor=preprocessor)
    made = hs.wrap(task)
    assert (made.preprocess.size, made.preprocess.mean, made.preprocess.std) == (SIDE, (0.5,) * 3, (0.5,) * 3)
    padded = hub.layers.ImageConverter(image_size=(8, 8), pad_to_aspect_ratio=True, crop_to_aspect_ratio=False)
    with pytest.raises(SettingError, match="pad_to_aspect_ratio True; expected False"):
        hs.wrap(task, preprocess=padded)
