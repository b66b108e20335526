"""Samples read ahead of who decodes them, where reading waits for a network: more reads are under way than there
are threads that decode, so that these wait for none.

Invariant: what is read, and not taken yet, is bounded by bytes and by number; each sample is read once. Who asks
for one that is not under way yet reads it himself, so nobody waits for room that nobody makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from headstart.common.pools import pool_of
from headstart.data.workers import CHUNK, FETCHED_NBYTES, MOST_WORKERS, TASKS

MOST_WAITING = TASKS * MOST_WORKERS * CHUNK  # samples, beyond those under way

Read = tuple[Any, str]
"""an encoded sample, and its id"""


class Reads(Protocol):
    """What is read: a source of samples."""

    @property
    def fetches(self) -> int:
        """how many reads should be under way at a time; 0: none ahead"""

    def read(self, index: int) -> Read: ...

    def nbytes(self, index: int) -> int:
        """How many bytes reading this sample brings, about; 0 where that is not known."""


@contextmanager
def reading(source: Reads, indices: Sequence[int]) -> Iterator[Callable[[int], Read]]:
    """`read(n)`: what `source.read` gives of the n-th of these samples, to be asked once for each, in about this
    order, from any thread. What that raises, `read` raises."""
    if not source.fetches or not len(indices):
        yield lambda n: source.read(indices[n])
        return
    with pool_of(source.fetches, "headstart-fetch") as pool:
        yield _Ahead(source, indices, pool).read


class _Ahead:
    def __init__(self, source: Reads, indices: Sequence[int], pool: ThreadPoolExecutor) -> None:
        self._source = source
        self._indices = indices
        self._pool = pool
        self._lock = threading.Lock()
        self._next = 0
        self._taken_early: set[int] = set()
        self._waiting: dict[int, tuple[Future[Read], int]] = {}  # with the bytes that it was counted as
        self._nbytes = 0
        with self._lock:
            self._begin()

    def read(self, n: int) -> Read:
        with self._lock:
            under_way = self._waiting.get(n)
            if under_way is None and n >= self._next:
                self._taken_early.add(n)
        if under_way is None:
            return self._source.read(self._indices[n])
        future, nbytes = under_way
        try:
            return future.result()
        finally:
            with self._lock:
                del self._waiting[n]
                self._nbytes -= nbytes
                self._begin()

    def _begin(self) -> None:
        """Begin to read what there is room for."""
        while self._next < len(self._indices) and len(self._waiting) < self._source.fetches + MOST_WAITING:
            n, nbytes = self._next, self._source.nbytes(self._indices[self._next])
            if n not in self._taken_early:
                if self._waiting and self._nbytes + nbytes > FETCHED_NBYTES:
                    return
                self._nbytes += nbytes
                self._waiting[n] = self._pool.submit(self._source.read, self._indices[n]), nbytes
            self._taken_early.discard(n)
            self._next += 1
