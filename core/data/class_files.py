"""Names of classes as people write them down: with commas, or in a file, one a line or as JSON.

Files come from every editor and system, so a byte order mark says how one is encoded, and what cannot be decoded
or is no list of names is refused: a class that is called "\\ufeffcat" matches nothing.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

from headstart.common.errors import SettingError
from headstart.data.json_text import at_odds, parsed
from headstart.data.names import MOST_DIGITS, normal, shown, twice
from headstart.data.place import expanded

MAX_NBYTES = 16 << 20  # a hundred thousand names take 2 MB
# UTF-32's mark begins as UTF-16's does, so it comes first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAVE_AS = "save it as UTF-8"
LINE_END = re.compile(r"\r\n|\r|\n")
LIKE_A_FILE = re.compile(r"[/\\]|^~|\.(?:txt|json|csv|tsv|names|list|lst|labels?|ya?ml|md)$", re.IGNORECASE)
EXPECTED = "expected names with commas between them, or a file with one a line, a JSON list or a JSON map"


def class_names_of(text: str, option: str = "--classes") -> list[str]:
    """The names in "a,b,c", or in the file of that path: one a line, a JSON list, or a JSON map {"0": "cat"} or
    {"cat": 0}. Composed (NFC), without spaces around them.

    Raises SettingError for a file that cannot be read or decoded or holds no such thing, for what looks like the
    path of a file and is none, and for a name that stands twice.
    """
    path = expanded(text)
    try:
        is_file, is_there = path.is_file(), path.exists()
    except OSError:  # no file has a name so long
        is_file = is_there = False
    if is_file:
        names = _names_in(path, f"{option} {text}")
    elif is_there and LIKE_A_FILE.search(text):
        raise SettingError(f"{option} {text}: that is no regular file; {EXPECTED}")
    elif "," not in text and LIKE_A_FILE.search(text.strip()):
        raise SettingError(f"{option} {text}: there is no such file; {EXPECTED}")
    else:
        names = text.split(",")
    stripped = (name.strip().strip("\ufeff").strip() for name in names)  # files put together have marks inside
    names = [normal(name) for name in stripped if name]
    if not names:
        raise SettingError(f"{option} {text}: no names; {EXPECTED}")
    if repeated := twice(names):
        raise SettingError(
            f"{option} {text}: {', '.join(map(shown, repeated[:5]))} stands twice; expected each once"
        )
    return names


def read_text(path: Path, what: str) -> str:
    """A small text file, decoded by its byte order mark, or as UTF-8. `what` names it in errors: SettingError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_NBYTES + 1)
    except OSError as error:
        raise SettingError(f"{what}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_NBYTES:
        raise SettingError(f"{what}: is larger than {MAX_NBYTES >> 20} MiB; {EXPECTED}")
    mark, encoding = next((pair for pair in MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        other = "Latin-1 or another old encoding?" if not mark else f"its mark says {encoding}"
        raise SettingError(f"{what}: line {line} is not {encoding.upper()} ({other}); {SAVE_AS}") from error
    if "\0" in text:
        raise SettingError(f"{what}: holds zero bytes (UTF-16 without a byte order mark?); {SAVE_AS}")
    return text


def _names_in(path: Path, what: str) -> list[str]:
    text = read_text(path, what)
    if not text.lstrip().startswith(("[", "{")):
        return LINE_END.split(text.rstrip("\x1a"))  # which DOS put at the end of a text
    try:
        content = parsed(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{what}: not a JSON list or map of names ({error})") from error
    if (key := at_odds(content)) is not None:
        raise SettingError(f"{what}: the key {key!r} stands twice, with two values; keep one of them")
    names = _of_map(content) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise SettingError(
            f"{what}: not a JSON list of names, or map from the numbers 0 to n - 1 to names; {EXPECTED}"
        )
    return [str(name) for name in names]


def _of_map(content: dict[str, Any]) -> list[Any] | None:
    """The names in the order of their numbers; None where these are not 0 to n - 1, each once."""
    numbers = [key for key in content if key.isascii() and key.isdecimal() and len(key) <= MOST_DIGITS]
    by_number = {key: content[key] for key in numbers}
    if len(by_number) == len(content):
        pairs = [(int(key), name) for key, name in by_number.items()]
    elif all(type(value) is int for value in content.values()):
        pairs = [(value, name) for name, value in content.items()]
    else:
        return None
    if sorted(number for number, _ in pairs) != list(range(len(pairs))):
        return None
    return [name for _, name in sorted(pairs, key=lambda pair: pair[0])]
