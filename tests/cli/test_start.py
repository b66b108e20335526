"""The console script imports without looking for garbage, and runs with it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral

RUN = """
import gc, sys
import headstart.cli.start as start
sys.argv = ["headstart", "--version"]
if {before!r} == "off":
    gc.disable()
class Noticed:
    def find_spec(self, name, path=None, target=None):
        if name == "cyclopts":
            print("importing:", gc.isenabled())
sys.meta_path.insert(0, Noticed())
start.main()
print("after:", gc.isenabled(), gc.get_freeze_count() > 10_000)
print("little is left to look through:", len(gc.get_objects()) < 1_000)
"""


@pytest.mark.parametrize("before", ["on", "off"])
def test_garbage_is_looked_for_again_as_it_was_before(before: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN.format(before=before)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "importing: False"
    assert lines[1].startswith("headstart ")
    assert lines[2] == f"after: {before == 'on'} True"
    assert lines[3] == "little is left to look through: True"  # as Python ends


def test_both_ways_of_starting_begin_there() -> None:
    root = Path(__file__).parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"headstart": "headstart.cli.start:main"}
    assert "from headstart.cli.start import main\n" in (root / "core/__main__.py").read_text()
