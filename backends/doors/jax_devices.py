"""Devices as JAX has them, for what stands on it: JAX's own backend, and Keras's on it.

* What is compiled is compiled here, with the arithmetic of its place: "float32" is never TF32.

Invariant: of a CPU nothing is asked that would start another device, but for what JAX itself starts when it first
computes: all that JAX_PLATFORMS lets it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headstart.common.errors import BackendError
from headstart.common.log import LOG
from headstart.contract import devices
from headstart.contract.recipe import FLOAT32, TF32, Place

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
VERSIONS = {"cuda": "cuda_runtime_get_version", "cudnn": "cudnn_get_version"}
"""a library -> the function of JAX's CUDA plugin that tells its version, as a number"""
DRIVER = Path("/sys/module/nvidia/version")
AMPERE = 8.0  # the first that multiplies in TF32


def devices_of(kind: str) -> list[jax.Device]:
    """This process's devices of a kind, in JAX's order; none where JAX has no such platform that works."""
    for platform in PLATFORMS.get(kind, ()):
        try:
            return jax.local_devices(backend=platform)
        except RuntimeError:
            continue
    return []


def count(kind: str) -> int:
    return len(devices_of(kind))


def trial(device: str) -> None:
    """Run one small kernel."""
    x = jax.device_put(np.ones((8, 8), np.float32), device_of(Place(device, FLOAT32)))
    jax.block_until_ready(jax.jit(jnp.dot)(x, x))


def device_of(place: Place) -> jax.Device | None:
    """None where it is a CPU, and JAX may use none."""
    there = devices_of(place.kind)
    return there[place.index] if there else None


def require_cpu(device: str) -> None:
    """BackendError where `device` was asked for, which is the CPU, and JAX may not use it."""
    if not devices_of(devices.CPU):
        platforms = jax.config.jax_platforms
        raise BackendError(
            f"device {device!r} is the CPU, and JAX may not use it, as JAX_PLATFORMS is {platforms!r}; "
            f"unset it, or set it to '{platforms},cpu'"
        )


def place_of(array: Any) -> Place:
    """Where an array lies, on the first of its devices where it has several."""
    device = min(array.devices(), key=lambda device: device.id)
    for kind in PLATFORMS:
        if device in (there := devices_of(kind)):
            return Place(devices.name_of(kind, there.index(device)), FLOAT32)
    return Place(devices.CPU, FLOAT32)


def is_accelerated() -> bool:
    """Whether what is traced now is for something else than a CPU."""
    device = jax.config.jax_default_device or jax.local_devices()[0]
    return str(getattr(device, "platform", device)) != devices.CPU


def computing(place: Place) -> AbstractContextManager[Any]:
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


def donates(place: Place) -> bool:
    """Whether a program takes over the memory of what it `changes`."""
    return place.kind in DONATING


def compiled(function: Callable[..., Any], place: Place, changes: int | None = None) -> Any:
    """The function as one program with the arithmetic of its place. `changes`: the number of an argument that the
    caller drops for what the function returns in its stead; its memory is used again."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with computing(place):
            return function(*args)

    donated = (changes,) if changes is not None and donates(place) else ()
    return jax.jit(traced, donate_argnums=donated, compiler_options=options(place.kind))


def put(array: Any, place: Place) -> Any:
    """An array, or a tree of them. On a CPU this may alias the array's memory, so none made there is donated."""
    return jax.device_put(array, device_of(place))


def can_stream(place: Place) -> bool:
    """Whether `send`, `fetch` and `fetched` gain anything."""
    return place.kind != devices.CPU


send = put


def fetch(array: jax.Array) -> jax.Array:
    """The same array, on its way to the host."""
    array.copy_to_host_async()
    return array


def fetched(array: jax.Array) -> np.ndarray:
    return np.asarray(array)


def wait(arrays: Any, place: Place) -> Any:
    """The arrays, computed."""
    return jax.block_until_ready(arrays)


def rounded(array: jax.Array, dtype: str) -> jax.Array:
    return array.astype(dtype)


def memory_stats(place: Place) -> dict[str, int]:
    """Of a CPU, and of a device that says nothing, empty; and not every allocator has a limit, nor tells what is
    in use."""
    device = None if place.kind == devices.CPU else device_of(place)
    try:
        return {} if device is None else device.memory_stats() or {}
    except RuntimeError:  # plugins need not know the question
        return {}


def free_memory(place: Place) -> int | None:
    stats = memory_stats(place)
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0)) if "bytes_limit" in stats else None


def is_out_of_memory(error: BaseException) -> bool:
    """XLA has one error for all that goes wrong, which begins with its kind."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def device_facts(place: Place) -> dict[str, str | int | float | bool]:
    """What records say of a device, as far as JAX and its plugins know it; of a CPU nothing. `memory_limit`: bytes
    that XLA will take at most, which is less than the device has."""
    device = device_of(place)
    if place.kind == devices.CPU or device is None:
        return {}
    facts: dict[str, str | int | float | bool] = {
        "name": str(device.device_kind),
        "platform": " ".join(device.client.platform_version.split()),
    }
    if (limit := memory_stats(place).get("bytes_limit")) is not None:
        facts["memory_limit"] = int(limit)
    if place.kind != "cuda":
        return facts
    capability = str(getattr(device, "compute_capability", ""))
    facts |= {"capability": capability} if capability else {}
    ampere = capability.replace(".", "", 1).isdecimal() and float(capability) >= AMPERE
    facts["tf32"] = place.precision == TF32 and ampere
    if DRIVER.exists():
        facts["driver"] = DRIVER.read_text(errors="replace").strip()
    for plugin in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        versions = sys.modules.get(f"{plugin}._versions")  # which JAX imports, where it is installed
        for library, function in VERSIONS.items():
            if callable(ask := getattr(versions, function, None)):
                with suppress(RuntimeError):  # a library is missing, which does not matter to who does not need it
                    facts[library] = int(ask())
    return facts
