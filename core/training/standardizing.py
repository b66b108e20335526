"""Standardised features: a head of linear layers trains on features with mean 0 and deviation 1 in every channel,
and ends as a plain layer for the features as they are.

What a trunk gives has the scale that its last layer happened to leave: times 0.001, or shifted by 10, it holds the
same knowledge, and a learning rate that fits the one fits the other not at all. So the rows are mapped by a fixed
map, of the training part, where core feeds them; backends know nothing of it. After the training the map goes into
the first linear layer, and whatever is predicted with, saved and exported is that layer alone.

Invariant: the store keeps features as the trunk gives them; `frozen` gets the map that `cached` has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.common.machine import cpus
from headstart.contract.protocol import Backend
from headstart.contract.recipe import FLOAT32, Place
from headstart.contract.running import Trunk
from headstart.graph import Graph, Node
from headstart.graph.ops import INERT

T = TypeVar("T")
BLOCK_NBYTES = 1 << 20  # of float32: what is worked on at once stays in a core's cache
MOST_ROWS = 1024  # of a block, as squares are added up in float32
SMALLEST = 1e-72  # of a variance; 1 / deviation and what it makes of weights are to be numbers of float32
PASSED = ("global_avg_pool", "adaptive_avg_pool", "flatten")
MAPPED = "standardized"


@dataclass(frozen=True, eq=False)
class Standardization:
    """x -> (x - mean) / deviation, by channel."""

    mean: NDArray[np.float64]
    """`(channels,)`; zeros where a layer that reads the features has no bias, into which a shift could go"""
    deviation: NDArray[np.float64]
    """`(channels,)`, above 0"""
    layers: tuple[Node, ...]
    """the linear layers that read the features, into which the map goes"""

    def map(self, rows: np.ndarray) -> np.ndarray:
        """`rows`, contiguous `(n, ..., channels)` of any float dtype, are overwritten with what the map makes of
        them, and returned. What float16 does not hold becomes its largest number."""
        flat = rows.reshape(-1, rows.shape[-1])
        assert np.shares_memory(flat, rows) or not rows.size
        centre, factor = self.mean.astype(np.float32), (1 / self.deviation).astype(np.float32)
        most = float(np.finfo(np.float16).max) if rows.dtype == np.float16 else None

        def overwrite(part: slice) -> None:
            block = flat[part]
            with np.errstate(over="ignore", invalid="ignore"):
                # of features far from 0 `x * factor + shift` loses digits, and the difference does not
                x = np.subtract(block, centre, dtype=np.float32)
                x *= factor
                if most is not None:
                    np.clip(x, -most, most, out=x)
                block[:] = x

        _each(overwrite, _blocks(flat))
        return rows

    def folded(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Trained parameters with the map in the layers that read features: for features as they are."""
        return self._changed(params, [node.name for node in self.layers], 1 / self.deviation, -self.mean)

    def unfolded(self, params: Mapping[str, np.ndarray], fresh: Collection[str] = ()) -> dict[str, np.ndarray]:
        """The inverse, of layers that were trained before. Those of which the parameters are `fresh` are drawn for
        standardised features as they are."""
        names = [n.name for n in self.layers if not n.param_shapes().keys() <= set(fresh)]
        return self._changed(params, names, self.deviation, self.mean / self.deviation)

    def _changed(
        self, params: Mapping[str, np.ndarray], names: Collection[str], factor: np.ndarray, shift: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Weights times `factor`, biases plus the new weights' products with `shift`."""
        changed = dict(params)
        for name in names:
            weight, bias = f"{name}.weight", f"{name}.bias"
            # of maps that were flattened there are several inputs a channel, in torchvision's layout (c, h, w)
            positions = params[weight].shape[-1] // len(factor)
            with np.errstate(over="ignore", invalid="ignore"):  # of a training that diverged
                new = params[weight].astype(np.float64) * np.repeat(factor, positions)
                changed[weight] = new.astype(np.float32)
                if bias in params:
                    changed[bias] = (params[bias] + new @ np.repeat(shift, positions)).astype(np.float32)
        return changed


@dataclass(frozen=True)
class Readers:
    """The linear layers that read the features a head is fed with, where nothing else does."""

    layers: tuple[Node, ...]
    averaged: bool
    """whether they see each channel's mean over all positions"""

    @property
    def centred(self) -> bool:
        """Whether each has a bias, into which a shift can go."""
        return all(node.attrs["bias"] for node in self.layers)


def readers(head: Graph) -> Readers | None:
    """Of a head: straight, or behind what a map by channel passes through (dropout, averages over positions,
    flattening). None where the map has no layer to go into."""
    linear: list[Node] = []
    passed = {head.input: False}
    averaged = []
    for node in head.nodes[1:]:
        before = [passed[name] for name in node.inputs if name in passed]
        if not before:
            continue
        if node.op == "linear":
            linear.append(node)
            averaged += before
        elif node.op in INERT or node.op in PASSED:
            passed[node.name] = before[0] or node.op == "global_avg_pool"
        else:
            return None
    if not linear or not passed.keys().isdisjoint(head.outputs):
        return None
    return Readers(tuple(linear), all(averaged))


class Moments:
    """Mean and deviation by channel, from blocks of rows; sums in float64."""

    def __init__(self, averaged: bool) -> None:
        """`averaged`: it is the means over each sample's positions that count."""
        self.averaged, self.count = averaged, 0.0
        self._pivot: NDArray[np.float32] | None = None  # what is near 0 loses no digits when it is squared
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        """`rows`: `(n, ..., channels)`, contiguous, of any float dtype. `weights`: `(n,)`; a sample of weight 2 is
        there twice, one of weight 0 not at all."""
        counts = None
        if weights is not None:
            counts = np.repeat(weights, 1 if self.averaged else math.prod(rows.shape[1:-1]))
        flat = rows.reshape(len(rows), -1, rows.shape[-1]) if self.averaged and rows.ndim > 2 else None
        if flat is None:
            rows = rows.reshape(-1, rows.shape[-1])
        else:
            size = max(1, BLOCK_NBYTES // (4 * max(1, flat[0].size)))
            parts = (flat[i : i + size].mean(1, dtype=np.float32) for i in range(0, len(flat), size))
            rows = np.concatenate([np.zeros((0, flat.shape[-1]), np.float32), *parts])
        if self._pivot is None:
            with np.errstate(invalid="ignore", over="ignore"):
                pivot = rows[:MOST_ROWS].mean(0, dtype=np.float64)
            self._pivot = np.where(np.isfinite(pivot), pivot, 0).astype(np.float32)
        pivot = self._pivot

        def summed(part: slice) -> tuple[np.ndarray, np.ndarray]:
            with np.errstate(invalid="ignore", over="ignore"):
                x = np.subtract(rows[part], pivot, dtype=np.float32)
                weighted = x if counts is None else x * counts[part, None]
                return weighted.sum(0, dtype=np.float64), np.einsum("nc,nc->c", weighted, x).astype(np.float64)

        for sums, squares in _each(summed, _blocks(rows)):
            self._sum = self._sum + sums
            self._squares = self._squares + squares
        self.count += len(rows) if counts is None else float(counts.sum(dtype=np.float64))

    def standardization(self, readers: Readers) -> Standardization:
        """A channel that does not vary, or is not finite, keeps its scale."""
        assert self._pivot is not None
        with np.errstate(invalid="ignore", over="ignore"):
            shift = self._sum / self.count
            mean = self._pivot + shift
            # where a shift has no bias to go into, the spread around 0 is what is taken off
            variance = (self._squares / self.count - shift**2).clip(0) + (0 if readers.centred else mean**2)
        usable = np.isfinite(variance) & np.isfinite(mean) & (variance > SMALLEST)
        deviation = np.sqrt(np.where(usable, variance, 1))
        return Standardization(np.where(np.isfinite(mean), mean, 0) * readers.centred, deviation, readers.layers)


def _blocks(rows: np.ndarray) -> list[slice]:
    size = min(MOST_ROWS, max(1, BLOCK_NBYTES // (4 * max(1, rows.shape[-1]))))
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _each(work: Callable[[slice], T], blocks: list[slice]) -> list[T]:
    """What comes of each block, in order, whichever thread it was done by."""
    if len(blocks) == 1:
        return [work(blocks[0])]
    with ThreadPoolExecutor(cpus(), thread_name_prefix="headstart-standardize") as pool:
        return list(pool.map(work, blocks))


def mapping_trunk(
    standardization: Standardization, shape: tuple[int, ...], backend: Backend, place: Place
) -> Trunk:
    """The map as one node of a graph, `MAPPED`, that the device runs behind a frozen trunk. `shape`: of a sample's
    features. In float32 whatever the trunk computes in: what half precision has left of a feature's digits is not
    to be rounded again where its mean is taken off."""
    channels = shape[-1]
    nodes = (
        Node("features", "input", (), {"shape": shape}),
        Node(MAPPED, "batch_norm", ("features",), {"channels": channels, "epsilon": 0.0}),
    )
    numbers = {
        "weight": 1 / standardization.deviation,
        "bias": np.zeros(channels),
        "running_mean": standardization.mean,
        "running_var": np.ones(channels),
    }
    params = {f"{MAPPED}.{name}": value.astype(np.float32) for name, value in numbers.items()}
    return backend.trunk(Graph(nodes, MAPPED), params, [MAPPED], replace(place, precision=FLOAT32))
