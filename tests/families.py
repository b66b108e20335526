"""The zoo's families, each by its own function and with all of its kinds of blocks, but few and narrow ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from headstart.graph import Graph
from headstart.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    googlenet,
    inception,
    lenet,
    mobilenet,
    resnet,
    vgg,
    vit,
    zoo,
)


class Small(NamedTuple):
    """A row for a family's tables."""

    module: ModuleType
    build: Callable[..., Graph]
    size: int
    tables: Mapping[str, Any]
    """name of a module's constant -> what stands in its place; of a dict, what is added to it"""

    def put(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """The row into the tables, where `build` finds it by `name`."""
        for table, value in self.tables.items():
            rows = getattr(self.module, table)
            if isinstance(rows, dict) and name in value:
                monkeypatch.setitem(rows, name, value[name])
            else:
                monkeypatch.setattr(self.module, table, value)

    def graph(self, monkeypatch: pytest.MonkeyPatch, name: str) -> Graph:
        """A graph with three classes, for `(size, size, 3)`."""
        self.put(monkeypatch, name)
        return self.build(name, 3, "linear", self.size)


def _vit(name: str, **row: Any) -> Small:
    scales = {"nano": (12, 2, 3)}
    return Small(vit, vit.vit, 8, {"VITS": {name: vit.ViT("nano", 4, **row)}, "SCALES": scales})


def _narrow(step: Any) -> Any:
    """Branches of Inception with four channels each."""
    if isinstance(step, inception.Conv):
        return step._replace(channels=4)
    return step if isinstance(step, str) else [_narrow(part) for part in step]


CHANNELS = (4, 4, 4, 4, 4, 4)
SMALL: Mapping[str, Small] = {
    "resnet": Small(resnet, resnet.resnet, 32, {"RESNETS": {"resnet": ("bottleneck", (2, 1, 1, 1), 4)}}),
    "alexnet": Small(
        alexnet, alexnet.alexnet, 64, {"CONVS": ((4, 11, 4, 2, True), (8, 5, 1, 2, True)), "CLASSIFIER": (0.5, 8)}
    ),
    "vgg_bn": Small(
        vgg, vgg.vgg, 32, {"VGGS": {"vgg": (2, 1, 1, 1, 1)}, "WIDTHS": (4,) * 5, "CLASSIFIER": (8, 0.5)}
    ),
    "googlenet": Small(
        googlenet,
        googlenet.googlenet,
        32,
        {"BLOCKS": {"inception3a": CHANNELS, "maxpool3": (3,), "inception4a": CHANNELS}, "AUXILIARY": {}},
    ),
    "inception": Small(
        inception,
        inception.inception_v3,
        75,
        {
            "BLOCKS": {name: _narrow(inception.BLOCKS[name]) for name in ("Mixed_5b", "Mixed_6b")}
            | {"Mixed_7a": _narrow(inception.D), "Mixed_7b": _narrow(inception.E)}
        },
    ),
    "mobilenet": Small(
        mobilenet,
        mobilenet.mobilenet_v2,
        16,
        {"BLOCKS": ((1, 4, 1, "0"), (6, 4, 2, "1"), (6, 4, 1, "1")), "STEM": 8, "LAST": 8},
    ),
    "densenet": Small(densenet, densenet.densenet, 32, {"DENSENETS": {"densenet": (4, (1, 1), 8)}}),
    "efficientnet": Small(
        efficientnet,
        efficientnet.efficientnet,
        16,
        {
            "STAGES": ((1, 3, 1, 8, 1), (6, 5, 2, 8, 2)),
            "EFFICIENTNETS": {"efficientnet": (1.0, 1.0, 0.2, 16, 16)},
            "STEM": 8,
        },
    ),
    "efficientnet_lite": Small(
        efficientnet_lite,
        efficientnet_lite.efficientnet_lite,
        15,
        {
            "STAGES": ((1, 3, 1, 8, 1), (6, 5, 2, 8, 2)),
            "LITES": {"efficientnet_lite": (1.0, 1.0, 0.2, 15, 15)},
            "STEM": 8,
            "LAST": 8,
        },
    ),
    "convnext": Small(
        convnext, convnext.convnext, 32, {"CONVNEXTS": {"convnext": ((1, 2, 1, 1), (4, 8, 8, 8), 0.1, 32)}}
    ),
    "vit": _vit("vit"),
    "dinov2": _vit("dinov2", layer_scale=0.1),
    "clip": _vit("clip", epsilon=1e-5, pre_norm=True, activation="quick_gelu"),
    "lenet": Small(lenet, lenet.lenet, 32, {}),
}
assert {small.module for small in SMALL.values()} == set(zoo.FAMILIES)
