"""Batches of preprocessed images, decoded ahead of the trunk by a pool of threads (Pillow releases the GIL).

Invariant: what comes, and in which order, depends on the arguments alone, never on the number of workers.
Row k of a batch is written by whoever decodes it, straight into the batch's array at k. The number of
batches in flight is bounded, so memory is too; closing the generator stops the threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import ImageError, SettingError
from headstart.common.pools import pool_of
from headstart.data.augment import Augment
from headstart.data.dataset import Dataset
from headstart.data.inputs import Arrays
from headstart.data.preprocess import Preprocess
from headstart.data.rows import nbytes
from headstart.data.rows import pad as pad
from headstart.data.summary import say_remarks
from headstart.data.workers import ahead, check_counts, default_workers


class Batch(NamedTuple):
    """What a trunk is fed. Row k of every field is the same sample."""

    images: Any  # (b, size, size, 3) uint8; with other inputs what they are, an array or a dict of arrays
    labels: np.ndarray  # (b,) int64
    ids: list[str]  # 32 hex digits each, of the bytes that were decoded
    indices: np.ndarray  # (b,) int64, positions in the data set


def batches(
    data: Dataset,
    preprocess: Preprocess | Arrays,
    order: np.ndarray | Sequence[int],
    batch_size: int,
    *,
    workers: int | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    epoch: int = 0,
    unread: dict[int, ImageError] | None = None,
) -> Generator[Batch, None, None]:
    """The samples at the positions `order` of `data`, `batch_size` at a time; the last batch may be smaller.

    `order` is `(m,)` integers. `augment` crops and flips each sample by (seed, epoch, its id). `workers` is
    the number of threads, by default as many as there are CPUs and memory for, at most 8. `unread`: a dict that
    takes what cannot be decoded, by its position; its row is zeros and its id "". None: that raises. Raises
    `SettingError` at once for wrong arguments, `DataError` for samples of another kind than `preprocess` prepares,
    and in iterating the first `ImageError` in the order, as soon as its batch is due.
    """
    positions = np.asarray(order)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise SettingError(
            f"order is {positions.dtype} of shape {positions.shape}; expected integers, one a sample"
        )
    if positions.size and not 0 <= positions.min() <= positions.max() < len(data):
        raise SettingError(
            f"order reaches from {positions.min()} to {positions.max()}; the data set has {len(data)} samples"
        )
    preprocess.check(data)
    if augment is not None and isinstance(preprocess, Arrays):
        raise SettingError(f"augment= crops and flips images; the model takes {preprocess}")
    workers = default_workers() if workers is None else workers
    check_counts(batch_size=batch_size, workers=workers)
    return _generate(
        data, preprocess, positions.astype(np.int64), batch_size, workers, augment, seed, epoch, unread
    )


def _generate(
    data: Dataset,
    preprocess: Preprocess | Arrays,
    order: np.ndarray,
    batch_size: int,
    workers: int,
    augment: Augment | None,
    seed: int,
    epoch: int,
    unread: dict[int, ImageError] | None,
) -> Generator[Batch, None, None]:
    stop = threading.Event()
    chunk, most = ahead(workers, batch_size, nbytes(preprocess.allocate(1)))
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    starts = iter(range(0, len(order), batch_size))
    jpegs = preprocess.jpegs(None if augment is None else augment.narrowest)
    with data.in_order(order, jpegs) as load:

        def fill(batch: Batch, batch_start: int, start: int) -> None:
            for k in range(start, min(start + chunk, len(batch.ids))):
                if stop.is_set():
                    return
                try:
                    image, id = load(batch_start + k)
                except ImageError as error:
                    if unread is None:
                        raise
                    batch.images[k], unread[int(batch.indices[k])] = 0, error
                    continue
                crop = augment.draw(seed, epoch, id, *image.size) if augment is not None else None
                preprocess.fill(batch.images, k, image, crop)
                batch.ids[k] = id

        with ExitStack() as ending:  # what is last here comes first
            ending.callback(say_remarks, data)
            pool = ending.enter_context(pool_of(workers, "headstart-loader"))
            ending.callback(stop.set)
            while True:
                while len(pending) < most and (start := next(starts, None)) is not None:
                    indices = order[start : start + batch_size].copy()
                    n = len(indices)
                    batch = Batch(preprocess.allocate(n), data.labels[indices], [""] * n, indices)
                    pending.append((batch, [pool.submit(fill, batch, start, k) for k in range(0, n, chunk)]))
                if not pending:
                    return
                batch, tasks = pending.popleft()
                for task in tasks:
                    task.result()
                yield batch
