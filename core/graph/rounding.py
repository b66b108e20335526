"""Weights on their way to bfloat16: of convolutions that make a map of one map, or of a few.

Each weight rounded to the nearest leaves an output with the sum of its few errors, and that sum moves all of the
map, since pixels beside each other are nearly equal. Among many maps such sums come out even. So the first
depthwise convolution of EfficientNet-Lite0, of nine weights an output, cost its features more than all other
rounding; and rounding that looks at the sum takes no time when the network runs.

Invariant: what a backend casts to bfloat16 afterwards stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from headstart.graph.graph import Graph

FEW = 4
"""maps, those of a picture among them"""


def in_bfloat16(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters, with float32 numbers that bfloat16 holds as the weights of these convolutions. Others are as
    they were, for a backend to cast."""
    rounded = dict(params)
    for node in graph.nodes:
        if node.op == "conv":
            name = f"{node.name}.weight"
            rounded[name] = of_few_maps(rounded[name])
    return rounded


def of_few_maps(weight: np.ndarray) -> np.ndarray:
    """A convolution's float32 weight `(out, in, h, w)` where it makes a map of a few: what the rounding of a
    number leaves goes to the next smaller one of its map, whose own steps are as fine or finer. Else the weight
    itself."""
    if weight.shape[1] > FEW:
        return weight
    weight = np.asarray(weight, np.float32)
    taps = weight.reshape(-1, weight.shape[2] * weight.shape[3])
    order = np.argsort(-np.abs(taps), axis=1, kind="stable")
    ordered = np.take_along_axis(taps, order, 1)
    left = np.zeros(len(taps), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # of weights that are not finite, which others tell of
        for column in ordered.T:
            exact = column + left
            column[:] = exact.astype(ml_dtypes.bfloat16)
            left = np.where(np.isfinite(column), exact - column, 0)
    rounded = np.empty_like(taps)
    np.put_along_axis(rounded, order, ordered, 1)
    return rounded.reshape(weight.shape)
