"""What can be done for a command while its words are still being read: loading the shared libraries of the
framework that it is going to import. That takes the system a third of a second (PyTorch's are 1.5 GB, with
hundreds of thousands of addresses to write), Python does not wait for it, and another core does it.

Invariant: whatever is wrong with the words or the framework is told where it would be told without; here nothing
is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from headstart.common.errors import HeadstartError
from headstart.common.machine import cpus

COMPUTING = frozenset({"evaluate", "extract", "fit", "predict", "sweep"})
"""commands that import one framework, in the process itself"""
APART = frozenset({"--help", "--ray", "--devices"})
"""options with which they do not, or others do"""
FILE = ".onnx"  # what is run without a framework
BACKEND = "--backend"


def load_ahead(words: Sequence[str]) -> threading.Thread | None:
    """Begin to load what the command of these words is going to need; Python does not end before that has. None
    where it needs no framework, or nobody knows which, or there is no core for it."""
    if cpus() < 2 or not COMPUTING & set(words[:1]) or _is_apart(words):
        return None
    from headstart.contract import registry

    try:
        description = registry.describe(registry.choose(_named(words)))
    except HeadstartError:
        return None
    spec = find_spec(description.modules[0])
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    files = [folder / name for name in description.libraries]
    if not files or not files[0].is_file():
        return None
    thread = threading.Thread(target=_load, args=(files,), name="headstart libraries")
    thread.start()
    return thread


def _is_apart(words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in APART or word.lower().endswith(FILE) for word in words)


def _named(words: Sequence[str]) -> str | None:
    """The backend that the words name; of several the last counts."""
    name = None
    for i, word in enumerate(words):
        if word.startswith(f"{BACKEND}="):
            name = word.partition("=")[2]
        elif word == BACKEND and i + 1 < len(words):
            name = words[i + 1]
    return name


def _load(files: Iterable[Path]) -> None:
    """In the order in which the framework would."""
    try:
        for file in files:
            if file.is_file():
                ctypes.CDLL(str(file))
    except OSError:  # it is going to say so itself
        return
