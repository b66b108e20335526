"""How long it takes to cut the ids of ten million samples into tasks, and how much memory."""

from __future__ import annotations

import os

import pytest
from planning_cost import cost_of_planning

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")


def test_ten_million_ids_are_planned_in_a_minute() -> None:
    seconds, gigabytes = cost_of_planning(10_000_000)
    print(f"\n10,000,000 ids: {seconds:.1f} s, {gigabytes:.1f} GiB")
    assert seconds <= 60 and gigabytes * 2**30 <= 2e9
