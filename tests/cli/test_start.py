"""The console script imports without looking for garbage, and runs with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from commands import heeded_ctrl_c

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


def test_what_triton_would_count_is_let_go() -> None:
    """Else its bindings list what is frozen below the results: torch.export imports them, and Keras on torch."""
    pytest.importorskip("triton", reason="torch without CUDA has none")
    code = (
        "import sys, triton._C.libtriton, headstart.cli.start as start; sys.argv[1:] = ['--version']; start.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_ways_of_starting_begin_there() -> None:
    root = Path(__file__).parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"headstart": "headstart.cli.start:main"}
    assert "from headstart.cli.start import main\n" in (root / "core/__main__.py").read_text()


ENDING = """
import atexit, sys, time, types
import headstart.cli.start as start

def command():
    atexit.register(late)
    time.sleep({code} and 60)

sys.modules["headstart.cli.main"] = types.SimpleNamespace(main=command)

def late():  # as a framework at its end
    print("ending", flush=True)
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        time.sleep(0.01)
    print("ended", flush=True)

class Last:
    def __del__(self, sleep=time.sleep):
        print("forgotten", flush=True)
        sleep(0.3)

start.last = Last()
print("begun", flush=True)
start.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize(("code", "at"), [(130, "ending"), (0, "forgotten")])
def test_ctrl_c_as_python_ends_changes_no_exit_code(code: int, at: str) -> None:
    with heeded_ctrl_c():
        child = subprocess.Popen(
            [sys.executable, "-c", ENDING.format(code=code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    if code:
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
    while (line := child.stdout.readline().strip().decode()) != at:
        assert line in ("ending", "ended")
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    rest, said = child.communicate(timeout=20)
    assert child.returncode == code
    assert said == b""
    assert at == "forgotten" or rest.startswith(b"ended")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_the_third_ctrl_c_ends_what_does_not_end() -> None:
    endless = ENDING.format(code=130).replace("+ 0.4", "+ 60")
    with heeded_ctrl_c():
        child = subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    for _ in range(3):
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 130


ASLEEP = """
import signal, sys, time, types
import headstart.cli.start as start

signal.signal(signal.Signals[sys.argv[1]], signal.SIG_DFL)  # nohup has it ignored

from headstart.cli import main as command

def wait(words):
    print("begun", flush=True)
    time.sleep(60)

command.check_arguments = wait
start.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_asks_a_command_to_end_is_heeded_as_ctrl_c_is(name: str) -> None:
    number = getattr(signal, name)
    command = [sys.executable, "-c", ASLEEP, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            child.send_signal(number)
            _, said = child.communicate(timeout=20)
        finally:
            child.kill()
    assert (child.returncode, said) == (128 + number, b"interrupted\n")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signal")
def test_what_is_ignored_stays_so() -> None:
    code = """
import os, signal
from headstart.cli.signals import heed
signal.signal(signal.SIGHUP, signal.SIG_IGN)
heed()
os.kill(os.getpid(), signal.SIGHUP)
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_forked_ends_by_the_signal_itself() -> None:
    code = """
import os, signal, time
from headstart.cli.signals import heed
heed()
child = os.fork()
if not child:
    time.sleep(60)
time.sleep(0.5)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.stdout.strip(), done.stderr) == (str(-signal.SIGTERM), "")
