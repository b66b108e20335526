"""Features for JAX's own programs."""

from __future__ import annotations

import jax
import numpy as np

from headstart.backends.jax.arrays import host


def tensor(array: np.ndarray) -> jax.Array:
    """The same memory as an array on the CPU, where it begins at a multiple of 64 bytes; else a copy."""
    return jax.device_put(array, host() or jax.local_devices()[0])
