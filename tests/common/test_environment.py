"""What frameworks are told of waiting and of numbers of threads, by whom, and that the user's word stands."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headstart.common import environment
from headstart.common.environment import for_frameworks
from headstart.common.machine import Cpus

pytestmark = pytest.mark.neutral


def release() -> tuple[int, ...]:
    """Of the system's kernel: (6, 12) of 6.12.3-generic."""
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


TURNS_ARE_READ = sys.platform == "linux" and platform.machine() == "x86_64" and release() >= (6, 12)
ALL, FEWER = Cpus(8, False), Cpus(3, True)
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "18"}
SOON_ASLEEP = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0", **OPENBLAS}
COUNTS = dict.fromkeys(environment.COUNTS, "3")


@pytest.mark.parametrize(
    ("said", "added"),
    [
        ({}, SOON_ASLEEP),
        ({"OMP_WAIT_POLICY": "", "HOME": "/"}, SOON_ASLEEP),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, OPENBLAS),
        ({"GOMP_SPINCOUNT": "infinity"}, OPENBLAS),
        ({"KMP_BLOCKTIME": "200"}, OPENBLAS),
        ({"KMP_LIBRARY": "turnaround"}, OPENBLAS),
        ({"OPENBLAS_THREAD_TIMEOUT": "30"}, {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}),
        ({"OMP_NUM_THREADS": "7"}, SOON_ASLEEP),
        (SOON_ASLEEP, {}),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(said: dict[str, str], added: dict[str, str]) -> None:
    assert for_frameworks(said, ALL) == added


def test_counts_are_said_where_frameworks_would_count_too_many() -> None:
    assert for_frameworks(SOON_ASLEEP, FEWER) == COUNTS
    assert for_frameworks(SOON_ASLEEP | {"MKL_NUM_THREADS": "2"}, FEWER) == {}


SHOW = """
import ctypes, json, os, struct
attributes = ctypes.create_string_buffer(48)
told = dict(os.environ)
if os.environ["READS_TURNS"] and ctypes.CDLL(None).syscall(315, 0, attributes, 48, 0) == 0:
    told["TURN"] = struct.unpack("IIQiIQQQ", attributes.raw)[5]
open(os.environ["TOLD"], "w").write(json.dumps(told))
os._exit(3)
"""


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_children_of_compare_are_told(policy: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headstart.training import compare

    for name in ("OMP_WAIT_POLICY", *environment.WAITING, *environment.COUNTS):
        monkeypatch.delenv(name, raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    seen: list[dict[str, str]] = []
    own = subprocess.Popen

    def popen(command: list[str], **more: Any) -> Any:
        if "env" not in more:  # Python's own, which asks the system for the processor's name
            return own(command, **more)
        seen.append(more["env"])
        return own([sys.executable, "-c", "raise SystemExit(3)"], **more)

    monkeypatch.setattr(compare.subprocess, "Popen", popen)
    monkeypatch.setattr(compare.registry, "choose", lambda name: name)
    monkeypatch.setattr(compare.registry, "versions", lambda name: {})
    report = compare.run_backends(compare.CompareArguments(backends=("torch",)))
    assert report["errors"]["torch"]["type"] == "crash"
    (told,) = seen
    assert told.get("GOMP_SPINCOUNT") == (None if policy else "3000")
    assert told.get("KMP_BLOCKTIME") == (None if policy else "0")
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_the_command_is_told_before_it_imports_a_framework(policy: str | None, tmp_path: Path) -> None:
    """By a framework that is not one: it shows what it finds when it is imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(SHOW)
    kept = {
        name: text for name, text in os.environ.items() if name not in (*environment.WAITING, "OMP_WAIT_POLICY")
    }
    if policy is not None:
        kept["OMP_WAIT_POLICY"] = policy
    ended = subprocess.run(
        [sys.executable, "-c", "from headstart.cli.main import main; main()", "extract", "--backend", "torch"],
        env={
            **kept,
            "PYTHONPATH": str(tmp_path),
            "HEADSTART_CACHE": str(tmp_path / "cache"),
            "TOLD": str(tmp_path / "told"),
            "READS_TURNS": "yes" if TURNS_ARE_READ else "",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 3, ended.stderr
    told = json.loads((tmp_path / "told").read_text())
    assert told.get("GOMP_SPINCOUNT") == (None if policy else "3000")
    assert told.get("TURN") == (100_000 if TURNS_ARE_READ else None)


TURNS = """
import ctypes, os, struct, subprocess, sys, threading
from headstart.common.scheduling import take_short_turns

def turn():
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(315, 0, attributes, 48, 0) == 0
    return struct.unpack("IIQiIQQQ", attributes.raw)

os.nice(3)
before = turn()
took = take_short_turns()
seen = [before, turn()]
thread = threading.Thread(target=lambda: seen.append(turn()))
thread.start()
thread.join()
print(took, [(policy, nice, length) for _, policy, _, nice, _, length, _, _ in seen])
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
print(take_short_turns(), os.sched_getscheduler(0) == os.SCHED_BATCH)
"""


@pytest.mark.skipif(not TURNS_ARE_READ, reason="turns are Linux's since 6.12, and read by a number of x86-64's")
def test_short_turns_are_handed_on_and_nothing_else_changes() -> None:
    ended = subprocess.run([sys.executable, "-c", TURNS], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    took, seen = first.split(maxsplit=1)
    assert took == "True"
    (policy, nice, _), *after = ast.literal_eval(seen)
    assert after == [(policy, nice, 100_000)] * 2
    assert nice == 3 + os.getpriority(os.PRIO_PROCESS, 0)
    assert second == "False True"
