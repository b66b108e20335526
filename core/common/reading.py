"""Small files that come from anywhere, run.json and its kin, are read here: regular files only, no more than so
many bytes, JSON of bounded depth and numbers, and of the types that are expected. Whatever else a file holds is
one typed error that names it.

Invariant: what `read_json` returns has the shape that was asked for, so that nothing behind it has to look again.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.errors import HeadstartError, SettingError
from headstart.common.files import read_whole
from headstart.common.sizes import binary_size

DEPTH = 100  # of lists and objects in each other
LARGEST = 2**63  # of a whole number, in size

Number = (int, float)


@dataclass(frozen=True)
class Optional:
    """What may be missing, or null."""

    shape: Any


@dataclass(frozen=True)
class ListOf:
    """A list, each of whose entries has this shape."""

    shape: Any
    length: int | None = None


@dataclass(frozen=True)
class DictOf:
    """An object with any names, each of whose values has this shape."""

    shape: Any


ANY = object()
_TOO_LARGE = "it has more than {}, too many for such a file"


def read_bytes(path: Path, limit: int, error: type[HeadstartError] = SettingError) -> bytes:
    """The content of a regular file of at most `limit` bytes; `error` for anything else. FileNotFoundError passes,
    since what a missing file means differs."""
    try:
        large = path.is_file() and path.stat().st_size > limit
        data = b"" if large else read_whole(path, limit)  # it may be another one by now
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError) as reason:  # ValueError: a NUL in the name
        raise error(f"{path}: cannot be read ({_said(reason)})") from reason
    if large or len(data) > limit:
        raise error(f"{path}: cannot be read ({_TOO_LARGE.format(binary_size(limit))})")
    return data


def check_regular(path: Path, error: type[HeadstartError] = SettingError) -> None:
    """`error` for what is there and no regular file: opening a pipe would wait, and a device never ends."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - pathlib raises for a name with a NUL in it
    except FileNotFoundError:
        return
    except (OSError, ValueError) as reason:
        raise error(f"{path}: cannot be read ({_said(reason)})") from reason
    if not stat.S_ISREG(mode):
        raise error(f"{path}: cannot be read ({'a folder' if stat.S_ISDIR(mode) else 'not a regular file'})")


def read_json(
    path: Path, limit: int, what: str, shape: Any = ANY, error: type[HeadstartError] = SettingError
) -> Any:
    """What the JSON file holds. `what`: "a saved run", for the message; `shape`: see `check`. `error`, of one
    line, for whatever cannot be read, is no JSON or has another shape; FileNotFoundError passes."""
    data = read_bytes(path, limit, error)
    try:
        content = parse_json(data)
    except ValueError as reason:
        raise error(f"{path}: cannot be read ({reason})") from reason
    try:
        check(content, shape)
    except ValueError as reason:
        raise error(f"{path}: not {what} ({reason})") from reason
    return content


def parse_json(text: str | bytes) -> Any:
    """JSON in UTF-8. ValueError for anything else, for a name that stands twice in an object, for whole numbers
    beyond 64 bits, and for what is nested deeper than 100. NaN and Infinity are read: earlier versions wrote
    them."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH}") from None
    _check_depth(content)
    return content


def check(value: Any, shape: Any, where: str = "") -> None:
    """ValueError, which says where, unless `value` has the shape: a type or a tuple of them (a bool is no number),
    a dict from names that are needed to shapes, `Optional`, `ListOf`, `DictOf`, or ANY."""
    here = where or "it"
    if shape is ANY:
        return
    if isinstance(shape, Optional):
        if value is not None:
            check(value, shape.shape, where)
    elif isinstance(shape, ListOf):
        if not isinstance(value, list):
            raise ValueError(f"{here} is {_kind(value)}, expected a list")
        if shape.length is not None and len(value) != shape.length:
            raise ValueError(f"{here} has {len(value)} entries, expected {shape.length}")
        for i, entry in enumerate(value):
            check(entry, shape.shape, f"{where}[{i}]")
    elif isinstance(shape, DictOf | Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{here} is {_kind(value)}, expected an object")
        within = f"{where}." if where else ""
        if isinstance(shape, DictOf):
            for name, entry in value.items():
                check(entry, shape.shape, f"{within}{name[:40]!a}")
            return
        for name, needed in shape.items():
            if name in value:
                check(value[name], needed, f"{within}{name}")
            elif not isinstance(needed, Optional):
                raise ValueError(f"{within}{name} is missing")
    else:
        types = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(dict.fromkeys(_NAMES[kind] for kind in types))
            raise ValueError(f"{here} is {_kind(value)}, expected {expected}")


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list",
          dict: "an object"}  # fmt: skip


def _kind(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        times = Counter(name for name, _ in pairs)  # counted once: a stranger's object may be large
        twice = next(name for name, count in times.items() if count > 1)
        raise ValueError(f"the name {twice[:40]!a} stands twice in one object")
    return content


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > LARGEST:
        raise ValueError(f"the number {text[:24]}... is too large")
    return int(text)


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH}")


def _said(reason: BaseException) -> str:
    if isinstance(reason, OSError) and reason.errno == errno.EISDIR:
        return reason.strerror or "not a regular file"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
