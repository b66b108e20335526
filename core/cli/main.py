"""The console script: from the words of a command line to an exit code.

A user's mistake is one line on standard error and exit code 2; a traceback comes only with --debug. Results go
to standard output, everything about progress to standard error.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import CycloptsError

from headstart.cli.app import build
from headstart.cli.arguments import MISTAKE, check_arguments, mistake
from headstart.cli.results import failures_told_last
from headstart.cli.signals import exit_code
from headstart.cli.streams import UNPRINTED, standard_streams, unprinted
from headstart.common.errors import HeadstartError
from headstart.common.log import LOG, handed_to, to_stderr
from headstart.common.text import say


def main() -> None:
    """The console script."""
    with standard_streams() as (out, _):
        code = _run(sys.argv[1:])
        out.flush()
        if (lost := unprinted(out)) is not None:
            say(lost, err=True)
    code = code or (UNPRINTED if out.failure is not None else 0)
    if code:
        sys.exit(code)


def _run(words: Sequence[str]) -> int:
    """The exit code of a command of these words."""
    app = build(words)
    try:
        check_arguments(words)
        with warnings.catch_warnings(), handed_to(to_stderr), failures_told_last():
            _tell_warnings_in_one_line()
            code = app.meta(words, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, HeadstartError, KeyboardInterrupt) as error:
        if "--debug" in words:
            raise
        if isinstance(error, KeyboardInterrupt):
            say(error if isinstance(error, HeadstartError) else "interrupted", err=True)
            return exit_code()
        say(f"error: {mistake(error)}", err=True)
        return MISTAKE
    return code or 0


def _tell_warnings_in_one_line() -> None:
    """Those of our own, without the place in our code that gave them."""
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__ == HeadstartError.__module__:
            LOG.warning("%s", message)
        else:
            show(message, category, *place, **more)

    warnings.showwarning = tell
