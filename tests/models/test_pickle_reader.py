"""The process that reads pickles ends with the one that asked it, whatever ends that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.neutral, pytest.mark.skipif(os.name == "nt", reason="a pipe that a child inherits")]

PARENT = """
import sys
from headstart.models import pickles
pickles.CHILD = "import os, time; from headstart.models.pickles import _end_with_parent; _end_with_parent(); "
pickles.CHILD += f"open({sys.argv[1]!r}, 'w').write(str(os.getpid())); time.sleep(60)"
print(pickles.ask_child({}, float(sys.argv[2])))
"""


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":  # dead, and nobody has asked for it yet
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(note), "60"])
    while not note.is_file() or not note.read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(sent)
    parent.wait()
    assert gone(int(note.read_text()))


def test_it_ends_with_its_time(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path / "pid"), "3"], capture_output=True, text=True, check=True
    )
    assert "not done after 3 seconds" in done.stdout
    assert gone(int((tmp_path / "pid").read_text()))
