"""numpy <-> the engine's tensors, and the device. Everything is `(n, h, w, c)`.

Invariant: whatever computes or makes something stands inside `on(place)`. Outside, the torch engine moves what an
operation of Keras's takes to the machine's default device, a GPU where there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, TypeVar

import keras
import numpy as np

from headstart.backends.keras import DESCRIPTION
from headstart.backends.keras.engine import ENGINES
from headstart.common.errors import BackendError
from headstart.common.memory import ALIGNMENT
from headstart.contract import devices
from headstart.contract.recipe import BFLOAT16, FLOAT16, FLOAT32, Place

ENGINE = keras.backend.backend()
HOST = Place(devices.CPU, FLOAT32)
Kind = TypeVar("Kind", bound=type)


def _engines_devices() -> Any:
    if ENGINE not in ENGINES:
        raise BackendError(
            f"Keras runs on {ENGINE!r}, which cannot train; expected one of {', '.join(ENGINES)}: set "
            "KERAS_BACKEND to one of them before Keras is imported"
        )
    if ENGINE == "tensorflow":
        return import_module("headstart.backends.keras.tensorflow_devices")
    return import_module(f"headstart.backends.doors.{ENGINE}_devices")


DEVICES = _engines_devices()
"""what the engine says of its devices: the same functions for each of the three"""


def decide(device: str, precision: str) -> Place:
    name = devices.decide(f"keras on {ENGINE}", device, DESCRIPTION.devices, DEVICES.count, DEVICES.trial)
    if name == devices.CPU and ENGINE == "jax":
        DEVICES.require_cpu(device)
    return Place(name, precision)


@contextmanager
def on(place: Place) -> Iterator[None]:
    """The scope in which variables and tensors are made on the place's device, and products have its precision."""
    device = DEVICES.device_of(place)
    if device is None:  # JAX may use no CPU (JAX_PLATFORMS): what is meant for it lies on the default device
        yield
        return
    with keras.device(device if ENGINE == "jax" else str(device)), DEVICES.computing(place):
        yield


def beside(model: keras.Model) -> AbstractContextManager[None]:
    """The scope of the device on which a user's model lies. float32 is strictly that, for comparisons."""
    weights = model.weights
    return on(DEVICES.place_of(weights[0].value)) if weights else nullcontext()


def at_place(*names: str) -> Callable[[Kind], Kind]:
    """A class whose methods called so run on the object's `place`."""

    def change(kind: Kind) -> Kind:
        for name in names:
            setattr(kind, name, _placed(vars(kind)[name]))
        return kind

    return change


def _placed(method: Any) -> Any:
    @functools.wraps(method)
    def placed(self: Any, *args: Any, **kwargs: Any) -> Any:
        with on(self.place):
            return method(self, *args, **kwargs)

    return placed


def on_host(method: Any) -> Any:
    """A function that runs on the CPU."""

    @functools.wraps(method)
    def hosted(*args: Any, **kwargs: Any) -> Any:
        with on(HOST):
            return method(*args, **kwargs)

    return hosted


def dtype_policy(place: Place) -> str:
    """Keras's name for the place's precision."""
    return f"mixed_{place.arithmetic}" if place.arithmetic in (BFLOAT16, FLOAT16) else FLOAT32


def from_numpy(array: np.ndarray, place: Place) -> Any:
    """On a CPU TensorFlow may alias the array's memory: features that fill it are not copied, twice."""
    if _can_share(array, place):
        from headstart.backends.keras.exports import tensor  # which needs TensorFlow

        return tensor(array)
    with on(place):
        return keras.ops.convert_to_tensor(array)


def _can_share(array: np.ndarray, place: Place) -> bool:
    flags = array.flags
    fits = flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0
    return place.kind == devices.CPU and ENGINE == "tensorflow" and fits


def to_numpy(array: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(array)
