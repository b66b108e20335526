"""Random numbers that a user's code draws, from torch's global generators, Python's or numpy's.

Invariant: what is run here to look at a module leaves them as they were. Of torch's generators those are lent that
such code can draw from: the CPU's and those of the devices that it uses; asking for the others would start them.
"""

from __future__ import annotations

import pickle
import random
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

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


def drawn(module: nn.Module | None = None) -> tuple[Any, ...]:
    """Something that differs as soon as a number was drawn. `module`: also from generators that it holds."""
    kind, key, *rest = np.random.get_state()
    held = [] if module is None else [_text(_state(generator)) for generator in held_by(module)]
    return (
        random.getstate(),
        torch.get_rng_state().numpy().tobytes(),
        kind,
        np.asarray(key).tobytes(),
        *rest,
        *held,
    )


GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
DEEP = 3


def held_by(module: nn.Module, kinds: Any = GENERATORS) -> list[Any]:
    """What is its own of these kinds, generators of random numbers if none are said: in attributes, and in what
    these hold."""
    level = [value for part in module.modules() for value in vars(part).values()]
    found: dict[int, Any] = {}
    for _ in range(DEEP):
        found |= {id(value): value for value in level if isinstance(value, kinds)}
        level = [inner for value in level for inner in _inside(value)]
    return [*found.values()]


def _inside(value: Any) -> Iterable[Any]:
    match value:
        case nn.Module() | torch.Tensor() | type() | types.ModuleType():
            return ()
        case dict():
            return value.values()
        case list() | tuple() | set() | frozenset():
            return value
    return vars(value).values() if hasattr(value, "__dict__") else ()


@contextmanager
def untouched(module: nn.Module) -> Iterator[list[str]]:
    """The generators that it holds are afterwards as they were; the list then says if one had been drawn from."""
    moved: list[str] = []
    kept = [(generator, _state(generator)) for generator in held_by(module)]
    try:
        yield moved
    finally:
        for generator, state in kept:
            if _text(_state(generator)) != _text(state):
                moved.append("a generator of random numbers")
                _set_state(generator, state)


def _state(generator: Any) -> Any:
    match generator:
        case np.random.Generator():
            return generator.bit_generator.state
        case np.random.RandomState() | torch.Generator():
            return generator.get_state()
    return generator.getstate()


def _set_state(generator: Any, state: Any) -> None:
    match generator:
        case np.random.Generator():
            generator.bit_generator.state = state
        case np.random.RandomState() | torch.Generator():
            generator.set_state(state)
        case _:
            generator.setstate(state)


def _text(state: Any) -> bytes:
    return pickle.dumps(state.numpy() if isinstance(state, torch.Tensor) else state)
