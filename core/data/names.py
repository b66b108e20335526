"""Class names in one normal form: macOS writes "é" as two characters where Linux and Windows write one, and a word
must be one class on both. Names are kept and compared composed (NFC), wherever they come from. A folder's name in
UTF-8 is the same class where the system's encoding is ASCII, as with `LC_ALL=C` and `PYTHONUTF8=0`.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from enum import Enum
from numbers import Integral
from typing import Any

from headstart.common.errors import DataError, DataWarning, HeadstartError
from headstart.common.text import listed

BETWEEN_WORDS = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
MOST_DIGITS = 99  # of a number that is a name: Python makes none of some thousands
WHOLE = re.compile(rf"(\d{{1,{MOST_DIGITS}}})(\.0+)?")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
DIGITS = re.compile(r"([0-9]+)")
INVISIBLE = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories of what shows nothing


def normal(name: str) -> str:
    """The name as it is compared and kept: composed (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", _read(name))


def _read(name: str) -> str:
    """With bytes that Python could not read, and keeps as surrogates, read as UTF-8, where they all are that."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return name


def normal_all(names: Iterable[str]) -> tuple[str, ...]:
    """All of them in normal form. DataError where two spellings of one name are among them."""
    names = tuple(names)
    composed = tuple(map(normal, names))
    if len(set(composed)) < len(set(names)):
        doubled = set(twice(composed))
        spellings = [ascii(name) for name, form in zip(names, composed, strict=True) if form in doubled]
        raise DataError(f"the classes {', '.join(spellings)} are one name in two spellings; expected one")
    return composed


def bare(value: Any) -> Any:
    """What a member of an Enum of texts or whole numbers stands for, whose text is "Kind.CAT"; anything else as it
    is."""
    return value.value if isinstance(value, Enum) and isinstance(value, str | int) else value


def alike(name: str) -> str:
    """What can be seen of a name: without invisible characters, and without spaces at its ends or twice. A name of
    which nothing can be seen comes with escapes."""
    if name.isascii() and name.isprintable() and name == name.strip() and "  " not in name:
        return name
    seen = "".join(character for character in normal(name) if unicodedata.category(character) not in INVISIBLE)
    return " ".join(seen.split()) or ascii(name)


def shown(name: str) -> str:
    """A name in quotes, with escapes for what is not plain: two names that look the same differ here."""
    plain = name.isprintable() and name == alike(name)
    return repr(name) if plain else ascii(name)


def twins(names: Iterable[str]) -> list[str]:
    """Names that look like another one of them, in pairs or more; empty where all can be told apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(alike(name), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def check_told_apart(names: Sequence[str]) -> None:
    """DataError for names, which a data set came with, that look the same; and what `warn_of_kin` warns of."""
    if same := twins(names):
        raise DataError(
            f"the classes {', '.join(map(ascii, same[:5]))} look the same; make them one, or name the classes: "
            "classes=[...]"
        )
    warn_of_kin(names)


def warn_of_kin(names: Iterable[str]) -> None:
    """DataWarning where classes, which nobody has named, are `kin`."""
    if alike_names := kin(names):
        warnings.warn(
            f"the classes {alike_names}, and each is a class of its own: if they are one, write them alike; if "
            "not, name all classes: classes=[...]",
            DataWarning,
            stacklevel=6,
        )


def kin(names: Iterable[str]) -> str:
    """Which names differ in no more than what people, and programs, write now so and now otherwise: capitals, `_`,
    `-` or a space between words, zeros before a number, and `.0` behind one. Empty where there are none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        words = alike(name).casefold()
        if not words.isalnum():
            words = BETWEEN_WORDS.sub(" ", words)
        number = WHOLE.fullmatch(words) if words[:1].isdecimal() else None
        groups.setdefault(str(int(number[1])) if number else words, []).append(name)
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        return ""
    more = f", and {len(found) - 1:,} more such" if len(found) > 1 else ""
    return f"{listed([*map(shown, found[0])])} differ in how they are written alone{more}"


def in_order(names: Iterable[str]) -> list[str]:
    """As people count: "fold 2" before "fold 10", and "-5" before "3"."""

    def key(name: str) -> tuple[Any, ...]:
        number = float(name) if NUMBER.fullmatch(name) else None
        digits = [run.lstrip("0") for run in DIGITS.split(name.casefold())]  # every second one is a number
        parts = tuple((len(run), run) if k % 2 else (0, run) for k, run in enumerate(digits))
        return (number is None, number or 0.0, parts, name)

    return sorted(names, key=key)


def twice(names: Iterable[str]) -> list[str]:
    """The names that are among them more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def spelt_twice(names: Sequence[str]) -> list[str]:
    """The names that are one in normal form, and so two spellings of it, or stand twice."""
    doubled = set(twice(map(normal, names)))
    return [name for name in names if normal(name) in doubled]


def class_list(classes: Any, error: type[HeadstartError] = DataError) -> tuple[str, ...]:
    """`classes=` as somebody gave it, in normal form: names, or whole numbers as names, in an order. `error` is
    raised for what is no such list, of each name once: a set, whose order is another one in every process, a
    dict, and None or bytes among the names."""
    if isinstance(classes, Set | Mapping) and not isinstance(classes, KeysView):
        kind, mend = type(classes).__name__, "sorted(classes)"
        if isinstance(classes, Mapping):
            mend = "list(names.values()) of {number: name}, sorted(numbers, key=numbers.get) of {name: number}"
        raise error(f"classes is a {kind}; expected a list of names, in the order of their numbers: {mend}")
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise error(f"classes is {classes!r:.200}; expected a list of names")
    listed = [bare(name) for name in classes]
    for name in listed:
        if isinstance(name, bool) or not isinstance(name, str | Integral) or name == "":
            raise error(f"classes holds {name!r:.80}; expected a list of names, none missing")
    given = list(map(str, listed))
    names = tuple(map(normal, given))
    if not names:
        raise error("classes is empty; expected at least one name")
    times = Counter(given)  # counted once: a stranger's list may be long
    if spelt := [name for name in spelt_twice(given) if times[name] == 1]:
        raise error(f"the classes {', '.join(map(ascii, spelt[:5]))} are one name in two spellings; expected one")
    if repeated := twice(names):
        raise error(f"classes names {', '.join(map(shown, repeated[:5]))} twice; expected every name once")
    return names
