"""numpy <-> jax.Array. Everything is `(n, h, w, c)`, which is XLA's own order. Devices as the JAX backend takes
them; what others who stand on JAX need of them, too, is in `headstart.backends.doors.jax_devices`.

Networks are made on the host, whatever JAX's default device is, and put where they compute. So a GPU that nobody
asked for holds nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headstart.backends.doors.jax_devices import PLATFORMS, count, device_of, require_cpu, trial
from headstart.contract import devices
from headstart.contract.recipe import BFLOAT16, FLOAT16, FLOAT32, Place

HALVES = {BFLOAT16: jnp.bfloat16, FLOAT16: jnp.float16}
"""a precision in which layers compute -> its dtype; others compute in what they are given"""


def decide(device: str, precision: str) -> Place:
    decided = devices.decide("jax", device, tuple(PLATFORMS), count, trial)
    if decided == devices.CPU:
        require_cpu(device)
    return Place(decided, precision)


def host() -> jax.Device | None:
    """The device on which networks are made and native models live: the CPU. None where it is JAX's default device
    anyway, and where JAX may use no CPU (JAX_PLATFORMS), so that the default has to do."""
    here = device_of(Place(devices.CPU, FLOAT32))
    return None if here == jax.local_devices()[0] else here


def to_numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def as_float(x: Any) -> Any:
    """Features in half precision as float32, since layers compute in what they are given; what is no number with a
    fraction stays."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, x)
