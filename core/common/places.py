"""Where files are: paths as people write them, and the folders of a user's that headstart keeps things in."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Literal

from headstart.common.errors import SettingError
from headstart.common.redact import redacted

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+[^/]")
"""of a path: what an address is, or was before it was made a `Path`, which drops a slash"""


_MENDED = {
    errno.EACCES: "name one that this user may enter, or have its owner allow it",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "name what the links were to lead to",
}
"""what the system says of a path that nobody, or not this user, can follow, where `Path.is_file` raises instead
of answering; and what to do"""

SHOWN = 300
"""characters of a path in a message"""


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` as the user's home folder. SettingError where there is none to be found, and for what is
    no path: an empty one, of a variable that is not set, would be the folder one is in, and `s3://bucket/run` one
    in a folder `s3:`, where nobody looks. And as `reachable` does."""
    return reachable(spelled_out(path))


def spelled_out(path: str | os.PathLike[str]) -> Path:
    """As `expanded`, of a path that need not be reachable now."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise SettingError(f"the path is {path!r:.80}; expected that of a file or folder")
    text = os.fspath(path)
    if ADDRESS.match(text) and not os.path.lexists(path):
        address = redacted(re.sub(":/+", "://", text, count=1))
        raise SettingError(
            f"{address} is an address; expected the path of a file or folder of this machine: only data and "
            "shared caches are read from URLs"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingError(
            f"{path}: there is no home folder that '~' could mean; pass the path in full, or set HOME"
        ) from None


def reachable(path: Path) -> Path:
    """The path as it is. SettingError where it is in a folder, or is one, that this user may not enter, and where
    its name is longer than the system allows: no question about it, or about what is in it, has an answer then."""
    try:
        os.stat(os.path.join(path, "."))  # noqa: PTH116, PTH118 - a Path would drop the "."
    except ValueError:  # a NUL in it: whoever opens it says so
        pass
    except OSError as error:
        if error.errno in _MENDED:
            text = str(path)
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            raise SettingError(f"{shown}: cannot be reached ({error.strerror}); {_MENDED[error.errno]}") from None
    return path


def user_cache(appauthor: str | Literal[False] | None = None) -> Path:
    """The user's folder for what headstart keeps. SettingError where the user has no home folder."""
    from platformdirs import user_cache_path  # only here: importing headstart should cost nothing

    try:
        return user_cache_path("headstart", appauthor)
    except RuntimeError:
        raise SettingError(
            "there is no home folder to keep anything in; set HEADSTART_CACHE and HEADSTART_DATA, or HOME"
        ) from None


def data_root(root: str | Path | None = None) -> Path:
    """Where downloads are kept: `root`, else `HEADSTART_DATA`, else in the user's cache directory."""
    if root is None:
        root = os.environ.get("HEADSTART_DATA") or None
    if root is not None:
        return expanded(root)
    return user_cache(appauthor=False) / "data"
