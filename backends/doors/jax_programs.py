"""What XLA has compiled is kept from one process to the next, by JAX's own backend and Keras's on it: on a GPU it
tries many kernels for each product, which takes longer than most extractions; on a CPU a head's programs are a
quarter of a short training.

* What is kept is run as it is found. So it is read from no folder that others may write to.
* JAX's own keys tell its versions apart, and a CPU's programs lie in a folder for what that processor can do: a
  home that several machines share has one for each. Of a processor that does not say it nothing is kept.
* A folder holds no more than `LARGEST`: what was written first goes first.
* Who has set JAX's own cache keeps it; JAX_ENABLE_COMPILATION_CACHE=false switches ours off as well.
* What is damaged is compiled again, and what cannot be written (programs that call oneDNN: `unkept`) each time;
  nobody is told, since nobody need do anything.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from headstart.common.log import LOG
from headstart.common.programs import folder_of
from headstart.contract.devices import CPU
from headstart.contract.recipe import Place

ACCELERATORS = "jax"
"""the folder of what is compiled in processes that compute on something else than a CPU"""
LARGEST = 256 << 20
"""bytes of a folder, when a process begins"""
CPUINFO = Path("/proc/cpuinfo")
TELLING = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
"""the lines of /proc/cpuinfo by which XLA chooses instructions"""
MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def keep_programs(place: Place) -> None:
    """Have JAX keep what it compiles from now on. The first place of a process says where, or the first that is no
    CPU."""
    config = jax.config
    before = config.jax_compilation_cache_dir
    if not config.jax_enable_compilation_cache or (before and before not in _ours):
        return
    # Once more where it was done before: whoever asked first may have put warnings back as they were.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
    if before and (place.kind == CPU or Path(before).name == ACCELERATORS):
        return
    if (name := _name(place)) is None or (folder := folder_of(name, "jax")) is None:
        return
    try:
        bound(folder)
    except OSError as error:
        LOG.debug("jax: compiled programs are not kept: %s", error)
        return
    if before:
        reset_cache()  # else JAX stays with the folder that it has begun with
    _ours.add(str(folder))
    config.update("jax_compilation_cache_dir", str(folder))
    if place.kind == CPU and not os.environ.get(MIN_SECONDS.upper()):
        config.update(MIN_SECONDS, 0.0)  # a head's are many, and each is made in less than JAX's second


_ours: set[str] = set()
"""folders that this process has given to JAX"""


class _Unkept:
    """How many threads compile what must not be written, and what JAX's setting was before the first of them."""

    lock = threading.Lock()
    threads = 0
    before: Any = None


@contextmanager
def unkept() -> Iterator[None]:
    """What is compiled meanwhile is not written, in whosever folder: jaxlib 0.12 ends the process (a segmentation
    fault) where it is to write a program that calls oneDNN, which earlier ones refuse. Other threads' programs are
    not written either."""
    with _Unkept.lock:
        if not _Unkept.threads:
            _Unkept.before = getattr(jax.config, MIN_SECONDS)
            jax.config.update(MIN_SECONDS, float("inf"))
        _Unkept.threads += 1
    try:
        yield
    finally:
        with _Unkept.lock:
            _Unkept.threads -= 1
            if not _Unkept.threads:
                jax.config.update(MIN_SECONDS, _Unkept.before)


def bound(folder: Path, largest: int = LARGEST) -> None:
    """Remove what was written first, until no more than `largest` bytes are left."""
    with os.scandir(folder) as files:
        known = sorted(
            (file.stat().st_mtime_ns, file.stat().st_size, file.path) for file in files if file.is_file()
        )
    left = sum(size for _, size, _ in known)
    for _, size, path in known:
        if left <= largest:
            return
        with suppress(OSError):  # another process has done it
            Path(path).unlink()
        left -= size


def _name(place: Place) -> str | None:
    """The folder's, by what its programs run on; None where that is not known."""
    if place.kind != CPU:
        return ACCELERATORS
    if not CPUINFO.exists():
        return None
    first = CPUINFO.read_text(errors="replace").split("\n\n", 1)[0]
    said = [line for line in first.splitlines() if line.startswith(TELLING)]
    if not said:
        return None
    return "jax-cpu-" + hashlib.sha256("\n".join([platform.machine(), *said]).encode()).hexdigest()[:16]
