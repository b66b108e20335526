"""The Keras 3 backend, on whichever engine KERAS_BACKEND names; epochs are compiled whole on TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from headstart.backend import Place, Recipe
from headstart.backends.keras.arrays import decide, to_numpy
from headstart.backends.keras.emit import network
from headstart.backends.keras.train import KerasTrainer, trainer
from headstart.backends.keras.trunk import KerasTrunk
from headstart.graph import Graph
from headstart.machine import cpus

Params = Mapping[str, np.ndarray]


class KerasBackend:
    name = "keras"

    def place(self, device: str, precision: str) -> Place:
        return decide(device, precision)

    def threads(self) -> int:
        return cpus()

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> KerasTrunk:
        return KerasTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> KerasTrainer:
        return trainer(graph, params, recipe, place)

    def native(self, graph: Graph, params: Params) -> keras.Model:
        return network(graph, params)

    def call(self, native: keras.Model, images: np.ndarray) -> np.ndarray:
        return native.predict_on_batch(images)

    def numpy(self, array: Any) -> np.ndarray:
        return to_numpy(array)


BACKEND = KerasBackend()
