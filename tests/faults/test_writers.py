"""Sixteen writers of one key at once, with readers and `gc` beside them, and file locks that do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.campaigns import campaign


@pytest.mark.parametrize(("workload", "rounds"), [("writer:160", 30), ("numpy:80", 20)])
def test_many_writers(tmp_path: Path, figure: Any, workload: str, rounds: int) -> None:
    with figure(f"rounds of 16 writers, 2 readers and gc, {workload}") as it:
        found = campaign("race", tmp_path, rounds=rounds, writers=16, workload=workload)
        it.count = found["rounds"]
        it.result = (
            f"every row there; {found['rows stored']} stored for {found['rows']}, copies identical; "
            f"{found['reads']} readings right, {found['evictions']} evictions, {found['lock calls']} locks"
        )
    assert found["evictions"] > rounds
