"""What a table says of its own numbers: the library `datasets` writes the names of the classes into the schema of
the Parquet files and Arrow tables that it makes.

Invariant: where a table names its numbers, they are these names, as they are from `huggingface`, each of one class
whatever it looks like ("wolf|dog", "1.5", "nan"); -1 is no label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.common.errors import DataError

KEY = b"huggingface"
KIND = "ClassLabel"


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> the names of the numbers in it, or in its lists, as a schema's metadata say; {} where they say
    nothing that is understood."""
    try:
        features = json.loads((metadata or {})[KEY])["info"]["features"]
        return {str(column): names for column, about in features.items() if (names := _names(about)) is not None}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _names(about: Any) -> list[str] | None:
    if isinstance(about, Mapping) and about.get("_type") == KIND:
        names = about.get("names")
        return list(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    if isinstance(about, list) and len(about) == 1:
        return _names(about[0])
    return _names(about["feature"]) if isinstance(about, Mapping) and "feature" in about else None


class Named(list[Any]):
    """A column of one class a row, by the names of classes, and no other text; None where there is none."""


def named(column: Sequence[Any], names: Sequence[str], name: str) -> list[Any]:
    """The column with the names of its numbers, as `Named` where none is in a list; None for what has no label.
    Other values stay as they are. DataError for a number that has no name."""

    def of(value: Any, row: int) -> Any:
        if isinstance(value, list):
            values = [of(entry, row) for entry in value]
            return None if None in values else values
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if value >= len(names):
            raise DataError(
                f"row {row + 1} has the label {value} in column {name!r}, whose {len(names)} classes are numbered "
                "from 0"
            )
        return names[value] if value >= 0 else None

    check_numbers([value for value in column if isinstance(value, list)], len(names), name)
    values = [of(value, row) for row, value in enumerate(column)]
    return values if any(isinstance(value, list) for value in values) else Named(values)


def check_numbers(lists: Sequence[Sequence[Any]], count: int, name: str) -> None:
    """DataError where lists in a column, of the numbers of `count` classes, are 0 and 1 for each class instead: as
    many numbers in each, and some twice."""
    if (
        lists
        and all(len(row) == count and all(value in (0, 1) for value in row) for row in lists)
        and any(len(set(row)) < len(row) for row in lists)
    ):
        raise DataError(
            f"the lists in column {name!r} are of the numbers of classes, and each is of {count} numbers, 0 or 1, "
            "as if it said of every class whether the row has it; write the numbers of those that it has: "
            "[k for k, has in enumerate(row) if has]"
        )
