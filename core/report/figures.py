"""Numbers and texts as the report shows them, one way for each kind of number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from headstart.common.redact import names_in, redacted
from headstart.common.text import amount_text, plain_text, printable, share_text
from headstart.report.series import finite

NONE = "–"
SPACE = "\N{NO-BREAK SPACE}"


def cleaned(value: Any) -> Any:
    """`value` with every text in it fit for a page: what is not printable (control characters, marks that turn the
    direction of writing, halves of characters) comes as an escape sequence; ends of lines and tabs stay. Secrets
    are taken out of all but the names of classes and pictures."""
    return _cleaned(value, frozenset(names_in(value)))


def _cleaned(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, str):
        value = value if value.startswith("data:") or value in names else redacted(value)
        if value.isascii() and value.isprintable():
            return value
        return "".join(character if character in "\n\t" else printable(character) for character in value)
    if isinstance(value, Mapping):
        return {_cleaned(str(key), names): _cleaned(entry, names) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(entry, names) for entry in value]
    return value


def _or(value: Any, text: str) -> str:
    """`text`, unless the value behind it is missing or not finite."""
    if value is None:
        return NONE
    return "not finite" if finite(value) is None else text


def seconds(value: Any) -> str:
    """As many digits as tell something: 1,234, 37.7, 2.91, 0.034, 0.0012, <0.0001."""
    x = finite(value)
    if x is None:
        return _or(value, "")
    if x >= 1:
        return f"{x:,.{0 if x >= 99.95 else 1 if x >= 9.995 else 2}f}"
    if x == 0:
        return "0"
    if 0 < x < 1e-4:
        return "<0.0001"
    if x < 0:  # of a clock that was set back, or of figures that somebody edited
        return f"{x:.3g}"
    return f"{x:.{1 - math.floor(math.log10(x))}f}"


def percent(value: Any) -> str:
    return _or(value, share_text(finite(value) or 0.0, f"{SPACE}%"))


def of_any_size(value: Any) -> str:
    """A number in units of which nothing is known: four digits."""
    x = finite(value) or 0.0
    return _or(value, amount_text(x))


def loss(value: Any) -> str:
    x = finite(value) or 0.0
    return _or(value, plain_text(x) if abs(x) < 1000 else f"{x:.3g}")


def count(value: Any) -> str:
    return _or(value, f"{finite(value) or 0:,.0f}")


def times(value: Any) -> str:
    x = finite(value) or 0.0
    return _or(value, f"{x:,.0f}×" if x >= 9.95 else f"{x:.1f}×")


def epochs(value: Any) -> str:
    return _or(value, f"{finite(value) or 0:,.0f}{SPACE}epoch{'' if value == 1 else 's'}")


def capital(text: str) -> str:
    """For the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def millions(value: Any) -> str:
    """A number in words: 2.8 million, 61,706."""
    x = finite(value) or 0.0
    return _or(value, f"{x / 1e6:.1f} million" if x >= 1e6 else f"{x:,.0f}")
