"""What glibc does with memory that arrays leave, by the page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
