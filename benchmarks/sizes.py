"""How large and how often: short, so that all benchmarks together take little more than half an hour on two cores
with nothing else on them, or with HEADSTART_BENCH_FULL=1 as large and as often as bars were set at, in hours.

Invariant: a short setting asks for the same as a full one. Where it is smaller than what a bar was set at, its row
says what that was.
"""

from __future__ import annotations

import os
from typing import TypeVar

FULL = os.environ.get("HEADSTART_BENCH_FULL", "0") not in ("", "0")
T = TypeVar("T")


def sized(short: T, full: T) -> T:
    return full if FULL else short


def bar_of(full: str) -> str:
    """What a bar was set at, for the row of a setting that is smaller; "" of a full one."""
    return "" if FULL else full
