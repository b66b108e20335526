"""`pytest benchmarks --quick`: the pairs that take seconds, in minutes, each ratio beside that of an earlier run.
It finds what is gross: on a machine that others use ratios differ, but seldom by half.

The earlier ratios are in quick.json. `--quick --keep` writes those of this run there, once somebody has looked at
the table and found them right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from table import Row, times

KNOWN = Path(__file__).with_name("quick.json")
WORSE = 2.0
"""times as bad as before is a regression"""
TESTS = (
    "test_epochs.py::test_epoch[*",
    "test_peers.py::test_a_cached_epoch[*",
    "test_startup.py::test_*",
    "test_sweep.py::test_sixty_four_heads_at_once[*-small]",
)
"""that are run: patterns of their node ids"""


def is_quick(nodeid: str) -> bool:
    return any(is_meant(nodeid, pattern) for pattern in TESTS)


def is_meant(nodeid: str, pattern: str) -> bool:
    """By the file's name: pytest says a node id from where it was called."""
    return fnmatchcase(Path(nodeid).name, pattern.replace("[", "[[]"))


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """What was measured -> how many times as fast as its peer; the machine's own speed is in neither."""
    return {
        " | ".join((row.capability, row.what, row.backend, row.peer)): (
            row.ratio if row.ratio_is == "peer / own" else 1 / row.ratio
        )
        for row in rows
        if row.ratio is not None
    }


def known() -> dict[str, float]:
    return json.loads(KNOWN.read_text("utf-8")) if KNOWN.exists() else {}


def keep(rows: Sequence[Row]) -> None:
    """Beside those of backends that are not installed here, which stay."""
    kept = known() | {name: float(f"{ratio:.3g}") for name, ratio in ratios(rows).items()}
    KNOWN.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", "utf-8")


def regressions(rows: Sequence[Row]) -> list[str]:
    """A line for each ratio that is not half of what it was."""
    before = known()
    return [
        f"{name}: {times(ratio)} as fast, {times(before[name])} before"
        for name, ratio in ratios(rows).items()
        if name in before and ratio * WORSE < before[name]
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """What has become worse, what nothing is held to, and how much was compared."""
    names, before = ratios(rows).keys(), known()
    return [
        *(f"half of what it was, or less: {line}" for line in regressions(rows)),
        *(f"not in {KNOWN.name}: {name}" for name in names if name not in before),
        f"{sum(name in before for name in names)} ratios compared with {KNOWN.name}",
    ]
