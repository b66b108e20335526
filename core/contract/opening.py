"""A file of a framework's own, opened in a process of its own: nothing of what has written it is there, so it is
run as somebody runs it who has the file and the framework.

`python -m headstart.contract.opening LOADER PATH` is that process. It says what the file holds and then, for every
batch on its standard input, what the file makes of it. Answers are pickled, between two processes of one user.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from headstart.common.environment import for_child
from headstart.common.errors import ExportError
from headstart.common.text import end_text, shortened
from headstart.contract.programs import loader

WORDS_LENGTH = 2000
NO_CARDS = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
"""The file is run on the CPU. Some frameworks take most of a card's memory as soon as they see it, which is the
training's own."""


class FileProcess:
    """An opened file, in its process, which ends with this object."""

    def __init__(
        self, path: Path, loader: str, quiet: Mapping[str, str], environment: Mapping[str, str] = {}
    ) -> None:
        """`loader`: the module's name. `quiet`: of the backend's description; `environment`: of the format's.
        Raises ExportError where the file cannot be opened, in the framework's words."""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115, which is closed with the process
        self._process = subprocess.Popen(
            # -P: a folder called torch in the working directory must not be taken for the framework
            [sys.executable, "-P", "-m", __name__, loader, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**for_child(quiet), **NO_CARDS, **environment},
            start_new_session=True,  # Ctrl-C comes to us alone, and ends both
        )
        weakref.finalize(self, _end, self._process, self._words)
        self.texts: Mapping[str, str] = self._answer()

    def run(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """A batch by the names of the file's inputs -> its outputs. Raises ExportError where it cannot be run, in
        the framework's words."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended is in what it answers
            pickle.dump(dict(arrays), self._process.stdin)
            self._process.stdin.flush()
        answer: Mapping[str, np.ndarray] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            is_well, answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            self._words.seek(0)
            words = " ".join(self._words.read()[-WORDS_LENGTH:].decode(errors="replace").split())
            raise ExportError(f"the process that ran it ended with {end_text(code)}: {words}") from None
        if not is_well:
            raise ExportError(answer)
        return answer


def _end(process: subprocess.Popen[bytes], words: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, words):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def main() -> None:
    module, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no answer

    def answer(is_well: bool, what: Any) -> None:
        pickle.dump((is_well, what), answers)
        answers.flush()

    try:
        texts, run = loader(module).load(path)
        answer(True, dict(texts))
        while True:
            try:
                arrays = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            answer(True, {name: np.asarray(value) for name, value in run(arrays).items()})
    except ExportError as error:
        answer(False, str(error))
    except Exception as error:  # of a program of somebody else's
        answer(False, shortened(f"{type(error).__name__}: {error}", WORDS_LENGTH))


if __name__ == "__main__":
    main()
