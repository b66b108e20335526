"""The benchmarks' processes: the suite times nothing, so that what starts them is held here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import children
import pytest
from children import BACKENDS, Child

pytestmark = pytest.mark.neutral

SCRIPTS = sorted(
    path.stem
    for path in Path(children.__file__).parent.glob("*.py")
    if not path.name.startswith(("test_", "conftest"))
)


def test_a_child_runs_until_its_input_ends() -> None:
    child = Child(BACKENDS[0], "memory.py")
    child.close()
    assert child.process.returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_takes_from_others_is_there(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [script])
    import_module(script)
