"""A few batches, run at a few cuts with a clock beside them: decoding, the trunk up to the cut, the two together,
writing rows into a store and reading them, training and evaluating the head behind the cut.

Decoding and the trunk overlap, but on a CPU they share the cores, so how much they overlap is measured.
Invariant: nothing is left behind. What is written for the measurement goes into a temporary folder beside the
store, and is removed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from headstart.common.progress import track
from headstart.contract.optimizers import Optimizer, optimizer_of
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer
from headstart.data import Dataset
from headstart.data.loader import batches
from headstart.data.order import epoch_shape
from headstart.data.rows import pad
from headstart.features.inference import pixel_trunk
from headstart.features.trunk_keys import key_of
from headstart.models import Model
from headstart.store.feature_store import FeatureStore
from headstart.store.files import free_space
from headstart.store.keys import stored_dtype
from headstart.training.defaults import default_optimizer
from headstart.training.feeds import EVALUATION_ROWS, evaluated
from headstart.training.objective import Objective
from headstart.training.planning.predicting import Point, Rates, Work

REPEATS = 3
IMAGES = 128
"""that are decoded for the measurement, at most"""
HEAD_FLOPS = 4e10
"""of a measured step, at most: a step of a large head is measured on fewer samples"""
LEAST_SAMPLES = 8
ROWS_NBYTES = 128 << 20
"""of features that a head is measured on, at most"""
EPOCH_SECONDS = 0.5
"""that a measured epoch should last, at most"""
WRITTEN_NBYTES = 64 << 20
"""for the measurement of the disk"""


@dataclass(frozen=True)
class Measurements:
    points: Mapping[str, Point]
    """cut -> what was measured there"""
    rates: Rates


class Bench:
    """Measures what one training would do, on this machine."""

    def __init__(
        self,
        model: Model,
        train: Dataset,
        val: Dataset | None,
        work: Mapping[str, Work],
        backend: Backend,
        place: Place,
        *,
        batch: int,
        optimizer: str | Optimizer | None,
        objective: Objective,
        dtype: str,
        workers: int | None,
        cache: Path,
    ) -> None:
        self.model, self.train, self.val, self.work = model, train, val, work
        self.backend, self.place, self.cache = backend, place, cache
        self.batch, self.optimizer, self.dtype, self.workers = batch, optimizer, dtype, workers
        self.objective = objective

    def measure(self, cuts: Sequence[str]) -> Measurements:
        """At each of `cuts`, at least one, in the graph's order."""
        points: dict[str, Point] = {}
        with track("measuring", len(cuts) + 2) as advance:
            images, decode = self._decode()
            advance()
            for cut in cuts:
                points[cut], run = self._point(cut, images)
                advance()
            overlap = self._overlap(run, decode, points[cuts[-1]].trunk_seconds)
            write, read = self._disk(cuts[0])
            advance()
        return Measurements(points, Rates(decode, overlap, write, read))

    def _decode(self) -> tuple[Any, float]:
        """A batch of images, and the seconds that decoding one takes."""
        count = min(len(self.train), max(IMAGES, self.batch))
        order = np.linspace(0, len(self.train) - 1, count).astype(np.int64)  # of all classes
        start = time.perf_counter()
        decoded = [batch.images for batch in self._batches(order)]
        return pad(decoded[0], self.batch), (time.perf_counter() - start) / count

    def _batches(self, order: np.ndarray) -> Iterator[Any]:
        return batches(self.train, self.model.preprocess, order, self.batch, workers=self.workers)

    def _point(self, cut: str, images: Any) -> tuple[Point, Callable[[Any], Any]]:
        """What one cut takes, and the trunk up to it."""
        start = time.perf_counter()
        trunk = pixel_trunk(self.model, [cut], self.backend, self.place)

        def run(images: Any) -> Any:  # as an extraction has it: in core's hands
            return self.backend.numpy(trunk.run(images)[cut])

        features = run(images)
        first = time.perf_counter() - start
        seconds = _median(lambda: run(images))
        step, evaluation = self._head(cut, features)
        return Point(seconds / self.batch, max(0.0, first - seconds), step, evaluation), run

    def _head(self, cut: str, features: np.ndarray) -> tuple[float, float]:
        """Seconds a sample of training and of evaluation, on rows like those in the store."""
        graph = self.model.graph.after(cut, self.model.input_shape)
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        optimizer = optimizer_of(self.optimizer, default_optimizer(graph, False), None)
        trainer = self.backend.trainer(graph, params, Recipe(optimizer, self.objective.loss, False, 0), self.place)
        flops = 6 * self.work[cut].head_macs  # of a sample: forward, and twice as much backward
        batch = min(self.batch, max(LEAST_SAMPLES, int(HEAD_FLOPS / max(1, flops))))
        count = batch
        if batch == self.batch:
            count = max(batch, min(len(self.train), ROWS_NBYTES // self.work[cut].row_nbytes))
        with np.errstate(over="ignore"):  # an extraction would say so; here it is only timed
            stored = features.astype(stored_dtype(self.dtype))
        rows = np.resize(stored, (count, *features.shape[1:]))
        labels = self.objective.targets(self.train)
        handle, targets = trainer.put(rows), np.resize(labels, (count, *labels.shape[1:]))
        rng = np.random.default_rng(0)

        def epoch(steps: int) -> float:
            order = np.stack([rng.permutation(count)[:batch] for _ in range(steps)])
            start = time.perf_counter()
            trainer.epoch(handle, targets, order, np.full(steps, 1e-6))
            return time.perf_counter() - start

        steps = 2
        epoch(steps)
        seconds = epoch(steps)
        full, _ = epoch_shape(len(self.train), self.batch)
        if seconds / steps * full < EPOCH_SECONDS and full > steps:  # then as long as it will be
            steps = full
            epoch(steps)
            seconds = median(epoch(steps) for _ in range(REPEATS))
        return seconds / (steps * batch), self._evaluation(trainer, handle, count)

    def _evaluation(self, trainer: Trainer, handle: Any, count: int) -> float:
        count = min(count, EVALUATION_ROWS, len(self.val) if self.val else count)
        return _median(lambda: evaluated(trainer, handle, count)) / count

    def _overlap(self, run: Callable[[Any], Any], decode: float, trunk: float) -> float:
        """See `Rates.overlap`."""
        count = min(len(self.train), max(IMAGES, 2 * self.batch)) // self.batch * self.batch
        order = np.linspace(0, len(self.train) - 1, count).astype(np.int64)
        start = time.perf_counter()
        for batch in self._batches(order):
            run(batch.images)
        both = (time.perf_counter() - start) / count
        return min(1.0, both / (decode + trunk))

    def _disk(self, cut: str) -> tuple[float, float]:
        """Seconds a byte of features, written into a store and read from the disk."""
        shape, row_nbytes = self.work[cut].shape, self.work[cut].row_nbytes
        key = key_of(self.model, cut, precision=self.place.precision, dtype=self.dtype)
        with _scratch(self.cache) as root:
            # A disk that is nearly full may still have room for the features.
            most = min(WRITTEN_NBYTES, free_space(root) // 4)
            count = max(1, min(most // row_nbytes, 4096))
            rows = np.ones((count, *shape), np.float32)
            ids = [f"{i:032x}" for i in range(count)]
            start = time.perf_counter()
            folder = FeatureStore(root).folder(key)
            with folder.writer(shape, self.dtype, {"measurement": True}) as writer:
                for k in range(0, count, self.batch):
                    writer.add(ids[k : k + self.batch], rows[k : k + self.batch])
            written = time.perf_counter() - start
            files = [path for path in root.rglob("*") if path.is_file()]
            for path in files:
                _forget(path)
            start = time.perf_counter()
            nbytes = sum(len(path.read_bytes()) for path in files)
            return written / (count * row_nbytes), (time.perf_counter() - start) / max(1, nbytes)


def _median(action: Callable[[], Any]) -> float:
    """Seconds; the first run, in which a framework compiles, is not counted."""
    action()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A temporary folder on the store's disk, or on the system's where the store cannot be written to."""
    parent = next((folder for folder in (cache, *cache.parents) if folder.is_dir()), None)
    usable = parent is not None and os.access(parent, os.W_OK)
    with tempfile.TemporaryDirectory(prefix=".headstart-plan-", dir=parent if usable else None) as folder:
        yield Path(folder)


def _forget(path: Path) -> None:
    """Have the system forget what it keeps of a file in memory, where that can be asked for."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
