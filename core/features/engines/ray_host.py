"""The actor, before it can import anything: it goes to its node as code, needs nothing but Python there, and says
what it lacks in one line. What it does then is `worker`'s.

Invariants:

* How many threads compute, and what the environment says, is settled before a framework is imported.
* One call is made at a time, by the process's main thread. With concurrency groups a thread of Ray's pool makes
  it, and the main thread takes 0.5 % of a CPU for waiting.
"""

from __future__ import annotations

import importlib
import os
import socket
import traceback
from collections.abc import Iterator
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
    """Starts a worker, and has it work."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._last: tuple[int, Any] = 0, None

    def start(
        self, environment: dict[str, str], folder: str, parcel: bytes, params: dict[str, Any]
    ) -> tuple[str, str, str]:
        """(node, what is wrong here or "", the device). `environment`: variables to set; `folder`: to work in,
        where it is there too; `parcel`, `params`: of `TaskWorker`."""
        import ray

        node, context = describe_node(), ray.get_runtime_context()
        try:
            os.environ.update(environment)
            if os.path.isdir(folder):  # noqa: PTH112
                os.chdir(folder)
            worker = importlib.import_module("headstart.features.engines.worker")
            self._worker = worker.TaskWorker(parcel, params, node, context.is_canceled)
            return node, "", self._worker.device
        except Exception as error:
            text = str(error).strip() or traceback.format_exc().strip().splitlines()[-1]
            kind = "" if type(error).__module__.startswith("headstart.") else f"{type(error).__name__}: "
            return node, kind + text.splitlines()[0], ""

    def work(self, number: int, task: Any) -> Iterator[Any]:
        """How many samples of the task are done, now and then, and an `Outcome` in the end. Cancelled, it stores
        what it has, and ends."""
        for said in self._worker.work(task):
            self._last = number, said
            yield said

    def last(self, number: int) -> Any:
        """What was said last of a task, also of one that was cancelled; None where it was not begun."""
        return self._last[1] if self._last[0] == number else None
