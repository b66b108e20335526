"""What glibc does with memory that arrays leave.

By default it gives the end of its heap back to the system where that is larger than a threshold, and takes it anew
for the next batch: whether it does depends on what else lies in the heap. Each page then costs a fault. Arrays of
more than 32 MB have memory of their own, which goes back in any case, and so have those of 64 MB and more of every
thread but the first, which have heaps of a bounded size.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
"""glibc's numbers of these options, in malloc.h"""
KEPT = 512 << 20
"""bytes at the heap's end that stay"""
LARGEST = 32 << 20
"""bytes of what lies in the heap, and not in memory of its own; glibc takes no more"""
IN_ONE_HEAP: Mapping[str, tuple[int, int]] = {
    "MALLOC_ARENA_MAX": (ARENA_MAX, 1),
    "MALLOC_MMAP_MAX_": (MMAP_MAX, 0),
    "MALLOC_TRIM_THRESHOLD_": (TRIM_THRESHOLD, -1),
}
"""variable of the environment -> the option, and what it is to be: how many heaps there are, how many arrays have
memory of their own, and from which size on the heap's end is given back: never"""
TUNABLES = "GLIBC_TUNABLES"
"""another variable, by which the same can be said"""


def keep_memory() -> None:
    """For a process that computes batch after batch: keep what one has left for the next one. Nothing happens
    where the C library is another one."""
    _tell([(MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT)])


def keep_in_one_heap() -> None:
    """For a process of ours in which a framework's own threads take the largest arrays, as XLA's do, before any
    thread is started: one heap for all of them, that keeps what a step has left for the next one, of any size.
    Of a step of MobileNet v2 in JAX (2.2 GB) a quarter of the processor's seconds were faults, and more where
    memory is scarce; but its program, once, takes a quarter longer to compile, by threads that wait for one heap.
    What the user has said of it in the environment stands; nothing happens where the C library is another one."""
    if "malloc" in os.environ.get(TUNABLES, ""):
        return
    _tell([wanted for variable, wanted in IN_ONE_HEAP.items() if not os.environ.get(variable)])


def _tell(options: Iterable[tuple[int, int]]) -> None:
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options:
            mallopt(option, value)
