"""numpy <-> the engine's tensors, and the device. Everything is `(n, h, w, c)`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from headstart.common.errors import BackendError
from headstart.common.memory import ALIGNMENT
from headstart.contract.recipe import Place


def decide(device: str, precision: str) -> Place:
    there = _has_gpu()
    if device == "cuda" and not there:
        raise BackendError(
            f"device 'cuda' was asked for, and keras on {keras.backend.backend()} finds no CUDA device; "
            "use device='cpu'"
        )
    return Place("cuda" if there and device != "cpu" else "cpu", precision)


def _has_gpu() -> bool:
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # how the JAX engine says that there is none
        return False
    except AttributeError:  # the torch engine has no list of devices
        try:
            with keras.device("gpu:0"):
                keras.ops.zeros(1)
        except (RuntimeError, AssertionError):
            return False
        return True


def on(place: Place) -> AbstractContextManager[Any]:
    """The scope in which variables and tensors are made on the place's device."""
    return keras.device("gpu:0" if place.device == "cuda" else "cpu")


def dtype_policy(place: Place) -> str:
    """Keras's name for the place's precision."""
    return "mixed_bfloat16" if place.precision == "bfloat16" else "float32"


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
    return place.device == "cpu" and keras.backend.backend() == "tensorflow" and fits


def to_numpy(array: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(array)
