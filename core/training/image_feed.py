"""Images as a trainer is fed with them, decoded anew in every epoch, through a frozen trunk or not.

In an evaluation, batches are padded to one size, and the logits of the padding are dropped, so that compiled code
sees one shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.common.progress import track
from headstart.contract.running import Trainer, Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.inputs import Arrays
from headstart.data.loader import batches
from headstart.data.order import epoch_order
from headstart.data.preprocess import Preprocess
from headstart.data.rows import pad
from headstart.training.feeds import Clock, EpochResult
from headstart.training.history import Seconds
from headstart.training.standardizing import MAPPED


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
        weights: np.ndarray | None = None,
        targets: np.ndarray | None = None,
        mapping: Trunk | None = None,
    ) -> None:
        """`batch_size`: of the evaluation; with that of training, a trunk sees one shape. `weights`, `targets`: as
        `Resident` has them. `mapping`: what standardises the trunk's features; see `mapping_trunk`."""
        self.weights = weights
        self.data, self.preprocess, self.batch_size = data, preprocess, batch_size
        self.trunk, self.cut, self.mapping = trunk, cut, mapping
        self.augment, self.seed, self.workers = augment, seed, workers
        self.targets = data.labels if targets is None else targets

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return epoch_order(len(self.targets), batch_size, seed, epoch)

    def _inputs(self, images: Any, clock: Clock) -> Any:
        if self.trunk is None or self.cut is None:
            return images
        features = self.trunk.run(images)[self.cut]
        if self.mapping is not None:
            features = self.mapping.run(features)[MAPPED]
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
            for batch, positions, rate in zip(loader, order, rates.tolist(), strict=True):
                clock("data")
                weights = None if self.weights is None else self.weights[positions]
                loss, right = trainer.step(
                    self._inputs(batch.images, clock), self.targets[positions], rate, weights
                )
                clock("head")
                losses.append(loss)
                correct += right
                advance()
        return EpochResult(np.array(losses), correct / order.size, clock.total())

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        clock = Clock()
        count, done = len(self.data), 0
        size = min(self.batch_size, count)
        out: np.ndarray | None = None
        loader = batches(self.data, self.preprocess, np.arange(count), size, workers=self.workers)
        for batch in loader:
            clock("data")
            inputs = self._inputs(pad(batch.images, size), clock)
            logits = trainer.logits(inputs, 0, size)
            if out is None:
                out = np.empty((count, *logits.shape[1:]), logits.dtype)
            out[done : done + len(batch.ids)] = logits[: len(batch.ids)]
            done += len(batch.ids)
            clock("head")
        assert out is not None and done == count
        return out, clock.total()
