"""One progress bar for everything slow (downloads, decoding, extraction), so that the rule of when to show
one is in one place: only on a terminal, only on standard error, and not where only warnings are wanted; in logs,
pipes and notebooks it is silent.
A process that works for another one hands its progress on instead, through `report_to`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headstart.common.log import LOG, VARIABLE
from headstart.common.text import printable

Reporter = Callable[[str, int, int | None], None]
REPORT_SECONDS = 0.2  # at most five reports a second, and the last

_reporter: Reporter | None = None
_showing = False


def report_to(reporter: Reporter | None) -> None:
    """From now on call `reporter(description, done, total)` instead of drawing; None draws again."""
    global _reporter
    _reporter = reporter


@contextmanager
def track(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a bar while the body runs; yields `advance(n=1, note="")`, which may be called from any thread. A note
    stands behind the bar until there is another. One inside of another is silent: two would take turns on one
    line.

    `total` is the number of steps (samples, bytes), None where it is not known.
    """
    if _reporter is not None:
        yield _reporting(_reporter, description, total)
        return
    global _showing
    quiet = LOG.getEffectiveLevel() > logging.INFO and bool(os.environ.get(VARIABLE))
    if _showing or quiet or sys.stderr is None or not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files come from anywhere
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    _showing = True
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(printable(description), total=total, note="")

            def advance(n: int = 1, note: str = "") -> None:
                progress.advance(task, n)
                if note:
                    progress.update(task, note=printable(note))

            yield advance
    finally:
        _showing = False


def _reporting(reporter: Reporter, description: str, total: int | None) -> Callable[..., None]:
    done, last, lock = 0, 0.0, threading.Lock()

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        with lock:
            done += n
            if time.monotonic() - last >= REPORT_SECONDS or done == total:  # its end is told in any case
                last = time.monotonic()
                reporter(description, done, total)

    return advance


def _silent(n: int = 1, note: str = "") -> None:
    pass
