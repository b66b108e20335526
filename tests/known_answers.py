"""Known answers, in one table: what papers and torchvision say of each architecture. Tests of the graph, of the
models and of every backend read the same rows, so that none of them can agree with itself alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Original:
    """The network of a reference library that an architecture is compared with, see `parity/test_zoo.py`."""

    library: str
    """"torchvision" or "timm\""""
    name: str
    """what `torchvision.models.get_model` or `timm.create_model` calls it"""
    size: int | None = None
    """side in pixels of the images of a comparison, the smallest at which every layer has work to do; None: only
    names and shapes are compared, since another architecture of the family has the same layers"""
    modules: Mapping[str, str] = field(default_factory=dict)
    """legal cut -> module of the original whose output equals it, five or more where there is a `size`"""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """for the original's constructor"""
    sized: str | None = None
    """what the constructor calls the side of the images, where parameters depend on it"""
    cut: str | None = None
    """a legal cut near the end: comparisons of training train what lies behind it; None: none are made, since
    other networks have the same ops behind theirs"""
    make: Callable[[int, int], Any] | None = None
    """(classes, side of the images) -> the module; None: the library makes it by `name`"""


@dataclass(frozen=True)
class KnownAnswer:
    """One architecture, as its published original counts it."""

    name: str
    classes: int
    """of the classifier that `parameters`, `multiply_adds` and `shapes` count"""
    parameters: int
    """weights and biases, without batch norms' statistics"""
    size: int
    """side of the images in pixels, for the two fields below"""
    multiply_adds: float
    """of one image, in billions"""
    tolerance: float
    """of `multiply_adds`, in billions"""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """cut -> `(h, w, c)` or `(c,)`; torchvision's `(c, h, w)`, written channels last"""
    aliases: dict[str, str] = field(default_factory=dict)
    """module -> the node that is its output"""
    original: Original | None = None
    """None: no library has it"""
    auxiliary_parameters: int = 0
    """what auxiliary classifiers have, which none of the fields above counts"""


KNOWN_ANSWERS = (
    KnownAnswer(
        "resnet18",
        1000,
        11_689_512,
        224,
        1.814,
        0.001,
        {
            "conv1": (112, 112, 64),
            "maxpool": (56, 56, 64),
            "layer1.1": (56, 56, 64),
            "layer2.0": (28, 28, 128),
            "layer3.1": (14, 14, 256),
            "layer4.1.add": (7, 7, 512),
            "layer4.1": (7, 7, 512),
            "avgpool": (512,),
        },
        {"layer1": "layer1.1", "layer2": "layer2.1", "layer3": "layer3.1", "layer4": "layer4.1"},
        Original("torchvision", "resnet18"),
    ),
    KnownAnswer(
        "resnet34",
        1000,
        21_797_672,
        224,
        3.664,
        0.001,
        {
            "maxpool": (56, 56, 64),
            "layer1.2": (56, 56, 64),
            "layer2.3": (28, 28, 128),
            "layer3.0": (14, 14, 256),
            "layer3.5": (14, 14, 256),
            "layer4.2": (7, 7, 512),
            "avgpool": (512,),
        },
        {"layer1": "layer1.2", "layer2": "layer2.3", "layer3": "layer3.5", "layer4": "layer4.2"},
        Original("torchvision", "resnet34"),
    ),
    KnownAnswer(
        "resnet50",
        1000,
        25_557_032,
        224,
        4.089,
        0.001,
        {
            "maxpool": (56, 56, 64),
            "layer1.0": (56, 56, 256),
            "layer2.3": (28, 28, 512),
            "layer3.5": (14, 14, 1024),
            "layer4.1": (7, 7, 2048),
            "layer4.2": (7, 7, 2048),
            "avgpool": (2048,),
        },
        {"layer1": "layer1.2", "layer2": "layer2.3", "layer3": "layer3.5", "layer4": "layer4.2"},
        Original(
            "torchvision",
            "resnet50",
            75,
            {
                "maxpool": "maxpool",
                "layer1.2": "layer1",
                "layer2.3": "layer2",
                "layer3.4": "layer3.4",
                "layer3.5": "layer3",
                "layer4.1": "layer4.1",
                "layer4.2": "layer4",
                "avgpool": "avgpool",
            },
            cut="layer4.1",
        ),
    ),
    KnownAnswer("resnet101", 1000, 44_549_160, 224, 7.801, 0.001, original=Original("torchvision", "resnet101")),
    KnownAnswer("resnet152", 1000, 60_192_808, 224, 11.514, 0.001, original=Original("torchvision", "resnet152")),
    KnownAnswer(
        "alexnet",
        1000,
        61_100_840,
        224,
        0.714,
        0.001,
        {
            "features.0": (55, 55, 64),
            "features.2": (27, 27, 64),
            "features.5": (13, 13, 192),
            "features.8": (13, 13, 256),
            "features.12": (6, 6, 256),
            "avgpool": (6, 6, 256),
            "flatten": (9216,),
            "classifier.5": (4096,),
        },
        {"features": "features.12"},
        Original(
            "torchvision",
            "alexnet",
            127,
            {
                "features.2": "features.2",
                "features.5": "features.5",
                "features.7": "features.7",
                "features.12": "features.12",
                "avgpool": "avgpool",
                "classifier.2": "classifier.2",
                "classifier.5": "classifier.5",
            },
            cut="classifier.2",
        ),
    ),
    KnownAnswer("vgg11", 1000, 132_863_336, 224, 7.609, 0.001, original=Original("torchvision", "vgg11")),
    KnownAnswer("vgg11_bn", 1000, 132_868_840, 224, 7.609, 0.001, original=Original("torchvision", "vgg11_bn")),
    KnownAnswer("vgg13", 1000, 133_047_848, 224, 11.308, 0.001, original=Original("torchvision", "vgg13")),
    KnownAnswer("vgg13_bn", 1000, 133_053_736, 224, 11.308, 0.001, original=Original("torchvision", "vgg13_bn")),
    KnownAnswer(
        "vgg16",
        1000,
        138_357_544,
        224,
        15.47,
        0.001,
        {
            "features.4": (112, 112, 64),
            "features.9": (56, 56, 128),
            "features.16": (28, 28, 256),
            "features.23": (14, 14, 512),
            "features.30": (7, 7, 512),
            "avgpool": (7, 7, 512),
            "flatten": (25088,),
            "classifier.2": (4096,),
        },
        {"features": "features.30"},
        Original(
            "torchvision",
            "vgg16",
            64,
            {
                "features.4": "features.4",
                "features.9": "features.9",
                "features.16": "features.16",
                "features.23": "features.23",
                "features.30": "features.30",
                "avgpool": "avgpool",
                "classifier.4": "classifier.4",
            },
        ),
    ),
    KnownAnswer("vgg16_bn", 1000, 138_365_992, 224, 15.47, 0.001, original=Original("torchvision", "vgg16_bn")),
    KnownAnswer("vgg19", 1000, 143_667_240, 224, 19.632, 0.001, original=Original("torchvision", "vgg19")),
    KnownAnswer("vgg19_bn", 1000, 143_678_248, 224, 19.632, 0.001, original=Original("torchvision", "vgg19_bn")),
    KnownAnswer(
        "googlenet",
        1000,
        6_624_904,
        224,
        1.498,
        0.001,
        {
            "conv1": (112, 112, 64),
            "maxpool1": (56, 56, 64),
            "maxpool2": (28, 28, 192),
            "inception3a": (28, 28, 256),
            "inception3b": (28, 28, 480),
            "inception4a": (14, 14, 512),
            "inception4d": (14, 14, 528),
            "inception5b": (7, 7, 1024),
            "avgpool": (1024,),
            "dropout": (1024,),
        },
        {},
        Original(
            "torchvision",
            "googlenet",
            48,  # every pool rounds up
            {
                "conv1": "conv1",
                "maxpool1": "maxpool1",
                "inception3a": "inception3a",
                "maxpool3": "maxpool3",
                "inception4a": "inception4a",
                "inception4e": "inception4e",
                "maxpool4": "maxpool4",
                "inception5b": "inception5b",
            },
            {"init_weights": False},
            cut="inception5a",
        ),
        6_379_984,
    ),
    KnownAnswer(
        "inception_v3",
        1000,
        23_834_568,
        299,
        5.713,
        0.001,
        {
            "Conv2d_1a_3x3": (149, 149, 32),
            "Conv2d_2b_3x3": (147, 147, 64),
            "maxpool1": (73, 73, 64),
            "maxpool2": (35, 35, 192),
            "Mixed_5b": (35, 35, 256),
            "Mixed_5d": (35, 35, 288),
            "Mixed_6a": (17, 17, 768),
            "Mixed_6e": (17, 17, 768),
            "Mixed_7a": (8, 8, 1280),
            "Mixed_7c": (8, 8, 2048),
            "avgpool": (2048,),
        },
        {},
        Original(
            "torchvision",
            "inception_v3",
            107,  # a map of 2 x 2 is left in the last blocks
            {
                "Conv2d_2a_3x3": "Conv2d_2a_3x3",
                "maxpool2": "maxpool2",
                "Mixed_5d": "Mixed_5d",
                "Mixed_6a": "Mixed_6a",
                "Mixed_6e": "Mixed_6e",
                "Mixed_7a": "Mixed_7a",
                "Mixed_7b": "Mixed_7b",
                "Mixed_7c": "Mixed_7c",
            },
            {"init_weights": False},
        ),
        3_326_696,
    ),
    # Half the width of resnet18, at the 96 px it was trained with. Multiply-adds, by hand:
    #   conv1   48 * 48 * (32 * 3 * 7 * 7)                                           = 10,838,016
    #   layer1  24 * 24 * 4 * (32 * 32 * 9)                                          = 21,233,664
    #   layer2  12 * 12 * (64 * 32 * 9 + 3 * 64 * 64 * 9 + 64 * 32)                  = 18,874,368
    #   layer3, layer4: four times the weights on a quarter of the pixels, twice     = 37,748,736
    #   fc      256 * 200                                                            =     51,200
    KnownAnswer(
        "resnet18_half",
        200,
        2_850_280,
        96,
        0.088745984,
        1e-9,
        {
            "conv1": (48, 48, 32),
            "maxpool": (24, 24, 32),
            "layer1.1": (24, 24, 32),
            "layer2.1": (12, 12, 64),
            "layer3.1": (6, 6, 128),
            "layer4.1": (3, 3, 256),
            "avgpool": (256,),
        },
        {"layer1": "layer1.1", "layer4": "layer4.1"},
    ),
    KnownAnswer(
        "mobilenet_v2",
        1000,
        3_504_872,
        224,
        0.301,
        0.001,
        {
            "features.0": (112, 112, 32),
            "features.1.conv.2": (112, 112, 16),
            "features.3": (56, 56, 24),
            "features.6": (28, 28, 32),
            "features.10": (14, 14, 64),
            "features.17.conv.3": (7, 7, 320),
            "features.18": (7, 7, 1280),
            "avgpool": (1280,),
        },
        {"features.1": "features.1.conv.2", "features": "features.18"},
        Original(
            "torchvision",
            "mobilenet_v2",
            75,
            {
                "features.0": "features.0",
                "features.2.conv.3": "features.2",
                "features.3": "features.3",
                "features.6": "features.6",
                "features.10": "features.10",
                "features.13": "features.13",
                "features.16": "features.16",
                "features.17.conv.3": "features.17",
                "features.18": "features.18",
            },
            cut="features.16",
        ),
    ),
    KnownAnswer(
        "densenet121",
        1000,
        7_978_856,
        224,
        2.834,
        0.001,
        {
            "features.pool0": (56, 56, 64),
            "features.denseblock1.denselayer1.concat": (56, 56, 96),
            "features.denseblock1": (56, 56, 256),
            "features.transition1": (28, 28, 128),
            "features.denseblock2": (28, 28, 512),
            "features.transition2": (14, 14, 256),
            "features.denseblock3": (14, 14, 1024),
            "features.transition3": (7, 7, 512),
            "features.denseblock4.denselayer15.concat": (7, 7, 992),
            "features.norm5": (7, 7, 1024),
            "avgpool": (1024,),
        },
        {"features": "features.norm5"},
        Original(
            "torchvision",
            "densenet121",
            75,
            {
                "features.pool0": "features.pool0",
                "features.denseblock1": "features.denseblock1",
                "features.transition1": "features.transition1",
                "features.denseblock2": "features.denseblock2",
                "features.transition2": "features.transition2",
                "features.denseblock3": "features.denseblock3",
                "features.transition3": "features.transition3",
                "features.denseblock4": "features.denseblock4",
                "features.norm5": "features.norm5",
            },
        ),
    ),
    KnownAnswer(
        "densenet161", 1000, 28_681_000, 224, 7.728, 0.001, original=Original("torchvision", "densenet161")
    ),
    KnownAnswer(
        "densenet169", 1000, 14_149_480, 224, 3.36, 0.001, original=Original("torchvision", "densenet169")
    ),
    KnownAnswer(
        "densenet201", 1000, 20_013_928, 224, 4.291, 0.001, original=Original("torchvision", "densenet201")
    ),
    KnownAnswer(
        "efficientnet_b0",
        1000,
        5_288_548,
        224,
        0.386,
        0.001,
        {
            "features.0": (112, 112, 32),
            "features.1.0.block.2.1": (112, 112, 16),
            "features.2.1": (56, 56, 24),
            "features.3.1": (28, 28, 40),
            "features.4.2": (14, 14, 80),
            "features.5.2": (14, 14, 112),
            "features.6.3": (7, 7, 192),
            "features.7.0.block.3.1": (7, 7, 320),
            "features.8": (7, 7, 1280),
            "avgpool": (1280,),
        },
        {"features.2": "features.2.1", "features.7": "features.7.0.block.3.1"},
        Original(
            "torchvision",
            "efficientnet_b0",
            75,
            {
                "features.0": "features.0",
                "features.1.0.block.2.1": "features.1",
                "features.2.1": "features.2.1",
                "features.3.1": "features.3",
                "features.4.2": "features.4",
                "features.5.2": "features.5",
                "features.6.2": "features.6.2",
                "features.6.3": "features.6",
                "features.7.0.block.3.1": "features.7",
                "features.8": "features.8",
                "avgpool": "avgpool",
            },
            cut="features.7.0.block.0",
        ),
    ),
    KnownAnswer(
        "efficientnet_lite0",
        1000,
        4_652_008,
        224,
        0.407,
        0.025,
        {
            "bn1.act": (112, 112, 32),
            "blocks.0.0.bn2": (112, 112, 16),
            "blocks.1.1": (56, 56, 24),
            "blocks.2.1": (28, 28, 40),
            "blocks.4.2": (14, 14, 112),
            "blocks.5.3": (7, 7, 192),
            "blocks.6.0.bn3": (7, 7, 320),
            "bn2.act": (7, 7, 1280),
            "global_pool": (1280,),
        },
        {"blocks.1": "blocks.1.1", "blocks.6": "blocks.6.0.bn3"},
        Original(
            "timm",
            "tf_efficientnet_lite0",
            75,
            {
                "bn1.act": "bn1",
                "blocks.0.0.bn2": "blocks.0",
                "blocks.1.0.bn3": "blocks.1.0",
                "blocks.1.1": "blocks.1",
                "blocks.2.1": "blocks.2",
                "blocks.5.2": "blocks.5.2",
                "blocks.6.0.bn3": "blocks.6",
                "bn2.act": "bn2",
                "global_pool": "global_pool",
            },
            {"drop_rate": 0.2},
        ),
    ),
    KnownAnswer(
        "efficientnet_lite1",
        1000,
        5_416_680,
        240,
        0.631,
        0.04,
        original=Original("timm", "tf_efficientnet_lite1", kwargs={"drop_rate": 0.2}),
    ),
    KnownAnswer(
        "efficientnet_lite2",
        1000,
        6_092_072,
        260,
        0.899,
        0.05,
        original=Original("timm", "tf_efficientnet_lite2", kwargs={"drop_rate": 0.3}),
    ),
    KnownAnswer(
        "efficientnet_b1", 1000, 7_794_184, 240, 0.687, 0.001, original=Original("torchvision", "efficientnet_b1")
    ),
    KnownAnswer(
        "efficientnet_b2", 1000, 9_109_994, 288, 1.088, 0.001, original=Original("torchvision", "efficientnet_b2")
    ),
    KnownAnswer(
        "efficientnet_b3", 1000, 12_233_232, 300, 1.827, 0.001, original=Original("torchvision", "efficientnet_b3")
    ),
    KnownAnswer(
        "efficientnet_b4", 1000, 19_341_616, 380, 4.394, 0.001, original=Original("torchvision", "efficientnet_b4")
    ),
    KnownAnswer(
        "efficientnet_b5",
        1000,
        30_389_784,
        456,
        10.266,
        0.001,
        original=Original("torchvision", "efficientnet_b5"),
    ),
    KnownAnswer(
        "efficientnet_b6",
        1000,
        43_040_704,
        528,
        19.068,
        0.001,
        original=Original("torchvision", "efficientnet_b6"),
    ),
    KnownAnswer(
        "efficientnet_b7",
        1000,
        66_347_960,
        600,
        37.746,
        0.001,
        original=Original("torchvision", "efficientnet_b7"),
    ),
    KnownAnswer(
        "convnext_tiny",
        1000,
        28_589_128,
        224,
        4.456,
        0.001,
        {
            "features.0.1": (56, 56, 96),
            "features.1.0": (56, 56, 96),
            "features.2.1": (28, 28, 192),
            "features.3.2": (28, 28, 192),
            "features.5.8": (14, 14, 384),
            "features.6.1": (7, 7, 768),
            "features.7.2": (7, 7, 768),
            "avgpool": (768,),
            "classifier.0": (768,),
        },
        {"features.1": "features.1.2", "features.6": "features.6.1"},
        Original(
            "torchvision",
            "convnext_tiny",
            75,
            {
                "features.0.1": "features.0",
                "features.1.0": "features.1.0",
                "features.1.2": "features.1",
                "features.2.1": "features.2",
                "features.3.2": "features.3",
                "features.5.8": "features.5",
                "features.6.1": "features.6",
                "features.7.1": "features.7.1",
                "features.7.2": "features.7",
                "avgpool": "avgpool",
                "classifier.0": "classifier.0",
            },
            cut="features.7.1",
        ),
    ),
    KnownAnswer(
        "convnext_small", 1000, 50_223_688, 224, 8.684, 0.001, original=Original("torchvision", "convnext_small")
    ),
    KnownAnswer(
        "convnext_base", 1000, 88_591_464, 224, 15.355, 0.001, original=Original("torchvision", "convnext_base")
    ),
    KnownAnswer(
        "convnext_large", 1000, 197_767_336, 224, 34.361, 0.001, original=Original("torchvision", "convnext_large")
    ),
    # Parameters, by hand:                      Multiply-adds:
    #   conv1  6 * (3 * 5 * 5) + 6    =     456   28 * 28 * 6 * 75    = 352,800
    #   conv2  16 * (6 * 5 * 5) + 16  =   2,416   10 * 10 * 16 * 150  = 240,000
    #   fc1    120 * 400 + 120        =  48,120   400 * 120           =  48,000
    #   fc2    84 * 120 + 84          =  10,164   120 * 84            =  10,080
    #   fc3    1000 * 84 + 1000       =  85,000   84 * 1000           =  84,000
    #   together                        146,156                         734,880
    KnownAnswer(
        "lenet",
        1000,
        146_156,
        32,
        0.00073488,
        1e-12,
        {
            "conv1": (28, 28, 6),
            "pool1": (14, 14, 6),
            "conv2": (10, 10, 16),
            "pool2": (5, 5, 16),
            "flatten": (400,),
            "dropout1": (120,),
            "relu4": (84,),
            "dropout2": (84,),
        },
        {},
    ),
    # Vision transformers. Multiply-adds are those that torch's FlopCounterMode counts in the originals, where
    # attention is two products of matrices; see parity/test_vit.py.
    KnownAnswer(
        "vit_b_16",
        1000,
        86_567_656,
        224,
        17.564,
        0.001,
        {
            "conv_proj": (14, 14, 768),
            "tokens": (196, 768),
            "class_token": (197, 768),
            "encoder.layers.encoder_layer_3": (197, 768),
            "encoder.layers.encoder_layer_11.add": (197, 768),
            "encoder.ln": (197, 768),
            "token": (768,),
        },
        {
            "encoder.layers": "encoder.layers.encoder_layer_11",
        },
        Original(
            "torchvision",
            "vit_b_16",
            32,
            {
                "conv_proj": "conv_proj",
                "encoder.pos_embedding": "encoder.dropout",
                "encoder.layers.encoder_layer_0": "encoder.layers.encoder_layer_0",
                "encoder.layers.encoder_layer_6": "encoder.layers.encoder_layer_6",
                "encoder.layers.encoder_layer_11": "encoder.layers.encoder_layer_11",
                "encoder.ln": "encoder.ln",
            },
            sized="image_size",
            cut="encoder.layers.encoder_layer_10",
        ),
    ),
    KnownAnswer(
        "vit_b_32",
        1000,
        88_224_232,
        224,
        4.409,
        0.001,
        original=Original("torchvision", "vit_b_32", sized="image_size"),
    ),
    KnownAnswer(
        "vit_l_16",
        1000,
        304_326_632,
        224,
        61.555,
        0.001,
        original=Original("torchvision", "vit_l_16", sized="image_size"),
    ),
    KnownAnswer(
        "vit_l_32",
        1000,
        306_535_400,
        224,
        15.378,
        0.001,
        original=Original("torchvision", "vit_l_32", sized="image_size"),
    ),
    KnownAnswer(
        "vit_tiny_patch16_224",
        1000,
        5_717_416,
        224,
        1.254,
        0.001,
        original=Original("timm", "vit_tiny_patch16_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_small_patch16_224",
        1000,
        22_050_664,
        224,
        4.599,
        0.001,
        {
            "patch_embed.proj": (14, 14, 384),
            "patch_embed": (196, 384),
            "pos_embed": (197, 384),
            "blocks.0.add": (197, 384),
            "blocks.5": (197, 384),
            "norm": (197, 384),
            "token": (384,),
        },
        {"blocks": "blocks.11"},
        Original(
            "timm",
            "vit_small_patch16_224",
            32,
            {
                "patch_embed": "patch_embed",
                "pos_embed": "pos_drop",
                "blocks.0": "blocks.0",
                "blocks.6": "blocks.6",
                "blocks.11": "blocks.11",
                "norm": "norm",
                "token": "fc_norm",
            },
            sized="img_size",
        ),
    ),
    KnownAnswer(
        "vit_base_patch16_224",
        1000,
        86_567_656,
        224,
        17.564,
        0.001,
        original=Original("timm", "vit_base_patch16_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_base_patch32_224",
        1000,
        88_224_232,
        224,
        4.409,
        0.001,
        original=Original("timm", "vit_base_patch32_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_large_patch16_224",
        1000,
        304_326_632,
        224,
        61.555,
        0.001,
        original=Original("timm", "vit_large_patch16_224", sized="img_size"),
    ),
    # DINOv2 is published without a classifier: 22,056,192 parameters, 86,579,712 and 304,367,616; then ours.
    KnownAnswer(
        "vit_small_patch14_dinov2",
        1000,
        22_056_192 + 1000 * (384 + 1),
        518,
        46.697,
        0.001,
        {
            "patch_embed.proj": (37, 37, 384),
            "cls_token": (1370, 384),
            "blocks.11.add": (1370, 384),
            "blocks.11": (1370, 384),
            "token": (384,),
        },
        {"blocks": "blocks.11"},
        Original(
            "timm",
            "vit_small_patch14_dinov2",
            28,
            {
                "patch_embed": "patch_embed",
                "pos_embed": "pos_drop",
                "blocks.0": "blocks.0",
                "blocks.6": "blocks.6",
                "blocks.11": "blocks.11",
                "norm": "norm",
                "token": "fc_norm",
            },
            sized="img_size",
            cut="blocks.10",
        ),
    ),
    KnownAnswer(
        "vit_base_patch14_dinov2",
        1000,
        86_579_712 + 1000 * (768 + 1),
        518,
        151.574,
        0.001,
        original=Original("timm", "vit_base_patch14_dinov2", sized="img_size"),
    ),
    KnownAnswer(
        "vit_large_patch14_dinov2",
        1000,
        304_367_616 + 1000 * (1024 + 1),
        518,
        506.805,
        0.001,
        original=Original("timm", "vit_large_patch14_dinov2", sized="img_size"),
    ),
    KnownAnswer(
        "vit_base_patch16_clip_224",
        1000,
        86_568_424,
        224,
        17.564,
        0.001,
        {
            "patch_embed.proj": (14, 14, 768),
            "norm_pre": (197, 768),
            "blocks.3": (197, 768),
            "token": (768,),
        },
        {"blocks": "blocks.11"},
        Original(
            "timm",
            "vit_base_patch16_clip_224",
            32,
            {
                "patch_embed": "patch_embed",
                "norm_pre": "norm_pre",
                "blocks.0": "blocks.0",
                "blocks.6": "blocks.6",
                "blocks.11": "blocks.11",
                "norm": "norm",
                "token": "fc_norm",
            },
            sized="img_size",
        ),
    ),
    KnownAnswer(
        "vit_base_patch32_clip_224",
        1000,
        88_225_000,
        224,
        4.409,
        0.001,
        original=Original("timm", "vit_base_patch32_clip_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_large_patch14_clip_224",
        1000,
        304_204_776,
        224,
        81.013,
        0.001,
        original=Original("timm", "vit_large_patch14_clip_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_base_patch16_clip_quickgelu_224",
        1000,
        86_568_424,
        224,
        17.564,
        0.001,
        original=Original(
            "timm",
            "vit_base_patch16_clip_quickgelu_224",
            32,
            {
                "norm_pre": "norm_pre",
                "blocks.0": "blocks.0",
                "blocks.3": "blocks.3",
                "blocks.11": "blocks.11",
                "token": "fc_norm",
            },
            sized="img_size",
        ),
    ),
    KnownAnswer(
        "vit_base_patch32_clip_quickgelu_224",
        1000,
        88_225_000,
        224,
        4.409,
        0.001,
        original=Original("timm", "vit_base_patch32_clip_quickgelu_224", sized="img_size"),
    ),
    KnownAnswer(
        "vit_large_patch14_clip_quickgelu_224",
        1000,
        304_204_776,
        224,
        81.013,
        0.001,
        original=Original("timm", "vit_large_patch14_clip_quickgelu_224", sized="img_size"),
    ),
)
BY_NAME = {row.name: row for row in KNOWN_ANSWERS}
ONE_OF_EACH = tuple(row.name for row in KNOWN_ANSWERS if row.original is None or row.original.modules)
"""Of each family the architectures whose numbers are compared: its further ones are rows of the same table, with
more blocks, or wider ones."""
