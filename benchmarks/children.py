"""Processes with one framework each, that the benchmarks ask for what they time: both ends of the pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.contract import registry
from headstart.contract.protocol import Backend

asked_for = os.environ.get(registry.VARIABLE)
BACKENDS = (asked_for,) if asked_for else registry.installed()


class Child:
    """A process with one framework in it, that answers requests."""

    facts: dict[str, Any]

    def __init__(
        self, backend: str, script: str, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> None:
        """`script`: the file beside this one that is the child's end; it is told the backend, then `arguments`.
        `env`: its environment, None for this process's."""
        self.backend = backend
        command = [sys.executable, Path(__file__).with_name(script), backend, *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
        self.medians: dict[str, float] = {}

    def ask(self, **request: Any) -> Any:
        self.tell(**request)
        return self.answer()

    def tell(self, **request: Any) -> None:
        """Ask without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the {self.backend} worker ended with {self.process.wait()}"
        return json.loads(line)

    def close(self) -> None:
        with self.process:  # closes its pipes, at which it ends, and waits for it
            pass


def facts_of(backend: Backend, device: str | None = None, **more: Any) -> dict[str, Any]:
    """What a child says about itself, for the table's foot. `device`: where it computes; None: the backend's own
    choice. `more`: what else the benchmark has to say."""
    return {
        "device": device or backend.place("auto", "float32").device,
        "threads": backend.threads(),
        "versions": registry.versions(backend.name),
        **more,
    }


def precisions_of(backend: Backend) -> list[str]:
    """What it is timed in: "float32", and "bfloat16" where its device computes in that. A CPU without instructions
    for it takes float32 in its place, whose figures would be there twice."""
    return [name for name in ("float32", "bfloat16") if backend.place("auto", name).arithmetic == name]


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""those that the process began with, where the system says it"""


def keep_to_one_core(number: int = 0) -> None:
    """All threads that there are, where the system lets a process; to be done before a framework counts the cores.
    `number`: of the core, from the first on again where there are fewer."""
    threads = Path("/proc/self/task")
    for thread in threads.iterdir() if CORES and threads.exists() else ():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), {CORES[number % len(CORES)]})


def serve(make: Callable[[], Any]) -> None:
    """The child's end: a request a line, {"do": NAME, ...}, is answered by what `make` has made, by its method of
    that name with what else the request holds. Both are JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # frameworks print to standard output now and then
    os.dup2(2, 1)
    setting = make()
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(getattr(setting, request.pop("do"))(**request)) + "\n")
