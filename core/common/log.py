"""What headstart says while it works goes to the logger "headstart": a line an epoch and what was decided at level
info, details at debug. As a library it is silent until a program sets logging up; the command shows it on standard
error (`--log-level`), and a child process hands it to its parent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headstart.common.errors import UnknownNameError
from headstart.common.text import say

LOG = logging.getLogger("headstart")
LOG.addHandler(logging.NullHandler())
VARIABLE = "HEADSTART_LOG_LEVEL"
LEVELS = ("debug", "info", "warning", "error")
IN_RESULT = "in_result"
"""the attribute of records that say what the result says as well"""


def set_level(name: str) -> None:
    """Show records of this level and above, here and in child processes. UnknownNameError for no level."""
    if name not in LEVELS:
        raise UnknownNameError("log level", name, LEVELS)
    os.environ[VARIABLE] = name
    LOG.setLevel(name.upper())


class _Calling(logging.Handler):
    """Hands lines on, with their levels."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.tell(record.levelno, record.getMessage())
        except Exception:
            self.handleError(record)


@contextmanager
def handed_to(tell: Callable[[int, str], None]) -> Iterator[None]:
    """While the body runs, call `tell(level, line)` for every record, and nothing else; the level is what
    HEADSTART_LOG_LEVEL says, or info."""
    handler, before, kept = _Calling(tell), (LOG.level, LOG.propagate), os.environ.get(VARIABLE)
    LOG.addHandler(handler)
    LOG.propagate = False
    try:
        set_level(kept or "info")
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before[0])
        LOG.propagate = before[1]
        if kept is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = kept


@contextmanager
def result_follows() -> Iterator[None]:
    """While the body runs, leave out what is said once more where its result is shown."""

    def is_news(record: logging.LogRecord) -> bool:
        return not getattr(record, IN_RESULT, False)

    LOG.addFilter(is_news)
    try:
        yield
    finally:
        LOG.removeFilter(is_news)


def to_stderr(level: int, line: str) -> None:
    """A plain line; warnings and worse say that they are."""
    prefix = f"{logging.getLevelName(level).lower()}: " if level != logging.INFO else ""
    say(f"{prefix}{line}", err=True)
