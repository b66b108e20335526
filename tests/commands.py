"""`headstart WORDS`, in this process: what tests of commands share."""

from __future__ import annotations

import contextlib
import io
import sys
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
