"""A command's arguments before they are parsed, and failures to write its results after it has computed them.

Invariant: an empty argument, of a variable of the shell that is not set, never becomes the folder one is in; and a
result that could not be written is still printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from headstart.common.errors import HeadstartError, SettingError

T = TypeVar("T")
EMPTY_OPTION = re.compile(r"--[\w-]+=")
NO_PATH = "- stands for no file here: /dev/stdout is the standard output, and ./- a file of that name"

_failures: list[HeadstartError] = []


def check_arguments(arguments: Sequence[str]) -> None:
    """SettingError for what no command can mean: an empty argument, "-", a current folder that is gone."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or EMPTY_OPTION.fullmatch(argument):
            option = argument[:-1] or (before if before.startswith("--") else "")
            what = f"the value of {option} is empty" if option else "an argument is empty"
            raise SettingError(f"{what}; is a variable of the shell not set?")
        if argument == "-":
            raise SettingError(f"{before} -: {NO_PATH}" if before.startswith("--") else NO_PATH)
    try:
        os.getcwd()  # noqa: PTH109 - only whether there is one
    except OSError as error:
        raise SettingError(
            f"the current folder cannot be found ({error.strerror}); cd to one that is there"
        ) from error


@contextmanager
def failures_told_last() -> Iterator[None]:
    """While the body runs, `attempt` puts errors off until its end. The first is raised then, unless the body
    itself fails."""
    _failures.clear()
    yield
    if _failures:
        raise _failures[0]


def attempt(write: Callable[[], T]) -> T | None:
    """What `write` returns. None where it raised an error of ours, which is told when all has been printed."""
    try:
        return write()
    except HeadstartError as error:
        _failures.append(error)
        return None
