"""Faults at length: `tox -e faults` kills, starves, damages and races the store for some minutes, and ends with a
table of figures. Anywhere else these tests are not collected; the ordinary suite has a short version of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

VARIABLE = "HEADSTART_FAULTS"
collect_ignore_glob = [] if os.environ.get(VARIABLE) else ["test_*.py"]

rows: list[Figure] = []


@dataclass
class Figure:
    """One line of the table, filled in while it is measured."""

    what: str
    count: int = 0
    result: str = ""
    seconds: float = field(default=0.0)


@pytest.fixture(scope="session")
def figure() -> Callable[[str], Any]:
    """`with figure("what") as it:` measures the body; it sets `it.count` and `it.result`."""

    @contextmanager
    def measure(what: str) -> Iterator[Figure]:
        one = Figure(what)
        rows.append(one)
        start = time.perf_counter()
        try:
            yield one
        except BaseException:
            one.result = "FAILED"
            raise
        finally:
            one.seconds = time.perf_counter() - start

    return measure


def pytest_report_header() -> list[str]:
    return [] if os.environ.get(VARIABLE) else [f"tests/faults: not collected; `tox -e faults` sets {VARIABLE}"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not rows:
        return
    terminalreporter.section("what the store bore")
    widest = max(len(row.what) for row in rows)
    terminalreporter.write_line(f"{'what':<{widest}} {'how many':>9} {'seconds':>8}  result")
    for row in rows:
        terminalreporter.write_line(f"{row.what:<{widest}} {row.count:>9,} {row.seconds:>8.1f}  {row.result}")
    total = sum(row.seconds for row in rows)
    terminalreporter.write_line(f"{'in all':<{widest}} {'':>9} {total:>8.1f}")
