"""What XLA has compiled for a device is kept from one process to the next: on a GPU it tries many kernels for each
product, which takes longer than most extractions.

* A process that only uses the CPU keeps nothing: its programs are made in seconds, and for one processor.
* What is kept is run as it is found. So it is read from no folder that others may write to.
* Who has set JAX's own cache keeps it.
* What is damaged is compiled again; nobody is told, since nobody need do anything.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

import jax

from headstart.common.errors import HeadstartError
from headstart.common.log import LOG
from headstart.common.machine import cache_root
from headstart.contract.devices import CPU
from headstart.contract.recipe import Place

FOLDER = "programs"
"""in the cache's folder, beside the features"""


def keep_programs(place: Place) -> None:
    """Have JAX keep what it compiles from now on, where it computes on something else than a CPU."""
    config = jax.config
    if place.kind == CPU or config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        folder = cache_root() / FOLDER / "jax"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if reason := _unsafe(folder):
            LOG.debug("jax: compiled programs are not kept: %s %s", folder, reason)
            return
    except (HeadstartError, OSError) as error:
        LOG.debug("jax: compiled programs are not kept: %s", error)
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
    config.update("jax_compilation_cache_dir", str(folder))


def _unsafe(folder: Path) -> str:
    """Why what lies in a folder must not be run; "" where nobody else may write there."""
    if not os.access(folder, os.W_OK):
        return "cannot be written to"
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "belongs to somebody else"
    return "may be written to by others" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""
