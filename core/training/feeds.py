"""What a trainer is fed with: features that lie on its device, or images, through a frozen trunk or not.

Both feeds take the same order of samples and report the same figures, so that `frozen` and `cached` differ in
where the features come from and in nothing else. Batches of images are padded to one size for evaluation and
cut again afterwards: compiled code sees one shape.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headstart.backend import Trainer, Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.inputs import Arrays
from headstart.data.loader import batches
from headstart.data.preprocess import Preprocess
from headstart.data.rows import pad
from headstart.progress import track
from headstart.training.history import Seconds

EVALUATION_ROWS = 512


@dataclass(frozen=True)
class EpochResult:
    losses: np.ndarray
    """float `(steps, outputs)`: of the output, and of auxiliary ones"""
    accuracy: float
    seconds: Seconds


class Feed(Protocol):
    """One data set, as a trainer consumes it."""

    labels: np.ndarray

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        """One epoch in the given order, int64 `(steps, batch)`, at the given learning rates `(steps,)`."""

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        """float32 `(n, classes)`, in the data set's order."""


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


class Resident:
    """Feature rows `(n, ...)` in memory; copied to the trainer's device once."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        self.rows, self.labels = rows, labels
        self._placed: tuple[Trainer, Any] | None = None

    def _on_device(self, trainer: Trainer) -> Any:
        if self._placed is None or self._placed[0] is not trainer:
            self._placed = (trainer, trainer.put(self.rows))
        return self._placed[1]

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        clock = Clock()
        rows = self._on_device(trainer)
        clock("data")
        losses, correct = trainer.epoch(rows, self.labels, order, rates)
        clock("head")
        return EpochResult(losses, correct / order.size, clock.total())

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        clock = Clock()
        rows = self._on_device(trainer)
        clock("data")
        count = len(self.labels)
        size = min(EVALUATION_ROWS, count)
        parts = []
        for start in range(0, count, size):
            # The last chunk begins earlier instead of being smaller, and what it repeats is cut off.
            begin = min(start, count - size)
            parts.append(trainer.logits(rows, begin, begin + size)[start - begin :])
        clock("head")
        return np.concatenate(parts), clock.total()


class Images:
    """Decoded images, or a wrapped model's other inputs, every epoch anew; through `trunk` where there is one."""

    def __init__(
        self,
        data: Dataset,
        preprocess: Preprocess | Arrays,
        batch_size: int,
        trunk: Trunk | None,
        cut: str | None,
        augment: Augment | None,
        seed: int,
        workers: int | None,
    ) -> None:
        self.data, self.preprocess, self.batch_size = data, preprocess, batch_size
        self.trunk, self.cut = trunk, cut
        self.augment, self.seed, self.workers = augment, seed, workers
        self.labels = data.labels

    def _inputs(self, images: Any, clock: Clock) -> Any:
        if self.trunk is None or self.cut is None:
            return images
        features = self.trunk.run(images)[self.cut]
        clock("trunk")
        return features

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        clock = Clock()
        losses, correct = [], 0
        loader = batches(
            self.data,
            self.preprocess,
            order.reshape(-1),
            order.shape[1],
            workers=self.workers,
            augment=self.augment,
            seed=self.seed,
            epoch=epoch,
        )
        with track(f"epoch {epoch + 1}", len(order)) as advance:
            for batch, rate in zip(loader, rates.tolist(), strict=True):
                clock("data")
                loss, right = trainer.step(self._inputs(batch.images, clock), batch.labels, rate)
                clock("head")
                losses.append(loss)
                correct += right
                advance()
        return EpochResult(np.array(losses), correct / order.size, clock.total())

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        clock = Clock()
        size = min(self.batch_size, len(self.data))
        loader = batches(self.data, self.preprocess, np.arange(len(self.data)), size, workers=self.workers)
        parts = []
        for batch in loader:
            clock("data")
            inputs = self._inputs(pad(batch.images, size), clock)
            parts.append(trainer.logits(inputs, 0, size)[: len(batch.ids)])
            clock("head")
        return np.concatenate(parts), clock.total()
