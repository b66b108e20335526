"""A table as plain text: what results know of how they look, before anybody renders it.

Invariant: no cell is markup. Whoever renders a table escapes what would steer a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.common.text import nbytes_text, shortened, when

LONGEST_VALUE = 1000  # characters of a fact
NO_VALUE = ("", "-")
"""cells that say nothing"""
TIMES = ("last_used", "written")
"""facts that are seconds since the epoch"""


@dataclass(frozen=True)
class Table:
    """Rows of text under the names of their columns."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[int, ...] = ()
    """places of the columns that are aligned to the right, figures mostly"""
    title: str = ""
    legend: str = ""
    """what the columns mean, where their names do not say it"""
    note: str = ""
    """a sentence on these rows, for below them"""
    gap: int = 2
    """spaces around a column's text: 2, or fewer where all columns are to fit a terminal of 80 characters"""

    def without_empty_columns(self) -> Table:
        """The same without the columns that have no value in any row. A table without rows keeps its columns, as
        they tell what there could be, and any table its first one, which names the rows."""
        kept = sorted({0, *places_with_values(len(self.columns), self.rows, NO_VALUE)})
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=[tuple(row[place] for place in kept) for row in self.rows],
            right=tuple(k for k, place in enumerate(kept) if place in self.right),
        )


def places_with_values(columns: int, rows: Sequence[Sequence[str]], nothing: Collection[str]) -> list[int]:
    """Which of so many columns have a cell in some row that is not among `nothing`. All of them without rows."""
    return [place for place in range(columns) if not rows or any(row[place] not in nothing for row in rows)]


def facts_table(facts: Mapping[str, Any]) -> Table:
    """A row for each fact, a JSON-able value."""
    rows = [(name, shortened(_fact_text(name, value), LONGEST_VALUE)) for name, value in facts.items()]
    return Table(("field", "value"), rows)


def _fact_text(name: str, value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict() | list():
            return json.dumps(value)
        case int() | float() if name in TIMES:
            return when(value)
        case int() if name == "bytes":
            return f"{value:,} ({nbytes_text(value)})"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
