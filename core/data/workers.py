"""How many threads read and decode samples, how many samples each takes at a time, and how many are decoded ahead.

Invariant: what waits decoded is bounded by bytes, however many CPUs there are and however large a sample is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.machine import available_memory, cpus
from headstart.common.progress import track

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 16  # samples a task: small enough to balance, large enough that the queue costs nothing
TASKS = 2  # a worker, so that all of them are busy while the oldest batch waits for its slowest
# Decoding needs no lock of Python's, what surrounds it does: of photographs of 500 x 375, on 16 cores, 1 thread
# decoded 234 a second, 4 decoded 1,043, 8 decoded 1,615 and 16 decoded 1,260.
MOST_WORKERS = 8
THREAD_NBYTES = 128 << 20  # of a thread: a photograph of 20 megapixels, decoded and turned
AHEAD_NBYTES = 512 << 20  # of decoded samples that wait
# Over a network, latency is the limit: at 50 ms, 64 requests under way bring 1,280 photographs a second.
FETCHES = 64
FETCHED_NBYTES = 256 << 20  # of encoded samples that were fetched ahead, or are being fetched


def default_workers() -> int:
    """As many threads as this process may use CPUs, up to `MOST_WORKERS`, and no more than half of the memory that
    it could still take has room for."""
    return max(1, min(cpus(), MOST_WORKERS, available_memory() // 2 // THREAD_NBYTES))


def ahead(workers: int, batch_size: int, sample_nbytes: int) -> tuple[int, int]:
    """How many samples a task has, and how many batches may be under way, at least two. `sample_nbytes`: of one
    that is decoded."""
    room = AHEAD_NBYTES // max(1, TASKS * workers * sample_nbytes)
    chunk = max(1, min(CHUNK, room))
    return chunk, max(2, -(-TASKS * workers * chunk // batch_size))


def in_threads(
    action: Callable[[T], R],
    items: Sequence[T],
    what: str,
    take: Callable[[T, R], object],
    at_once: int = CHUNK,
    workers: int | None = None,
) -> None:
    """`take(item, action(item))` for all items, in order: `action` in threads (`workers` of them, None: as many as
    decode), `at_once` items a task, `take` in this one. After an error or an interrupt, no more of them is
    begun."""
    pool = ThreadPoolExecutor(workers or default_workers())
    try:
        with track(what, len(items)) as advance:
            pieces = [items[start : start + at_once] for start in range(0, len(items), at_once)]
            for piece, results in zip(
                pieces, pool.map(lambda p: [action(item) for item in p], pieces), strict=True
            ):
                for item, result in zip(piece, results, strict=True):
                    take(item, result)
                advance(len(piece))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check_counts(**settings: object) -> None:
    """SettingError for a setting, name=value, that is no integer of 1 or more."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise SettingError(f"{name} is {value!r}; expected an integer of 1 or more")
