"""The data, models and graphs that the suite trains on: as small as shows a mistake, since some frameworks compile
whatever they run. Tests elsewhere may use them, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import headstart as hs
from headstart.data import Dataset, Preprocess
from headstart.graph import Builder, Graph, Shape
from headstart.graph.ops import ACTIVATIONS
from headstart.models import Model
from headstart.models.initial import initial_params

BLOCK_CUT = "layer4.0"
"""of `small_model`: a cut that leaves a residual block in the head"""


def small_data(count: int = 160) -> tuple[Dataset, Dataset]:
    """The first digits, split in two."""
    return hs.data.digits().subset(np.arange(count)).split(0.75, seed=0, by="position")


def small_model(**settings: Any) -> Model:
    """The shipped trunk at a quarter of its resolution, with ten classes."""
    return hs.model("resnet18_half", **{"weights": "tinyimagenet", "classes": 10, "size": 32, **settings})


def tiny_model(seed: int = 0) -> Model:
    """A residual block between convolutions, ten classes, and random weights of which half count as pretrained:
    the kinds of layers that a residual network has, at a hundredth of its compilation. It is in no zoo, so that
    runs of it are not saved."""
    b = Builder()
    x = b.conv("conv1", "input", 3, 16, 3, 2, 1)
    x = b.add("relu", "relu", b.add("bn1", "batch_norm", x, channels=16))
    x = b.max_pool("pool", x, 2, 2)
    y = b.add("block.bn", "batch_norm", b.conv("block.conv", x, 16, 16, 3, pad=1), channels=16)
    x = b.add("block", "relu", b.add("block.add", "add", x, y))
    x = b.add("layer", "relu", b.add("bn2", "batch_norm", b.conv("conv2", x, 16, 24, 3, 2, 1), channels=24))
    graph = b.graph(b.linear("fc", b.add("avgpool", "global_avg_pool", x), 24, 10))
    fresh = frozenset({"fc.weight", "fc.bias"})
    preprocess = Preprocess(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    classes = tuple(map(str, range(10)))
    return Model("tiny", graph, initial_params(graph, seed), preprocess, classes, fresh=fresh, cut="avgpool")


def images_of(model: Model) -> Preprocess:
    """How the model's images are prepared."""
    assert isinstance(model.preprocess, Preprocess)
    return model.preprocess


def shaken(model: Model, seed: int = 0) -> Model:
    """The model with random batch-norm statistics, scales and offsets, so that none of them is a neutral
    element that hides a mistake."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, value in model.params.items():
        if value.ndim > 1:
            params[name] = value
        elif name.endswith(("running_var", "weight")):
            params[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        else:
            params[name] = rng.uniform(-0.3, 0.3, value.shape).astype(np.float32)
    return replace(model, params=params)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference, over the largest absolute value expected."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


# ---- graphs


def of_shape(graph: Graph, shape: Shape) -> Graph:
    """The graph of samples of this shape, as heads are."""
    first = replace(graph.nodes[0], attrs={"shape": shape})
    return replace(graph, nodes=(first, *graph.nodes[1:]))


def linear_graph(features: int = 7, classes: int = 4) -> Graph:
    """A classifier `fc` of `(features,)`."""
    b = Builder()
    return of_shape(b.graph(b.linear("fc", "input", features, classes)), (features,))


def two_layers(between: Sequence[str] = ()) -> Graph:
    """Logits `b(between(a(x)))` of `(7,)`, six hidden numbers and four classes; `between`: activations' ops."""
    builder = Builder()
    x = builder.linear("a", "input", 7, 6)
    for op in between:
        x = builder.add(op, op, x)
    return of_shape(builder.graph(builder.linear("b", x, 6, 4)), (7,))


def dropped_layers() -> Graph:
    """As `two_layers`, with dropout before each layer: of what comes in, which heads share, and of hidden numbers,
    of which each has its own."""
    b = Builder()
    x = b.linear("a", b.add("first", "dropout", "input", rate=0.25), 7, 6)
    x = b.add("second", "dropout", b.add("relu", "relu", x), rate=0.5)
    return of_shape(b.graph(b.linear("b", x, 6, 4)), (7,))


def branched() -> Graph:
    """A linear output and two auxiliary ones, all of `(5,)`."""
    b = Builder()
    for name in ("main", "first", "second"):
        b.linear(name, "input", 5, 3)
    return of_shape(b.graph("main", (("first", 0.3), ("second", 0.5))), (5,))


def normed() -> Graph:
    """A batch norm of `(4, 5, 3)` maps as they come, whose batch's statistics numpy knows, and a classifier."""
    b = Builder()
    x = b.add("bn", "batch_norm", "input", channels=3, momentum=0.3, epsilon=1e-3)
    return of_shape(b.graph(b.linear("fc", b.add("flatten", "flatten", x, features=60), 60, 4)), (4, 5, 3))


def random_layers(op: str, rates: Sequence[float]) -> Graph:
    """64 numbers as a map of `(4, 4, 4)` through as many of `op`, `dropout` or `drop_path`, as there are rates;
    then two classes."""
    b = Builder()
    x = "input"
    for i, rate in enumerate(rates):
        x = b.add(f"random{i}", op, x, rate=rate)
    return of_shape(b.graph(b.linear("fc", b.add("flatten", "flatten", x, features=64), 64, 2)), (4, 4, 4))


def restless() -> Graph:
    """`(4, 5, 3)` maps through a batch norm and dropout to a classifier: what keeps statistics and draws random
    numbers."""
    b = Builder()
    x = b.add("bn", "batch_norm", "input", channels=3, momentum=0.3, epsilon=1e-3)
    x = b.add("flatten", "flatten", b.add("dropout", "dropout", x, rate=0.25), features=60)
    return of_shape(b.graph(b.linear("fc", x, 60, 4)), (4, 5, 3))


def every_op() -> Graph:
    """A small graph for `(17, 11, 3)` with every op of the table but those of whole networks (`normalize`,
    `global_avg_pool`), odd sizes, and padding that differs by side."""
    b = Builder()
    x = b.add(
        "conv",
        "conv",
        "input",
        in_channels=3,
        out_channels=8,
        kernel=(3, 5),
        stride=(2, 1),
        padding=((1, 0), (2, 1)),
        bias=True,
    )
    x = b.add("norm", "batch_norm", x, channels=8, epsilon=1e-3)
    # No rectifier before it: padding with zeros instead of minus infinity would show.
    x = b.add("pool", "max_pool", x, kernel=(3, 2), stride=(2, 2), padding=((1, 1), (0, 1)))
    y = b.add(
        "grouped",
        "conv",
        x,
        in_channels=8,
        out_channels=8,
        kernel=(3, 3),
        padding=((1, 1), (1, 1)),
        groups=4,
        bias=False,
    )
    y = b.add("pointwise", "conv", y, in_channels=8, out_channels=8, kernel=(1, 1), bias=False)
    x = b.add("relu", "relu", b.add("add", "add", x, y))
    y = b.add("silu", "silu", b.conv("depthwise", x, 8, 8, 3, pad=1, groups=8))
    y = _averages(b, y)
    factor = b.conv("squeeze", b.add("mean", "adaptive_avg_pool", y, size=(1, 1)), 8, 8, 1, bias=True)
    y = b.add("excite", "multiply", y, b.add("sigmoid", "sigmoid", factor))
    z = b.max_pool("ceil", b.max_pool("stretch", x, 2, 1), 2, 2, ceil=True)
    z = b.add("resize", "adaptive_avg_pool", z, size=(4, 5))
    x = b.add("concat", "concat", b.add("resize2", "adaptive_avg_pool", y, size=(4, 5)), z, z)
    x = b.add("layer_norm", "layer_norm", x, channels=24, epsilon=1e-6)
    x = b.linear("last_axis", x, 24, 12)
    x = b.add("activated", "concat", *(b.add(f"activated.{op}", op, x) for op in sorted(ACTIVATIONS)))
    x = b.linear("mixed", x, 12 * len(ACTIVATIONS), 12)
    x = b.add("drop_path", "drop_path", b.add("scale", "scale", x, channels=12), rate=0.2)
    t = b.add("class_token", "class_token", b.add("tokens", "tokens", x), channels=12)
    t = b.add("position", "position", t, tokens=21, channels=12)
    t = b.add("attention", "attention", b.linear("qkv", t, 12, 36), heads=3)
    t = b.add("token_concat", "concat", t, t)
    t = b.add("pooled", "concat", b.add("first_token", "first_token", t), b.add("mean_tokens", "mean_tokens", t))
    x = b.add("strided", "conv", x, in_channels=12, out_channels=6, kernel=(1, 1), stride=(2, 2), bias=True)
    x = b.add("flatten", "flatten", x, features=2 * 3 * 6)
    x = b.add("hidden", "linear", b.add("both", "concat", x, t), in_features=84, out_features=12)
    x = b.add("dropout", "dropout", x, rate=0.5)
    return b.graph(b.add("out", "linear", x, in_features=12, out_features=5, bias=False))


def _averages(b: Builder, x: str) -> str:
    """Averages one after the other: padding that counts and does not, by side, and rounding up."""
    sides = ((1, 0), (0, 1))
    kinds: dict[str, dict[str, Any]] = {
        "counted": {"padding": ((1, 1), (1, 1))},
        "uncounted": {"padding": ((1, 1), (1, 1)), "count_padding": False},
        "by_side": {"padding": sides},
        "by_side_uncounted": {"padding": sides, "count_padding": False, "stride": (1, 1)},
        "up": {"padding": sides, "ceil": True, "stride": (2, 2)},
    }
    for name, attrs in kinds.items():
        x = b.add(name, "avg_pool", x, **{"kernel": (3, 3), "stride": (1, 1), **attrs})
    return x
