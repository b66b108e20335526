"""Lists of labels as text in the cells of a table: "['cat', 'dog']" as pandas writes lists into a CSV, and
"['cat' 'dog']" and "[1 2]" NumPy's arrays, "[np.int64(1)]", tuples, sets, JSON, and "{cat,dog}" of databases.

Invariant: cells are lists only where every one of them can be read as one, of texts alone or of numbers alone.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from headstart.common.errors import DataError, DataWarning
from headstart.data.names import shown

ENDS = {"[": "]", "(": ")", "{": "}"}
NO_MEMBERS = "set()"
MEMBER = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"]+""", re.DOTALL)
OF_NUMPY = re.compile(r"\bnp\.\w+\(([^()]*)\)")
WHOLE = re.compile(r"[+-]?\d{1,99}")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
COMMA, SPACE, LAST = re.compile(r"\s*,\s*"), re.compile(r"\s+"), re.compile(r"\s*,?\s*")
TRUTHS = {"True": True, "False": False, "true": True, "false": False}


def written_lists(texts: Sequence[str]) -> list[list[Any]] | None:
    """The labels in each text, as names or as numbers; None where not every one is a list."""
    if not all(map(_is_in_brackets, texts)):
        return None
    lists: dict[str, list[Any]] = {}
    for text in dict.fromkeys(texts):
        if (members := _members(text)) is None:
            return None
        lists[text] = members
    kinds = {isinstance(member, str) for members in lists.values() for member in members}
    in_quotes = any(mark in text for text in lists for mark in "[('\"")
    if len(kinds) > 1 or not (in_quotes or any(len(members) > 1 for members in lists.values())):
        return None
    return [list(lists[text]) for text in texts]


def refuse_ranges(lists: Sequence[Sequence[Any]], texts: Sequence[str], column: str) -> None:
    """DataError where all are of as many whole numbers, two or more, and not of 0 and 1: these are labels, or
    targets, or each is the name of a class, such as "[0, 10]". `lists`: of numbers, that stand in `texts`."""
    members, count = {member for row in lists for member in row}, len(lists[0])
    if count < 2 or any(len(row) != count for row in lists) or members <= {0, 1}:
        return
    if all(float(member).is_integer() for member in members):
        raise DataError(
            f"every label in column {column!r} is a list of {count} numbers, such as {shown(texts[0])}: say "
            "whether these are labels, task='multi', targets, task='regression', or each is the name of one "
            "class, task='single' (--task)"
        )


def warn_of_brackets(texts: Sequence[str], column: str) -> None:
    """DataWarning for names that all stand in brackets, and some of which look like lists that cannot be read."""
    if not all(map(_is_in_brackets, texts)):
        return
    if (several := next((text for text in texts if "," in text or " " in text.strip()), None)) is not None:
        warnings.warn(
            f"{shown(several)} in column {column!r} is taken as the name of one class; if it is a list of labels, "
            "write these with a separator between them, such as cat;dog; if not, task='single' (--task)",
            DataWarning,
            stacklevel=6,
        )


def _is_in_brackets(text: str) -> bool:
    return text == NO_MEMBERS or (len(text) > 1 and text.endswith(ENDS.get(text[0], "\0")))


def _members(text: str) -> list[Any] | None:
    inner = "" if text == NO_MEMBERS else text[1:-1].strip()
    if inner.startswith("np."):
        inner = OF_NUMPY.sub(r"\1", inner)
    found = list(MEMBER.finditer(inner))
    ends = [0, *(piece.end() for piece in found)]
    starts = [*(piece.start() for piece in found), len(inner)]
    first, *between, last = (
        [inner[end:start] for end, start in zip(ends, starts, strict=True)] if found else ["", ""]
    )
    if first or not LAST.fullmatch(last):
        return None
    if not (all(map(COMMA.fullmatch, between)) or (all(map(SPACE.fullmatch, between)) and text[0] == "[")):
        return None
    if text[0] == "(" and found and ((len(found) == 1 and "," not in last) or inner[0] not in "'\""):
        return None  # no tuple; or a range of numbers, which may be called so
    members = [_member(piece[0], text[0] == "{") for piece in found]
    if any(member is None for member in members) or len({isinstance(member, str) for member in members}) > 1:
        return None
    return members


def _member(piece: str, may_be_bare: bool) -> Any:
    """A text, a number, or None where it is neither. `may_be_bare`: texts may have no quotes."""
    if piece[0] in "'\"":
        return _quoted(piece)
    if WHOLE.fullmatch(piece):
        return int(piece)
    if NUMBER.fullmatch(piece):
        return float(piece)
    if piece in TRUTHS:
        return TRUTHS[piece]
    return piece if may_be_bare and not set(piece) & set("{}()[]:=") and piece != "NULL" else None


def _quoted(piece: str) -> str | None:
    try:
        name = json.loads(piece) if piece[0] == '"' else ast.literal_eval(piece)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return name.strip() or None
