"""Class names in one normal form: macOS writes "é" as two characters where Linux and Windows write one, and a word
must be one class on both. Names are kept and compared composed (NFC), wherever they come from.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from headstart.errors import DataError

INVISIBLE = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories of what shows nothing


def normal(name: str) -> str:
    """The name as it is compared and kept: composed (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def normal_all(names: Iterable[str]) -> tuple[str, ...]:
    """All of them in normal form. DataError where two spellings of one name are among them."""
    names = tuple(names)
    composed = tuple(map(normal, names))
    if len(set(composed)) < len(set(names)):
        doubled = set(twice(composed))
        spellings = [ascii(name) for name, one in zip(names, composed, strict=True) if one in doubled]
        raise DataError(f"the classes {', '.join(spellings)} are one name in two spellings; expected one")
    return composed


def alike(name: str) -> str:
    """What can be seen of a name: without invisible characters, and without spaces at its ends or twice. A name of
    which nothing can be seen comes with escapes."""
    if name.isascii() and name.isprintable() and name == name.strip() and "  " not in name:
        return name
    seen = "".join(one for one in normal(name) if unicodedata.category(one) not in INVISIBLE)
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


def twice(names: Iterable[str]) -> list[str]:
    """The names that are among them more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def class_list(classes: Sequence[str]) -> tuple[str, ...]:
    """`classes=` as somebody gave it, in normal form. DataError for what is no list of names, each once."""
    listed = isinstance(classes, Iterable) and not isinstance(classes, str)
    if not listed or not all(isinstance(name, str) for name in classes):
        raise DataError(f"classes is {classes!r:.200}; expected a list of names")
    names = tuple(normal(str(name)) for name in classes)
    if not names:
        raise DataError("classes is empty; expected at least one name")
    if repeated := twice(names):
        raise DataError(f"classes names {', '.join(map(shown, repeated))} twice; expected every name once")
    return names
