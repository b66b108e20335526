"""Extraction: a frozen graph through Keras's own compiled prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.backends.keras.arrays import at_place, dtype_policy, on
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import Style, network, numpy_params
from headstart.backends.keras.functions import counted_alone
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
            self.model = counted_alone(network(graph, params, outputs, Style(dtype_policy(place))))

    def run(self, images: Any) -> dict[str, Any]:
        return self.model.predict_on_batch(images)

    def params(self) -> dict[str, np.ndarray]:
        return numpy_params(self.graph, self.model)
