"""Processes that are there to be killed. They are forked from one that has imported already what they need: what a
killed process leaves is the same, and to import a framework takes seconds, each time.

`python victims.py MODULE ...` is the one that forks: for every job, a line of JSON on standard input, it answers
with the process's id, and, once that has ended, with its exit status.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from select import select

MODULES = ("headstart.testing", "headstart.training.fit", "headstart.features.extract")


class Victim:
    """A process, until it has ended."""

    def __init__(self, server: subprocess.Popen[str], job: dict[str, object]) -> None:
        assert server.stdin is not None and server.stdout is not None
        self.answers = server.stdout
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pid = int(self.answers.readline())

    def is_running(self) -> bool:
        return not select([self.answers], [], [], 0)[0]

    def kill(self) -> int:
        """Its exit status, as `subprocess` has it: -SIGKILL, but where it had ended before."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(int(self.answers.readline()))


class Victims:
    """What starts them, one after the other."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self.server = server

    def start(self, program: str, *arguments: object, **environment: str) -> Victim:
        """A process in which this text is run as `python -c` runs it, with this test's environment and more."""
        told = {**os.environ, **environment}
        return Victim(self.server, {"program": program, "arguments": [*map(str, arguments)], "environment": told})


@contextmanager
def victims(*modules: str) -> Iterator[Victims]:
    """`modules`: what is imported before, beside this package's own; of the tests', too."""
    with subprocess.Popen(
        [sys.executable, __file__, *MODULES, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Victims(server)


def _run(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    """In a child, which does not come back."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)  # what it prints is no answer
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    try:
        exec(program, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    for module in sys.argv[1:]:
        import_module(module)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(**json.loads(line))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
