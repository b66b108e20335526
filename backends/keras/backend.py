"""What the Keras 3 backend owes, method by method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from headstart.backends.keras import engine  # noqa: F401 - of the Keras that is imported next

# isort: split
import keras
import numpy as np

from headstart.backends.keras import files, profile, wrap
from headstart.backends.keras.arrays import DEVICES, ENGINE, beside, decide, on_host, to_numpy
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import network
from headstart.backends.keras.heads import TensorFlowHeads, heads
from headstart.backends.keras.train import trainer
from headstart.backends.keras.trunk import KerasTrunk
from headstart.common.environment import COUNTS
from headstart.common.machine import cpus, cpus_allowed
from headstart.contract.heads import Chain, HeadsRecipe
from headstart.contract.programs import Program
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.data import Arrays, Preprocess
from headstart.graph import Graph

Params = Mapping[str, np.ndarray]


@behind_door("trunk", "trainer", "heads", "native", "call", "numpy", "wrap", "attempt", "write")
class KerasBackend:
    name = "keras"

    def place(self, device: str, precision: str) -> Place:
        place = decide(device, precision)
        if ENGINE == "jax":
            import_module("headstart.backends.doors.jax_programs").keep_programs(place)
        return place

    def threads(self) -> int:
        return cpus()

    def memory(self, place: Place) -> int | None:
        return DEVICES.free_memory(place)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return bool(DEVICES.is_out_of_memory(error))

    def device_facts(self, place: Place) -> dict[str, str | int | float | bool]:
        return DEVICES.device_facts(place)

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> KerasTrunk:
        return KerasTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> Trainer:
        return trainer(graph, params, recipe, place)

    def heads(self, chain: Chain, params: Params, recipe: HeadsRecipe, place: Place) -> TensorFlowHeads | None:
        return heads(chain, params, recipe, place)

    @on_host
    def native(self, graph: Graph, params: Params, outputs: Sequence[str] = ()) -> keras.Model:
        return network(graph if outputs else graph.main, params, outputs)

    @on_host
    def call(self, native: keras.Model, images: Any) -> np.ndarray:
        return native.predict_on_batch(images)

    def numpy(self, array: Any) -> np.ndarray:
        return to_numpy(array)

    def owns(self, native: Any) -> bool:
        return wrap.owns(native)

    def inputs(self, native: keras.Model) -> Preprocess | Arrays | None:
        return wrap.inputs(native)

    def wrap(self, request: WrapRequest) -> Wrapping:
        with beside(request.native):
            return wrap.wrap(request)

    def attempt(self, native: Any, example: Any) -> None:
        with beside(native):
            wrap.attempt(native, example)

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        return profile.profile(folder)

    @on_host
    def write(self, program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
        files.write(program, format, path, texts)

    def exports(self) -> ModuleType:
        return import_module("headstart.backends.keras.exports")  # which needs TensorFlow, whatever the engine


# variable -> others that say the same
ENGINES_COUNTS = {
    **COUNTS,
    "TF_NUM_INTRAOP_THREADS": (),
    "TF_NUM_INTEROP_THREADS": (),
    "PJRT_NPROC": ("NPROC",),  # XLA's in JAX
}


# Engines count the CPUs that they may run on when they first compute, not the time that control groups give them.
def keep_to_quota() -> None:
    allowed = cpus_allowed()
    for variable, others in ENGINES_COUNTS.items() if allowed.limited else ():
        if not any(os.environ.get(name) for name in others):
            os.environ.setdefault(variable, str(allowed.count))


keep_to_quota()
BACKEND = KerasBackend()
