"""Devices as the torch backend takes them; what others who stand on torch need of them, too, is in
`headstart.backends.doors.torch_devices`."""

from __future__ import annotations

from typing import Any

import torch

from headstart.backends.doors.torch_devices import (
    computing,
    count,
    device_facts,
    device_of,
    free_memory,
    is_out_of_memory,
    synchronize,
    trial,
    uses_tf32,
)
from headstart.contract import devices
from headstart.contract.recipe import BFLOAT16, FLOAT16, Place

__all__ = [
    "LOW",
    "autocast",
    "computing",
    "decide",
    "device_facts",
    "device_of",
    "free_memory",
    "is_out_of_memory",
    "synchronize",
    "uses_tf32",
]

KINDS = ("cuda", "mps", "xpu")
"""beside the CPU, best first"""
LOW = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
"""precision -> the type of numbers that layers compute with, where it is not float32"""


def decide(device: str, precision: str) -> Place:
    return Place(devices.decide("torch", device, KINDS, count, trial), precision)


def autocast(place: Place) -> Any:
    """torch's own mixed precision, where the place has one."""
    low = LOW.get(place.arithmetic)
    return torch.autocast(place.kind, low or torch.bfloat16, enabled=low is not None)
