"""The state of a training: all that a step changes, as arrays by name.

Invariant: what is read is a copy; what is put back goes into the tensors that are there, which a recorded step
(`headstart.backends.torch.recorded`) reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.backends.torch.arrays import exact_numpy, from_numpy
from headstart.backends.torch.emit import Network
from headstart.backends.torch.optimizers import FusedOptimizer


def state_of(network: Network, optimizer: FusedOptimizer) -> dict[str, np.ndarray]:
    """Parameters and buffers, what the optimiser keeps of each, and where generators are that a user's module has
    of its own."""
    state = {f"tensor.{name}": _copied(tensor) for name, tensor in network.tensors().items()}
    for name, kept in zip(_names(network, optimizer), optimizer.state(), strict=True):
        state |= {f"optimizer.{name}.{kind}": _copied(tensor) for kind, tensor in kept.items()}
    return state | {name: _copied(generator.get_state()) for name, generator in _generators(network)}


@torch.no_grad()
def put_back(network: Network, optimizer: FusedOptimizer, state: Mapping[str, np.ndarray]) -> None:
    """What `state_of` gave."""
    for name, tensor in network.tensors().items():
        tensor.copy_(from_numpy(state[f"tensor.{name}"]))
    kept = []
    for name in _names(network, optimizer):
        prefix = f"optimizer.{name}."
        kinds = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
        kept.append({kind: from_numpy(array) for kind, array in kinds.items() if "." not in kind})
    optimizer.load_state(kept)
    for name, generator in _generators(network):
        generator.set_state(from_numpy(state[name]))


def _copied(tensor: torch.Tensor) -> np.ndarray:
    return exact_numpy(tensor).copy()


def _names(network: Network, optimizer: FusedOptimizer) -> list[str]:
    """Of the parameters that the optimiser moves, in its order."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for parameters in optimizer.groups.values() for parameter in parameters]


def _generators(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            if isinstance(value, torch.Generator):
                yield f"generator.{path}.{attribute}", value
