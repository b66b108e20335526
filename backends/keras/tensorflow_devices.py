"""Devices as TensorFlow has them.

It starts every GPU that it sees when it first computes, on whichever device: a context of some hundred megabytes
each, and no more since it may not take memory ahead of time (`headstart.backends.keras.engine`). Hiding them would
hold for the rest of the process, and a later training there would fail; CUDA_VISIBLE_DEVICES does it from outside.

Invariant: of a CPU nothing is asked that starts another device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from headstart.contract import devices
from headstart.contract.recipe import FLOAT32, TF32, Place


def _gpus() -> list[Any]:
    """As the driver lists them; none is started."""
    return list(tf.config.get_visible_devices("GPU"))


def count(kind: str) -> int:
    """Of AMD's, too, where it is built for those."""
    return len(_gpus()) if kind == "cuda" else 0


def device_of(place: Place) -> str:
    return "CPU:0" if place.kind == devices.CPU else f"GPU:{place.index}"


def place_of(tensor: Any) -> Place:
    """Where a tensor lies."""
    spec = tf.DeviceSpec.from_string(tensor.device)
    gpu = spec.device_type == "GPU"
    return Place(devices.name_of("cuda", spec.device_index or 0) if gpu else devices.CPU, FLOAT32)


def trial(device: str) -> None:
    """Run one small kernel: TensorFlow lists cards that it has no code for."""
    with tf.device(device_of(Place(device, FLOAT32))):
        x = tf.ones((8, 8))
        value = float(tf.reduce_sum(tf.matmul(x, x)))
    if value != 512:
        raise RuntimeError(f"8 x 8 ones multiplied with themselves sum up to {value}, and not to 512")


@contextmanager
def computing(place: Place) -> Iterator[None]:
    """TensorFlow multiplies float32 numbers in TF32 where a GPU has it, unless it is told not to."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    if place.kind == devices.CPU or before == (wanted := place.precision == TF32):
        yield
        return
    tf.config.experimental.enable_tensor_float_32_execution(wanted)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _limit(place: Place) -> int:
    """Bytes that TensorFlow will take at most."""
    from tensorflow.python.client import device_lib  # the only place that tells it

    named = {device.name.lower(): device for device in device_lib.list_local_devices()}
    return int(named[f"/device:gpu:{place.index}"].memory_limit)


def free_memory(place: Place) -> int | None:
    if place.kind == devices.CPU:
        return None
    used = tf.config.experimental.get_memory_info(device_of(place))["current"]
    return _limit(place) - int(used)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError)


def device_facts(place: Place) -> dict[str, str | int | float | bool]:
    """`memory_limit`: bytes that TensorFlow will take at most, which is less than the device has."""
    if place.kind == devices.CPU:
        return {}
    details = tf.config.experimental.get_device_details(_gpus()[place.index])
    capability = tuple(details.get("compute_capability", ()))
    facts: dict[str, str | int | float | bool] = {
        "name": str(details.get("device_name", "GPU")),
        "memory_limit": _limit(place),
        "tf32": place.precision == TF32 and capability >= (8, 0),
    }
    facts |= {"capability": ".".join(map(str, capability))} if capability else {}
    built = tf.sysconfig.get_build_info()
    versions = {"cuda": built.get("cuda_version"), "cudnn": built.get("cudnn_version")}
    return {**facts, **{library: str(version) for library, version in versions.items() if version}}
