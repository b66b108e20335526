"""Where the console script starts, so that `headstart --help` comes at once.

Nothing that is imported becomes garbage. Python looks for garbage in it all the same, each time that some hundred
objects more have come: a twelfth of what `headstart --help` took. And as it ends, it looks through all that was
imported, several times: with a framework 0.3 s. What a command writes is closed by then, and what libraries do at
the end (`atexit`, `weakref.finalize`) they still do.

Invariant: how a command has ended is the exit code, whenever else Ctrl-C is pressed. Python and a framework take
up to a second to end, in which a Ctrl-C would end the process by a signal, as if nothing had been kept.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import Any

from headstart.cli.signals import exit_code, heed

COUNTS_LEFTOVERS = "triton._C"
"""bindings that list on standard error what Python has not freed as it ends, below the results"""


def main() -> None:
    """The console script: the command is imported without a search for garbage, and run with it."""
    # What is registered first is called last, behind all that libraries do at the end.
    atexit.register(_ignore_ctrl_c)
    atexit.register(_let_leftovers_go)
    heed()
    code: Any = 1  # of a traceback
    try:
        _run()
        code = 0
    except SystemExit as leave:
        code = leave.code
        raise
    except KeyboardInterrupt:  # while it was imported, or a second one as the first was told
        code = exit_code()
        if "--debug" in sys.argv:
            raise
        raise SystemExit(code) from None
    finally:
        atexit.register(_end_as, code)  # not yet: whoever calls this from Python may go on


def _end_as(code: Any) -> None:
    """From now on Ctrl-C changes nothing, and a second one ends the process at once, with this exit code: a
    library may keep it waiting."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # in what a shell has started in the background it is ignored already

    def at_once(*_: object) -> None:
        os._exit(code or 0)

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, at_once)

    signal.signal(signal.SIGINT, once)


def _ignore_ctrl_c() -> None:
    """For the rest, in which Python forgets its handlers, and waits for nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _let_leftovers_go() -> None:
    """Python looks through everything as it ends after all, where somebody counts what it would not look at."""
    if COUNTS_LEFTOVERS in sys.modules:
        gc.unfreeze()


def _run() -> None:
    searches = gc.isenabled()
    gc.disable()
    try:
        from headstart.cli.main import main as command  # here, behind gc.disable
    finally:
        gc.freeze()  # nor is it looked for among these later
        if searches:
            gc.enable()
    try:
        command()
    finally:
        gc.freeze()
