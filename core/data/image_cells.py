"""The cells of a table that say which image a row is about: the name of a file, or the bytes of one.

Invariant: a file that is not there is said with its row, before anything is computed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError
from headstart.common.objects import normal_url
from headstart.data.columns import is_missing
from headstart.data.dataset import Skipped, Unread
from headstart.data.file_system import Files
from headstart.data.formats import SUFFIXES
from headstart.data.frames import Column, Frame
from headstart.data.layouts import URL
from headstart.data.place import FILE, REMOTE, is_remote, joined, name_of, place_of

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


def files_of(images: Column, column: str, root: str, place: Any) -> list[str]:
    """The path, or URL, of each row's file. `root`: the folder, or its URL, that names are relative to."""
    files = []
    before = joined(root, "x")[:-1]
    odd = ("//", "/.") if is_remote(root) else ()  # which no server takes away, as an operating system does
    for i, image in enumerate(images):
        if (
            type(image) is str
            and image
            and image[0].isalnum()
            and ":" not in image
            and not any(part in image for part in odd)
        ):
            files.append(before + image)  # a plain relative name; the others in full
            continue
        if isinstance(image, dict):
            image = image.get("path")
        if is_missing(image) or not isinstance(image, str | os.PathLike):
            raise DataError(f"{place(i)} names no image in column {column!r} ({image!r:.40})")
        files.append(_file_of(os.fspath(image), root, place, i))
    return files


def _file_of(name: str, root: str, place: Any, row: int) -> str:
    if is_remote(name):
        return normal_url(name)
    if name.startswith(FILE):
        return place_of(name)
    if is_remote(root) and name.startswith("/"):
        raise DataError(
            f"{place(row)} names the file {name}; expected a name relative to {root}, or a URL that begins with "
            f"{', '.join(REMOTE)}"
        )
    return joined(root, name)


def files_there(
    files: list[str], places: Files, frame: Frame, root: str, place: Any, on_error: str
) -> tuple[list[int], list[Skipped]]:
    """The rows whose files are there. `places`: where they lie."""
    missing = [i for i, is_there in enumerate(places.there(files)) if not is_there]
    if not missing:
        return list(range(len(files))), []
    if on_error == "raise" or len(missing) == len(files):
        first = "; ".join(f"{files[i]} ({place(i)})" for i in missing[:SHOWN])
        skip = ', or leave them out: on_error="skip" (--on-error skip)' if len(missing) < len(files) else ""
        raise DataError(
            f"{len(missing):,} of the {len(files):,} files that {frame.name} names "
            f"{'is' if len(missing) == 1 else 'are'} not there, the first: "
            f"{first}. {_hint(files[missing[0]], places, root)}{skip}"
        )
    gone = set(missing)
    return [i for i in range(len(files)) if i not in gone], [
        Unread(files[i], f"is not there ({place(i)} of {frame.name})") for i in missing
    ]


def _hint(path: str, places: Files, root: str) -> str:
    """What may be wrong with the name of a file that is not there."""
    there = places.of(path)
    for suffix in SUFFIXES:
        if there.is_file(path + suffix):
            return f"There is a {name_of(path + suffix)}: write the names with their suffix"
    if "\\" in path and there.is_file(path.replace("\\", "/")):
        return "The names have backslashes: write them with /"
    if URL.match(path.removeprefix(joined(root, "x")[:-1])) and not is_remote(path):
        return "They are addresses that are not read here: download them"
    if is_remote(path):
        return f"Names are relative to {root}, or URLs: root= (--root) says where they are"
    return f"Names are relative to {Path(root).absolute()}: root= (--root) says where they are"
