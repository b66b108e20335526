"""Saving a run over another, killed three hundred times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.saving import kill_while_saving

KILLS = 300


def test_saves_that_are_killed(tmp_path: Path, figure: Callable[[str], Any]) -> None:
    with figure("saves of a run over another, killed") as it:
        kept = kill_while_saving(tmp_path / "run", KILLS, seed=0)
        it.count = KILLS
        it.result = (
            f"{kept['before']} times the run of before, {kept['after']} the new one; {kept['leftovers']} leftovers"
        )
        assert kept["leftovers"] > KILLS // 20, "too few were killed while they wrote"
