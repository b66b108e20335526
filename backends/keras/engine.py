"""The engine that Keras runs on, decided before Keras is imported: afterwards it cannot be another one.

* What the user says stands: KERAS_BACKEND, Keras's own settings file, and a Keras that is imported already.
* Without a word of his, Keras takes TensorFlow, and fails where that is not installed. Then it runs on what is.
* No engine takes a card's whole memory at its first computation: others want some, in this process and beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from headstart.common.errors import BackendError
from headstart.common.log import LOG

VARIABLE = "KERAS_BACKEND"
ENGINES = ("tensorflow", "jax", "torch")
"""the first that is installed is taken where nobody has named one"""

# variable -> its value, and others that say something of the same
MEMORY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "TF_FORCE_GPU_ALLOW_GROWTH": ("true", ()),
    "XLA_PYTHON_CLIENT_PREALLOCATE": (
        "false",
        ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR"),
    ),
}


def choose() -> None:
    """Set KERAS_BACKEND where that is needed. BackendError where the engine named is none, or not installed, or
    where none is."""
    if "keras" in sys.modules:
        return
    named = os.environ.get(VARIABLE)
    engine = named or _of_settings_file() or ENGINES[0]
    if engine not in ENGINES:
        raise BackendError(
            f"Keras is told to run on {engine!r} (by {_source(named)}), which cannot train; expected one of "
            f"{', '.join(ENGINES)}: set {VARIABLE} to one of them"
        )
    if find_spec(engine) is not None:
        return
    there = [other for other in ENGINES if find_spec(other) is not None]
    if named or not there:
        raise BackendError(
            f"backend 'keras' needs {engine} (named by {VARIABLE}), which is not installed; install it, or set "
            f"{VARIABLE} to one of {', '.join(there) or 'tensorflow, jax and torch, and install that'}"
            if named
            else "backend 'keras' needs one of tensorflow, jax and torch to run on, and none is installed: "
            "pip install 'headstart[keras]'"
        )
    os.environ[VARIABLE] = there[0]
    LOG.info("keras: %s is not installed, so it runs on %s (%s names another)", engine, there[0], VARIABLE)


def _of_settings_file() -> str | None:
    """What Keras would read there. It writes the file itself, with TensorFlow in it."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        settings = json.loads((Path(home) / "keras.json").read_text())
        engine = settings.get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return engine if isinstance(engine, str) else None


def _source(named: str | None) -> str:
    return VARIABLE if named else "its settings file"


def leave_memory() -> None:
    """For engines that have not computed yet; what the user has said stands."""
    for variable, (value, others) in MEMORY.items():
        if not any(os.environ.get(name) for name in (variable, *others)):
            os.environ[variable] = value


choose()
leave_memory()
