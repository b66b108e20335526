"""What a command writes lies apart from what it reads.

Invariant: no file that a command line names to be read is replaced by its results.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.common.text import printable

FILES = ("--json", "--csv", "--parquet", "--report", "--out")
"""options of files, or folders, that are written"""
FOLDERS = ("--out", "--save", "--checkpoint", "--tensorboard", "--profile")
RECORDS = ("run.json", "features.json", "compare.json")
"""of a saved run, feature set and comparison"""
DATA = ("--data", "--val", "--test")


def check_apart(words: Sequence[str]) -> None:
    """SettingError where one of these words is a file that is going to be written, and another names it to be
    read: a table of labels would be replaced by what was found in it. A warning for a folder that is going to be
    written within data, which are read with it from then on."""
    values = list(_values(words))
    read = [value for option, value in values if option not in FILES]
    for option, value in values:
        if option in FILES and _path(value).is_file() and any(_is_same(value, other) for other in read):
            raise SettingError(f"{option} {value}: this file is read, and would be replaced; name another")
        for data_option, data in values if option in FOLDERS else ():
            if data_option in DATA and _lies_in(value, data):
                LOG.warning(
                    "%s %s lies in %s %s: who reads these data again reads it with them; name a folder elsewhere",
                    option, printable(value), data_option, printable(data),
                )  # fmt: skip


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The values, each with its option, "" where it is told by its place. A flag's is what follows it, too."""
    option = ""
    for at, word in enumerate(words):
        if word == "--":
            yield from (("", rest) for rest in words[at + 1 :])
            return
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            yield option, word
            option = ""
        elif equals:
            yield name, value
        else:
            option = name


def _path(value: str) -> Path:
    return Path(os.path.expanduser(value))  # noqa: PTH111 - Path's raises for a user who is not known


def _is_same(value: str, other: str) -> bool:
    """Whether both name one file, links followed, or the other is the folder of a run that the file is the record
    of."""
    try:
        path, place = _path(value), _path(other)
        return path.samefile(place) or (path.name in RECORDS and path.parent.samefile(place))
    except (OSError, ValueError):
        return False


def _lies_in(value: str, folder: str) -> bool:
    try:
        return bool(value) and _path(folder).is_dir() and _path(folder).resolve() in _path(value).resolve().parents
    except (OSError, ValueError, RuntimeError):
        return False
