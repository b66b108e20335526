"""The actor, before it can import anything: it goes to its node as code, needs nothing but Python there, and says
what it lacks in one line. What it does then is `worker`'s.

Invariant: how many threads compute, and what the environment says, is settled before a framework is imported.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import traceback
from typing import Any


def describe_node() -> str:
    """As a line names it: the machine, Ray's own name for it, and this process."""
    import ray

    context = ray.get_runtime_context()
    return f"{socket.gethostname()} (node {context.get_node_id()[:8]}, process {os.getpid()})"


def sees(path: str, text: str) -> tuple[str, bool]:
    """Whether the file is there, with this text: (node, answer)."""
    try:
        with open(path) as file:  # noqa: PTH123
            return describe_node(), file.read() == text
    except OSError:
        return describe_node(), False


class Host:
    """Starts a worker, has it work, and answers beside that how far it is."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._ended = threading.Event()

    def start(
        self, environment: dict[str, str], folder: str, parcel: bytes, params: dict[str, Any]
    ) -> tuple[str, str, str]:
        """(node, what is wrong here or "", the device). `environment`: variables to set; `folder`: to work in,
        where it is there too; `parcel`, `params`: of `TaskWorker`."""
        node = describe_node()
        try:
            os.environ.update(environment)
            if os.path.isdir(folder):  # noqa: PTH112
                os.chdir(folder)
            worker = importlib.import_module("headstart.features.engines.worker")
            self._worker = worker.TaskWorker(parcel, params, node, self._ended.is_set)
            return node, "", self._worker.device
        except Exception as error:
            text = str(error).strip() or traceback.format_exc().strip().splitlines()[-1]
            kind = "" if type(error).__module__.startswith("headstart.") else f"{type(error).__name__}: "
            return node, kind + text.splitlines()[0], ""

    def work(self, task: Any) -> Any:
        """An `Outcome`."""
        return self._worker.work(task)

    def done(self) -> int:
        """Samples of the task that is under way."""
        return 0 if self._worker is None else int(self._worker.done)

    def end(self) -> None:
        """Have the task that is under way store what it has, and end."""
        self._ended.set()
