"""What records say of the device, as far as JAX and its plugins know it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from headstart.backends.jax.arrays import device_of, memory_stats
from headstart.contract.recipe import TF32, Place

DRIVER = Path("/sys/module/nvidia/version")
VERSIONS = {"cuda": "cuda_runtime_get_version", "cudnn": "cudnn_get_version"}
"""a library -> the function of JAX's CUDA plugin that tells its version, as a number"""
AMPERE = 8.0  # the first that multiplies in TF32

Fact = str | int | float | bool


def facts(place: Place) -> dict[str, Fact]:
    """`memory_limit`: bytes that XLA will take at most, which is less than the device has."""
    device = device_of(place.device)
    told: dict[str, Fact] = {
        "name": str(device.device_kind),
        "platform": " ".join(device.client.platform_version.split()),
    }
    limit = memory_stats(device).get("bytes_limit")
    if limit is not None:
        told["memory_limit"] = int(limit)
    if place.kind != "cuda":
        return told
    capability = str(getattr(device, "compute_capability", ""))
    told |= {"capability": capability} if capability else {}
    ampere = capability.replace(".", "", 1).isdecimal() and float(capability) >= AMPERE
    told["tf32"] = place.precision == TF32 and ampere
    if DRIVER.exists():
        told["driver"] = DRIVER.read_text(errors="replace").strip()
    for plugin in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        versions = sys.modules.get(f"{plugin}._versions")  # which JAX imports, where it is installed
        for library, function in VERSIONS.items():
            if callable(ask := getattr(versions, function, None)):
                with suppress(RuntimeError):  # a library is missing, which does not matter to who does not need it
                    told[library] = int(ask())
    return told
