"""What tests of commands share: `headstart WORDS`, in this process, processes that are interrupted, and children
of `compare` that are disturbed."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from headstart.cli import main as cli


class Result(NamedTuple):
    code: int
    out: str
    err: str


def headstart(*words: object) -> Result:
    """What the console script's function prints, and how it ends."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["headstart", *map(str, words)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as leave:
        code = leave.code
    finally:
        sys.argv = before
    return Result(code or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def heeded_ctrl_c() -> Iterator[None]:
    """What is started here ends by SIGINT, though these tests themselves may be what a shell has started in the
    background: with SIGINT ignored, which children inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def disturbed(folder: Path, code: str) -> dict[str, str]:
    """An environment in which `code` runs at the start of every child of `compare`, and of nothing else: through a
    `sitecustomize` on its path, since it takes no orders but a `CompareArguments`."""
    folder.mkdir(exist_ok=True)
    only_children = 'import sys\nif "headstart.training.compare" in sys.orig_argv:\n'
    lines = ["import os, resource", "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", *code.strip().splitlines()]
    (folder / "sitecustomize.py").write_text(only_children + "\n".join(f"    {line}" for line in lines) + "\n")
    return {"PYTHONPATH": str(folder)}
