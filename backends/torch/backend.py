"""What the PyTorch backend owes, method by method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch import behind_door
from headstart.backends.torch import exports, files, original, profile, wrap
from headstart.backends.torch.arrays import to_native, to_numpy
from headstart.backends.torch.devices import decide, device_facts, free_memory, is_out_of_memory
from headstart.backends.torch.emit import Network
from headstart.backends.torch.heads import TorchHeads
from headstart.backends.torch.train import TorchTrainer
from headstart.backends.torch.trunk import TorchTrunk
from headstart.common.machine import cpus_allowed
from headstart.contract.heads import Chain, HeadsRecipe
from headstart.contract.programs import Program
from headstart.contract.recipe import Place, Recipe
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.data import Preprocess
from headstart.graph import Graph

Params = Mapping[str, np.ndarray]


@behind_door("trunk", "trainer", "heads", "native", "call", "numpy", "wrap", "attempt", "write")
class TorchBackend:
    name = "torch"

    def place(self, device: str, precision: str) -> Place:
        return decide(device, precision)

    def threads(self) -> int:
        return torch.get_num_threads()

    def memory(self, place: Place) -> int | None:
        return free_memory(place)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def device_facts(self, place: Place) -> dict[str, str | int | float | bool]:
        return device_facts(place)

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> TorchTrunk:
        return TorchTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> TorchTrainer:
        return TorchTrainer(graph, params, recipe, place)

    def heads(self, chain: Chain, params: Params, recipe: HeadsRecipe, place: Place) -> TorchHeads:
        return TorchHeads(chain, params, recipe, place)

    def native(self, graph: Graph, params: Params, outputs: Sequence[str] = ()) -> torch.nn.Module:
        return Network(graph, params, outputs).eval()

    def call(self, native: torch.nn.Module, images: Any) -> np.ndarray:
        with torch.inference_mode():
            return to_numpy(native(to_native(images)))

    def numpy(self, array: torch.Tensor) -> np.ndarray:
        return to_numpy(array)

    def owns(self, native: Any) -> bool:
        return wrap.owns(native)

    def inputs(self, native: torch.nn.Module) -> Preprocess | None:
        return wrap.inputs(native)

    def wrap(self, request: WrapRequest) -> Wrapping:
        return wrap.wrap(request)

    def attempt(self, native: Any, example: Any) -> None:
        original.attempt(native, example)

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        return profile.profile(folder)

    def write(self, program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
        files.write(program, format, path, texts)

    def rank(self) -> tuple[int, int] | None:
        group = torch.distributed
        there = group.is_available() and group.is_initialized()
        return (group.get_rank(), group.get_world_size()) if there else None

    def exports(self) -> ModuleType:
        return exports


def keep_to_quota() -> None:
    """torch counts the CPUs that it may run on, not the time that control groups give it on them."""
    allowed = cpus_allowed()
    if allowed.limited and torch.get_num_threads() > allowed.count and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(allowed.count)


keep_to_quota()
BACKEND = TorchBackend()
