"""What a trainer is fed with: features that lie on its device, features that are read a pool at a time, or images,
through a frozen trunk or not.

All feeds report the same figures. All but those that stream take the samples in the same order, so that `frozen`
and `cached` differ only in where the features come from. In an evaluation, batches of images are padded to one
size, and the logits of the padding are dropped, so that compiled code sees one shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headstart.common.errors import MissingFeaturesError
from headstart.common.memory import aligned_empty
from headstart.common.progress import track
from headstart.contract.running import Trainer, Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.inputs import Arrays
from headstart.data.loader import batches
from headstart.data.order import block_order, epoch_order, epoch_shape
from headstart.data.preprocess import Preprocess
from headstart.data.rows import pad
from headstart.features.exports import all_rows
from headstart.features.feature_set import FeatureSet
from headstart.store.ids import ids_to_array
from headstart.training.history import Seconds
from headstart.training.standardizing import MAPPED, Standardization

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
        with ThreadPoolExecutor(1, thread_name_prefix="headstart-reader") as thread:

            def begin(k: int) -> Future[Any]:
                return thread.submit(read, pools[k], self._buffers[k % 2][: len(pools[k])], False)

            coming = begin(0) if pools else None
            for k in range(len(pools)):
                assert coming is not None
                try:
                    coming.result()
                except MissingFeaturesError:
                    read(pools[k], self._buffers[k % 2][: len(pools[k])], True)
                coming = begin(k + 1) if k + 1 < len(pools) else None
                yield self._buffers[k % 2][: len(pools[k])]


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
        pools = self._in_order(source)
        for positions, rows in zip(pools, self.pools.read(pools, source.read), strict=True):
            yield rows, None if self.weights is None else self.weights[positions]

    def standardize(self, by: Standardization) -> None:
        self.standardization = by
        for source in self._sources.values():
            source.standardize(by)

    def _in_order(self, source: _Source) -> list[np.ndarray]:
        """The positions of pool after pool, as they are read fastest."""
        return [source.on_disk[i : i + self.pools.rows] for i in range(0, len(self.targets), self.pools.rows)]

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
        clock = Clock()
        source = self._source(0)
        pools = self._in_order(source)
        size = window(len(pools[0]))
        logits: np.ndarray | None = None
        for positions, rows in zip(pools, self.pools.read(pools, source.read), strict=True):
            clock("data")
            part = evaluated(trainer, trainer.put(rows), len(positions), size=size)
            if logits is None:
                logits = np.empty((len(self.targets), *part.shape[1:]), np.float32)
            logits[positions] = part
            clock("head")
        assert logits is not None
        return logits, clock.total()

    def logits_of(
        self, trainer: Any, parts: Sequence[slice], numbers: Sequence[Sequence[int] | None]
    ) -> tuple[list[np.ndarray], Seconds]:
        clock, source = Clock(), self._source(0)
        results: list[np.ndarray] = []
        for part, of_part in zip(parts, numbers, strict=True):
            on_disk = source.on_disk[(source.on_disk >= part.start) & (source.on_disk < part.stop)]
            pools = [on_disk[i : i + self.pools.rows] for i in range(0, len(on_disk), self.pools.rows)]
            logits: np.ndarray | None = None
            for positions, rows in zip(pools, self.pools.read(pools, source.read), strict=True):
                clock("data")
                of_pool = evaluated(trainer, trainer.put(rows), len(positions), numbers=of_part)
                if logits is None:
                    logits = np.empty((len(on_disk), *of_pool.shape[1:]), np.float32)
                logits[positions - part.start] = of_pool
                clock("head")
            assert logits is not None
            results.append(logits)
        return results, clock.total()


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
