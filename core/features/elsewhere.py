"""An extraction that an engine does: what this process asks of it. What a worker does is the `Extractor`'s."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from headstart.data import Dataset
from headstart.features.engines import processes, ray_engine
from headstart.features.engines.planning import task_size, tasks_of
from headstart.features.engines.settings import Engine, Processes
from headstart.features.engines.shown import left_of
from headstart.features.engines.ways import ByFolder, ByUrl, Folders, UrlWorker
from headstart.features.engines.work import Extracting, Job, Progress
from headstart.features.trunk_keys import FeatureKeys
from headstart.models import Model
from headstart.store.feature_store import FeatureStore
from headstart.store.moving.pusher import Pusher
from headstart.store.writer import rows_per_shard


@dataclass(frozen=True)
class Elsewhere:
    """What is to be extracted, and how, as far as it does not depend on the data set."""

    keys: FeatureKeys
    store: FeatureStore
    folders: Folders
    model: Model
    """as it was given"""
    backend: str
    device: str
    batch_size: int
    make: Callable[..., Extracting]
    """of a model, and of its `device` and `cache`; pickles"""
    push: str | None
    pusher: Pusher | None

    def __call__(
        self,
        engine: Engine,
        data: Dataset,
        lacking: Sequence[Mapping[str, Sequence[str]]],
        total: int,
        advance: Callable[..., None],
    ) -> None:
        """Have workers extract what is lacking, of each view by node, `total` samples; the store says when that is
        done."""
        job = self._job(data, lacking, total)
        start, samples = time.perf_counter(), 0
        run = (
            processes.run(engine, self.backend, job)
            if isinstance(engine, Processes)
            else ray_engine.run(engine, job)
        )
        with closing(run) as reports:
            for progress in reports:
                samples += progress.samples
                advance(progress.samples, note=_note(progress, samples / (time.perf_counter() - start)))

    def _job(self, data: Dataset, lacking: Sequence[Mapping[str, Sequence[str]]], total: int) -> Job:
        root = self.store.root.absolute()
        row_nbytes = max(
            math.prod(self.keys.shapes[node]) * folders[0].dtype.itemsize for node, folders in self.folders.items()
        )
        return Job(
            model=self.model,
            data=data,
            digests=[folder.key.digest for of_node in self.folders.values() for folder in of_node],
            root=root,
            folder=next(
                self.folders[node][view].path.absolute()
                for view, of_view in enumerate(lacking)
                for node, missing in of_view.items()
                if missing
            ),
            device=self.device,
            plan=lambda workers: tasks_of(
                lacking, task_size(total, workers, rows_per_shard(row_nbytes), self.batch_size)
            ),
            by_folder=ByFolder(
                make=partial(self.make, cache=root), root=root, folders=self.folders, pusher=self.pusher
            ),
            by_url=self._by_url(),
            left=partial(left_of, folders=self.folders),
        )

    def _by_url(self) -> ByUrl | None:
        if self.push is None or self.pusher is None:
            return None
        return ByUrl(
            make=partial(UrlWorker, make=self.make, url=self.push),
            root=self.store.root.absolute(),
            folders=self.folders,
            url=self.push,
            pusher=self.pusher,
        )


def _note(progress: Progress, images_per_second: float) -> str:
    """What stands behind the bar of an extraction by an engine."""
    workers = f"{progress.alive} worker{'' if progress.alive == 1 else 's'}"
    again = f", {progress.again:,} tasks done again" if progress.again else ""
    return f"{images_per_second:,.0f} images/s, {workers}{again}"
