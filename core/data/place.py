"""Where data lie, as people write it: a path, with `~` for a home folder, or the URL of an object store.

Invariant: what comes out is the path of a file or folder here, or begins with one of `REMOTE`; `file:///photos` is
the path /photos.
"""

from __future__ import annotations

import os
import posixpath
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headstart.common.objects import normal_url, open_objects

REMOTE = ("s3://", "gs://", "az://")
FILE = "file://"


def expanded(path: str | Path) -> Path:
    """The path with `~` for a home folder, where there is such a one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises for a user who is not known


def is_remote(place: object) -> bool:
    """Whether this is the URL of a bucket, or of something in one."""
    return isinstance(place, str) and place.startswith(REMOTE)


def place_of(path: str | os.PathLike[str]) -> str:
    """The path, or the URL as `normal_url` has it. Nothing is looked up. SettingError for a URL that holds
    credentials or options, or names no bucket; RemoteError where obstore is not installed."""
    text = os.fspath(path)
    if is_remote(path):
        parts = urlsplit(text)
        if parts.query or parts.fragment or "@" in parts.netloc:
            open_objects(text)
        _check_bucket(bucket_of(text))
        return normal_url(text)
    if isinstance(path, str) and text.startswith(FILE):
        open_objects(text)
        return unquote(urlsplit(text).path)
    return str(expanded(text))


@lru_cache(maxsize=64)
def _check_bucket(url: str) -> None:
    """What `open_objects` finds wrong with it; once, and not for each of a million names."""
    open_objects(url)


def bucket_of(url: str) -> str:
    """The URL of the bucket that a URL names something in."""
    return "/".join(url.split("/", 3)[:3])


def joined(folder: str, name: str) -> str:
    """What a name is, relative to a folder."""
    if not is_remote(folder):
        return str(Path(folder, name))
    bucket = bucket_of(folder)
    return bucket + posixpath.normpath(posixpath.join(folder.removeprefix(bucket) or "/", name))


def absolute(places: list[str]) -> list[str]:
    """Where these are, wherever this process goes; they themselves where all say that."""
    if all(is_remote(place) or os.path.isabs(place) for place in places):  # noqa: PTH117 - a million times
        return places
    folder = current_folder()
    return [place if is_remote(place) else os.path.join(folder, place) for place in places]  # noqa: PTH118


def current_folder() -> str:
    """The folder that this process is in; "" where it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return ""


def parent_of(place: str) -> str:
    """The folder that a place is in."""
    return place.rpartition("/")[0] if is_remote(place) else str(Path(place).parent)


def name_of(place: str) -> str:
    """The last part of a place."""
    return place.rstrip("/").rpartition("/")[2] if is_remote(place) else Path(place).name


def stem_of(place: str) -> str:
    """What a data set of a table is called: the file's name without its ending; a URL as it is."""
    return place if is_remote(place) else Path(place).stem


def suffix_of(place: str | os.PathLike[str]) -> str:
    """The ending of a file's name, in small letters."""
    return Path(name_of(place) if isinstance(place, str) else place).suffix.lower()
