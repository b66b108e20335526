"""Questions that may break whoever asks them, each answered by a process of its own: what a framework says of its
devices, whether a store behind a URL or the model hub answers.

A framework may be installed and broken: importing it raises, ends the process, or never comes back. A resolver of
names may wait far longer than any timeout of a request.

Invariant: whatever becomes of the process, the one that asks goes on, after `seconds` at the latest, and has
either an answer or the last line of what the process said. What is asked goes through a pipe, as a URL may hold a
secret and a command line is everybody's to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

from headstart.common.environment import for_child
from headstart.common.errors import BackendError, HeadstartError
from headstart.common.text import end_text

MOST_DEVICES = 64  # of a kind
HUB_SECONDS = 3.0


class Asked:
    """A question that is being answered. Use it with `with`, or end it with `close`."""

    def __init__(self, question: str, subject: str, quiet: Mapping[str, str] | None = None) -> None:
        """`question`: of `ANSWERS`. `quiet`: of a backend's description."""
        self._started = time.monotonic()
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: a folder called torch in the working directory must not be taken for the framework
            [sys.executable, "-P", "-m", __name__, question],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._words,
            env=for_child(quiet or {}),
            start_new_session=True,  # so that what it has started itself ends with it
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(subject.encode())

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and whatever it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:  # Windows, which has no groups: this process alone
                    self._process.kill()
            self._process.wait()
        self._out.close()
        self._words.close()

    def answer(self, seconds: float) -> dict[str, Any]:
        """What it has answered, `seconds` after it was asked at the latest: a dict that has "failed", a sentence,
        where there is no answer."""
        try:
            code = self._process.wait(max(0.0, self._started + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            return {"failed": f"no answer within {seconds:g} s{self._last_words()}"}
        self._out.seek(0)
        lines = self._out.read().decode(errors="replace").splitlines()
        if code == 0 and lines:
            with contextlib.suppress(json.JSONDecodeError):
                answer = json.loads(lines[-1])
                if isinstance(answer, dict):
                    return answer
        return {"failed": f"its process ended with {end_text(code)}{self._last_words()}"}

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1][:300]}" if lines else ""


def of_backend(name: str) -> dict[str, Any]:
    """Threads, the device that "auto" is, and facts of each device that is there."""
    from headstart.contract import registry
    from headstart.contract.description import FACTS

    description, backend = registry.describe(name), registry.load(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        auto = backend.place("auto", "float32").device
        devices: dict[str, Any] = {}
        for kind in description.devices:
            for index in range(1 if kind == "cpu" else MOST_DEVICES):
                try:
                    place = backend.place(f"{kind}:{index}" if index else kind, "float32")
                except BackendError:
                    break
                told = FACTS in description.abilities and kind != "cpu"
                devices[place.device] = dict(backend.device_facts(place)) if told else {}
    ours = [warning for warning in caught if warning.category.__module__ == HeadstartError.__module__]
    remarks = [str(warning.message) for warning in ours]
    return {"auto": auto, "devices": devices, "threads": backend.threads(), "remarks": remarks}


def of_remote(url: str) -> dict[str, Any]:
    """Whether the store behind a URL lets itself be listed."""
    from headstart.common.objects import open_objects

    next(open_objects(url).entries("features"), None)
    return {}


def of_hub(endpoint: str) -> dict[str, Any]:
    """The status that the model hub answers with."""
    from huggingface_hub.utils import get_session

    return {"status": get_session().head(endpoint, timeout=HUB_SECONDS).status_code}


ANSWERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "backend": of_backend,
    "remote": of_remote,
    "hub": of_hub,
}


def main() -> None:
    """The process that answers: its last line on standard output is the answer, as JSON."""
    question, subject = sys.argv[1], sys.stdin.read()
    try:
        answer = ANSWERS[question](subject)
    except HeadstartError as error:
        answer = {"failed": str(error)}
    except Exception as error:  # whatever a framework, a client or a server has thought of
        answer = {"failed": f"{type(error).__name__}: {error}"}
    print(f"\n{json.dumps(answer)}", flush=True)
    os._exit(0)  # what a framework does at its end is not what was asked


if __name__ == "__main__":
    main()
