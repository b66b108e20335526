"""What glibc does with memory that arrays leave.

By default it gives the end of its heap back to the system where that is larger than a threshold, and takes it anew
for the next batch: whether it does depends on what else lies in the heap. Each page then costs a fault.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of these options, in malloc.h"""
KEPT = 512 << 20
"""bytes at the heap's end that stay"""
LARGEST = 32 << 20
"""bytes of what lies in the heap, and not in memory of its own; glibc takes no more"""


def keep_memory() -> None:
    """For a process that computes batch after batch: keep what one has left for the next one. Nothing happens
    where the C library is another one."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEPT)
