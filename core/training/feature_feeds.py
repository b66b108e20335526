"""Stored features as a trainer is fed with them: lying on its device, or read a pool at a time.

Invariant: what is fed is what the store verified, mapped once where it is to be standardised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from headstart.common.errors import MissingFeaturesError
from headstart.common.memory import aligned_empty
from headstart.common.pools import pool_of
from headstart.common.progress import track
from headstart.contract.running import Trainer
from headstart.data.order import block_order, epoch_order, epoch_shape
from headstart.features.exports import all_rows
from headstart.features.feature_set import FeatureSet
from headstart.store.ids import ids_to_array
from headstart.training.feeds import Clock, EpochResult, counted, evaluated, window
from headstart.training.history import Seconds
from headstart.training.standardizing import Standardization


class Resident:
    """Features that lie on the trainer's device as a whole, every view of them; read from the store once, for all
    trainers of one backend on one device."""

    def __init__(
        self, features: FeatureSet, cut: str, weights: np.ndarray | None = None, targets: np.ndarray | None = None
    ) -> None:
        """`weights`: float32 `(n,)`, how much each sample counts in training, or for heads side by side `(n, h)`,
        how much for each head; None: alike. `targets`: of the samples, as the loss takes them; None: the
        labels."""
        self.features, self.cut, self.weights = features, cut, weights
        self.targets = features.labels if targets is None else targets
        self.standardization: Standardization | None = None
        self._read: np.ndarray | None = None  # the first view's rows, between their statistics and their use
        self._placed: dict[int, Any] = {}

    def stored(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        self._read = all_rows(self.features, self.cut, 0)
        yield self._read, self.weights

    def standardize(self, by: Standardization) -> None:
        self.standardization = by

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return epoch_order(len(self.targets), batch_size, seed, epoch)

    def _on_device(self, trainer: Trainer, view: int) -> Any:
        if view not in self._placed:
            rows, self._read = (None, self._read) if view else (self._read, None)
            if rows is None:
                rows = all_rows(self.features, self.cut, view)
            if self.standardization is not None:
                rows = self.standardization.map(rows)
            self._placed[view] = trainer.put(rows)
        return self._placed[view]

    def train(
        self,
        trainer: Trainer,
        order: np.ndarray,
        rates: np.ndarray,
        epoch: int,
        weights: np.ndarray | None = None,
    ) -> EpochResult:
        clock, weights = Clock(), self.weights if weights is None else weights
        rows = self._on_device(trainer, epoch % self.features.views)
        clock("data")
        losses, correct = trainer.epoch(rows, self.targets, order, rates, weights)
        clock("head")
        return EpochResult(losses, correct / counted(weights, order), clock.total())

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        clock = Clock()
        rows = self._on_device(trainer, 0)
        clock("data")
        logits = evaluated(trainer, rows, len(self.targets))
        clock("head")
        return logits, clock.total()

    def logits_of(
        self, trainer: Any, parts: Sequence[slice], numbers: Sequence[Sequence[int] | None]
    ) -> tuple[list[np.ndarray], Seconds]:
        clock, count = Clock(), len(self.targets)
        rows = self._on_device(trainer, 0)
        clock("data")
        # windows of one size, whichever part they are of: compiled code sees one shape
        size = window(max(part.stop - part.start for part in parts))
        logits = [
            evaluated(trainer, rows, count, part, size, of_part)
            for part, of_part in zip(parts, numbers, strict=True)
        ]
        clock("head")
        return logits, clock.total()


class Pools:
    """Two buffers for pools of rows: one is trained on while a thread fills the other. Feeds that do not run at
    the same time share them."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.rows = rows
        self._shape, self._dtype = shape, dtype
        self._buffers: list[np.ndarray] = []

    def read(
        self, pools: Sequence[np.ndarray], read: Callable[[np.ndarray, np.ndarray, bool], Any]
    ) -> Iterator[np.ndarray]:
        """A buffer for each of `pools`, positions `(k,)` of at most `rows` samples, filled by `read(positions,
        out, restore)`. It is valid until the next one is asked for. Rows that are missing are computed anew, with
        `restore`, in this thread: it is the one that the framework works in."""
        if not self._buffers:
            self._buffers = [aligned_empty((self.rows, *self._shape), self._dtype) for _ in range(2)]
        buffers, self._buffers = self._buffers, []  # what is not read to its end may be written to for a while
        with pool_of(1, "headstart-reader") as thread:

            def begin(k: int) -> Future[Any]:
                return thread.submit(read, pools[k], buffers[k % 2][: len(pools[k])], False)

            coming = begin(0) if pools else None
            for k in range(len(pools)):
                assert coming is not None
                try:
                    coming.result()
                except MissingFeaturesError:
                    read(pools[k], buffers[k % 2][: len(pools[k])], True)
                coming = begin(k + 1) if k + 1 < len(pools) else None
                yield buffers[k % 2][: len(pools[k])]
        self._buffers = buffers


class Streamed:
    """Features that are read anew in every epoch, a pool of batches at a time: from the disk, or from memory
    where they only do not fit the device."""

    def __init__(
        self,
        features: FeatureSet,
        cut: str,
        pools: Pools,
        block: int,
        in_memory: bool = False,
        weights: np.ndarray | None = None,
        targets: np.ndarray | None = None,
        cached_share: float = 1.0,
    ) -> None:
        """`block`: so many rows that lie side by side are drawn together. `weights`, `targets`: as `Resident` has
        them. `cached_share`: see `FeatureFolder.read`."""
        self.features, self.cut, self.pools, self.block, self.weights = features, cut, pools, block, weights
        self.targets = features.labels if targets is None else targets
        self.in_memory, self.cached_share = in_memory, cached_share
        self.standardization: Standardization | None = None
        self._sources: dict[int, _Source] = {}

    def _source(self, view: int) -> _Source:
        if view not in self._sources:
            self._sources[view] = _Source(self.features, self.cut, view, self.in_memory, self.cached_share)
            if self.standardization is not None:
                self._sources[view].standardize(self.standardization)
        return self._sources[view]

    def stored(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        source = self._source(0)
        pools = self._in_pools(source.on_disk)
        for positions, rows in zip(pools, self.pools.read(pools, source.read), strict=True):
            yield rows, None if self.weights is None else self.weights[positions]

    def standardize(self, by: Standardization) -> None:
        self.standardization = by
        for source in self._sources.values():
            source.standardize(by)

    def _in_pools(self, positions: np.ndarray) -> list[np.ndarray]:
        """Pool after pool of these."""
        return [positions[i : i + self.pools.rows] for i in range(0, len(positions), self.pools.rows)]

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.in_memory:
            return epoch_order(len(self.targets), batch_size, seed, epoch)
        _, batch = epoch_shape(len(self.targets), batch_size)
        on_disk = self._source(epoch % self.features.views).on_disk
        return block_order(on_disk, self.block, self.pools.rows // batch * batch, batch_size, seed, epoch)

    def train(
        self,
        trainer: Trainer,
        order: np.ndarray,
        rates: np.ndarray,
        epoch: int,
        weights: np.ndarray | None = None,
    ) -> EpochResult:
        clock, weights = Clock(), self.weights if weights is None else weights
        source = self._source(epoch % self.features.views)
        steps = max(1, self.pools.rows // order.shape[1])
        starts = range(0, len(order), steps)
        pools = [order[start : start + steps].reshape(-1) for start in starts]
        losses, correct = [], 0
        with track(f"epoch {epoch + 1}", len(order)) as advance:
            for start, positions, rows in zip(starts, pools, self.pools.read(pools, source.read), strict=True):
                clock("data")
                part = rates[start : start + steps]
                # The rows were read to where they are used: nothing is gathered again.
                of_pool = None if weights is None else weights[positions]
                loss, right = trainer.epoch(trainer.put(rows), self.targets[positions], None, part, of_pool)
                clock("head")
                losses.append(loss)
                correct += right
                advance(len(part))
        return EpochResult(np.concatenate(losses), correct / counted(weights, order), clock.total())

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        clock, source = Clock(), self._source(0)
        size = window(min(self.pools.rows, len(self.targets)))
        logits = self._evaluated(trainer, source, source.on_disk, 0, clock, size=size)
        return logits, clock.total()

    def logits_of(
        self, trainer: Any, parts: Sequence[slice], numbers: Sequence[Sequence[int] | None]
    ) -> tuple[list[np.ndarray], Seconds]:
        clock, source = Clock(), self._source(0)
        results = []
        for part, of_part in zip(parts, numbers, strict=True):
            on_disk = source.on_disk[(source.on_disk >= part.start) & (source.on_disk < part.stop)]
            results.append(self._evaluated(trainer, source, on_disk, part.start, clock, numbers=of_part))
        return results, clock.total()

    def _evaluated(
        self, trainer: Any, source: _Source, on_disk: np.ndarray, start: int, clock: Clock, **how: Any
    ) -> np.ndarray:
        """float32 `(len(on_disk), classes)`: the logits of the samples at these positions, which are all of those
        from `start` on, in the data set's order. `how`: see `evaluated`."""
        pools = self._in_pools(on_disk)
        logits: np.ndarray | None = None
        for positions, rows in zip(pools, self.pools.read(pools, source.read), strict=True):
            clock("data")
            of_pool = evaluated(trainer, trainer.put(rows), len(positions), **how)
            if logits is None:
                logits = np.empty((len(on_disk), *of_pool.shape[1:]), np.float32)
            logits[positions - start] = of_pool
            clock("head")
        assert logits is not None
        return logits


class _Source:
    """One view's rows, by position."""

    def __init__(self, features: FeatureSet, cut: str, view: int, in_memory: bool, cached_share: float) -> None:
        self._cached_share = cached_share
        self._folder = features.folder(cut, view)
        self._ids = ids_to_array(features.ids)
        self._rows = self._folder.read(self._ids) if in_memory else None
        count = len(features)
        self.on_disk = np.arange(count) if in_memory else self._folder.disk_order(self._ids)
        """positions in the order in which their rows are read fastest"""
        self._by: Standardization | None = None

    def standardize(self, by: Standardization) -> None:
        """Rows are mapped from now on: those that are held at once, others whenever they are read."""
        if self._rows is None:
            self._by = by
        else:
            by.map(self._rows)

    def read(self, positions: np.ndarray, out: np.ndarray, restore: bool) -> None:
        if self._rows is not None:
            np.take(self._rows, positions, axis=0, out=out)
            return
        self._folder.read(self._ids[positions], out, restore, self._cached_share)
        if self._by is not None:
            self._by.map(out)
