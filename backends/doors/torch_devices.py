"""Devices as torch has them. Whatever is not a CPU is reached by the same code: torch gives every kind of device a
module of the same functions (`torch.cuda`, `torch.xpu`, `torch.mps`), which of them it has is asked for.

Invariant: of a CPU nothing is asked that would start another device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from headstart.backends.doors.torch_arithmetic import arithmetic
from headstart.contract import devices
from headstart.contract.recipe import FLOAT32, TF32, Place

FULL = ("out of memory", "_ALLOC_FAILED")
"""what errors say of a device without memory: CUDA's and Metal's, cuBLAS's and cuDNN's"""
LOCKED_NBYTES = 256 << 20
"""at once, of memory that the host's other programs then lack"""


def device_of(place: Place) -> torch.device:
    """With its index: "cuda" alone would be whichever the caller has made the current one."""
    return torch.device("cpu") if place.kind == devices.CPU else torch.device(place.kind, place.index)


def count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module: Any = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def trial(name: str) -> None:
    """torch lists cards that it has no code for; their first kernel fails."""
    x = torch.ones(8, 8, device=device_of(Place(name, FLOAT32)))
    value = float((x @ x).sum())
    if value != 512:
        raise RuntimeError(f"8 x 8 ones multiplied with themselves sum up to {value}, and not to 512")


def synchronize(device: torch.device) -> None:
    if device.type != devices.CPU:
        _wait(device)


def _wait(device: torch.device) -> None:
    module: Any = torch.get_device_module(device.type)
    module.synchronize(*(() if device.type == "mps" else (device,)))


def free_memory(place: Place) -> int | None:
    """What the driver has left, and what torch has taken from it and would give again."""
    device = device_of(place)
    if place.kind == "mps":  # which has the host's memory, and a recommendation for how much of it
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    module: Any = None if place.kind == devices.CPU else torch.get_device_module(place.kind)
    if module is None or not hasattr(module, "mem_get_info"):
        return None
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def is_out_of_memory(error: BaseException) -> bool:
    """torch has an error for it, which its libraries and Apple's devices do not raise."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
    return said or isinstance(error, torch.OutOfMemoryError)


def device_facts(place: Place) -> dict[str, str | int | float | bool]:
    if place.kind == devices.CPU:
        return {}
    facts: dict[str, str | int | float | bool] = {"tf32": uses_tf32(place)}
    if place.kind == "mps":
        return {**facts, "memory": int(torch.mps.recommended_max_memory())}
    module, device = torch.get_device_module(place.kind), device_of(place)
    about = module.get_device_properties(device)
    facts |= {"name": str(module.get_device_name(device)), "memory": int(about.total_memory)}
    if place.kind == "cuda":
        facts["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
        known = {"driver": _driver(), "cuda": torch.version.cuda, "hip": torch.version.hip}
        cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
        facts |= {name: str(value) for name, value in {**known, "cudnn": cudnn}.items() if value}
    elif version := getattr(about, "driver_version", None):
        facts["driver"] = str(version)
    return facts


def _driver() -> str | None:
    """torch knows the version of CUDA that a driver can do, and not the driver's own."""
    try:
        line = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:
        return None
    return next((word for word in line.split() if word[0].isdigit() and "." in word), None)


def uses_tf32(place: Place) -> bool:
    """Whether products of float32 numbers are computed so: from Ampere on."""
    if place.precision != TF32 or place.kind != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device_of(place)) >= (8, 0)


@contextmanager
def computing(place: Place) -> Iterator[None]:
    """Products as the place's precision has them. The door has seen to a CPU."""
    if place.kind == devices.CPU:
        yield
        return
    with arithmetic(place.precision == TF32):
        yield


def convolved(x: Any, kernel: Any, stride: Any, padding: Any, groups: int) -> Any:
    """`(n, h, w, c)` by `(h, w, in, out)`, both as views of what torch calls channels-last: no map is copied."""
    x, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.conv2d(x, kernel, None, stride, padding, 1, groups).permute(0, 2, 3, 1)


def inference() -> Any:
    return torch.no_grad()


def tensor_of(array: np.ndarray) -> Any:
    """The array's numbers as a tensor of the host's, in its memory where that may be written to."""
    if not array.flags.writeable:
        array = array.copy()  # torch warns of read-only memory, which it could write to
    if array.dtype == ml_dtypes.bfloat16:
        # from_numpy refuses this dtype: https://github.com/pytorch/pytorch/issues/109873
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.asarray(array, order="C"))


def put(array: Any, place: Place) -> Any:
    """A numpy array, or a tensor."""
    return (tensor_of(array) if isinstance(array, np.ndarray) else array).to(device_of(place))


def can_stream(place: Place) -> bool:
    """Whether a device reads the host's memory for itself, so that `send`, `fetch` and `fetched` gain anything."""
    return place.kind in ("cuda", "xpu")


def send(array: np.ndarray, place: Place) -> Any:
    """A numpy array on its way to the device; it is not needed any more."""
    return sent(tensor_of(array), device_of(place))


def sent(tensor: Any, device: str | torch.device) -> Any:
    """A tensor of the host's, on its way to a device. A CUDA device reads memory that is locked for it by itself,
    and the host need not wait; torch keeps what is locked, and gives it again."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.nbytes > LOCKED_NBYTES:
        return tensor.to(device)
    return _pinned(tensor).copy_(tensor).to(device, non_blocking=True)


def fetch(tensor: Any) -> tuple[Any, Any]:
    """A tensor on its way to the host, and what happens when it has arrived."""
    here = _pinned(tensor).copy_(tensor, non_blocking=True)
    module: Any = torch.get_device_module(tensor.device.type)
    with module.device(tensor.device):
        arrived = module.Event()
        arrived.record()
    return here, arrived


def fetched(on_its_way: tuple[Any, Any]) -> np.ndarray:
    tensor, arrived = on_its_way
    arrived.synchronize()
    return as_numpy(tensor)


def as_numpy(tensor: Any) -> np.ndarray:
    """A tensor of the host's, in its own memory and dtype. torch refuses to make bfloat16 of numpy's or for it:
    https://github.com/pytorch/pytorch/issues/109873"""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def _pinned(like: Any) -> Any:
    """Memory for a tensor like this that a device reads for itself; torch keeps what is given back."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def wait(tensors: Any, place: Place) -> Any:
    """The tensors, computed."""
    synchronize(device_of(place))
    return tensors


def rounded(parameter: Any, dtype: str) -> Any:
    """The same parameter in another dtype."""
    parameter.data = parameter.data.to(getattr(torch, dtype))
    return parameter


def place_of(tensor: Any) -> Place:
    """Where a tensor lies."""
    return Place(devices.name_of(tensor.device.type, tensor.device.index or 0), FLOAT32)
