"""Where the console script starts, so that `headstart --help` comes at once.

Nothing that is imported becomes garbage. Python looks for garbage in it all the same, each time that some hundred
objects more have come: a twelfth of what `headstart --help` took. And as it ends, it looks through all that was
imported, several times: with a framework 0.3 s. What a command writes is closed by then, and what libraries do at
the end (`atexit`, `weakref.finalize`) they still do.
"""

from __future__ import annotations

import gc


def main() -> None:
    """The console script: the command is imported without a search for garbage, and run with it."""
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
