"""Texts in a column of labels: several labels in one cell, and numbers with a decimal comma.

Invariant: a text is cut into labels only where it can mean nothing else. What looks like several labels, and may
be one name, stays one and is said; what looks like a number with a decimal comma is refused.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence

from headstart.common.errors import DataError, DataWarning, SettingError
from headstart.data.annotations import MULTI
from headstart.data.names import shown
from headstart.data.written_lists import written_lists

SEPARATORS = ";|"
LENGTHS = 3
"""how many lengths in words names have that are probably labels with spaces between them"""
JOINING = " /+&"
"""what may stand between labels, and as well within one"""
GROUPED, SHORT = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}"), re.compile(r"[+-]?\d{1,3}")
"""a number of four digits or more with a point between thousands, and one of fewer digits beside it"""
WITH_POINT = (
    "write them with a decimal point and nothing between thousands, or in Python take the frame of "
    "pandas.read_csv(path, sep=';', decimal=',') as the table, with root= for the folder of its images"
)
AMOUNT = re.compile(
    r"[+-]?(?:\d{1,3}(?:[ '\u2019\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)?\s?[%\u2030\u20ac$\u00a3]"
    r"|[\u20ac$\u00a3]\s?\d+(?:[.,]\d+)*)"
)
"""a number with more around it, or with what stands between thousands in prose: 1 200, 1'200, 10 %, $5"""
COMMA = re.compile(r"[+-]?(?:(?:\d+|\d{1,3}(?:\.\d{3})+),\d+|\d{1,3}(?:,\d{3})+\.\d+)")
"""a number with a comma: 1,5 and 1.234,5 as much of Europe writes them, 1,234.5 as others do"""


def check_separator(separator: str, task: str | None, columns: int) -> None:
    """SettingError for what somebody says stands between labels where there are not several in a cell: another
    `task`, or several `columns` of labels."""
    if task not in (None, MULTI):
        raise SettingError(
            f"separator={separator!r} with task={task!r}: it stands between several labels, of task {MULTI!r}; "
            "leave out one of them"
        )
    if columns > 1:
        raise SettingError(
            f"separator={separator!r} with {columns} columns of labels: it stands between the labels in one; "
            "leave it out, or name that one"
        )


def may_be_written(separator: str | None) -> bool:
    """Whether what somebody says stands between labels stands between those of a list as well."""
    return separator is None or separator.strip() in ("", ",")


def cut(texts: Sequence[str], separator: str | None, several: bool) -> list[list[str]] | None:
    """Texts as lists of names; None where nothing says that they are such. `several`: somebody said that they are,
    with whatever separator."""
    if separator == "":
        raise SettingError(f"separator is {separator!r}; expected the characters between labels, such as ;")
    if may_be_written(separator) and (lists := written_lists(texts)) is not None:
        return lists if all(isinstance(name, str) for names in lists for name in names) else None
    separator = separator if separator is not None else _separator(texts)
    if separator is None:
        return [[text] for text in texts] if several else None
    return [[part.strip() for part in text.split(separator) if part.strip()] for text in texts]


def _separator(texts: Sequence[str]) -> str | None:
    """What stands between several labels in a cell: the character that does in some, and leaves labels
    everywhere."""
    for separator in SEPARATORS:
        if any(separator in text for text in texts) and all(text.strip(separator + " ") for text in texts):
            return separator
    return None


def refuse_paths(lists: Sequence[Sequence[str]], texts: Sequence[str], column: str) -> None:
    """DataError where every text has as many parts, two or more, and no part stands in two places: "apple|rust"
    beside "corn|healthy" is the name of one class, of a kind and a state, or two labels. Labels that may come
    together come in any number and order. `lists`: of `texts`, what `cut` makes of them where nobody said that
    they are several labels."""
    counts = {len(parts) for parts in lists}
    if len(counts) != 1 or counts <= {0, 1}:
        return
    places = [set(parts) for parts in zip(*lists, strict=True)]
    if sum(map(len, places)) == len(set().union(*places)):
        raise DataError(
            f"every label in column {column!r} has {len(places)} parts, such as {shown(texts[0])}: say whether "
            "each is the name of one class, task='single', or several labels, task='multi' (--task)"
        )


def refuse_decimal_commas(texts: Sequence[str], column: str, place: str) -> None:
    """DataError for a column of numbers of which some have a comma, as spreadsheets write them. `place`: what
    messages call the table's first such row."""
    distinct = dict.fromkeys(texts)
    if (comma := first_comma(texts)) is not None and all(
        COMMA.fullmatch(text) or _is_number(text.replace(",", ".", 1)) for text in distinct
    ):
        raise DataError(
            f"the labels in column {column!r} are numbers with a comma, such as {texts[comma]!r:.40} ({place}): "
            f"{WITH_POINT}; or if each is a name, say task='single', or if the comma stands between labels, "
            "separator=',' (--task, --separator)"
        )


def first_comma(texts: Sequence[str]) -> int | None:
    """The first text that is a number with a comma."""
    return next((i for i, text in enumerate(texts) if COMMA.fullmatch(text)), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def warn_of_commas(texts: Sequence[str], column: str) -> None:
    """DataWarning for names that are made of fewer names with commas between them: "cat, dog" beside "cat" and
    "dog", which is one class, and was probably meant as two labels; and for those made of as many, each in several
    of them, now first and now last."""
    distinct = dict.fromkeys(texts)
    joined = next((text for text in distinct if "," in text), None)
    parts = [(part.strip(), place) for text in distinct for place, part in enumerate(text.split(","))]
    counts = Counter(part for part, _ in parts)
    both_ways = min(counts.values()) > 1 and len(set(parts)) > len(counts) <= len(distinct)
    if joined is not None and (len(counts) < len(distinct) or both_ways):
        _warn_of_joined(joined, column, "the comma stands", "separator=',' (--separator ,)")


def warn_of_names_of_names(texts: Sequence[str], column: str) -> None:
    """DataWarning for names that are other names with a sign between them, all that have it: "cat/dog" beside
    "cat" and "dog", which is one class, and was probably meant as two labels."""
    distinct = dict.fromkeys(texts)
    for sign in JOINING:
        joined = [text for text in distinct if sign in text]
        parts = {part.strip() for text in joined for part in text.split(sign)} - {""}
        if joined and parts <= distinct.keys():
            stands = f"{sign} stands" if sign.strip() else "spaces stand"
            _warn_of_joined(joined[0], column, stands, f"separator='{sign}' (--separator '{sign}')")
            return
    warn_of_spaces(texts, column)


def warn_of_spaces(texts: Sequence[str], column: str) -> None:
    """DataWarning for names of one word, two, three and more, all of them made of few words: "haze primary" and
    "clear primary water" beside "cloudy", each one class, which were probably meant as labels. Names of a kind and
    a state, as "red apple", have one length; others have more words than there are names."""
    distinct = dict.fromkeys(texts)
    words = [text.split() for text in distinct]
    if len({len(several) for several in words}) < LENGTHS:
        return
    if 2 * len(set().union(*words)) < len(distinct):
        joined = next(text for text, several in zip(distinct, words, strict=True) if len(several) > 1)
        _warn_of_joined(joined, column, "spaces stand", "separator=' ' (--separator ' ')")


def _warn_of_joined(name: str, column: str, stands: str, separator: str) -> None:
    warnings.warn(
        f"{shown(name)} in column {column!r} is taken as the name of one class; if {stands} between several "
        f"labels, say {separator}; if not, task='single' (--task)",
        DataWarning,
        stacklevel=7,
    )


def warn_of_amounts(texts: Sequence[str], column: str) -> None:
    """DataWarning for names of which each is a number with a per cent or currency sign, or with spaces or
    apostrophes between thousands, which were probably meant as numbers."""
    if all(map(AMOUNT.fullmatch, dict.fromkeys(texts))):
        warnings.warn(
            f"the labels in column {column!r} are numbers with more around or in them, such as {texts[0]!r:.40}, "
            "and each is taken as the name of a class: if they are amounts, write the numbers alone; if not, say "
            "task='single' (--task)",
            DataWarning,
            stacklevel=7,
        )


def warn_of_points(texts: Sequence[str], column: str) -> None:
    """DataWarning for numbers of which each has no point, or one before three digits, some of them with a zero at
    the end: 980 beside 1.250, as much of Europe writes thousands. Who writes 980 writes 1.25 for a fraction."""
    distinct = dict.fromkeys(texts)
    grouped = [text for text in distinct if GROUPED.fullmatch(text)]
    rounded = next((text for text in grouped if text.endswith("0")), None)
    short = next((text for text in distinct if SHORT.fullmatch(text)), None)
    if rounded is None or short is None:
        return
    if all(SHORT.fullmatch(text) for text in distinct.keys() - set(grouped)):
        warnings.warn(
            f"the numbers in column {column!r} have no point, as {short!r}, or one before three digits, as "
            f"{rounded!r}, which is read as {float(rounded):g}: if the point stands between thousands, leave it "
            "out",
            DataWarning,
            stacklevel=6,
        )


def is_whole(text: str) -> bool:
    return text.lstrip("+-").isdecimal()


def spelt_as(names: tuple[str, ...] | None, spelling: dict[str, str]) -> dict[str, str]:
    """Text -> class: where the classes are known and have no "3.0", as a spreadsheet or a frame with gaps writes a
    3, that is their 3, and the other way round."""
    if names is None or set(spelling.values()) <= set(names):
        return spelling
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(without_point(name), []).append(name)

    def of(name: str) -> str:
        alike = [] if name in names else same.get(without_point(name), [])
        return alike[0] if len(alike) == 1 else name

    return {text: of(name) for text, name in spelling.items()}


def without_point(text: str) -> str:
    """ "3" of "3.0"; any other text as it is."""
    whole, _, fraction = text.partition(".")
    return whole if is_whole(whole) and fraction and not fraction.strip("0") else text
