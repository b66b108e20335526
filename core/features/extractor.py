"""Extraction: run the frozen trunk over the samples that the store has no features for, and over no others; here,
or by an engine elsewhere (`headstart.features.engines`).

Invariant: row i of a feature set belongs to sample i of its data set. Rows are written and read by sample id,
never by position, and an image whose bytes changed between hashing and decoding is an error.

Samples are visited in the order of their ids, digests, which is as good as random whatever order the data set has:
what lies side by side on the disk is a fair sample of it, so that reading in large blocks still shuffles.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.common.behind import Behind
from headstart.common.errors import ExtractionInterrupted, MissingFeaturesError, SettingError
from headstart.common.log import LOG
from headstart.common.objects import open_objects
from headstart.common.progress import track
from headstart.common.text import counted
from headstart.contract import devices, registry
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.loader import Batch
from headstart.features.batch_features import BatchFeatures, Observe
from headstart.features.batch_sizes import USUAL, check_batch_size
from headstart.features.drift import check_drift
from headstart.features.engines.settings import Engine, Processes, check_engine
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.trunk_keys import INPUT, FeatureKeys
from headstart.models import Model
from headstart.store.feature_store import FeatureStore
from headstart.store.ids import array_to_ids
from headstart.store.keys import TrunkKey
from headstart.store.writer import ShardWriter

if TYPE_CHECKING:
    from headstart.features.elsewhere import Elsewhere
    from headstart.features.engines.planning import Task
    from headstart.features.engines.shown import Places
    from headstart.store.moving.pusher import Pusher

WAITING = 2
"""Batches whose rows wait for being hashed and written while the next ones are computed."""
LARGE = 64 << 20
"""Bytes of a batch's rows of which only one batch waits: a second one takes more memory than it spares time."""
ROUNDS = 5  # attempts, where rows vanish from a shared cache before they are read
Written = Callable[[TrunkKey, Path], object]
"""a function of a trunk key and the path of a shard that is in the store"""


@dataclass
class Stored:
    """What an extraction has brought into the store."""

    images: int = 0
    writers: list[tuple[str, ShardWriter]] = field(default_factory=list)
    """with their nodes"""


class Extractor:
    """Extracts features at the same cuts from one data set after another. The trunk is built when it is first
    needed."""

    def __init__(
        self,
        model: Model,
        cuts: str | Sequence[str] | None,
        *,
        backend: str | None,
        device: str,
        precision: str,
        dtype: str,
        batch_size: int | str,
        workers: int | None,
        cache: str | Path | None,
        augment: str | Augment | None = None,
        views: int = 1,
        seed: int = 0,
        observe: Observe | None = None,
        pooled: bool = False,
        push: str | None = None,
        engine: Engine | None = None,
        written: Written | None = None,
    ) -> None:
        """The arguments of `extract`. `observe`: is called with each batch of features as it is computed, in this
        process, so not by an engine. `pooled`: a vector a cut is kept, see `headstart.features.pooled`. `written`:
        is told of each shard, in the place of what pushes it."""
        registry.check_place(device, precision)
        check_engine(engine, device)
        check_batch_size(batch_size)
        if engine is not None and observe is not None:
            raise SettingError(
                "debug_nans looks at features where they are computed, in this process; leave out engine="
            )
        self.engine = engine
        backend = registry.choose(backend, model.home)
        self.keys = FeatureKeys(
            model, cuts, precision=precision, dtype=dtype, augment=augment, views=views, seed=seed, pooled=pooled
        )
        self.store = FeatureStore(cache)
        self.pusher = None if push is None else _pusher(self.store.root, push)
        self._written = self.pusher if written is None else written
        self.folders = self.keys.folders(self.store)
        """node -> the features of each view"""
        self.batch_features = BatchFeatures(
            self.keys.model,
            self.folders,
            backend_name=backend,
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            augment=self.keys.augment,
            seed=seed,
            observe=observe,
        )
        self._elsewhere: Elsewhere | None = None
        if engine is not None:
            from headstart.features.elsewhere import Elsewhere

            make = partial(
                Extractor,
                cuts=cuts,
                backend=backend,
                precision=precision,
                dtype=dtype,
                batch_size=batch_size,
                workers=workers,
                augment=augment,
                views=views,
                seed=seed,
                pooled=pooled,
            )
            self._elsewhere = Elsewhere(
                keys=self.keys,
                store=self.store,
                folders=self.folders,
                model=model,
                backend=backend,
                device=device,
                batch_size=USUAL if isinstance(batch_size, str) else batch_size,
                make=make,
                push=push,
                pusher=self.pusher,
            )

    def __call__(self, data: Dataset) -> FeatureSet:
        """The feature set of `data`; computes what the store lacks."""
        start = time.perf_counter()
        self.batch_features.model.preprocess.check(data)
        ids = data.ids
        views = range(len(next(iter(self.folders.values()))))
        computed: list[set[str]] = [set() for _ in views]
        rounds = ROUNDS
        while True:
            lacking = [
                {node: folders[view].missing(ids) for node, folders in self.folders.items()} for view in views
            ]
            lacking_ids = [sorted({id for missing in of_view.values() for id in missing}) for of_view in lacking]
            if rounds == ROUNDS and not any(computed):  # what is lacking is compared as it is read
                to_read = set().union(*lacking_ids)
                data.check_unchanged([i for i, id in enumerate(ids) if id not in to_read])
            if any(lacking_ids):
                self.batch_features.check_company(data)
                self._prepare(lacking)
                with self.pusher or nullcontext():
                    self._extract(data, lacking, lacking_ids)
            for done, of_view in zip(computed, lacking_ids, strict=True):
                done.update(of_view)
            try:
                right = [check_drift(self.batch_features, data, view, computed[view]) for view in views]
                if all(right):
                    break
            except MissingFeaturesError:  # a shared cache went away under the comparison
                rounds -= 1
                if not rounds:
                    raise
        extracted = sum(map(len, computed))
        folders = [folder for of_node in self.folders.values() for folder in of_node]
        for folder in folders:
            folder.touch()
            if folder.shared:
                folder.restore_with(data, partial(self._again, data))
        makers = {maker for folder in folders for maker in folder.makers()}
        stats = ExtractionStats(
            extracted,
            len(set(ids)) * len(views) - extracted,
            time.perf_counter() - start,
            tuple(sorted(makers)),
        )
        if self.pusher is not None and stats.reused:
            LOG.info(
                "features of %s were there before, and only new ones are pushed: "
                "what %s lacks of them, `%s` moves",
                counted(stats.reused, "image"),
                self.pusher.url,
                self.pusher.command(folder.key.digest for folder in folders),
            )
        by_cut = {cut: self.folders[node] for cut, node in self.keys.nodes.items()}
        return FeatureSet(data.name, ids, data.annotations, by_cut, stats, data.splits)

    def _again(self, data: Dataset) -> None:
        """Compute the rows that have vanished from a shared cache since the extraction."""
        spare = copy.copy(self)
        spare.batch_features = self.batch_features.with_own_trunk()  # which is dropped when this is done
        spare.engine = None
        spare(data)

    def _prepare(self, lacking: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Before anything is computed: make room in the store, and check that it can be written to."""
        keys = [folder.key.digest for folders in self.folders.values() for folder in folders]
        needed = 0
        for view, of_view in enumerate(lacking):
            for node, missing in of_view.items():
                folder = self.folders[node][view]
                if missing:
                    folder.require_writable()
                needed += len(missing) * math.prod(self.keys.shapes[node]) * folder.dtype.itemsize
        self.store.make_room(needed, keep=keys)
        self.folders[next(iter(self.folders))][0].require_space(needed)

    def _engine_now(self) -> Engine | None:
        """The engine, where "all" devices are several; a processes' one knows their names."""
        if not isinstance(self.engine, Processes) or self.engine.devices is not None:
            return self.engine
        if set(self.folders) == {INPUT}:
            return None  # which nothing computes
        backend = self.batch_features.backend_name
        from headstart.features.engines.processes import found

        names = found(backend, self.batch_features.precision)
        if len(names) > 1:
            return Processes(names)
        LOG.info("devices='all': %s finds one, %s, and this process extracts on it", backend, names[0])
        return None

    def _extract(
        self, data: Dataset, lacking: Sequence[Mapping[str, Sequence[str]]], lacking_ids: Sequence[Sequence[str]]
    ) -> None:
        total, stored = sum(map(len, lacking_ids)), Stored()
        self.engine = engine = self._engine_now()
        what = "decoding images" if set(self.folders) == {INPUT} else "extracting features"
        try:
            with track(what, total) as advance:
                if engine is not None:
                    assert self._elsewhere is not None
                    self._elsewhere(engine, data, lacking, total, advance)
                else:
                    self._extract_here(data, lacking, lacking_ids, stored, advance)
        except KeyboardInterrupt:
            kept = stored.images if engine is None else total - self._count_lacking(lacking)
            raise ExtractionInterrupted(
                f"interrupted: the features of {kept} of {total} images are kept; "
                "the same call again computes only the rest"
            ) from None

    def _extract_here(
        self,
        data: Dataset,
        lacking: Sequence[Mapping[str, Sequence[str]]],
        lacking_ids: Sequence[Sequence[str]],
        stored: Stored,
        advance: Callable[..., None],
    ) -> None:
        first = {id: i for i, id in reversed(list(enumerate(data.ids)))}
        for view, ids in enumerate(lacking_ids):
            if ids:
                order = np.array([first[id] for id in ids], np.int64)
                size = min(self.batch_features.at_once, len(order))
                for count in self._extract_view(data, view, lacking[view], order, size, stored):
                    advance(count)

    def _count_lacking(self, lacking: Sequence[Mapping[str, Sequence[str]]]) -> int:
        """How many of these the store lacks now."""
        return sum(
            len({id for node, ids in of_view.items() for id in self.folders[node][view].missing(ids)})
            for view, of_view in enumerate(lacking)
        )

    # ---- by an engine: what a worker does

    def digests(self) -> list[str]:
        """Of all trunk keys."""
        return [folder.key.digest for of_node in self.folders.values() for folder in of_node]

    def get_ready(self) -> str:
        """Build the trunk; returns the device that it is on."""
        if set(self.folders) == {INPUT}:
            return devices.CPU
        assert self.batch_features.trunk is not None
        return self.batch_features.place.device

    def make_room(self, task: Task) -> None:
        """For the features of a task."""
        before: list[Mapping[str, Sequence[str]]] = [{} for _ in range(task.view)]
        self._prepare([*before, dict.fromkeys(task.nodes, array_to_ids(task.ids))])

    def work_on(
        self, data: Dataset, places: Places, task: Task, ended: Callable[[], bool]
    ) -> Generator[int, None, dict[str, list[str]]]:
        """Compute and store the features of a task, until it is `ended`; yields how many samples are done.
        Returns the files of the shards by node. `places`: of the data set's ids."""
        order = places.of(task.ids)
        lacking = dict.fromkeys(task.nodes, array_to_ids(task.ids))
        stored = Stored()
        size = min(
            self.batch_features.at_once, len(data)
        )  # the same for all tasks, so that nothing compiles again
        with closing(self._extract_view(data, task.view, lacking, order, size, stored)) as counts:
            for done in accumulate(counts):
                yield done
                if ended():
                    break
        shards: dict[str, list[str]] = {}
        for node, writer in stored.writers:
            shards.setdefault(node, []).extend(writer.shards)
        return shards

    # ---- of one view, wherever it is done

    def _extract_view(
        self,
        data: Dataset,
        view: int,
        lacking: Mapping[str, Sequence[str]],
        order: np.ndarray,
        size: int,
        stored: Stored,
    ) -> Generator[int, None, None]:
        """Store what one view lacks, in one pass over its samples, of which `size` are run at once; yields how
        many are computed, and notes in `stored` how many are written, which is a few batches later."""
        missing = {node: frozenset(ids) for node, ids in lacking.items() if ids}
        with ExitStack() as stack:
            writers = {
                node: stack.enter_context(
                    self.folders[node][view].writer(
                        self.keys.shapes[node],
                        self.folders[node][view].dtype_name,
                        self.batch_features.provenance(node),
                        self._written,
                    )
                )
                for node in missing
            }
            stored.writers += writers.items()

            def store(batch: Batch, features: Mapping[str, np.ndarray]) -> None:
                for node, rows in features.items():
                    _store(writers[node], batch.ids, rows, missing[node])
                stored.images += len(batch.ids)

            nbytes = (
                size * sum(math.prod(self.keys.shapes[node]) for node in missing) * np.dtype(np.float32).itemsize
            )
            waiting = WAITING if nbytes <= LARGE else 1
            behind = stack.enter_context(Behind(waiting, "headstart-writer"))
            # Closed here: an error's traceback would keep it, and with it the loader's threads.
            decoded = self.batch_features.decoded(data, view, order, size, workers=self.batch_features.workers)
            stack.enter_context(closing(decoded))
            for batch, features in self.batch_features.of(data, decoded, size, missing):
                behind(store, batch, features)
                yield len(batch.ids)


def _pusher(root: Path, url: str) -> Pusher:
    from headstart.store.moving.pusher import Pusher

    return Pusher(root, open_objects(url))


def _store(writer: ShardWriter, ids: Sequence[str], rows: np.ndarray, missing: Collection[str]) -> None:
    """Those of a batch's rows that are missing."""
    places = [k for k, id in enumerate(ids) if id in missing]
    if len(places) == len(ids):
        writer.add(ids, rows)
    elif places:
        writer.add([ids[k] for k in places], rows[places])
