"""What glibc does with memory that arrays leave, by the page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from headstart.common.heap import IN_ONE_HEAP

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
