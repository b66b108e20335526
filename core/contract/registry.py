"""Which backends there are, and how one is chosen.

* Backends are imported here and nowhere else, by name, when they are needed.
* A wrong name is an error, never a fallback; a missing framework is named with the way to install it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

from headstart.common.errors import BackendError, UnknownNameError
from headstart.contract.checked import CheckedBackend
from headstart.contract.protocol import Backend
from headstart.graph.native import require_home

VARIABLE = "HEADSTART_BACKEND"
# backend -> the modules that must be there, and the distributions whose versions are reported
REQUIRES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": (("torch",), ("torch",)),
    "keras": (("keras",), ("keras", "tensorflow")),
    "jax": (("jax", "flax", "optax"), ("jax", "flax", "optax")),
}


def names() -> tuple[str, ...]:
    """All backends that headstart has, installed or not."""
    return tuple(REQUIRES)


def installed() -> tuple[str, ...]:
    """The backends whose framework is installed; nothing is imported to find out."""
    return tuple(name for name in REQUIRES if not _missing(name))


def _missing(name: str) -> list[str]:
    return [module for module in REQUIRES[name][0] if find_spec(module) is None]


def choose(name: str | None = None, home: str | None = None) -> str:
    """The backend to use: `name`, else HEADSTART_BACKEND, else the only one installed. Of a model that holds a
    wrapped module, `home` is the only one that can run it, and need not be named.

    Raises UnknownNameError for a name that is none, BackendError where its framework is missing, where none
    is installed, where several are and none was named, or where a wrapped module lives in another one.
    """
    source = ""
    if name is None and home is not None:
        name, source = home, " (where the wrapped module lives)"
    if name is None and os.environ.get(VARIABLE):
        name, source = os.environ[VARIABLE], f" (from {VARIABLE})"
    if name is not None:
        if name not in REQUIRES:
            raise UnknownNameError("backend", name, REQUIRES, source)
        require_home(home, name)
        if missing := _missing(name):
            raise BackendError(
                f"backend {name!r}{source} needs {' and '.join(missing)}, which is not installed: "
                f"pip install 'headstart[{name}]'"
            )
        return name
    found = installed()
    if len(found) == 1:
        return found[0]
    if not found:
        raise BackendError(
            "no backend is installed: pip install 'headstart[torch]', or one of "
            + ", ".join(f"[{name}]" for name in REQUIRES)
        )
    raise BackendError(
        f"several backends are installed ({', '.join(found)}) and none was chosen; pass backend=, "
        f"or set {VARIABLE} to one of them"
    )


@cache
def _load(name: str) -> Backend:
    return cast("Backend", CheckedBackend(import_module(f"headstart.backends.{name}").BACKEND))


def load(name: str | None = None, home: str | None = None) -> Backend:
    """The backend object for `name` (see `choose`); imports its framework."""
    return _load(choose(name, home))


def exports(name: str) -> ModuleType:
    """The module of the backend `name` that hands features to its framework's own programs: `tensor(array)`, of
    which array and tensor share the memory, and in torch and keras `dataset(rows, ...)`. Imports the framework;
    BackendError where that is missing."""
    try:
        choose(name)
        return import_module(f"headstart.backends.{name}.exports")
    except ModuleNotFoundError as error:  # Keras may be there on another engine than TensorFlow
        if error.name not in (*REQUIRES[name][0], *REQUIRES[name][1]):
            raise
        raise BackendError(
            f"this needs {error.name}, which is not installed: pip install 'headstart[{name}]'"
        ) from error


# Keras first: on its torch engine its models are torch modules, too.
ASKED: tuple[str, ...] = ("keras", "torch", "jax")


def owner(native: Any) -> Backend | None:
    """The backend whose framework `native` is a module of. Only those are asked that are imported already: a
    module of another one cannot be there."""
    for name in ASKED:
        if REQUIRES[name][0][0] in sys.modules and not _missing(name) and _load(name).owns(native):
            return _load(name)
    return None


def versions(name: str) -> dict[str, str]:
    """Distribution -> version, of what the backend `name` computes with."""
    found = {}
    for distribution in REQUIRES[name][1]:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found
