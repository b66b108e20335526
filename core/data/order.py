"""The order of samples, from seed and epoch alone: the same in every backend and in every mode.

Invariant: an epoch takes every sample, in batches of one size, so that compiled steps see one shape. The few
places that are left over are filled with samples of the same epoch.
"""

from __future__ import annotations

import numpy as np


def epoch_shape(count: int, batch_size: int) -> tuple[int, int]:
    """The number of steps of an epoch over `count` samples, and that of samples in each: as few steps as batches
    of at most `batch_size` allow, all of one size. Less than one sample a step is taken twice.

    `epoch_shape(125, 64)` is (2, 63): one of the samples comes twice."""
    steps = -(-count // batch_size)
    return steps, -(-count // steps)


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 `(steps, batch)`, of `epoch_shape`: which samples each step of an epoch takes; every sample at least
    once."""
    # argsort of random doubles: numpy keeps their stream over versions, that of `permutation` it may change
    shuffled = np.argsort(np.random.default_rng([seed, epoch]).random(count), kind="stable")
    return _in_batches(shuffled, batch_size)


def block_order(on_disk: np.ndarray, block: int, pool: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 `(steps, batch)`, as `epoch_order`, for rows that are read from a disk.

    `on_disk` `(n,)`: the samples in the order in which they lie there. Blocks of `block` neighbours are drawn at
    random, and shuffled within pools of `pool` samples, a multiple of the batch: each run of `pool / batch` steps
    reads its own blocks, and no others, but for the few samples that come twice.
    """
    count = len(on_disk)
    rng = np.random.default_rng([seed, epoch])
    starts = np.arange(0, count, block)
    drawn = starts[np.argsort(rng.random(len(starts)), kind="stable")]
    shuffled = np.concatenate([on_disk[start : start + block] for start in drawn.tolist()])
    for start in range(0, count, pool):
        part = shuffled[start : start + pool]
        part[:] = part[np.argsort(rng.random(len(part)), kind="stable")]
    return _in_batches(shuffled.astype(np.int64), batch_size)


def _in_batches(shuffled: np.ndarray, batch_size: int) -> np.ndarray:
    """The last batch is filled up with the samples just before it, fewer than its own, so none is in it twice; of
    rows on a disk they are mostly at hand."""
    steps, size = epoch_shape(len(shuffled), batch_size)
    lacking, last = steps * size - len(shuffled), (steps - 1) * size
    return np.concatenate([shuffled, shuffled[last - lacking : last]]).reshape(steps, size)
