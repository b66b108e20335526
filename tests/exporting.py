"""A model that is exported in a moment, of the layers that exporters get wrong, with weights with which each makes
a difference: what the tests of exports share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from own import P

import headstart as hs
from headstart.contract.programs import loader
from headstart.data.preprocess import Preprocess
from headstart.graph import Builder
from headstart.models import Model

SIZE, CLASSES = 24, ("cat", "dog", "eel", "fox")


def photographs(count: int = 12, seed: int = 1) -> list[np.ndarray]:
    """uint8 of differing sizes: a coloured ground with patches, so that colour, place and crop all matter."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = rng.integers(32, 60, 2).tolist()
        picture = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, (height - 8, width - 8)).tolist()
            picture[top : top + 12, left : left + 12] = rng.integers(0, 256, 3)
        made.append(picture)
    return made


def pixels(count: int) -> np.ndarray:
    """What a wrapped module of `own` takes when it takes pictures: `(count, height, width, 3)` uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *P.shape), np.uint8)


def run(path: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """What an ONNX file gives, by onnxruntime alone."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def validation(**about: Any) -> Any:
    """The photographs as a data set."""
    pictures = photographs()
    return hs.data.arrays(pictures, np.arange(len(pictures)) % len(CLASSES), classes=CLASSES, **about)


def small_model(task: str = "single") -> Model:
    """One of each layer."""
    b = Builder()
    x = b.conv("conv1", "input", 3, 8, 3, stride=2, pad=1, bias=True)
    x = b.add("bn1", "batch_norm", x, channels=8, epsilon=1e-2)
    x = b.add("act1", "relu6", x)
    x = b.max_pool("pool1", x, 3, 2, 1)
    x = b.conv("conv2", x, 8, 8, 3, pad=1, groups=2, bias=True)
    x = b.add("act2", "relu", x)
    x = b.avg_pool("pool2", x, 3, 1, 1, count_padding=False)
    x = b.conv("conv3", x, 8, 12, (1, 3), pad=(0, 1))
    x = b.add("mean", "global_avg_pool", x)
    x = b.add("norm", "layer_norm", x, channels=12, epsilon=0.5)
    graph = b.graph(b.linear("fc", x, 12, len(CLASSES)))
    rng = np.random.default_rng(0)
    params = {}
    for name, shape in graph.param_shapes().items():
        spread = {"conv1.weight": 3.0, "conv3.weight": 0.1}.get(name, 1.0)
        value = rng.normal(0, spread, shape)
        params[name] = (np.abs(value) + 0.01 if name.endswith("running_var") else value).astype(np.float32)
    preprocess = Preprocess(SIZE, 30, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    return Model("small", graph, params, preprocess, CLASSES, cut="mean", task=task)


class Here:
    """What `FileProcess` does, without a process, which has to import the framework first."""

    def __init__(self, path: Path, module: str, *environments: Mapping[str, str]) -> None:
        self.texts, self.run = loader(module).load(str(path))
