"""Random numbers that a user's code draws, from torch's global generators, Python's or numpy's.

Invariant: what is run here to look at a module leaves them as they were. Of torch's generators those are lent that
such code can draw from: the CPU's and those of the devices that it uses; asking for the others would start them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


@contextmanager
def lent(states: Iterable[tuple[torch.device, torch.Tensor]]) -> Iterator[None]:
    """The generators of these devices have these states, and their caller's again afterwards."""
    kept = []
    try:
        for device, state in states:
            kept.append((device, state_of(device)))
            set_state(device, state)
        yield
    finally:
        for device, state in kept:
            set_state(device, state)


class Stream:
    """Random numbers of one training's own, drawn by code that takes them from torch's global generator."""

    def __init__(self, seed: int, device: torch.device, draws: bool = True) -> None:
        """`draws`: whether anything is drawn; nothing is lent otherwise."""
        self.device, self.draws = device, draws
        self.state = seeded_state(seed, device)

    @contextmanager
    def drawn_from(self) -> Iterator[None]:
        """The global generator goes on from here, and its caller's state is back afterwards."""
        if not self.draws:
            yield
            return
        with lent([(self.device, self.state)]):
            yield
            self.state = state_of(self.device)


def state_of(device: torch.device) -> torch.Tensor:
    """Of the global generator of a device."""
    state: torch.Tensor = _module(device).get_rng_state(*_which(device))
    return state


def set_state(device: torch.device, state: torch.Tensor) -> None:
    _module(device).set_rng_state(state, *_which(device))


def seeded_state(seed: int, device: torch.device) -> torch.Tensor:
    """The state that `torch.manual_seed` gives the device's generator."""
    return torch.Generator(device).manual_seed(seed).get_state()


def _module(device: torch.device) -> Any:
    return torch if device.type == "cpu" else torch.get_device_module(device.type)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """torch has one device of these two kinds."""
    return () if device.type in ("cpu", "mps") else (device,)


def drawn_from(tensors: Iterable[torch.Tensor] = ()) -> list[torch.device]:
    """The devices that code which computes with these tensors may draw on: theirs, the CPU, and the caller's
    current one of a kind that he has started."""
    devices = {CPU, *(tensor.device for tensor in tensors if tensor.device.type != "meta")}
    if torch.cuda.is_initialized():
        devices.add(torch.device("cuda", torch.cuda.current_device()))
    return sorted(devices, key=str)


@contextmanager
def seeded(seed: int, tensors: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """torch's global generators begin at `seed`, and are afterwards as they were."""
    with lent((device, seeded_state(seed, device)) for device in drawn_from(tensors)):
        yield


@contextmanager
def undrawn(seed: int, tensors: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """All generators begin at `seed`, and are afterwards as they were. What draws in inference must not draw the
    same in two runs that are compared: they have different seeds."""
    python, arrays = random.getstate(), np.random.get_state()
    with seeded(seed, tensors):
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def drawn() -> tuple[Any, ...]:
    """Something that differs as soon as a number was drawn."""
    kind, key, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), kind, np.asarray(key).tobytes(), *rest
