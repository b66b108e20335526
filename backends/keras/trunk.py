"""Extraction: a frozen graph in inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.backends.keras.arrays import at_place, dtype_policy, on
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import Style, network, numpy_params
from headstart.backends.keras.forward import HalfWeights, forward
from headstart.contract.recipe import Place
from headstart.graph import Graph


@behind_door("__init__", "run", "params")
@at_place("run", "params")
class KerasTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.graph, self.place = graph, place
        with on(place):
            self.model = network(graph, params, outputs, Style(dtype_policy(place)))
            self.weights = HalfWeights(graph, self.model, params, place)
            self.forward = forward(self.model, place, any(node.op == "native" for node in graph.nodes))

    def run(self, images: Any) -> dict[str, Any]:
        return self.forward(images)

    def params(self) -> dict[str, np.ndarray]:
        params = numpy_params(self.graph, self.model)
        return {name: self.weights.told(name, value) for name, value in params.items()}
