"""What the census wraps: small models of as many families as libraries have, each made in its turn, with what it
is shown. Nothing here is downloaded; weights are drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 384, 448, 512)
# what names of small models hold, the smallest first
SMALL = (
    "test_", "atto", "femto", "pico", "nano", "xxt", "xxs", "xx_small", "_m0", "_s050", "_050", "_035", "_xs",
    "_b0", "_s0", "tiny", "_5m", "_002", "10t", "18_small", "18", "_s", "small", "_m1", "_0", "_a", "_l1", "11",
    "19b_slim",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model to be wrapped."""

    library: str
    family: str
    name: str
    make: Callable[[], Case | Any]
    """-> `Made`"""


@dataclass
class Made:
    """A module, and what it is shown."""

    module: Any
    inputs: Any
    """`(6, size, size, 3)` float32, or a dict of arrays"""
    classifier: Any = None
    """the same with a classifier at its end, where `module` has none"""
    channels_last: bool = False
    """whether the module itself takes `(n, h, w, c)`"""
    settings: dict[str, Any] = field(default_factory=dict)
    """further arguments of `hs.wrap`"""


def images(size: int, count: int = 6, channels: int = 3) -> np.ndarray:
    """`(n, size, size, channels)` float32."""
    return np.random.default_rng(0).standard_normal((count, size, size, channels)).astype(np.float32)


# ---- timm


def timm_cases() -> Iterator[Case]:
    """The smallest model of every module of timm.models."""
    from timm.models import list_models, list_modules

    for family in list_modules():
        if names := list_models(module=family):
            yield Case("timm", family, family, lambda names=names: _timm(names))


def _timm(names: list[str]) -> Made:
    import timm

    def rank(name: str) -> int:
        return next((place for place, word in enumerate(SMALL) if word in name), len(SMALL))

    tried = sorted(names, key=lambda name: (rank(name), name))[:3]
    name = min(tried, key=lambda name: _size_of(lambda: timm.create_model(name)))
    return made_at_smallest(lambda size: _created(name, size), name)


def _created(name: str, size: int) -> Any:
    import timm

    for settings in ({"img_size": size, "depth": 4}, {"img_size": size}):
        with contextlib.suppress(TypeError):
            return timm.create_model(name, **settings)
    return timm.create_model(name)


def _size_of(make: Callable[[], Any]) -> int:
    import torch

    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in make().parameters())
    except Exception:
        return 1 << 40


def made_at_smallest(make: Callable[[int], Any], name: str) -> Made:
    """At the smallest of SIZES that it runs at."""
    import torch

    trouble: Exception | None = None
    for size in SIZES:
        try:
            torch.manual_seed(0)
            module = make(size).eval()
            x = images(size)
            with torch.no_grad():
                module(torch.from_numpy(x[:2]).permute(0, 3, 1, 2).contiguous())
        except Exception as error:
            trouble = error
            continue
        module.census_name = name
        return Made(stirred(module), x)
    raise RuntimeError(f"{name} runs at none of {SIZES}: {trouble}")


def stirred(module: Any) -> Any:
    """With statistics and scales that are not neutral, and no classifier of zeros."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        elif isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.1)
    return module


# ---- torchvision

TORCHVISION = {
    "alexnet": "alexnet", "convnext": "convnext_tiny", "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet", "inception": "inception_v3", "maxvit": "maxvit_t", "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2", "mobilenetv3": "mobilenet_v3_small", "regnet": "regnet_y_400mf",
    "resnet": "resnet18", "shufflenetv2": "shufflenet_v2_x0_5", "squeezenet": "squeezenet1_1",
    "swin": "swin_t", "swin_v2": "swin_v2_t", "vgg": "vgg11", "vision_transformer": "vit_b_16",
}  # fmt: skip


def torchvision_cases() -> Iterator[Case]:
    """One model of every family of torchvision's classifiers."""
    for family, name in TORCHVISION.items():
        yield Case("torchvision", family, name, lambda name=name: _torchvision(name))


def _torchvision(name: str) -> Made:
    from torchvision import models

    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "vit_b_16": lambda size: {"image_size": size},
        "maxvit_t": lambda size: {"input_size": (size, size)},
        "googlenet": lambda size: {"init_weights": False},
        "inception_v3": lambda size: {"init_weights": False},
    }
    settings = kinds.get(name, lambda size: {})
    if name == "maxvit_t":
        return made_at_smallest(lambda size: _maxvit(size), name)
    return made_at_smallest(lambda size: models.get_model(name, **settings(size)), name)


def _maxvit(size: int) -> Any:
    from torchvision.models import MaxVit

    return MaxVit(
        input_size=(size, size), stem_channels=16, block_channels=[16, 32], block_layers=[1, 1], head_dim=8,
        stochastic_depth_prob=0.0, partition_size=size // 16,
    )  # fmt: skip


# ---- keras.applications

KERAS = (
    "Xception", "VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet50V2", "ResNet101V2", "InceptionV3",
    "InceptionResNetV2", "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "DenseNet121",
    "NASNetMobile", "EfficientNetB0", "EfficientNetB1", "EfficientNetV2B0", "EfficientNetV2S", "ConvNeXtTiny",
)  # fmt: skip


def keras_cases() -> Iterator[Case]:
    """Twenty of keras.applications."""
    for name in KERAS:
        yield Case("keras", name, name, lambda name=name: _keras(name))


def _keras(name: str) -> Made:
    import keras

    keras.utils.set_random_seed(0)
    size = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}.get(name, 64)
    settings: dict[str, Any] = {"weights": None, "input_shape": (size, size, 3), "classes": 10}
    if name.startswith("VGG"):
        settings["classes"] = 10
    return Made(getattr(keras.applications, name)(**settings), images(size), channels_last=True)


# ---- transformers


def transformers_cases() -> Iterator[Case]:
    """Twenty tiny configurations."""
    for name, make in {**VISION, **TEXT}.items():
        yield Case("transformers", name, name, make)


def _vision(kind: str, classifier: bool = True, size: int = 32, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**settings)
        config.num_labels = 5
        base = getattr(transformers, f"{kind}Model")(config).eval()
        whole = None
        if classifier:
            whole = stirred(getattr(transformers, f"{kind}ForImageClassification")(config).eval())
        return Made(stirred(base), images(size), whole)

    return make


def _text(kind: str, classifier: bool = True, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(vocab_size=40, pad_token_id=0, **settings)
        config.num_labels = 5
        base = getattr(transformers, f"{kind}Model")(config).eval()
        whole = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval() if classifier else None
        rng = np.random.default_rng(3)
        lengths = np.array([5, 8, 12, 7, 3, 12])
        mask = (np.arange(12) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask, rng.integers(3, 40, (6, 12)), 0)
        return Made(base, {"input_ids": ids, "attention_mask": mask}, whole)

    return make


VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
BERT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip
STAGES: dict[str, Any] = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
VISION: dict[str, Callable[[], Made]] = {
    "ViT": _vision("ViT", **VIT),
    "DeiT": _vision("DeiT", **VIT),
    "Beit": _vision("Beit", **VIT),
    "Swin": _vision(
        "Swin", image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    ),
    "Swinv2": _vision(
        "Swinv2", image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    ),
    "ConvNext": _vision("ConvNext", **STAGES),
    "ConvNextV2": _vision("ConvNextV2", **STAGES),
    "ResNet": _vision("ResNet", embedding_size=16, layer_type="basic", **STAGES),
    "MobileViT": _vision(
        "MobileViT", hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], image_size=64,
        size=64, num_attention_heads=2, patch_size=2,
    ),
    "MobileNetV2": _vision("MobileNetV2", depth_multiplier=0.35, image_size=64, size=64),
    "Dinov2": _vision("Dinov2", **{**VIT, "mlp_ratio": 2}),
    "SiglipVision": _vision("SiglipVision", classifier=False, **VIT),
    "CLIPVision": _vision("CLIPVision", classifier=False, **VIT),
    "Levit": _vision(
        "Levit", image_size=64, size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1], key_dim=[8, 8, 8],
    ),
    "Pvt": _vision(
        "Pvt", image_size=64, size=64, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
    ),
    "Segformer": _vision(
        "Segformer", size=64, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
    ),
    "PoolFormer": _vision("PoolFormer", size=64, **STAGES),
    "FocalNet": _vision(
        "FocalNet", image_size=32, embed_dim=16, depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3]
    ),
    "RegNet": _vision("RegNet", embedding_size=16, groups_width=8, layer_type="x", **STAGES),
    "EfficientNet": _vision(
        "EfficientNet", size=64, image_size=64, width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320
    ),
}  # fmt: skip
TEXT: dict[str, Callable[[], Made]] = {
    "Bert": _text("Bert", **BERT),
    "DistilBert": _text("DistilBert", dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=40),
    "Roberta": _text("Roberta", **BERT),
    "GPT2": _text("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=40),
}


# ---- NNX


def nnx_cases() -> Iterator[Case]:
    """Modules as flax's examples have them."""
    for name, make in {"mlp": _nnx_mlp, "cnn": _nnx_cnn, "resnet": _nnx_resnet, "vit": _nnx_vit}.items():
        yield Case("nnx", name, name, make)


def _nnx_mlp() -> Made:
    from flax import nnx

    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(24, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 16, rngs=rngs), nnx.relu]
    x = np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32)
    return Made(nnx.Sequential(*layers, nnx.Linear(16, 5, rngs=rngs)), x, channels_last=True)


def _nnx_cnn() -> Made:
    from census_nnx import CNN

    return Made(CNN(), images(28, channels=3), channels_last=True)


def _nnx_resnet() -> Made:
    from census_nnx import ResNet

    return Made(ResNet(), images(32), channels_last=True)


def _nnx_vit() -> Made:
    from census_nnx import ViT

    return Made(ViT(), images(32), channels_last=True)


LIBRARIES: dict[str, Callable[[], Iterator[Case]]] = {
    "timm": timm_cases,
    "torchvision": torchvision_cases,
    "keras": keras_cases,
    "transformers": transformers_cases,
    "nnx": nnx_cases,
}
