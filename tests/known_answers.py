"""Known answers, in one table: what papers and torchvision say of each architecture. Tests of the graph, of the
models and of every backend read the same rows, so that none of them can agree with itself alone."""

from __future__ import annotations

from dataclasses import dataclass


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
    shapes: dict[str, tuple[int, ...]]
    """cut -> `(h, w, c)` or `(c,)`; torchvision's `(c, h, w)`, written channels last"""
    aliases: dict[str, str]
    """module -> the node that is its output"""


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
)
BY_NAME = {row.name: row for row in KNOWN_ANSWERS}
