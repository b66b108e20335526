"""numpy <-> jax.Array, and the device. Everything is `(n, h, w, c)`, which is XLA's own order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headstart.common.errors import BackendError
from headstart.contract.recipe import Place


def decide(device: str, precision: str) -> Place:
    there = jax.default_backend() == "gpu"
    if device == "cuda" and not there:
        raise BackendError("device 'cuda' was asked for, and jax finds no CUDA device; use device='cpu'")
    return Place("cuda" if there and device != "cpu" else "cpu", precision)


def free_memory(place: Place) -> int | None:
    stats = jax.devices("gpu")[0].memory_stats() if place.device == "cuda" else None
    return int(stats["bytes_limit"] - stats["bytes_in_use"]) if stats else None


def from_numpy(array: Any, device: str) -> jax.Array:
    """On a CPU this may alias the array's memory, so nothing made here is ever donated."""
    return jax.device_put(array, jax.devices("gpu" if device == "cuda" else "cpu")[0])


def to_numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
