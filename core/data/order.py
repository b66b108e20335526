"""The order of samples, from seed and epoch alone: the same in every backend and in every mode."""

from __future__ import annotations

import numpy as np


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 `(steps, batch)`: which samples each step of an epoch takes.

    All batches are full, so that compiled steps see one shape: of `count` samples, `count % batch_size` are
    left out of this epoch, others in each. A batch is never larger than `count`.
    """
    batch = min(batch_size, count)
    # argsort of random doubles: numpy keeps their stream over versions, that of `permutation` it may change
    shuffled = np.argsort(np.random.default_rng([seed, epoch]).random(count), kind="stable")
    steps = count // batch
    return shuffled[: steps * batch].reshape(steps, batch)


def block_order(on_disk: np.ndarray, block: int, pool: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 `(steps, batch)`, as `epoch_order`, for rows that are read from a disk.

    `on_disk` `(n,)`: the samples in the order in which they lie there. Blocks of `block` neighbours are drawn at
    random, and shuffled within pools of `pool` samples, a multiple of the batch: each run of `pool / batch` steps
    reads its own blocks, and no others.
    """
    count = len(on_disk)
    batch = min(batch_size, count)
    rng = np.random.default_rng([seed, epoch])
    starts = np.arange(0, count, block)
    drawn = starts[np.argsort(rng.random(len(starts)), kind="stable")]
    shuffled = np.concatenate([on_disk[start : start + block] for start in drawn.tolist()])
    for start in range(0, count, pool):
        part = shuffled[start : start + pool]
        part[:] = part[np.argsort(rng.random(len(part)), kind="stable")]
    steps = count // batch
    return shuffled[: steps * batch].astype(np.int64).reshape(steps, batch)
