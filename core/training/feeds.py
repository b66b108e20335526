"""What a trainer is fed with: what all feeds give and are asked, and how they are evaluated. Features are fed by
`feature_feeds`, images by `image_feed`.

All feeds report the same figures. All but those that stream take the samples in the same order, so that `frozen`
and `cached` differ only in where the features come from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headstart.contract.running import Trainer
from headstart.data import Dataset
from headstart.features.feature_set import FeatureSet
from headstart.training.history import Seconds
from headstart.training.standardizing import Standardization

EVALUATION_ROWS = 512
"""that are evaluated at once, at most"""


@dataclass(frozen=True)
class EpochResult:
    losses: np.ndarray
    """float `(steps, outputs)`: of the output, and of auxiliary ones"""
    accuracy: Any
    """float; of heads side by side float `(h,)`"""
    seconds: Seconds


class Feed(Protocol):
    """One data set, as a trainer consumes it."""

    targets: np.ndarray
    """of its samples, as the loss takes them"""

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """int64 `(steps, batch)`: an epoch's order, from seed and epoch; see `epoch_shape`."""

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        """One epoch in the given order, int64 `(steps, batch)`, at the given learning rates `(steps,)`."""

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        """float32 `(n, classes)`, in the data set's order."""


class FeatureFeed(Feed, Protocol):
    """A feed of features that were stored."""

    def train(
        self,
        trainer: Trainer,
        order: np.ndarray,
        rates: np.ndarray,
        epoch: int,
        weights: np.ndarray | None = None,
    ) -> EpochResult:
        """As any feed. `weights`: how much each sample counts in this epoch, float32 `(n,)`, or for heads side by
        side `(n, h)`; None: as the feed has it."""

    def logits_of(
        self, trainer: Any, parts: Sequence[slice], numbers: Sequence[Sequence[int] | None]
    ) -> tuple[list[np.ndarray], Seconds]:
        """What `logits` gives of each of these parts of the samples, whose starts and stops are said; of heads
        side by side that of the heads of these numbers alone, `(m, len(numbers), classes)`, None: of all."""

    def stored(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """All rows of the first view as they are stored, and how much each counts, in blocks, in any order. Each
        block is valid until the next one is asked for."""

    def standardize(self, by: Standardization) -> None:
        """Rows are mapped before they are fed, from now on. To be called once, before anything was fed."""


@dataclass(frozen=True)
class Feeds:
    """The feeds of a training, each with its data set."""

    train: Feed
    val: Feed | None
    train_data: Dataset | FeatureSet
    val_data: Dataset | FeatureSet | None


class Clock:
    """Adds the time since the last call to a phase."""

    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "trunk": 0.0, "head": 0.0}
        self.last = time.perf_counter()

    def __call__(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def total(self) -> Seconds:
        return Seconds(**self.seconds)


def counted(weights: np.ndarray | None, order: np.ndarray) -> Any:
    """Of how many of an order's samples a trainer says how many are right: int, or of weights `(n, h)` int `(h,)`,
    at least 1."""
    if weights is None or weights.ndim == 1:
        return order.size
    return np.maximum(np.count_nonzero(weights[order.reshape(-1)], 0), 1)


def window(count: int) -> int:
    """Of how many rows so many are evaluated at once: as few windows as may be, that repeat as few rows as may
    be."""
    return -(-count // -(-count // EVALUATION_ROWS))


def evaluated(
    trainer: Any,
    rows: Any,
    count: int,
    part: slice | None = None,
    size: int | None = None,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """float32 `(count, classes)`: the logits of the rows of a handle that has so many; of a `part` of them alone,
    whose start and stop are said. `size`: of what is computed at once; None: the `window` of all. `numbers`: of
    heads side by side those that are asked; None: all."""
    start, stop = (0, count) if part is None else (part.start, part.stop)
    size = window(count) if size is None else min(size, count)
    out: np.ndarray | None = None  # filled part by part: of many classes logits are larger than features
    for first in range(start, stop, size):
        # The last chunk begins earlier instead of being smaller, and what it repeats is cut off.
        begin = min(first, count - size)
        asked = (rows, begin, begin + size)
        logits = trainer.logits(*asked) if numbers is None else trainer.logits_of(*asked, numbers)
        if out is None:
            out = np.empty((stop - start, *logits.shape[1:]), logits.dtype)
        rows_now = min(size, stop - first)
        out[first - start : first - start + rows_now] = logits[first - begin : first - begin + rows_now]
    assert out is not None
    return out
