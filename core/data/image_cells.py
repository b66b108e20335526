"""The cells of a table that say which image a row is about: the name of a file, or the bytes of one.

Invariant: a file that is not there is said with its row, before anything is computed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError, ImageError
from headstart.common.objects import normal_url
from headstart.common.text import shortened
from headstart.data.any_files import files_for
from headstart.data.columns import is_missing
from headstart.data.encoded import EncodedSource
from headstart.data.file_system import Files
from headstart.data.formats import SUFFIXES
from headstart.data.frames import Cells, Column, Frame
from headstart.data.layouts import URL
from headstart.data.left_out import SKIP, Skipped, Unread
from headstart.data.names import normal
from headstart.data.place import FILE, REMOTE, absolute, is_remote, joined, name_of, place_of

SHOWN = 3
HOME = "~/"
LONGEST = 255
"""bytes that file systems take for a name"""
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
"""how whole paths of Windows begin"""
MOST_CHARACTERS = 120  # of a name in a message
ENCODED = ("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""how the bytes of PNG, JPEG, GIF and WebP begin in base64, and what stands before such in web pages"""
ALIKE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("leave out the spaces around names", str.strip),
    (
        "one is composed (NFC) and one is not, as macOS has names; write them alike, by "
        "unicodedata.normalize('NFC', name)",
        normal,
    ),
    ("write capitals as the files have them", str.casefold),
)
"""what names may differ in -> what makes them equal then"""


def is_empty(cell: Any) -> bool:
    """Whether a cell holds neither an image nor the name of one."""
    if isinstance(cell, dict):
        return cell.get("bytes") is None and is_missing(cell.get("path"))
    return is_missing(cell)


def rows_with_images(
    name: str, images: Column, column: str, place: Any, on_error: str
) -> tuple[list[int] | None, list[Skipped]]:
    """The rows whose cells are not empty, None for all, and what was left out. DataError with
    `on_error="raise"` where one is, and where all are."""
    empty = images.empty() if isinstance(images, Cells) else [i for i, cell in enumerate(images) if is_empty(cell)]
    if not empty:
        return None, []
    if len(empty) == len(images):
        raise DataError(f"{name}: no row names an image in column {column!r}")
    what = f"{len(empty):,} of {len(images):,} rows name no image in {column!r}"
    if on_error == "raise":
        raise DataError(
            f"{name}: {what}, the first: {', '.join(map(place, empty[:SHOWN]))}. Fill them in, or leave these "
            f"rows out: {SKIP}"
        )
    left = set(empty)
    return [i for i in range(len(images)) if i not in left], [Skipped(name, what)]


def holds_bytes(images: Column, column: str, place: Any, at: int = 0) -> bool:
    """Whether any of the cells is an image file, and not the name of one. `at`: the first that is not empty.
    DataError where that one is neither."""
    first = images[at]
    if not _is_encoded(first) and not isinstance(first, str | os.PathLike) and not isinstance(first, dict):
        raise DataError(
            f"the image of {place(at)} in column {column!r} is a {type(first).__name__}; expected the name of a "
            "file, or the bytes of one (of pictures in memory: hs.data.arrays(list(images), labels))"
        )
    return images.any_bytes() if isinstance(images, Cells) else any(map(_is_encoded, images))


def _is_encoded(cell: Any) -> bool:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return isinstance(content, bytes | bytearray | memoryview)


def source_of(images: Column, root: str, table: str, place: Callable[[int], str], truncated: str) -> EncodedSource:
    """The image files that are cells, or that other cells name, relative to `root` as it is now, wherever this
    process goes. `table`, `place`: what messages call the table, and a row."""
    (root,) = absolute([root])

    def row_of(i: int) -> str:
        return f"{table}, {place(i)}"

    return EncodedSource(len(images), lambda i: _bytes_of(images[i], root, row_of(i)), row_of, truncated)


def _bytes_of(cell: Any, root: str, name: str) -> bytes:
    """Of a file that is too large as many bytes as tell that. Of an empty cell nothing: decoding says so."""
    if _is_encoded(cell):
        return bytes(cell["bytes"] if isinstance(cell, dict) else cell)
    if is_empty(cell):
        return b""
    path = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(path, str | os.PathLike):
        raise ImageError(name, f"is a {type(path).__name__}; expected the bytes of an image file, or its name")
    file = _file_of(os.fspath(path), root, lambda _: name, 0)
    return files_for([file]).read(file)


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
    if name.startswith(HOME) and not is_remote(root) and not os.path.lexists(joined(root, name)):
        return place_of(name)  # and not in a folder that is called ~
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
        first = "; ".join(
            f"{shortened(_as_written(files[i], root), MOST_CHARACTERS)} ({place(i)})" for i in missing[:SHOWN]
        )
        skip = f", or leave them out: {SKIP}" if len(missing) < len(files) else ""
        raise DataError(
            f"{len(missing):,} of the {len(files):,} files that {frame.name} names "
            f"{'is' if len(missing) == 1 else 'are'} not there, the first: "
            f"{first}. {_hint(files[missing[0]], places, root)}{skip}"
        )
    gone = set(missing)
    return [i for i in range(len(files)) if i not in gone], [
        Unread(files[i], f"is not there ({place(i)} of {frame.name})") for i in missing
    ]


def _as_written(path: str, root: str) -> str:
    """The path, or the address that the table has there: of its two slashes a path keeps one."""
    name = _in_table(path, root)
    return name.replace(":/", "://", 1) if _is_address(name, path) else path


def _in_table(path: str, root: str) -> str:
    return path.removeprefix(joined(root, "x")[:-1])


def _is_address(name: str, path: str) -> bool:
    return URL.match(name) is not None and not is_remote(path)


def _written_otherwise(path: str) -> str | None:
    """What the path of a file that is not there differs in from that of one which looks the same."""
    for what, alike in ALIKE:
        if not is_remote(path) and (other := _there_alike(path, alike)) is not None:
            return f"There is a file {other!a}, and the table names {path!a}: {what}"
    return None


def _there_alike(path: str, alike: Callable[[str], str]) -> str | None:
    """The path of a file whose folders and name are those of `path` but for what `alike` takes away."""
    place = ""
    for part in Path(path).parts:
        there = os.path.join(place, part)  # noqa: PTH118
        if not os.path.lexists(there):
            try:
                beside = os.listdir(place or ".")  # noqa: PTH208
            except OSError:
                return None
            name = next((one for one in beside if alike(one) == alike(part)), None)
            if name is None:
                return None
            there = os.path.join(place, name)  # noqa: PTH118
        place = there
    return place


def _hint(path: str, places: Files, root: str) -> str:
    """What may be wrong with the name of a file that is not there."""
    name = _in_table(path, root)
    if name.startswith(ENCODED):
        return (
            "The cells hold images themselves, as text in base64: make bytes of them, base64.b64decode(cell), and "
            "take a frame or a Parquet file of these"
        )
    if name.startswith(("b'", 'b"')) and name.endswith(name[1]):
        return "They are written as Python shows bytes: write them as text, name.decode()"
    if any(len(os.fsencode(part)) > LONGEST - max(map(len, SUFFIXES)) for part in Path(path).parts):
        return "No file has a name as long as that: name the column of files, image= (--image)"
    there = places.of(path)
    for suffix in SUFFIXES:
        if there.is_file(path + suffix):
            return f"There is a {name_of(path + suffix)}: write the names with their suffix"
    if "\\" in path and there.is_file(path.replace("\\", "/")):
        return "The names have backslashes: write them with /"
    if (other := _written_otherwise(path)) is not None:
        return other
    if _is_address(name, path):
        return "They are addresses that are not read here: download them"
    if DRIVE.match(name) or (name == path and path.startswith("/")):
        return (
            "They are whole paths, perhaps of another machine, for which root= (--root) changes nothing: write "
            "them relative to the folder of the images"
        )
    if is_remote(path):
        return f"Names are relative to {root}, or URLs: root= (--root) says where they are"
    return f"Names are relative to {Path(root).absolute()}: root= (--root) says where they are"
