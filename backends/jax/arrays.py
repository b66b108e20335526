"""numpy <-> jax.Array, and the devices. Everything is `(n, h, w, c)`, which is XLA's own order.

* Networks are made on the host, whatever JAX's default device is, and put where they compute. So a GPU that nobody
  asked for holds nothing.
* What is compiled is compiled here, with the arithmetic of its place: "float32" is never TF32.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headstart.common.errors import BackendError
from headstart.common.log import LOG
from headstart.contract import devices
from headstart.contract.recipe import BFLOAT16, FLOAT16, FLOAT32, TF32, Place

# a kind of device -> what JAX, or a plugin of it, calls such a platform; best first
PLATFORMS = {
    "cuda": ("cuda", "rocm"),
    "tpu": ("tpu",),
    "xpu": ("oneapi", "xpu"),
    "mps": ("mps", "METAL"),
    devices.CPU: ("cpu",),
}
OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False}}
"""a kind of device -> what XLA is told for programs there. XLA 0.11 makes a kernel of Triton's of a product behind
a concatenation and a reshape, and ends the process in doing so (triton_tiling_propagation.cc, a check that fails),
which nobody can catch. Without, products are cuBLASLt's, with bias and activation behind them in one kernel"""
DONATING = ("cuda", "tpu")
"""kinds of devices whose programs may write results where an argument was; a CPU's may be numpy's memory, and
plugins for others need not be able to"""
HALVES = {BFLOAT16: jnp.bfloat16, FLOAT16: jnp.float16}
"""a precision in which layers compute -> its dtype; others compute in what they are given"""


# ---- where


def devices_of(kind: str) -> list[jax.Device]:
    """This process's devices of a kind, in JAX's order; none where JAX has no such platform."""
    for platform in PLATFORMS[kind]:
        try:
            return jax.local_devices(backend=platform)
        except RuntimeError:
            continue
    return []


def decide(device: str, precision: str) -> Place:
    decided = devices.decide("jax", device, tuple(PLATFORMS), lambda kind: len(devices_of(kind)), _try)
    if decided == devices.CPU and not devices_of(devices.CPU):
        platforms = jax.config.jax_platforms
        raise BackendError(
            f"device {device!r} is the CPU, and JAX may not use it, as JAX_PLATFORMS is {platforms!r}; "
            f"unset it, or set it to '{platforms},cpu'"
        )
    return Place(decided, precision)


def _try(device: str) -> None:
    """Run one small kernel."""
    x = jax.device_put(np.ones((8, 8), np.float32), device_of(device))
    jax.block_until_ready(jax.jit(jnp.dot)(x, x))


def device_of(device: str) -> jax.Device:
    """The device of that name."""
    place = Place(device, FLOAT32)
    return devices_of(place.kind)[place.index]


def host() -> jax.Device | None:
    """The device on which networks are made and native models live: the CPU. None where it is JAX's default device
    anyway, and where JAX may use no CPU (JAX_PLATFORMS), so that the default has to do."""
    here = devices_of(devices.CPU)
    return None if not here or here[0] == jax.local_devices()[0] else here[0]


def free_memory(place: Place) -> int | None:
    stats = {} if place.kind == devices.CPU else memory_stats(device_of(place.device))
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0)) if "bytes_limit" in stats else None


def memory_stats(device: jax.Device) -> dict[str, int]:
    """Empty where a device says nothing; and not every allocator has a limit, nor tells what is in use."""
    try:
        return device.memory_stats() or {}
    except RuntimeError:  # plugins need not know the question
        return {}


def from_numpy(array: Any, device: str) -> Any:
    """An array, or a tree of them. On a CPU it may alias the array's memory, so nothing there is ever donated."""
    return jax.device_put(array, device_of(device))


def to_numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


# ---- how


def arithmetic(place: Place) -> AbstractContextManager[Any]:
    """For what is traced inside: how float32 is multiplied, in products and convolutions. Left alone, JAX takes
    TF32 where a GPU has it, and bfloat16 on a TPU."""
    if place.kind == devices.CPU or place.precision not in (FLOAT32, TF32):
        return nullcontext()
    return jax.default_matmul_precision("highest" if place.precision == FLOAT32 else "tensorfloat32")


@functools.cache
def options(kind: str) -> dict[str, bool] | None:
    """What XLA is told for programs on a kind of device: what it knows, and its user has said nothing of."""
    told = OPTIONS.get(kind)
    if told is None or any(name in os.environ.get("XLA_FLAGS", "") for name in told):
        return None
    try:
        jax.jit(jnp.negative, compiler_options=told)(jax.device_put(np.float32(0), devices_of(kind)[0]))
    except (RuntimeError, TypeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
        LOG.debug("jax: XLA is not told %s: %s", ", ".join(told), devices.reason_of(error))
        return None
    return told


def compiled(function: Callable[..., Any], place: Place, changes: int | None = None) -> Any:
    """The function as one program with the arithmetic of its place. `changes`: the number of an argument that the
    caller drops for what the function returns in its stead; its memory is used again."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with arithmetic(place):
            return function(*args)

    donated = (changes,) if changes is not None and place.kind in DONATING else ()
    return jax.jit(traced, donate_argnums=donated, compiler_options=options(place.kind))
