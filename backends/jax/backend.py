"""What the JAX backend owes, method by method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

from headstart.backends.doors.jax import behind_door
from headstart.backends.jax import exports, profile, wrap
from headstart.backends.jax.arrays import decide, free_memory, from_numpy, to_numpy
from headstart.backends.jax.emit import Network
from headstart.backends.jax.heads import JaxHeads
from headstart.backends.jax.train import JaxTrainer
from headstart.backends.jax.trunk import JaxTrunk
from headstart.common.machine import cpus, cpus_allowed
from headstart.contract.heads import Chain, HeadsRecipe
from headstart.contract.recipe import Place, Recipe
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.graph import Graph

Params = Mapping[str, np.ndarray]


@behind_door("trunk", "trainer", "heads", "native", "call", "numpy", "wrap", "attempt")
class JaxBackend:
    name = "jax"

    def place(self, device: str, precision: str) -> Place:
        return decide(device, precision)

    def threads(self) -> int:
        return cpus()

    def memory(self, place: Place) -> int | None:
        return free_memory(place)

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> JaxTrunk:
        return JaxTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> JaxTrainer:
        return JaxTrainer(graph, params, recipe, place)

    def heads(self, chain: Chain, params: Params, recipe: HeadsRecipe, place: Place) -> JaxHeads:
        return JaxHeads(chain, params, recipe, place)

    def native(self, graph: Graph, params: Params, outputs: Sequence[str] = ()) -> nnx.Module:
        network = Network(graph, params, outputs)
        network.eval()
        return network

    def call(self, native: nnx.Module, images: Any) -> np.ndarray:
        return to_numpy(nnx.jit(native)(from_numpy(images, "cpu")))

    def numpy(self, array: jax.Array) -> np.ndarray:
        return to_numpy(array)

    def owns(self, native: Any) -> bool:
        return wrap.owns(native)

    def inputs(self, native: Any) -> None:
        """Neither NNX modules nor functions say anything."""

    def wrap(self, request: WrapRequest) -> Wrapping:
        return wrap.wrap(request)

    def attempt(self, native: Any, example: Any) -> None:
        wrap.attempt(native, example)

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        return profile.profile(folder)

    def exports(self) -> ModuleType:
        return exports


# XLA counts the CPUs that it may run on when it first computes, not the time that control groups give it on them.
allowed = cpus_allowed()
if allowed.limited and not os.environ.get("NPROC"):
    os.environ.setdefault("PJRT_NPROC", str(allowed.count))
BACKEND = JaxBackend()
