"""What glibc does with memory that arrays leave, by the page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from headstart.cli import main as cli
from headstart.common.heap import IN_ONE_HEAP
from headstart.training import modes

pytestmark = [
    pytest.mark.neutral,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library"),
]
BATCHES = """
import resource, sys
from headstart.common.heap import keep_memory
if "kept" in sys.argv:
    keep_memory()
def batch():
    return len([bytearray(20 << 20) for _ in range(4)])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch()
batch()
before = faults()
batch()
print(faults() - before)
"""


def test_memory_is_kept_from_batch_to_batch() -> None:
    """Of 80 MiB that a batch leaves."""
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", BATCHES, *words], check=True, capture_output=True).stdout)
        for words in ((), ("kept",))
    )
    assert kept < 100 < given_back


LARGE = """
import resource, sys, threading
from headstart.common.heap import keep_in_one_heap
if "kept" in sys.argv:
    keep_in_one_heap()
def step():
    thread = threading.Thread(target=lambda: len([bytearray(100 << 20) for _ in range(2)]))
    thread.start()
    thread.join()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_arrays_of_any_thread_lie_in_one_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 MiB that a thread beside the first leaves; what the user has said in the environment stands."""
    for variable in IN_ONE_HEAP:
        monkeypatch.delenv(variable, raising=False)

    def faults(*words: str) -> int:
        done = subprocess.run([sys.executable, "-c", LARGE, *words], check=True, capture_output=True)
        return int(done.stdout)

    assert faults("kept") < 500 < 40_000 < faults()
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    assert faults("kept") > 40_000


def test_memory_is_kept_where_a_backend_gains_by_it_and_whole_networks_are_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(modes, "keep_in_one_heap", lambda: kept.append("kept"))

    def keeps(backend: str, *names: str) -> bool:
        kept.clear()
        modes.keep_memory_for(backend, names)
        return bool(kept)

    assert keeps("jax", "full") and keeps("jax", "cached", "staged")
    assert not keeps("jax", "cached", "frozen")
    assert not keeps("torch", "full") and not keeps("keras", "full")


class DecidedError(Exception):
    """What the command decided by; nothing is trained."""


def test_the_command_decides_by_its_backend_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*arguments: object) -> None:
        raise DecidedError(*arguments)

    monkeypatch.setattr(modes, "keep_memory_for", told)
    backend = os.environ["HEADSTART_BACKEND"]
    command = ["fit", "--data", "digits", "--mode", "full", "--backend", backend]
    monkeypatch.setattr(sys, "argv", ["headstart", *command])
    with pytest.raises(DecidedError) as decided:
        cli.main()
    assert decided.value.args == (backend, ["full"])
