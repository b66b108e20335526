"""The benchmarks' processes: the suite times nothing, so that what starts them is held here."""

from __future__ import annotations

import pytest
from children import BACKENDS, Child

pytestmark = pytest.mark.neutral


def test_a_child_runs_until_its_input_ends() -> None:
    child = Child(BACKENDS[0], "memory.py")
    child.close()
    assert child.process.returncode == 0
