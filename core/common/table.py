"""A table as plain text: what results know of how they look, before anybody renders it.

Invariant: no cell is markup. Whoever renders a table escapes what would steer a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.text import shortened

LONGEST_VALUE = 1000  # characters of a fact


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


def facts_table(facts: Mapping[str, Any]) -> Table:
    """A row for each fact, a JSON-able value."""
    rows = [
        (name, shortened(json.dumps(value) if isinstance(value, dict | list) else str(value), LONGEST_VALUE))
        for name, value in facts.items()
    ]
    return Table(("field", "value"), rows)
