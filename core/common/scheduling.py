"""How long a thread computes before another gets the CPU, where the system lets a process say so.

Threads that compute together wait for the slowest of them. On a machine that others use too, one that wakes up may
wait for a whole turn of somebody else's, some milliseconds, and all the others with it. Whoever asks for shorter
turns gets them sooner, and no more of the CPU than before.

Invariant: priority, policy and share of the CPU stay what they were.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

TURN = 100_000  # nanoseconds, the least that Linux takes; it has 3,000,000 or so by itself
# sched_setattr(2), which the C library offers by name since glibc 2.41 only
_NUMBERS = {"x86_64": 314, "aarch64": 274}
# struct sched_attr: size, policy, flags, nice, priority, runtime (the turn), deadline, period
_ATTRIBUTES = struct.Struct("IIQiIQQQ")


def take_short_turns() -> bool:
    """Ask for short turns for this thread and for the threads and processes that it starts from now on. False
    where that cannot be: not on Linux, or under another policy than the usual one. Linux before 6.12 takes it and
    does nothing."""
    number = _NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, TURN, 0, 0)
    failed: int = ctypes.CDLL(None).syscall(number, 0, attributes, 0)
    return failed == 0
