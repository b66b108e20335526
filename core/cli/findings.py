"""What `headstart doctor` finds, before anybody shows it.

Invariant: no finding holds a secret. Each text passes `redacted` when the finding is made, so that what is
printed, and what `--json` has, can be pasted anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstart.common.redact import redacted
from headstart.common.table import Table

OK, NOTE, PROBLEM = "ok", "note", "problem"
STATES = (OK, NOTE, PROBLEM)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    """such as "cache" or "backend NAME\""""
    state: str
    """of `STATES`: a note is worth knowing, a problem keeps something from working"""
    found: str
    """what is there, in a line"""
    mend: str = ""
    """a sentence on what to do about it; "" where there is nothing to do"""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state {self.state!r}; expected one of {', '.join(STATES)}")
        for name in ("found", "mend"):
            object.__setattr__(self, name, redacted(" ".join(getattr(self, name).split())))

    def as_dict(self) -> dict[str, str]:
        """JSON-able."""
        return {"about": self.about, "state": self.state, "found": self.found, "mend": self.mend}


@dataclass(frozen=True)
class Checkup:
    """All findings, in the order of looking. Iterates over them."""

    findings: tuple[Finding, ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def count(self, state: str) -> int:
        """How many findings are in this state."""
        return sum(finding.state == state for finding in self)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: how many findings are in each state, and all of them."""
        return {
            "counts": {state: self.count(state) for state in STATES},
            "findings": [finding.as_dict() for finding in self],
        }

    def as_table(self) -> Table:
        """For a terminal."""
        rows = [
            (finding.state, finding.about, f"{finding.found}{finding.mend and f'; {finding.mend}'}")
            for finding in self
        ]
        return Table(("state", "about", "finding"), rows)

    def line(self) -> str:
        """The outcome: "1 problem, 2 notes"."""
        return ", ".join(
            f"{self.count(state)} {state}{'' if self.count(state) == 1 else 's'}" for state in (PROBLEM, NOTE)
        )
