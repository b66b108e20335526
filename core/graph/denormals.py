"""Weights that are 0 but for their name. Filters that a network does not use decay towards 0 as long as it is
trained, down to 1e-40. A CPU multiplies such numbers (denormals) up to a hundred times slower than others. XLA and
TensorFlow tell it to take them for 0. PyTorch does so when it is asked, and only in the thread that asks.

Invariant: what is not a weight stays as it is: a buffer may hold a tiny number so that nothing is divided by 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headstart.graph.graph import Graph

NEGLIGIBLE = np.float32(1e-30)
"""far enough above 1e-38 for products with small activations to be no denormals either; next to other weights far
below the last digit of any sum"""


def without_denormals(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's parameters, with 0 in place of numbers below 1e-30 in float32 matrices and filters. Arrays
    without such stay the same ones."""
    kept = graph.buffers()
    return {name: params[name] if name in kept else _settled(params[name]) for name in graph.param_shapes()}


def _settled(weight: np.ndarray) -> np.ndarray:
    if weight.ndim < 2 or weight.dtype != np.float32:
        return weight
    small = np.abs(weight) < NEGLIGIBLE
    return np.where(small, np.float32(0), weight) if small.any() and weight[small].any() else weight
