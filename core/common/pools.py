"""Pools of threads that generators hold.

A generator that nobody reads to its end, as where an error leaves the loop over it, may be ended by the garbage
collector, in whichever code allocates next. That may be Python's own start of a thread, which holds the lock with
which a thread's end is waited for, and waiting there would last for ever.

Invariant: a pool whose generator is collected as garbage is told to end, and not waited for.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import get_ident


class Collections:
    """Knows whether garbage is being collected, from when it is made until it is told to `end`."""

    def __init__(self) -> None:
        self._threads: set[int] = set()
        gc.callbacks.append(self._note)

    def are_here(self) -> bool:
        """Whether it is in this thread, which runs what is asking to free it."""
        return get_ident() in self._threads

    def end(self) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: object) -> None:
        (self._threads.add if phase == "start" else self._threads.discard)(get_ident())


@contextmanager
def pool_of(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """So many threads, for a generator's body; `name` is what theirs begin with. Leaving it cancels what is not
    begun and waits for the rest, but where garbage is collected: what threads do then must do no harm, and be
    short."""
    pool, collections = ThreadPoolExecutor(threads, thread_name_prefix=name), Collections()
    try:
        yield pool
    finally:
        collections.end()
        pool.shutdown(wait=not collections.are_here(), cancel_futures=True)
