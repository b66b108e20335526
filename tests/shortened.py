"""Networks of the zoo with each of their kinds of blocks, but few of a kind, beside originals that the libraries'
own classes build with the same arguments: compiling and running them takes a fraction of the time.

A family's function builds them as it builds the published ones, from another row of its table. So what a block
computes is the same code. What only the published rows say (how many blocks, how wide) is compared by the names
and shapes of whole networks, and by the numbers that these compute in torch: see `parity/test_zoo.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import timm
import torchvision
from families import Small
from known_answers import KnownAnswer, Original
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.googlenet import Inception
from torchvision.models.resnet import BasicBlock, Bottleneck

from headstart.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    googlenet,
    inception,
    mobilenet,
    resnet,
    vgg,
    vit,
)

HIDDEN = 64
"""units of each hidden layer of a narrowed classifier, of which the published ones have 4096"""


@dataclass(frozen=True)
class Short:
    """What differs from the row of a whole network."""

    small: Small
    make: Callable[[int, int], nn.Module] | None = None
    """(classes, side of the images) -> the original; None: the library's own way with `kwargs`"""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, str] | None = None
    """cut -> module of the original; None: those of the whole network"""
    cut: str | None = None
    """see `known_answers.Original`"""

    def original(self, whole: Original) -> Original:
        """The one that is compared with the short network."""
        changes: dict[str, Any] = {"make": self.make, "kwargs": {**whole.kwargs, **self.kwargs}}
        changes |= {} if self.modules is None else {"modules": self.modules}
        changes |= {} if self.cut is None else {"cut": self.cut}
        return replace(whole, **changes)


@contextmanager
def shortened(row: KnownAnswer) -> Iterator[KnownAnswer]:
    """The row of the short network, which is the zoo's by the name of the whole one as long as this lasts."""
    short = SHORT[row.name]
    with pytest.MonkeyPatch.context() as patch:
        short.small.put(patch, row.name)
        yield row if row.original is None else replace(row, original=short.original(row.original))


def narrowed(network: nn.Module) -> nn.Module:
    """With `HIDDEN` units in each hidden layer of its classifier."""
    places = [i for i, layer in enumerate(network.classifier) if isinstance(layer, nn.Linear)]
    inputs = network.classifier[places[0]].in_features
    for place in places:
        outputs = network.classifier[place].out_features if place == places[-1] else HIDDEN
        network.classifier[place] = nn.Linear(inputs, outputs)
        inputs = outputs
    return network


MOBILE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 1, 2),
    (6, 64, 1, 2),
    (6, 96, 1, 1),
    (6, 160, 2, 2),
    (6, 320, 1, 1),
)
"""expansion, channels, blocks, stride"""
EFFICIENT = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 1),
    (6, 3, 2, 80, 1),
    (6, 5, 1, 112, 1),
    (6, 5, 2, 192, 2),
    (6, 3, 1, 320, 1),
)
"""as in `efficientnet.STAGES`"""
DEPTHS, WIDTHS = (1, 1, 2, 2), (24, 48, 96, 192)
"""of ConvNeXt's stages"""
LITE_DEPTH = 0.5
WIDTH, DEPTH, HEADS = 192, 3, 3
"""of vision transformers: the width of the smallest"""
TIMM_BLOCKS = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
"""what timm calls them"""


def _efficientnet(classes: int, size: int) -> nn.Module:
    channels = [efficientnet.STEM, *(row[3] for row in EFFICIENT)]
    settings = [
        MBConvConfig(expansion, kernel, stride, cin, cout, count)
        for (expansion, kernel, stride, cout, count), cin in zip(EFFICIENT, channels, strict=False)
    ]
    return torchvision.models.EfficientNet(settings, dropout=0.2, num_classes=classes)


def _convnext(classes: int, size: int) -> nn.Module:
    stages = zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)
    settings = [CNBlockConfig(*stage) for stage in stages]
    return torchvision.models.ConvNeXt(settings, stochastic_depth_prob=0.1, num_classes=classes)


def _vision_transformer(classes: int, size: int) -> nn.Module:
    return torchvision.models.VisionTransformer(size, 16, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=classes)


def _vit(name: str) -> Small:
    row = replace(vit.VITS[name], scale="short")
    return Small(vit, vit.vit, 0, {"VITS": {name: row}, "SCALES": {"short": (WIDTH, DEPTH, HEADS)}})


def _timms(name: str, *norms: str, cut: str | None = None) -> Short:
    modules = {"patch_embed": "patch_embed", "pos_embed": "pos_drop", **dict(zip(norms, norms, strict=True))}
    modules |= {f"blocks.{i}": f"blocks.{i}" for i in range(DEPTH)}
    modules |= {"norm": "norm", "token": "fc_norm"}
    return Short(_vit(name), None, TIMM_BLOCKS, modules, cut)


GOOGLE = {"inception5a": (96, 48, 96, 12, 32, 32), "inception5b": (64, 32, 64, 8, 32, 32)}
"""as in `googlenet.BLOCKS`"""


def _googlenet(classes: int, size: int) -> nn.Module:
    """Without two blocks that take and give as many channels as each other, and narrow in the last, which is
    trained."""
    network = torchvision.models.GoogLeNet(num_classes=classes, init_weights=False)
    network.inception4b = network.inception4c = nn.Identity()
    network.inception5a = Inception(832, *GOOGLE["inception5a"])
    network.inception5b = Inception(256, *GOOGLE["inception5b"])
    network.fc = nn.Linear(192, classes)
    return network


def _inception(classes: int, size: int) -> nn.Module:
    """Without blocks that take and give as many channels as each other."""
    network = torchvision.models.Inception3(num_classes=classes, init_weights=False)
    network.Mixed_5d = network.Mixed_6c = network.Mixed_6d = nn.Identity()
    return network


def _efficientnet_lite(classes: int, size: int) -> nn.Module:
    """The first blocks of each stage."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=classes, drop_rate=0.2)
    for i, count in enumerate(efficientnet_lite.counts(LITE_DEPTH)):
        network.blocks[i] = network.blocks[i][:count]
    return network


def without(blocks: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: block for name, block in blocks.items() if name not in names}


SHORT: Mapping[str, Short] = {
    "resnet18": Short(
        Small(resnet, resnet.resnet, 0, {"RESNETS": {"resnet18": ("basic", (1, 1, 1, 1), 64)}}),
        lambda classes, size: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], classes),
    ),
    "resnet18_half": Short(
        Small(resnet, resnet.resnet, 0, {"RESNETS": {"resnet18_half": ("basic", (1, 1, 1, 1), 32)}}),
    ),
    "resnet50": Short(
        Small(resnet, resnet.resnet, 0, {"RESNETS": {"resnet50": ("bottleneck", (1, 2, 1, 2), 64)}}),
        lambda classes, size: torchvision.models.ResNet(Bottleneck, [1, 2, 1, 2], classes),
        modules={
            "maxpool": "maxpool",
            "layer1.0": "layer1",
            "layer2.0": "layer2.0",
            "layer2.1": "layer2",
            "layer3.0": "layer3",
            "layer4.0": "layer4.0",
            "layer4.1": "layer4",
            "avgpool": "avgpool",
        },
        cut="layer4.0",
    ),
    "alexnet": Short(
        Small(alexnet, alexnet.alexnet, 0, {"CLASSIFIER": (0.5, HIDDEN, 0.5, HIDDEN)}),
        lambda classes, size: narrowed(torchvision.models.AlexNet(classes)),
    ),
    "vgg11_bn": Short(
        Small(vgg, vgg.vgg, 0, {"CLASSIFIER": (HIDDEN, 0.5, HIDDEN, 0.5)}),
        lambda classes, size: narrowed(torchvision.models.vgg11_bn(num_classes=classes, init_weights=False)),
    ),
    "vgg16": Short(
        Small(vgg, vgg.vgg, 0, {"CLASSIFIER": (HIDDEN, 0.5, HIDDEN, 0.5)}),
        lambda classes, size: narrowed(torchvision.models.vgg16(num_classes=classes, init_weights=False)),
    ),
    "googlenet": Short(
        Small(
            googlenet,
            googlenet.googlenet,
            0,
            {"BLOCKS": without(googlenet.BLOCKS, "inception4b", "inception4c") | GOOGLE},
        ),
        _googlenet,
    ),
    "inception_v3": Short(
        Small(
            inception,
            inception.inception_v3,
            0,
            {"BLOCKS": without(inception.BLOCKS, "Mixed_5d", "Mixed_6c", "Mixed_6d")},
        ),
        _inception,
        modules={
            "Conv2d_2a_3x3": "Conv2d_2a_3x3",
            "maxpool2": "maxpool2",
            "Mixed_5c": "Mixed_5c",
            "Mixed_6a": "Mixed_6a",
            "Mixed_6e": "Mixed_6e",
            "Mixed_7a": "Mixed_7a",
            "Mixed_7b": "Mixed_7b",
            "Mixed_7c": "Mixed_7c",
        },
    ),
    "mobilenet_v2": Short(
        Small(
            mobilenet,
            mobilenet.mobilenet_v2,
            0,
            {
                "BLOCKS": tuple(
                    (expansion, channels, stride if i == 0 else 1, f"{stage}.{i}")
                    for stage, (expansion, channels, count, stride) in enumerate(MOBILE)
                    for i in range(count)
                )
            },
        ),
        lambda classes, size: torchvision.models.MobileNetV2(classes, inverted_residual_setting=MOBILE),
        modules={
            "features.0": "features.0",
            "features.2.conv.3": "features.2",
            "features.3": "features.3",
            "features.5.conv.3": "features.5",
            "features.7.conv.3": "features.7",
            "features.8": "features.8",
            "features.9.conv.3": "features.9",
            "features.10": "features.10",
        },
        cut="features.8",
    ),
    "densenet121": Short(
        Small(densenet, densenet.densenet, 0, {"DENSENETS": {"densenet121": (32, (2, 2, 2, 2), 64)}}),
        lambda classes, size: torchvision.models.DenseNet(32, (2, 2, 2, 2), 64, num_classes=classes),
    ),
    "efficientnet_b0": Short(
        Small(efficientnet, efficientnet.efficientnet, 0, {"STAGES": EFFICIENT}),
        _efficientnet,
        modules={
            "features.0": "features.0",
            "features.1.0.block.2.1": "features.1",
            "features.2.1": "features.2.1",
            "features.3.0.block.3.1": "features.3",
            "features.4.0.block.3.1": "features.4",
            "features.5.0.block.3.1": "features.5",
            "features.6.0.block.3.1": "features.6.0",
            "features.6.1": "features.6",
            "features.7.0.block.3.1": "features.7",
            "features.8": "features.8",
            "avgpool": "avgpool",
        },
    ),
    "efficientnet_lite0": Short(
        Small(
            efficientnet_lite,
            efficientnet_lite.efficientnet_lite,
            0,
            {"LITES": {"efficientnet_lite0": (1.0, LITE_DEPTH, 0.2, 224, 256)}},
        ),
        _efficientnet_lite,
        modules={
            "bn1.act": "bn1",
            "blocks.0.0.bn2": "blocks.0",
            "blocks.1.0.bn3": "blocks.1",
            "blocks.2.0.bn3": "blocks.2",
            "blocks.3.1": "blocks.3",
            "blocks.5.0.bn3": "blocks.5.0",
            "blocks.5.1": "blocks.5",
            "blocks.6.0.bn3": "blocks.6",
            "bn2.act": "bn2",
            "global_pool": "global_pool",
        },
    ),
    "convnext_tiny": Short(
        Small(convnext, convnext.convnext, 0, {"CONVNEXTS": {"convnext_tiny": (DEPTHS, WIDTHS, 0.1, 236)}}),
        _convnext,
        modules={
            "features.0.1": "features.0",
            "features.1.0": "features.1",
            "features.2.1": "features.2",
            "features.3.0": "features.3",
            "features.5.0": "features.5.0",
            "features.5.1": "features.5",
            "features.6.1": "features.6",
            "features.7.0": "features.7.0",
            "features.7.1": "features.7",
            "avgpool": "avgpool",
            "classifier.0": "classifier.0",
        },
        cut="features.7.0",
    ),
    "vit_b_16": Short(
        _vit("vit_b_16"),
        _vision_transformer,
        modules={
            "conv_proj": "conv_proj",
            "encoder.pos_embedding": "encoder.dropout",
            **{f"encoder.layers.encoder_layer_{i}": f"encoder.layers.encoder_layer_{i}" for i in range(DEPTH)},
            "encoder.ln": "encoder.ln",
        },
        cut="encoder.layers.encoder_layer_1",
    ),
    "vit_small_patch16_224": _timms("vit_small_patch16_224"),
    "vit_small_patch14_dinov2": _timms("vit_small_patch14_dinov2", cut="blocks.1"),
    "vit_base_patch16_clip_224": _timms("vit_base_patch16_clip_224", "norm_pre"),
    "vit_base_patch16_clip_quickgelu_224": _timms("vit_base_patch16_clip_quickgelu_224", "norm_pre"),
}
NARROWED = frozenset({"alexnet", "vgg11_bn", "vgg16"})
"""whose short forms lack no block"""
