"""Which backends there are, and how one is chosen.

* A backend is an entry point of the group `headstart.backends`: its name is the backend's, and it leads to a
  `Description`. Headstart's own are found that way, too; nothing here knows the name of any.
* Entry points are read, and backends imported, here and nowhere else, when they are needed.
* A wrong name is an error, never a fallback; a missing framework is named with the way to install it. What another
  distribution's backend does wrong is an error with that distribution's name, and only of those who ask for it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any, cast

from headstart.common.errors import BackendError, MissingAbilityError, UnknownNameError
from headstart.common.text import not_installed
from headstart.contract import devices
from headstart.contract.checked import CheckedBackend
from headstart.contract.description import ABILITIES, RANK, WRAP, Description
from headstart.contract.programs import FileFormat
from headstart.contract.protocol import Backend, Exports
from headstart.contract.recipe import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS
from headstart.graph.native import require_home

VARIABLE = "HEADSTART_BACKEND"
GROUP = "headstart.backends"

# ---- what is registered


@cache
def _entries() -> Mapping[str, list[EntryPoint]]:
    """The entry points of each name."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        entries.setdefault(entry.name, []).append(entry)
    return entries


_registered: dict[str, Description] = {}
"""those of this process"""


def register(name: str, description: Description) -> None:
    """Add a backend for this process, in place of any other of that name."""
    _registered[name] = description
    for cached in (_described, _load, names):
        cached.cache_clear()


@cache
def _described(name: str) -> Description:
    if name in _registered:
        return _registered[name]
    entries = _entries()[name]
    if len(entries) > 1:
        raise BackendError(
            f"backend {name!r} is registered by several distributions: "
            f"{', '.join(sorted(map(_distribution, entries)))}; uninstall all but one"
        )
    (entry,) = entries
    try:
        description = entry.load()
    except Exception as error:  # what is imported here is anybody's
        raise BackendError(
            f"backend {name!r} of {_distribution(entry)} cannot be loaded from {entry.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(description, Description):
        raise BackendError(
            f"backend {name!r} of {_distribution(entry)}: {entry.value} is a {type(description).__name__}; "
            "expected a headstart.contract.description.Description"
        )
    return description


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a distribution without a name"


def _places(name: str) -> tuple[int, str]:
    try:
        return _described(name).order, name
    except BackendError:
        return sys.maxsize, name


@cache
def names() -> tuple[str, ...]:
    """All backends that are registered, whether their frameworks are installed or not: in the order of their
    descriptions, others by name."""
    return tuple(sorted({*_entries(), *_registered}, key=_places))


def describe(name: str) -> Description:
    """What is known of a backend without its framework. UnknownNameError for a name that is none, BackendError
    where it does not describe itself."""
    _check_name(name)
    return _described(name)


def _check_name(name: str, source: str = "") -> None:
    if not names():
        raise BackendError(
            "no backend is registered, not even headstart's own: what is installed is older than the code that "
            "runs; install it again, from a checkout with: pip install -e ."
        )
    if name not in names():
        brought = (other for other, known in _known().items() if name in known.distributions)
        raise UnknownNameError("backend", name, names(), source, meant=next(brought, None))


def _known() -> dict[str, Description]:
    """The descriptions of all that can be described."""
    return {name: _described(name) for name in names() if _places(name)[0] < sys.maxsize}


def device_kinds() -> tuple[str, ...]:
    """All kinds of devices that some backend may name, "cpu" first."""
    named = [kind for description in _known().values() for kind in description.devices]
    return tuple(dict.fromkeys((devices.CPU, *named)))


SHORT = {"fp32": FLOAT32, "f32": FLOAT32, "fp16": FLOAT16, "f16": FLOAT16, "half": FLOAT16, "bf16": BFLOAT16}
"""what precisions are called elsewhere"""


def check_place(device: str, precision: str) -> None:
    """UnknownNameError unless both are known to some backend; what the chosen one knows, and whether the device is
    there, its `place` says."""
    if device != devices.AUTO:
        devices.parse(device, device_kinds())
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS, meant=SHORT.get(str(precision)))


# ---- what is installed, and what is chosen


def installed() -> tuple[str, ...]:
    """The backends whose framework is installed; no framework is imported to find out."""
    return tuple(name for name in _known() if not _missing(_described(name).modules))


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [module for module in modules if find_spec(module) is None]


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
        _check_name(name, source)
        require_home(home, name)
        if missing := _missing(_described(name).modules):
            raise BackendError(
                f"backend {name!r}{source} needs {not_installed(missing)}: {_described(name).install}"
            )
        return name
    there = installed()
    if len(there) == 1:
        return there[0]
    if not there:
        ways = [description.install for description in _known().values()]
        raise BackendError(f"no backend is installed: {', or '.join(ways) or 'install headstart again'}")
    raise BackendError(
        f"several backends are installed ({', '.join(there)}) and none was chosen; pass --backend "
        f"(backend=), or set {VARIABLE}, to one of them"
    )


_interrupted: set[str] = set()
"""modules whose import somebody broke off. Frameworks load native libraries once a process, and what they say of a
second time names neither the cause nor the mend."""


def _import(module: str) -> Any:
    """The module, imported without a search for garbage. Next to nothing that is imported becomes garbage, and
    Python looks for it each time that some hundred objects more have come: a fifth of importing TensorFlow."""
    searches = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    except KeyboardInterrupt:
        _interrupted.add(module)
        raise
    except Exception as exc:
        if module in _interrupted:
            raise BackendError(
                f"{module} cannot be imported any more ({type(exc).__name__}): its first import was interrupted, "
                "and its framework stands half loaded. Start Python anew; in a notebook restart the kernel"
            ) from exc
        raise
    finally:
        if searches:
            gc.enable()


@cache
def _load(name: str) -> Backend:
    description = _described(name)
    backend = _import(description.module).BACKEND
    for ability in sorted(description.abilities):
        for method in ABILITIES[ability].methods:
            if not callable(getattr(backend, method, None)):
                raise BackendError(
                    f"backend {name!r} says that it has the ability {ability!r}, and has no method {method!r}"
                )
    return cast("Backend", CheckedBackend(backend, name, description))


def load(name: str | None = None, home: str | None = None) -> Backend:
    """The backend object for `name` (see `choose`); imports its framework."""
    return _load(choose(name, home))


def rank(name: str | None = None, home: str | None = None) -> tuple[int, int] | None:
    """Which process this is, from 0, and of how many, where the backend's framework has made them one group; None
    where it has not, or knows no such thing."""
    if RANK not in describe(choose(name, home)).abilities:
        return None
    return load(name, home).rank()


def exporting(target: str) -> tuple[str, Exports]:
    """The name of the backend that has the export `target`, or is called so (its first export is meant), and what
    hands features to its framework's own programs. Imports the framework.

    UnknownNameError for a name that is neither, MissingAbilityError for a backend that exports nothing,
    BackendError where something is not installed.
    """
    exports = {export: name for name, description in _known().items() for export in description.exports}
    if target not in exports and target not in names():
        raise UnknownNameError("target", target, dict.fromkeys((*exports, *names())))
    name = exports.get(target, target)
    description = _described(name)
    if not description.exports:
        raise MissingAbilityError(
            name, "hand out features", f"expected one of {', '.join(exports) or 'none'}; or use .numpy()"
        )
    further = description.exports.get(target, next(iter(description.exports.values())))
    backend = load(name)
    if missing := _missing(further):
        raise BackendError(f"{target!r} needs {not_installed(missing)}: {description.install}")
    return name, backend.exports()


def formats() -> Mapping[str, tuple[str, FileFormat]]:
    """Name -> backend and format, of all kinds of files that some backend writes, whether its framework is
    installed or not."""
    rows = [(name, known) for name, description in _known().items() for known in description.formats]
    return {known.name: (name, known) for name, known in reversed(rows)}  # of two the first backend's


# ---- whose a module is


def _asking_order() -> tuple[str, ...]:
    """All names, each before those of `Description.asked_before`."""
    known = _known()
    earlier: dict[str, list[str]] = {name: [] for name in known}
    for name, description in known.items():
        for other in description.asked_before:
            earlier.get(other, []).append(name)
    try:
        return tuple(TopologicalSorter(earlier).static_order())
    except CycleError as error:
        circle = " before ".join(error.args[1])
        raise BackendError(f"whose a module is cannot be asked of the backends {circle}") from None


def owner(native: Any) -> Backend | None:
    """The backend whose framework `native` is a module of. Only those are asked that are imported already: a
    module of another one cannot be there. MissingAbilityError where its backend wraps nothing."""
    for name in _asking_order():
        description = _described(name)
        if description.modules[0] not in sys.modules or _missing(description.modules):
            continue
        if WRAP not in description.abilities:
            homes = {kind.__module__.partition(".")[0] for kind in type(native).__mro__}
            if homes & set(description.modules):
                description.require(name, WRAP)
        elif _load(name).owns(native):
            return _load(name)
    return None


def wrappable() -> str:
    """What `hs.wrap` takes, as a text."""
    return ", ".join(description.wraps for description in _known().values() if description.wraps) or "nothing"


def versions(name: str) -> dict[str, str]:
    """Distribution -> version, of what the backend `name` computes with."""
    present = {}
    for distribution in describe(name).distributions:
        try:
            present[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return present
