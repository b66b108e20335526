"""The cells of a table that say which image a row is about: the name of a file, or the bytes of one.

Invariant: a file that is not there is said with its row, before anything is computed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError
from headstart.data.columns import is_missing
from headstart.data.dataset import Skipped, Unread
from headstart.data.formats import SUFFIXES
from headstart.data.frames import Column, Frame
from headstart.data.layouts import URL

SHOWN = 3


def holds_bytes(images: Column, column: str, place: Any) -> bool:
    """Whether the cells are image files, and not their names. DataError where they are neither."""
    first = images[0]
    if isinstance(first, bytes | bytearray | memoryview):
        return True
    if isinstance(first, dict) and isinstance(first.get("bytes"), bytes):
        return True
    if not isinstance(first, str | os.PathLike) and not (isinstance(first, dict) and first.get("path")):
        raise DataError(
            f"the image of {place(0)} in column {column!r} is a {type(first).__name__}; expected the name of a "
            "file, "
            "or the bytes of one"
        )
    return False


def bytes_of(cell: Any) -> bytes:
    """An image file that is a cell; of one that is too large as many bytes as tell that."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes | bytearray | memoryview):
        return b""  # decoding says that it is empty
    return bytes(content)


def files_of(images: Column, column: str, root: Path, place: Any) -> list[str]:
    """The path of each row's file."""
    files = []
    before = _in(root)
    for i, image in enumerate(images):
        if type(image) is str and image and image[0].isalnum() and not (os.name == "nt" and ":" in image):
            files.append(before + image)  # a plain relative name; the others in full
            continue
        if isinstance(image, dict):
            image = image.get("path")
        if is_missing(image) or not isinstance(image, str | os.PathLike):
            raise DataError(f"{place(i)} names no image in column {column!r} ({image!r:.40})")
        files.append(str(root / image))
    return files


def _in(root: Path) -> str:
    """What stands before the plain names of files in a folder."""
    return str(Path(root, "x"))[:-1]


def files_there(
    files: list[str], frame: Frame, root: Path, place: Any, on_error: str
) -> tuple[list[int], list[Skipped]]:
    """The rows whose files are there. Folders are listed, each once: a million files are not asked for one by
    one."""
    listed: dict[str, set[str]] = {}
    missing = []
    for i, path in enumerate(files):
        folder, _, name = path.rpartition(os.sep)
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder or "." if folder or os.sep not in path else os.sep))  # noqa: PTH208 - names only, ten times as fast
            except OSError:
                listed[folder] = set()
        if name not in listed[folder] and not os.path.exists(path):  # noqa: PTH110 - capitals, or ..
            missing.append(i)
    if not missing:
        return list(range(len(files))), []
    if on_error == "raise" or len(missing) == len(files):
        first = "; ".join(f"{files[i]} ({place(i)})" for i in missing[:SHOWN])
        skip = ', or leave them out: on_error="skip" (--on-error skip)' if len(missing) < len(files) else ""
        raise DataError(
            f"{len(missing):,} of the {len(files):,} files that {frame.name} names "
            f"{'is' if len(missing) == 1 else 'are'} not there, the first: "
            f"{first}. {_hint(files[missing[0]], root)}{skip}"
        )
    gone = set(missing)
    return [i for i in range(len(files)) if i not in gone], [
        Unread(files[i], f"is not there ({place(i)} of {frame.name})") for i in missing
    ]


def _hint(path: str, root: Path) -> str:
    """What may be wrong with the name of a file that is not there."""
    for suffix in SUFFIXES:
        if Path(path + suffix).is_file():
            return f"There is a {Path(path + suffix).name}: write the names with their suffix"
    if "\\" in path and Path(path.replace("\\", "/")).is_file():
        return "The names have backslashes: write them with /"
    if URL.match(path.removeprefix(_in(root))):
        return "They are addresses, and images are read from this machine only: download them"
    return f"Names are relative to {root.absolute()}: root= (--root) says where they are"
