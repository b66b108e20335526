"""What a data set leaves out: files, folders and rows, listed with the reason, and how that is asked for."""

from __future__ import annotations

from typing import NamedTuple

from headstart.common.errors import UnknownNameError

ON_ERROR = ("raise", "skip")
SKIP = 'on_error="skip" (--on-error skip)'
"""how messages name the option, in Python and on the command line"""


class Skipped(NamedTuple):
    """A file or folder that was left out, and why."""

    path: str
    reason: str


class Unread(Skipped):
    """One that could not be read: what it holds is not known, so nobody may take it for gone."""


def check_on_error(on_error: str) -> None:
    """UnknownNameError for what is none of `ON_ERROR`."""
    if on_error not in ON_ERROR:
        raise UnknownNameError("on_error", on_error, ON_ERROR)
