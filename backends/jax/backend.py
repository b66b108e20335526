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

from headstart.backends.doors.jax_devices import device_facts, free_memory, is_out_of_memory
from headstart.backends.doors.jax_programs import keep_programs
from headstart.backends.jax import exports, files, profile, wrap
from headstart.backends.jax.arrays import decide, host, to_numpy
from headstart.backends.jax.door import behind_door
from headstart.backends.jax.emit import Network
from headstart.backends.jax.heads import JaxHeads
from headstart.backends.jax.train import JaxTrainer
from headstart.backends.jax.trunk import JaxTrunk
from headstart.common.machine import cpus, cpus_allowed
from headstart.contract.heads import Chain, HeadsRecipe
from headstart.contract.programs import Program
from headstart.contract.recipe import Place, Recipe
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.graph import Graph

Params = Mapping[str, np.ndarray]
TAKING = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
"""variables of the environment by which users say how XLA takes memory"""


def defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that XLA reads when it starts, where the user has set none."""
    unset: dict[str, str] = {}
    # XLA counts the CPUs that it may run on, not the time that control groups give it on them.
    allowed = cpus_allowed()
    if allowed.limited and not environ.get("NPROC") and not environ.get("PJRT_NPROC"):
        unset["PJRT_NPROC"] = str(allowed.count)
    # It takes three quarters of every card that it sees, whatever is computed there, and by whom else.
    if not any(environ.get(variable) for variable in TAKING):
        unset["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return unset


@behind_door("trunk", "trainer", "heads", "native", "call", "numpy", "wrap", "attempt", "write")
class JaxBackend:
    name = "jax"

    def place(self, device: str, precision: str) -> Place:
        place = decide(device, precision)
        keep_programs(place)
        return place

    def threads(self) -> int:
        return cpus()

    def memory(self, place: Place) -> int | None:
        return free_memory(place)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def device_facts(self, place: Place) -> dict[str, str | int | float | bool]:
        return device_facts(place)

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> JaxTrunk:
        return JaxTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> JaxTrainer:
        return JaxTrainer(graph, params, recipe, place)

    def heads(self, chain: Chain, params: Params, recipe: HeadsRecipe, place: Place) -> JaxHeads:
        return JaxHeads(chain, params, recipe, place)

    def native(self, graph: Graph, params: Params, outputs: Sequence[str] = ()) -> nnx.Module:
        network = Network(graph, params, outputs)
        network.eval()
        if (
            here := host()
        ) is not None:  # and stays there: else JAX would take it to its default device when it is run
            nnx.update(network, jax.device_put(nnx.state(network), here))
        return network

    def call(self, native: nnx.Module, images: Any) -> np.ndarray:
        return to_numpy(nnx.jit(native)(jax.device_put(images, host())))

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

    def write(self, program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
        files.write(program, path, texts)

    def rank(self) -> tuple[int, int] | None:
        count = jax.process_count()
        return (jax.process_index(), count) if count > 1 else None

    def exports(self) -> ModuleType:
        return exports


os.environ.update(defaults(os.environ))
BACKEND = JaxBackend()
