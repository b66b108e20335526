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
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.behind import Behind
from headstart.common.errors import (
    ExtractionInterrupted,
    FeatureUnderflowError,
    MissingFeaturesError,
    SettingError,
)
from headstart.common.log import LOG
from headstart.common.objects import open_objects
from headstart.common.progress import track
from headstart.common.version import __version__
from headstart.contract import devices, registry
from headstart.contract.recipe import FLOAT16, Place
from headstart.contract.running import Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.copies import warn_of_parts
from headstart.data.door import as_data_set, check_data_set
from headstart.data.draws import drawn
from headstart.data.loader import Batch, batches
from headstart.data.rows import pad
from headstart.data.summary import say
from headstart.features.batch_sizes import USUAL, check_batch_size, samples_at_once
from headstart.features.company import GROUP, check_company
from headstart.features.dividing import WorkPart, part_of
from headstart.features.drift import check_drift
from headstart.features.elsewhere import Elsewhere
from headstart.features.engines.planning import Task
from headstart.features.engines.processes import found
from headstart.features.engines.settings import Engine, Processes, Ray, check_engine, processes_on
from headstart.features.engines.shown import Places
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.inference import pixel_trunk
from headstart.features.trunk_keys import INPUT, FeatureKeys
from headstart.models import Model, check_model
from headstart.store.feature_store import FeatureStore
from headstart.store.ids import array_to_ids
from headstart.store.keys import TrunkKey
from headstart.store.moving.pusher import Pusher
from headstart.store.writer import ShardWriter

WAITING = 2
"""Batches whose rows wait for being hashed and written while the next ones are computed."""
LARGE = 64 << 20
"""Bytes of a batch's rows of which only one batch waits: a second one takes more memory than it spares time."""
ROUNDS = 5  # attempts, where rows vanish from a shared cache before they are read
Observe = Callable[[Dataset, Batch, Mapping[str, np.ndarray]], None]
"""a function of a data set, a batch of it, and the batch's features by node, called before they are stored; what
it raises ends the extraction"""
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
        self.batch_size, self.workers = batch_size, workers
        self.device, self.precision = device, precision
        self.backend_name = registry.choose(backend, model.home)
        self.keys = FeatureKeys(
            model, cuts, precision=precision, dtype=dtype, augment=augment, views=views, seed=seed, pooled=pooled
        )
        self.model = self.keys.model
        self.seed, self.observe = seed, observe
        self.store = FeatureStore(cache)
        self.pusher = None if push is None else Pusher(self.store.root, open_objects(push))
        self._written = self.pusher if written is None else written
        self.folders = self.keys.folders(self.store)
        """node -> the features of each view"""
        make = partial(
            Extractor,
            cuts=cuts,
            backend=self.backend_name,
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
            backend=self.backend_name,
            device=device,
            batch_size=USUAL if isinstance(batch_size, str) else batch_size,
            make=make,
            push=push,
            pusher=self.pusher,
        )

    @cached_property
    def place(self) -> Place:
        return registry.load(self.backend_name).place(self.device, self.precision)

    @cached_property
    def trunk(self) -> Trunk:
        """The frozen part of the model, up to the last of the cuts: batch norms folded away, and normalising the
        loader's uint8 pixels itself."""
        nodes = [node for node in self.folders if node != INPUT]
        return pixel_trunk(self.model, nodes, registry.load(self.backend_name), self.place)

    @cached_property
    def at_once(self) -> int:
        """How many samples are run at once. By "auto" it is asked when the trunk is on the device."""
        nodes = [node for node in self.folders if node != INPUT]
        if not nodes or not isinstance(self.batch_size, str):
            return USUAL if isinstance(self.batch_size, str) else self.batch_size
        assert self.trunk is not None  # on the device, before that is asked what it has left
        return samples_at_once(
            self.batch_size,
            self.model.graph.upto(*nodes),
            self.model.input_shape,
            nodes,
            registry.load(self.backend_name),
            self.place,
        )

    @property
    def built_trunk(self) -> Trunk | None:
        """The trunk; None where it was not needed and so has not been built."""
        return self.__dict__.get("trunk")

    def provenance(self, node: str) -> dict[str, Any]:
        """JSON-able: which program computes the features of `node`, with which versions, on which device. It is
        written beside the rows. Decoded images, the features at the cut "input", are Pillow's work."""
        if node == INPUT:
            versions = {"pillow": version("pillow")}
            return {"headstart": __version__, "backend": "pillow", "versions": versions, "device": "cpu"}
        return {
            "headstart": __version__,
            "backend": self.backend_name,
            "versions": registry.versions(self.backend_name),
            "device": self.place.device,
        }

    def __call__(self, data: Dataset) -> FeatureSet:
        """The feature set of `data`; computes what the store lacks."""
        start = time.perf_counter()
        self.model.preprocess.check(data)
        ids = data.ids
        views = range(len(next(iter(self.folders.values()))))
        computed: list[set[str]] = [set() for _ in views]
        rounds = ROUNDS
        while True:
            lacking = [
                {node: folders[view].missing(ids) for node, folders in self.folders.items()} for view in views
            ]
            wanted = [sorted({id for missing in of_view.values() for id in missing}) for of_view in lacking]
            if any(wanted):
                self._check_company(data)
                self._prepare(lacking)
                with self.pusher or nullcontext():
                    self._extract(data, lacking, wanted)
            for done, of_view in zip(computed, wanted, strict=True):
                done.update(of_view)
            try:
                right = [check_drift(self, data, view, computed[view]) for view in views]
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
        by_cut = {cut: self.folders[node] for cut, node in self.keys.nodes.items()}
        return FeatureSet(data.name, ids, data.annotations, by_cut, stats, data.splits)

    def _again(self, data: Dataset) -> None:
        """Compute the rows that have vanished from a shared cache since the extraction."""
        spare = copy.copy(self)  # whose trunk is dropped when this is done
        spare.__dict__.pop("trunk", None)
        spare.engine = None
        spare(data)

    def _check_company(self, data: Dataset) -> None:
        """SettingError where a wrapped module's features of a sample depend on the others in its batch: a few real
        samples of `data` are run in several batches."""
        nodes = [node for node in self.folders if node != INPUT]
        if self.model.home is None or not nodes:
            return
        backend = registry.load(self.backend_name)
        order = drawn(len(data), GROUP)
        for batch in self._batches(data, 0, order, len(order), 1):
            check_company(
                batch,
                lambda rows: {node: backend.numpy(value) for node, value in self.trunk.run(rows).items()},
                self.place,
                graph=self.model.graph,
            )

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
        names = found(self.backend_name, self.precision)
        if len(names) > 1:
            return Processes(names)
        LOG.info("devices='all': %s finds one, %s, and this process extracts on it", self.backend_name, names[0])
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
                size = min(self.at_once, len(order))
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
        assert self.trunk is not None
        return self.place.device

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
        size = min(self.at_once, len(data))  # the same for all tasks, so that nothing compiles again
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
                        self.provenance(node),
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
            decoded = stack.enter_context(closing(self._batches(data, view, order, size, self.workers)))
            for batch, features in self._features(data, decoded, size, missing):
                behind(store, batch, features)
                yield len(batch.ids)

    def _batches(
        self, data: Dataset, view: int, order: np.ndarray, size: int, workers: int | None
    ) -> Generator[Batch, None, None]:
        return batches(
            data,
            self.model.preprocess,
            order,
            size,
            workers=workers,
            augment=self.keys.augment,
            seed=self.seed,
            epoch=view,
        )

    def _features(
        self, data: Dataset, decoded: Iterable[Batch], size: int, nodes: Collection[str]
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Batches, and their features `(b, ...)` at these nodes; `size` rows are run at once."""
        dtypes = {node: self.folders[node][0].dtype for node in nodes if node != INPUT}
        under_way: deque[Batch] = deque()

        def inputs() -> Iterator[Any]:
            for batch in decoded:
                under_way.append(batch)
                yield pad(batch.images, size)

        outputs = self.trunk.stream(inputs(), dtypes) if dtypes else ({} for _ in inputs())
        for of_trunk in outputs:
            batch = under_way.popleft()
            rows = {node: of_trunk[node][: len(batch.ids)] for node in dtypes}
            if self.precision == FLOAT16:
                for node in dtypes:
                    _check_some_are_left(rows[node], node)
            if INPUT in nodes:
                rows[INPUT] = batch.images
            if self.observe is not None:
                self.observe(data, batch, rows)
            yield batch, rows

    def recomputed(
        self, data: Dataset, node: str, view: int, sample: np.ndarray
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of these samples of the data set, and their features `(b, ...)` at a node, computed now and not
        stored."""
        size = min(self.at_once, len(data))  # what an extraction ran with, so that nothing compiles again
        for batch, rows in self._features(data, self._batches(data, view, sample, size, 1), size, [node]):
            yield batch, np.asarray(rows[node])


def _check_some_are_left(rows: np.ndarray, node: str) -> None:
    """FeatureUnderflowError for a batch's features of a trunk in float16 that are zeros alone: what it computes on
    the way is below that type's range, which the stored rows do not show."""
    if not rows.any():
        raise FeatureUnderflowError(
            f"computed in float16, all features at {node!r} of {len(rows)} samples are 0: numbers on the way are "
            "below 6e-08, where float16 ends. Use precision='bfloat16' or 'float32'"
        )


def _store(writer: ShardWriter, ids: Sequence[str], rows: np.ndarray, missing: Collection[str]) -> None:
    """Those of a batch's rows that are missing."""
    places = [k for k, id in enumerate(ids) if id in missing]
    if len(places) == len(ids):
        writer.add(ids, rows)
    elif places:
        writer.add([ids[k] for k in places], rows[places])


def extract(
    model: Model,
    data: Dataset,
    cuts: str | Sequence[str] | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    batch_size: int | str = 64,
    workers: int | None = None,
    cache: str | Path | None = None,
    augment: str | Augment | None = None,
    views: int = 1,
    seed: int = 0,
    part: tuple[int, int] | str | None = None,
    push: str | None = None,
    engine: Ray | None = None,
    devices: str | Sequence[str] | None = None,
) -> FeatureSet:
    """The features of `data` at the legal `cuts` of `model` (default: what its classifier takes), from the store
    where it has them, computed where it lacks them (and then kept). Several cuts take one pass over the data.

    The cut "input" keeps the decoded, cropped and resized images themselves, uint8 `(n, size, size, 3)`: no
    trunk is run for them, and `fit` in the modes that see images reads them with `cut="input"`.

    `precision`: of the trunk's arithmetic, "float32", "tf32", "bfloat16" or "float16". `dtype`: of the stored
    features, "float16" (default; half the bytes), "float32" or "bfloat16" (float16's bytes, float32's range).
    `cache`: the
    store's folder, default HEADSTART_CACHE or the user's cache directory.
    `batch_size`: samples that are run at once, or "auto": as many as the device's free memory has room for, 256 at
    most; 64 on a CPU. What a device has no room for is run in halves, with a DeviceWarning.
    `views`: how many augmented copies of every sample, view v drawn by `augment` ("flip", "crop", "flip,crop" or
    an `hs.Augment`) from (`seed`, v, the sample's id): what an uncached run with that seed draws in epoch v.

    `part`: (3, 8) or "3/8": only the third of eight parts of the samples, whose features are then returned;
    "auto": the part that a launcher (torchrun, srun, an array of SLURM's, mpirun) or the framework's process group
    gives this process. So processes that share the store fill it together; the same call without a part computes
    what is left.

    `push`: the URL of a store, such as "s3://bucket/team", to which each finished shard is written on, while the
    next ones are computed. What cannot be written there is a StoreWarning with the reason;
    `headstart.cache.push` moves it, and what was in the cache before.

    `engine`: None, or `hs.Ray(...)`: what is lacking is computed by Ray's actors, on the machines of a cluster
    that all see the images and the store, or reach the URL `push`, from where features then come into the store,
    or on the GPUs of this machine; `workers` and `batch_size` are then each actor's. EngineError where it cannot
    begin, or no actor is left; RemoteError where an actor cannot push, or nothing comes from there.

    `devices`: "all", or names such as ["cuda:0", "cuda:1"], in the place of `device`: what is lacking is computed
    by processes of this machine, one for each of them, which see one card each and share the CPUs; `workers` and
    `batch_size` are each process's. With one device this process extracts on it. What a process that dies had not
    stored is computed again. EngineError where one cannot begin, or a task ends every process.

    Raises CutError, DeviceMemoryError (no room for one sample), ImageError (an image that cannot be decoded),
    FeatureOverflowError, FeatureUnderflowError, DiskSpaceError, CacheNotWritableError, FeatureDriftError; Ctrl-C
    raises ExtractionInterrupted, and keeps what is finished.
    """
    check_model(model)
    data = as_data_set(data)
    check_data_set(data, "data")
    engine_now, device = processes_on(devices, engine, device)
    divided = None if part is None else part_of(part, lambda: registry.rank(backend, model.home))
    extractor = Extractor(
        model,
        cuts,
        backend=backend,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        cache=cache,
        augment=augment,
        views=views,
        seed=seed,
        push=push,
        engine=engine_now,
    )
    say(data)
    warn_of_parts(data)
    return extractor(data if divided is None else _divided(data, divided))


def _divided(data: Dataset, part: WorkPart) -> Dataset:
    """The part's samples."""
    of_part = data.subset(part.positions(data.ids))
    source = f" ({part.source})" if part.source else ""
    LOG.info("%s%s: %s of %s samples", part, source, f"{len(of_part):,}", f"{len(data):,}")
    return of_part
