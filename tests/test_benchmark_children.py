"""The benchmarks' processes: the suite times nothing, so that what starts them is held here."""

from __future__ import annotations

import os
import subprocess
import sys
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


THREADS = """
import os, threading
before = sorted(os.sched_getaffinity(0))
threading.Thread(target=threading.Event().wait, daemon=True).start()
from children import keep_to_one_core
for number in range(3):
    keep_to_one_core(number)
    cores = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    assert len(cores) > 1 and all(core == {before[number % len(before)]} for core in cores), cores
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not listed here")
def test_all_threads_go_to_the_core_and_may_go_to_another() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", THREADS], check=True, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_takes_from_others_is_there(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [script])
    import_module(script)
