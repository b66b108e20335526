"""What is known of the machine without a framework."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headstart.common import cgroups
from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.common.objects import is_url, without_secrets
from headstart.common.places import expanded, user_cache

MULTIPLIES = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""a type of numbers -> the instructions, by Linux's names, of x86 and of ARM, any of which multiplies in it"""
CPUS_VARIABLE = "HEADSTART_CPUS"
"""how many CPUs a process keeps to, where it is told"""


@dataclass(frozen=True)
class Cpus:
    """The CPUs that this process may use."""

    count: int
    limited: bool
    """whether that is fewer than it may run on, which is what frameworks count"""


def cpus_allowed(root: Path = cgroups.ROOT) -> Cpus:
    """Those that the process may run on, and no more than its control groups give it time for. A quota of 1.5 is
    two: two threads for three quarters of the time are faster than one. Fewer where HEADSTART_CPUS says so, as it
    does to each of several workers on one machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota(root)
    allowed = count if quota is None else max(1, min(count, math.ceil(quota)))
    told = os.environ.get(CPUS_VARIABLE, "")
    if told.isdecimal():
        allowed = max(1, min(allowed, int(told)))
    return Cpus(allowed, allowed < count)


def cpus(root: Path = cgroups.ROOT) -> int:
    """The number of CPUs that this process may use."""
    return cpus_allowed(root).count


LEAST_SHARED = 3 << 20
"""multiplications; with fewer, threads take longer to find together than one takes to compute"""


def threads_for(multiplications: float) -> int:
    """As many threads as such a piece of work is worth: one, or all."""
    return 1 if multiplications < LEAST_SHARED else cpus()


def machine_facts() -> dict[str, Any]:
    """The machine a report was made on."""
    cpu, info = "", Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    # Python may start a process to find out what its platform module says of a processor.
    cpu = cpu or platform.processor() or platform.machine()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": cpus(),
        "memory_bytes": memory,
        "system": platform.system(),
        "python": platform.python_version(),
    }


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, by Linux's names such as "avx512_bf16"; empty where the system does not say."""
    info = Path("/proc/cpuinfo")
    return frozenset(info.read_text(errors="replace").split()) if info.exists() else frozenset()


def has_module(name: str) -> bool:
    """Whether there is a module to import, such as "package.module"; it is not imported, but its package is."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # there is no such package
        return False


@cache
def cpu_multiplies(dtype: str) -> bool:
    """Whether the processor has instructions for "bfloat16" or "float16". Where the system does not say what it
    has, it is taken to."""
    if not cpu_flags() or not cpu_flags().isdisjoint(MULTIPLIES[dtype]):
        return True
    LOG.info("this CPU has no instructions for %s: what is asked for in it is computed in float32", dtype)
    return False


def available_memory(root: Path = cgroups.ROOT) -> int:
    """Bytes that this process could still take without pushing others out, as far as the system says."""
    limits = []
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        lines = meminfo.read_text(errors="replace").splitlines()
        limits += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if (left := cgroups.memory_left(root)) is not None:
        limits.append(left)
    return min(limits, default=4 << 30)


def cache_root(root: Path | str | None = None) -> Path:
    """The cache folder: that given, else HEADSTART_CACHE, else the user's. It need not exist. SettingError for a
    URL."""
    named = "the cache" if root is not None else "HEADSTART_CACHE"
    if root is None:
        root = os.environ.get("HEADSTART_CACHE") or None
    if isinstance(root, str) and is_url(root):
        raise SettingError(
            f"{named} is {without_secrets(root)}, a URL; expected a folder. To read what others have put there, "
            "name it in HEADSTART_CACHE_SHARED"
        )
    return (user_cache() if root is None else expanded(root)).absolute()
