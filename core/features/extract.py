"""Extraction: run the frozen trunk over the samples that the store has no features for, and over no others.

Invariant: row i of a feature set belongs to sample i of its data set. Rows are written and read by sample id,
never by position, and an image whose bytes changed between hashing and decoding is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart import __version__
from headstart import backend as backends
from headstart.backend import Place, Trunk
from headstart.data import Dataset
from headstart.data.loader import batches
from headstart.data.rows import pad
from headstart.errors import ExtractionInterrupted, FeatureDriftError, SettingError
from headstart.features.keys import TrunkKey, params_digest, stored_dtype, trunk_key
from headstart.features.store import FeatureStore, TrunkFolder
from headstart.inference import pixel_trunk
from headstart.models import Model
from headstart.progress import track

DTYPES = ("float16", "float32", "bfloat16")
CHECKED_ROWS = 4
# Two backends' float32 sums differ by about 1e-6; bfloat16 arithmetic by about 1e-2. More is another function.
DRIFT_LIMIT = 0.05


@dataclass(frozen=True)
class ExtractionStats:
    """What an extraction did. Counts are of distinct images; with several cuts, of those that any cut lacked."""

    extracted: int
    reused: int
    seconds: float
    """wall time of the whole call: hashing, decoding, trunk, writing"""
    made_by: tuple[str, ...]
    """the backends that the stored features come from"""


class FeatureSet:
    """The features of one data set at one or more cuts, joined with its labels by sample id."""

    def __init__(self, data: Dataset, folders: Mapping[str, TrunkFolder], stats: ExtractionStats) -> None:
        self._folders = dict(folders)
        self.ids = data.ids
        self.labels = data.labels
        self.classes = data.classes
        self.stats = stats

    @property
    def cuts(self) -> tuple[str, ...]:
        return tuple(self._folders)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"FeatureSet({len(self)} samples at {', '.join(self.cuts)})"

    def key(self, cut: str | None = None) -> TrunkKey:
        """The trunk key of a cut's features; `key().digest` names their folder in the store."""
        return self._folders[self._cut(cut)].key

    def numpy(self, cut: str | None = None) -> np.ndarray:
        """The features at `cut` (it may be left out where there is one only), `(n, h, w, c)` or `(n, c)` in
        the stored dtype, in the data set's order. Every row's checksum is verified: DamagedShardError."""
        return self._folders[self._cut(cut)].read(self.ids)

    def _cut(self, cut: str | None) -> str:
        if cut is None and len(self._folders) == 1:
            return next(iter(self._folders))
        if cut not in self._folders:
            raise SettingError(f"no features at cut {cut!r}; expected one of {', '.join(self._folders)}")
        return cut


class Extractor:
    """Extracts at the same cuts from one data set after another; the trunk is built when it is first needed."""

    def __init__(
        self,
        model: Model,
        cuts: Sequence[str],
        *,
        backend: str | None,
        device: str,
        precision: str,
        dtype: str,
        batch_size: int,
        workers: int | None,
        cache: str | Path | None,
    ) -> None:
        if dtype not in DTYPES:
            raise SettingError(f"dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
        if not cuts:
            raise SettingError("cuts is empty; name at least one, such as 'avgpool'")
        backends.check_place(device, precision)
        self.model, self.dtype, self.batch_size, self.workers = model, dtype, batch_size, workers
        self.precision = precision
        self.device = device
        self.backend_name = backends.choose(backend, model.home)
        # the name as the user wrote it -> node
        self.nodes = {cut: model.graph.check_cut(cut) for cut in cuts}
        self.shapes = model.graph.shapes(model.input_shape)
        self.store = FeatureStore(cache)
        self.folders = {node: self.store.trunk(self._key(node)) for node in self.nodes.values()}

    def _key(self, node: str) -> TrunkKey:
        graph = self.model.graph.upto(node)
        return trunk_key(
            graph=graph.spec(),
            weights_digest=params_digest({name: self.model.params[name] for name in graph.param_shapes()}),
            preprocess=self.model.preprocess.as_dict(),
            precision=self.precision,
            dtype=self.dtype,
            label={"model": self.model.name, "weights": self.model.weights or "random", "cut": node},
        )

    @cached_property
    def place(self) -> Place:
        return backends.load(self.backend_name).place(self.device, self.precision)

    @cached_property
    def trunk(self) -> Trunk:
        """Folded, and fed with what the loader gives."""
        return pixel_trunk(self.model, list(self.folders), backends.load(self.backend_name), self.place)

    @property
    def built_trunk(self) -> Trunk | None:
        """The trunk, if it has been needed."""
        return self.__dict__.get("trunk")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return {
            "headstart": __version__,
            "backend": self.backend_name,
            "versions": backends.versions(self.backend_name),
            "device": self.place.device,
        }

    def __call__(self, data: Dataset) -> FeatureSet:
        """The feature set of `data`; computes what the store lacks."""
        start = time.perf_counter()
        self.model.preprocess.check(data)
        ids = data.ids
        lacking = {node: folder.missing(ids) for node, folder in self.folders.items()}
        wanted = dict.fromkeys(id for missing in lacking.values() for id in missing)
        if wanted:
            self._extract(data, lacking, wanted)
        self._check_drift(data, wanted)
        for folder in self.folders.values():
            folder.touch()
        makers = {str(p.get("backend")) for folder in self.folders.values() for p in folder.provenances()}
        stats = ExtractionStats(
            len(wanted), len(set(ids)) - len(wanted), time.perf_counter() - start, tuple(sorted(makers))
        )
        return FeatureSet(data, {cut: self.folders[node] for cut, node in self.nodes.items()}, stats)

    def _extract(self, data: Dataset, lacking: Mapping[str, Sequence[str]], wanted: Mapping[str, None]) -> None:
        itemsize = stored_dtype(self.dtype).itemsize
        for node, folder in self.folders.items():
            folder.require_writable()
            folder.require_space(len(lacking[node]) * math.prod(self.shapes[node]) * itemsize)
        missing = {node: frozenset(ids) for node, ids in lacking.items()}
        first = {id: i for i, id in reversed(list(enumerate(data.ids)))}
        order = np.array([first[id] for id in wanted])
        size = min(self.batch_size, len(order))
        backend = backends.load(self.backend_name)
        finished = 0
        try:
            with ExitStack() as stack:
                writers = {
                    node: stack.enter_context(folder.writer(self.shapes[node], self.dtype, self.provenance))
                    for node, folder in self.folders.items()
                }
                advance = stack.enter_context(track("extracting features", len(order)))
                for batch in batches(data, self.model.preprocess, order, size, workers=self.workers):
                    count = len(batch.ids)
                    outputs = self.trunk.run(pad(batch.images, size))
                    for node, writer in writers.items():
                        rows = backend.numpy(outputs[node])[:count]
                        chosen = [k for k, id in enumerate(batch.ids) if id in missing[node]]
                        if chosen:
                            writer.add([batch.ids[k] for k in chosen], rows[chosen])
                    finished += count
                    advance(count)
        except KeyboardInterrupt:
            raise ExtractionInterrupted(
                f"interrupted: the features of {finished} of {len(order)} images are kept; "
                "the same call again computes only the rest"
            ) from None

    def _check_drift(self, data: Dataset, extracted: Mapping[str, None]) -> None:
        """Compare features that were made by another backend, version or device with what this one computes:
        a few rows of each such provenance, and each shard once."""
        reused = np.array([i for i, id in enumerate(data.ids) if id not in extracted], np.int64)
        if not len(reused):
            return
        mine = self.provenance
        by = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()[:16]
        for node, folder in self.folders.items():
            unchecked: dict[str, list[tuple[str, np.ndarray]]] = {}
            for shard, provenance, places in folder.sources([data.ids[i] for i in reused]):
                if provenance != mine and not folder.is_checked(shard, by):
                    made_by = f"{provenance.get('backend')} {provenance.get('versions')}"
                    unchecked.setdefault(made_by, []).append((shard, reused[places]))
            for made_by, shards in unchecked.items():
                rows = np.concatenate([places for _, places in shards])
                chosen = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(int)
                self._compare(data, node, folder, rows[chosen], made_by)
                for shard, _ in shards:
                    folder.mark_checked(shard, by)

    def _compare(self, data: Dataset, node: str, folder: TrunkFolder, sample: np.ndarray, made_by: str) -> None:
        """Raise FeatureDriftError unless the stored rows of these samples are what the trunk computes now."""
        size = min(self.batch_size, len(data))  # what an extraction ran with, so that nothing compiles again
        for batch in batches(data, self.model.preprocess, sample, size, workers=1):
            count = len(batch.ids)
            outputs = self.trunk.run(pad(batch.images, size))
            fresh = backends.load(self.backend_name).numpy(outputs[node])[:count]
            fresh = fresh.reshape(count, -1).astype(np.float64)
            stored = folder.read(batch.ids).astype(np.float64).reshape(count, -1)
            drift = np.linalg.norm(fresh - stored, axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-6)
            if not (drift <= DRIFT_LIMIT).all():
                worst = int(drift.argmax())
                raise FeatureDriftError(
                    f"{folder.path}: the features of {data.source_name(int(batch.indices[worst]))} differ by "
                    f"{drift[worst]:.1%} from what {self.backend_name} computes here; they were made by "
                    f"{made_by}. Extract into another cache (HEADSTART_CACHE), or remove this folder"
                )


def extract(
    model: Model,
    data: Dataset,
    cuts: str | Sequence[str] | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    batch_size: int = 64,
    workers: int | None = None,
    cache: str | Path | None = None,
) -> FeatureSet:
    """The features of `data` at the legal `cuts` of `model` (default: what its classifier takes), from the store
    where it has them, computed where it lacks them (and then kept).

    `precision`: of the trunk's arithmetic, "float32" or "bfloat16". `dtype`: of the stored features, "float16"
    (default; half the bytes), "float32" or "bfloat16" (float16's bytes, float32's range). `cache`: the
    store's folder, default HEADSTART_CACHE or the user's cache directory.

    Raises CutError, ImageError (an image that cannot be decoded), FeatureOverflowError, DiskSpaceError,
    CacheNotWritableError, FeatureDriftError; Ctrl-C raises ExtractionInterrupted, and keeps what is finished.
    """
    return Extractor(
        model,
        [cuts] if isinstance(cuts, str) else [model.default_cut] if cuts is None else list(cuts),
        backend=backend,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        cache=cache,
    )(data)
