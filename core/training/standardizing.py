"""Standardised features: a head of linear layers trains on features with mean 0 and a deviation of about 1, and
ends as a plain layer for the features as they are.

What a trunk gives has the scale that its last layer happened to leave: times 0.001, or shifted by 10, it holds the
same knowledge, and a learning rate that fits the one fits the other not at all. So the rows are mapped by a fixed
map, of the training part, where core feeds them; backends know nothing of it. After the training the map goes into
the first linear layer, and whatever is predicted with, saved and exported is that layer alone.

Invariant: the store keeps features as the trunk gives them; `frozen` gets the map that `cached` has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from headstart.contract.protocol import Backend
from headstart.contract.recipe import FLOAT32, Place
from headstart.contract.running import Trunk
from headstart.graph import Graph, Node
from headstart.graph.ops import INERT
from headstart.training.moments import Moments, Standard

PASSED = ("global_avg_pool", "adaptive_avg_pool", "flatten")
MAPPED = "standardized"
EPSILON = 1e-12
"""Added to a variance of 1, which in float32 stays what it is: not every framework takes 0."""


@dataclass(frozen=True, eq=False)
class Standardization(Standard):
    """The map, and where it goes. Its mean is zeros where a layer that reads the features has no bias, into which
    a shift could go."""

    layers: tuple[Node, ...]
    """the linear layers that read the features"""

    @classmethod
    def of(cls, moments: Moments, readers: Readers) -> Standardization:
        """That of the features that these layers read."""
        standard = moments.standard(readers.centred)
        return cls(standard.mean, standard.deviation, readers.layers)

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


def mapping_trunk(
    standardization: Standardization, shape: tuple[int, ...], backend: Backend, place: Place
) -> Trunk:
    """The map as one node of a graph, `MAPPED`, that the device runs behind a frozen trunk. `shape`: of a sample's
    features. In float32 whatever the trunk computes in: what half precision has left of a feature's digits is not
    to be rounded again where its mean is taken off."""
    channels = shape[-1]
    nodes = (
        Node("features", "input", (), {"shape": shape}),
        Node(MAPPED, "batch_norm", ("features",), {"channels": channels, "epsilon": EPSILON}),
    )
    numbers = {
        "weight": 1 / standardization.deviation,
        "bias": np.zeros(channels),
        "running_mean": standardization.mean,
        "running_var": np.ones(channels),
    }
    params = {f"{MAPPED}.{name}": value.astype(np.float32) for name, value in numbers.items()}
    return backend.trunk(Graph(nodes, MAPPED), params, [MAPPED], replace(place, precision=FLOAT32))
