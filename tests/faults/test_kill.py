"""SIGKILL, at every file operation in turn and at random moments: no row that was stored is lost, none is wrong,
and the resumed store is the one that an undisturbed run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.campaigns import campaign

RANDOM_KILLS = {"writer:200": 80, "numpy:100": 180, "torch:40": 40}


@pytest.mark.parametrize("half", [False, True], ids=["before", "half-way"])
@pytest.mark.parametrize("workload", ["writer:20", "numpy:20", "torch:12"])
def test_killed_at_every_file_operation(tmp_path: Path, figure: Any, workload: str, half: bool) -> None:
    moment = "half-way through each write" if half else "before each file operation"
    with figure(f"killed {moment}, {workload}") as it:
        found = campaign("kill_at_each_operation", tmp_path, workload=workload, half=half)
        it.count = found["kills"]
        it.result = f"none lost, none wrong, all resumed; rows that survived: {found['survivors']}"
    assert it.count > 100


def test_killed_at_random_moments(tmp_path: Path, figure: Any) -> None:
    kills = 0
    for i, (workload, times) in enumerate(RANDOM_KILLS.items()):
        with figure(f"killed at a random moment, {workload}") as it:
            found = campaign("kill_at_random", tmp_path / str(i), workload=workload, times=times, seed=i)
            it.count = found["kills"]
            it.result = (
                f"none lost, none wrong; {found['unfinished']} left a file unfinished; "
                f"{found['stores']} stores equal an undisturbed one"
            )
            kills += it.count
    assert kills >= 300
