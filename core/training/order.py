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
