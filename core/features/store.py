"""The store: a folder a trunk key, in it immutable shards. That is all the state there is.

    <root>/features/<digest>/trunk.json, <digest of shard>.safetensors ..., last_used

* A listing is a snapshot: other writers' shards may appear, and evicted ones vanish, at any time. What has
  gone is a miss, never an error.
* The index from ids to rows is derived from the shards whenever they change, and lives in memory only.
* No row is handed out that has not been verified on this very reading.
* Nothing is deleted but by `gc`, and there only what its preview listed, and by `make_room` where a limit asks
  for it.
* Links are followed to read, never to delete what they lead to.
* Shared caches are laid out alike, and only ever read. What is wrong with them stops nobody: their rows are
  missing, and computed into the own cache. What is wrong with the own cache is an error, for its owner to decide.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.errors import (
    DamagedShardError,
    DiskSpaceError,
    SettingError,
    StoreError,
    StoreWarning,
    UnknownNameError,
)
from headstart.features.files import (
    EVICTIONS,
    PARTIAL_PREFIX,
    despite_evictions,
    free_space,
    make_folder,
    probe_folder,
    read_whole,
    storage_errors,
    touch,
    write_atomically,
)
from headstart.features.ids import array_to_ids, ids_to_array, sort_keys
from headstart.features.keys import TrunkKey, canonical_json, spec_digest, stored_dtype
from headstart.features.shard import MAX_ROWS, SUFFIX, Shard, has_gone, open_shard, raise_unreadable
from headstart.features.writer import ShardWriter
from headstart.machine import cache_root
from headstart.progress import track
from headstart.sizes import binary_size, parse_nbytes

T = TypeVar("T")
R = TypeVar("R")

SHARED_VARIABLE = "HEADSTART_CACHE_SHARED"
MAX_VARIABLE = "HEADSTART_CACHE_MAX"

DESCRIPTION = "trunk.json"
LAST_USED = "last_used"
DAMAGED = "damaged"
CHECKED = "checked"
LEFTOVER_SECONDS = 24 * 3600.0
LIVING_SECONDS = 60.0  # an unfinished file that was written to since then is some writer's, at work
PART_NBYTES = 8 << 20  # rows are read in parts of about this
READERS = 3  # threads that read them
TOUCH_SECONDS = 60.0  # reading is noted as use so often
RECENT_SECONDS = 600.0  # what another process has used since then, it may want again; no room is made of it
MAX_DESCRIPTION_NBYTES = 2 << 20  # a graph of ten thousand nodes; read, it takes up to thirty times as much memory

Ids = Sequence[str] | NDArray[np.uint8]
"""32 hex digits each, or their bytes `(n, 16)`"""

_DIGEST = re.compile(r"[0-9a-f]{32}")

# What this process has open or has used: it makes no room of the one, and the other is not another process's.
_open_folders: weakref.WeakSet[TrunkFolder] = weakref.WeakSet()
_open_lock = threading.Lock()
_used_here: dict[Path, float] = {}


@dataclass(frozen=True)
class TrunkInfo:
    """One trunk's folder, as a listing found it."""

    key: str
    """The trunk key's digest."""
    label: dict[str, Any]
    """Hints for people; empty where trunk.json is missing or damaged."""
    spec: dict[str, Any]
    """What the features depend on; empty where trunk.json is missing or damaged."""
    rows: int
    """Samples with features in an intact shard."""
    nbytes: int
    """Bytes of all the folder's files."""
    shards: int
    """Intact shards."""
    last_used: float
    """Seconds since the epoch."""
    made_by: str
    """The backends that extracted, joined by ", "."""
    path: Path
    damaged: tuple[str, ...]
    """A line for each file that cannot be used."""
    shared: bool = False
    """Whether it lies in a shared cache, which is only read."""


@dataclass(frozen=True)
class GcPlan:
    """What `gc` would delete. Iterates over the trunks."""

    trunks: tuple[TrunkInfo, ...]
    """Whole trunks, least recently used first."""
    leftovers: tuple[Path, ...]
    """Unfinished files of writers that died more than a day ago."""
    nbytes: int
    """Bytes that both free."""

    def __iter__(self) -> Iterator[TrunkInfo]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    def __bool__(self) -> bool:
        return bool(self.trunks or self.leftovers)


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of reading every byte of every shard."""

    shards: int
    """Intact shards."""
    rows: int
    """Rows in them."""
    damaged: list[tuple[Path, str]]
    """Damaged files and what is wrong with each."""
    set_aside: list[Path]
    """Where repair has moved them."""
    shared: list[Path] = field(default_factory=list)
    """Those of the damaged files that lie in shared caches. They are never moved; their owner can mend them."""


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """The shards of one moment, and the index over their ids."""

    shards: tuple[Shard, ...]
    """The own cache's first, so that these are read before others' copies."""
    own: int
    """How many of them are the own cache's."""
    damaged: tuple[DamagedShardError, ...]
    """In the own cache."""
    passed_over: tuple[StoreError, ...]
    """What is wrong in shared caches."""
    keys: NDArray[np.bytes_]
    """`(rows,)` ids, sorted. An id stands once for every shard that holds it."""
    shard_of: NDArray[np.int32]
    """`(rows,)` place in `shards`"""
    row_of: NDArray[np.intp]
    """`(rows,)` row within that shard"""

    def first(self, wanted: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Where in `keys` each wanted id stands first, if it does."""
        places = np.empty(len(wanted), np.intp)
        order = np.argsort(wanted)
        # In their order, neighbours are looked up one after another: several times faster than at random.
        places[order] = np.searchsorted(self.keys, wanted[order])
        return places

    def stands_at(self, places: NDArray[np.intp], wanted: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Whether the wanted ids stand at those places of `keys`."""
        inside = places < len(self.keys)
        result = np.zeros(len(places), np.bool_)
        result[inside] = self.keys[places[inside]] == wanted[inside]
        return result


def cache_limit() -> int | None:
    """Bytes that HEADSTART_CACHE_MAX allows the own cache; None where it is not set. SettingError for no size."""
    text = os.environ.get(MAX_VARIABLE, "").strip()
    try:
        return parse_nbytes(text) if text else None
    except SettingError as error:
        raise SettingError(f"{MAX_VARIABLE}: {error}") from None


class FeatureStore:
    """All features under one root: that given, else HEADSTART_CACHE, else the user's cache folder.

    Opening it creates nothing, and reading never needs permission to write.
    """

    def __init__(self, root: Path | str | None = None, shared: Iterable[Path | str] | None = None) -> None:
        """`shared`: further caches, on any file system, that are only read; by default the folders in
        HEADSTART_CACHE_SHARED, with `os.pathsep` between them. StoreWarning for one that does not exist: a
        share may be away for a time, and its features can be computed."""
        self.root = cache_root(root)
        self.folder = self.root / "features"
        named = "the argument shared"
        if shared is None:
            named = SHARED_VARIABLE
            shared = [part for part in os.environ.get(SHARED_VARIABLE, "").split(os.pathsep) if part]
        others = [one for one in shared if not self._is_own(one)]
        self.shared = tuple(dict.fromkeys(self._shared_root(one, named) for one in others))

    def trunk(self, key: TrunkKey) -> TrunkFolder:
        """The folder of one trunk key, which need not exist yet."""
        return TrunkFolder(self.folder / key.digest, key, [root / "features" / key.digest for root in self.shared])

    def trunks(self) -> list[TrunkInfo]:
        """All trunks with anything stored, by key, the own cache's before the same one in shared caches. Damage is
        listed, not raised."""
        found = [_info(folder) for folder in self._folders()]
        for folder in self._shared_folders():
            try:
                info = _info(folder)
            except StoreError as error:
                _warn(str(error))
            else:
                found.append(None if info is None else replace(info, shared=True))
        return sorted((info for info in found if info is not None), key=lambda info: info.key)

    def info(self, prefix: str) -> TrunkInfo:
        """The one trunk whose key begins so, in the own cache if it is there. UnknownNameError for none,
        SettingError for several."""
        return self.infos(prefix)[0]

    def infos(self, prefix: str) -> list[TrunkInfo]:
        """The one trunk whose key begins so, wherever it is stored, the own cache first. `info`'s errors."""
        trunks = self.trunks()
        keys = sorted({info.key for info in trunks})
        key = _the_one(prefix, keys)
        return [info for info in trunks if info.key == key]

    def verify(self, repair: bool = False, prefix: str | None = None) -> VerifyReport:
        """Read every byte of every shard, or of one trunk's, in shared caches, too. With `repair`, damaged files
        of the own cache are moved to the folder `damaged` beside them, where nothing reads them: the next
        extraction computes just their rows. Nothing is moved in a shared cache, whose damaged shards are passed
        over anyhow.

        Raises CacheNotWritableError or StoreError where a file cannot be moved; `info`'s errors for a prefix.
        """
        report = VerifyReport(0, 0, [], [])
        shards = rows = 0
        own, shared = self._folders(), self._shared_folders()
        if prefix is not None:
            key = _the_one(prefix, sorted({folder.name for folder in [*own, *shared]}))
            own, shared = ([folder for folder in folders if folder.name == key] for folders in (own, shared))
        for folder in [*own, *shared]:
            before = len(report.damaged)
            try:
                _read_description(folder)
            except StoreError as error:
                report.damaged.append((folder / DESCRIPTION, str(error)))
            try:
                snapshot = _scan([folder], None)
            except StoreError as error:
                if folder not in shared:
                    raise
                report.damaged.append((folder, str(error)))
                report.shared.append(folder)
                continue
            report.damaged.extend((error.path, error.reason) for error in snapshot.damaged)
            with track(f"verifying {folder.name[:8]}", len(snapshot.shards)) as advance:
                for shard in snapshot.shards:
                    advance()
                    try:
                        _raise_if_damaged(shard)
                    except FileNotFoundError:
                        continue
                    except DamagedShardError as error:
                        report.damaged.append((error.path, error.reason))
                    else:
                        shards, rows = shards + 1, rows + len(shard)
            if folder in shared:
                report.shared.extend(path for path, _ in report.damaged[before:])
        if repair:
            mendable = [path for path, _ in report.damaged if path not in report.shared]
            report.set_aside.extend(moved for path in mendable if (moved := _set_aside(path)) is not None)
        return replace(report, shards=shards, rows=rows)

    def gc_plan(self, max_nbytes: int) -> GcPlan:
        """What to delete so that the features take at most `max_nbytes`: whole trunks of the own cache, least
        recently used first, and unfinished files older than a day in those that stay. Deletes nothing."""
        if max_nbytes < 0:
            raise SettingError(f"the store cannot shrink to {max_nbytes} bytes; expected 0 or more")
        return self._plan(self._evictable(), max_nbytes)[0]

    def make_room(self, nbytes: int, keep: Collection[str] = ()) -> GcPlan | None:
        """Where HEADSTART_CACHE_MAX sets a limit, delete what was not used for longest until `nbytes` more keep
        within it. Returns what was deleted, None where there was no need.

        What is in use stays: trunks whose keys' digests are in `keep`, those that this process has open (a feature
        set, a writer), and those that another process has used within the last ten minutes.

        Raises DiskSpaceError, and deletes nothing, where that is too little; SettingError for a limit that is no
        size.
        """
        limit = cache_limit()
        if limit is None:
            return None
        trunks: list[TrunkInfo] = []
        leftovers: list[Path] = []
        freed = 0
        tries = EVICTIONS
        while True:
            infos = self._evictable()
            if sum(info.nbytes for info in infos) + nbytes <= limit:
                return GcPlan(tuple(trunks), tuple(leftovers), freed) if freed else None
            staying = {info.key: why for info in infos if (why := self._why_it_stays(info, keep))}
            plan, left = self._plan(infos, max(0, limit - nbytes), staying)
            if left + nbytes > limit or tries == 0:
                raise DiskSpaceError(
                    f"the features need {binary_size(nbytes)}; {MAX_VARIABLE} allows {binary_size(limit)} at "
                    f"{self.root}, and what must stay there takes {binary_size(left)}{_listed(infos, staying)}. "
                    f"Raise {MAX_VARIABLE}, or cut later in the model, where features are smaller"
                )
            trunks += plan.trunks
            leftovers += plan.leftovers
            freed += self.gc(plan)  # what was used in between stays; then look again
            tries -= 1

    def _evictable(self) -> list[TrunkInfo]:
        """Trunks of the own cache, least recently used first."""
        infos = [_info(folder) for folder in self._folders() if not folder.is_symlink()]
        return sorted((info for info in infos if info is not None), key=lambda info: (info.last_used, info.key))

    def _plan(
        self, infos: Sequence[TrunkInfo], max_nbytes: int, staying: Collection[str] = ()
    ) -> tuple[GcPlan, int]:
        """What to delete, and the bytes that are left then."""
        leftovers = {info.path: _leftovers(info.path) for info in infos}
        freed = sum(size for files in leftovers.values() for _, size in files)
        left = sum(info.nbytes for info in infos) - freed
        evicted: list[TrunkInfo] = []
        for info in infos:
            if left <= max_nbytes:
                break
            if info.key in staying:
                continue
            gain = info.nbytes - sum(size for _, size in leftovers[info.path])
            evicted.append(info)
            left -= gain
            freed += gain
        gone = {info.path for info in evicted}
        kept = tuple(path for folder, files in leftovers.items() if folder not in gone for path, _ in files)
        return GcPlan(tuple(evicted), kept, freed), left

    @staticmethod
    def _why_it_stays(info: TrunkInfo, keep: Collection[str]) -> str | None:
        if info.key in keep:
            return "wanted now"
        with _open_lock:
            if any(folder.path == info.path for folder in _open_folders):
                return "in use by this process"
        recently = time.time() - info.last_used < RECENT_SECONDS
        if recently and _used_here.get(info.path, 0.0) < info.last_used:
            return f"used by another process in the last {RECENT_SECONDS / 60:.0f} minutes"
        return None

    def gc(self, plan: GcPlan | Iterable[TrunkInfo]) -> int:
        """Delete what the plan lists, and return the bytes freed. A trunk used since the plan stays."""
        freed = 0
        for info in plan:
            named = info.path.parent == self.folder and _DIGEST.fullmatch(info.path.name)
            if not named or info.path.is_symlink():
                raise SettingError(
                    f"{info.path} is no trunk of the store at {self.root}; nothing of it was deleted"
                )
            if _last_used(info.path, _files(info.path)) > info.last_used:
                continue
            freed += _evict(info.path)
        for path in plan.leftovers if isinstance(plan, GcPlan) else ():
            freed += _delete(path)
        return freed

    def _is_own(self, root: Path | str) -> bool:
        with contextlib.suppress(OSError):
            return self.root.samefile(root)
        return cache_root(root) == self.root

    @staticmethod
    def _shared_root(root: Path | str, named: str) -> Path:
        path = cache_root(root)
        if not os.path.isdir(path):  # noqa: PTH112 - never an error
            _warn(
                f"the shared cache {path} (from {named}) is no folder that can be reached; it is left out, and "
                "what it holds is computed anew. Mount it, or correct the path"
            )
        return path

    def _folders(self) -> list[Path]:
        return _trunk_folders(self.folder)

    def _shared_folders(self) -> list[Path]:
        found: list[Path] = []
        for root in self.shared:
            try:
                found += _trunk_folders(root / "features")
            except StoreError as error:
                _warn(f"the shared cache {root} is left out: {error}")
        return found


class TrunkFolder:
    """The features of one trunk: which samples have them, and the rows themselves."""

    def __init__(self, path: Path, key: TrunkKey, shared: Sequence[Path] = ()) -> None:
        """`shared`: the same trunk's folders in shared caches. They are only read, and need not exist."""
        self.path = path
        self.key = key
        self.shared = tuple(shared)
        self.dtype_name: str = key.spec["dtype"]
        self.dtype = stored_dtype(self.dtype_name)
        self._snapshot: _Snapshot | None = None
        self._touched = -math.inf
        self._warned: set[str] = set()
        # Identities of shared shards, beside the marks in the own cache, which may be unwritable.
        self._sound: set[str] = set()
        self._refused: set[str] = set()
        with _open_lock:
            _open_folders.add(self)

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of one row, or None while there are none."""
        snapshot = self._snapshot
        if snapshot is None or not snapshot.shards:  # rows may have come since
            snapshot = self._refresh()
        return snapshot.shards[0].row_shape if snapshot.shards else None

    def ids(self) -> list[str]:
        """The samples that have features in an intact shard, sorted."""
        unique = np.unique(self._refresh().keys)
        return array_to_ids(unique.view(np.uint8))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no features yet, each once, in the order of their first occurrence.

        Raises DamagedShardError where some are missing and a shard of the own cache that may hold them is damaged:
        whether to compute them again is the user's decision. StoreError where trunk.json describes another trunk.
        Damage in a shared cache makes its rows missing, with a StoreWarning; a shared shard is read in full for
        that when it is first needed.
        """
        wanted = sort_keys(ids_to_array(ids))
        unique, places = np.unique(wanted, return_index=True)
        while True:
            snapshot = self._refresh()
            place = snapshot.first(unique)
            there = snapshot.stands_at(place, unique)
            used = np.unique(snapshot.shard_of[place[there]])
            # Damage in shared shards must show now, while the rows can still be computed.
            sound = [self._is_sound(snapshot.shards[k]) for k in used[used >= snapshot.own].tolist()]
            if all(sound):
                break
        absent = np.sort(places[~there])
        if len(absent):
            self._pass_over(snapshot.passed_over)
            if snapshot.damaged:
                raise snapshot.damaged[0]
        return [ids[place] for place in absent]

    def read(self, ids: Ids, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The rows of these samples, `(n, *row_shape)` in the stored dtype, in the order of the ids, which
        may come twice; in `out`, a contiguous array of this shape and dtype, where one is given.

        Every row is verified. Where one is damaged, another shard's copy is taken, if there is one. Raises
        DamagedShardError where there is none, StoreError where a sample has no features.
        """
        wanted = sort_keys(ids_to_array(ids))
        if time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            self.touch()
        gather = partial(_gather, wanted=wanted, dtype=self.dtype, folder=self.path, out=out, refuse=self._refuse)
        if self._snapshot is not None:
            # Rows may have come, gone or been repaired since that listing: on failure, look again.
            with contextlib.suppress(StoreError):
                return gather(self._snapshot)
        return gather(self._refresh())

    def disk_order(self, ids: Ids) -> NDArray[np.intp]:
        """The places in `ids` in the order in which their rows lie on the disk, shard by shard; samples without
        features come first."""
        wanted = sort_keys(ids_to_array(ids))
        snapshot = self._snapshot or self._refresh()
        place = snapshot.first(wanted)
        there = snapshot.stands_at(place, wanted)
        lies_at = np.full(len(wanted), -1, np.int64)
        lies_at[there] = (
            snapshot.shard_of[place[there]].astype(np.int64) * MAX_ROWS + snapshot.row_of[place[there]]
        )
        return np.argsort(lies_at, kind="stable")

    def writer(self, row_shape: Sequence[int], dtype: str, provenance: Mapping[str, Any]) -> ShardWriter:
        """A writer of rows of this shape; `dtype` must be the key's. Its first shard creates the folder."""
        if dtype != self.dtype_name:
            raise SettingError(f"received feature dtype {dtype!r}; this trunk key says {self.dtype_name!r}")
        snapshot = self._snapshot
        if snapshot is None or not snapshot.own:  # rows may have come since
            snapshot = self._refresh()
        if snapshot.own and snapshot.shards[0].row_shape != tuple(row_shape):
            present = snapshot.shards[0].row_shape
            raise SettingError(f"received rows of shape {tuple(row_shape)}; {self.path} holds rows of {present}")
        return ShardWriter(self.path, self.key.digest, row_shape, dtype, provenance, self._prepare)

    def provenances(self) -> list[dict[str, Any]]:
        """The different provenances of the intact shards: backend, device, versions."""
        found = {canonical_json(shard.provenance): shard.provenance for shard in self._refresh().shards}
        return [found[text] for text in sorted(found)]

    def sources(self, ids: Sequence[str]) -> list[tuple[str, dict[str, Any], NDArray[np.intp]]]:
        """The shards that these samples are read from: name, provenance, and the places in `ids` of its
        samples. Samples without features are in none."""
        wanted = sort_keys(ids_to_array(ids))
        snapshot = self._refresh()
        place = snapshot.first(wanted)
        there = np.flatnonzero(snapshot.stands_at(place, wanted))
        owner = snapshot.shard_of[place[there]]
        return [
            (snapshot.shards[k].path.stem, snapshot.shards[k].provenance, there[owner == k])
            for k in np.unique(owner).tolist()
        ]

    def is_checked(self, shard: str, by: str) -> bool:
        """Whether `mark_checked` was called with the same arguments."""
        return os.path.exists(self.path / CHECKED / f"{shard}-{by}")  # noqa: PTH110 - never an error

    def mark_checked(self, shard: str, by: str) -> None:
        """Note in the own cache that a shard's rows were compared with those that `by` computes. Failure is
        ignored: a read-only store is compared anew each time."""
        with contextlib.suppress(OSError):
            (self.path / CHECKED).mkdir(exist_ok=True, parents=bool(self.shared))
            if not (self.path / CHECKED).is_symlink():
                touch(self.path / CHECKED / f"{shard}-{by}")

    def touch(self) -> None:
        """Record in the own cache that the features are in use. Failure is ignored: read-only stores must work."""
        with contextlib.suppress(OSError):
            touch(self.path / LAST_USED)
            _used_here[self.path] = (self.path / LAST_USED).lstat().st_mtime

    def require_space(self, nbytes: int) -> None:
        """Raise DiskSpaceError unless so many bytes are free where the features go."""
        free = free_space(self.path)
        if nbytes > free:
            raise DiskSpaceError(
                f"the features need {binary_size(nbytes)}, and {binary_size(free)} are free at {self.path}; "
                "free some space (`headstart cache gc --max-size` shows what could go), set HEADSTART_CACHE "
                "to another disk, or cut later in the model, where features are smaller"
            )

    def require_writable(self) -> None:
        """Raise CacheNotWritableError unless files can be created in the folder; creates it if need be."""
        despite_evictions(self._probe)

    def _probe(self) -> None:
        make_folder(self.path)
        probe_folder(self.path)

    def _prepare(self) -> None:
        """Around every shard, as an eviction may have removed the folder since the last one."""
        make_folder(self.path)
        if _read_description(self.path) is None:
            description = _description(self.key.spec, self.key.label)
            if len(description) > MAX_DESCRIPTION_NBYTES:
                raise SettingError(
                    f"the trunk's description takes {binary_size(len(description))} of JSON, at most "
                    f"{binary_size(MAX_DESCRIPTION_NBYTES)} can be stored"
                )
            write_atomically(self.path / DESCRIPTION, [description])

    def _refresh(self) -> _Snapshot:
        _read_description(self.path)
        self._snapshot = _scan([self.path, *self.shared], self._snapshot, self.dtype_name, self._is_refused)
        return self._snapshot

    def _is_refused(self, shard: Shard) -> bool:
        """Whether this shared shard has been found damaged, by this process or an earlier one."""
        mark = _identity(shard)
        return mark in self._refused or self.is_checked(shard.path.stem, f"damaged-{mark}")

    def _refuse(self, shard: Shard, error: StoreError) -> None:
        """Never use a shared shard again, as long as it is the same file."""
        mark = _identity(shard)
        self._refused.add(mark)
        if isinstance(error, DamagedShardError):
            self.mark_checked(shard.path.stem, f"damaged-{mark}")
        self._pass_over([error])

    def _is_sound(self, shard: Shard) -> bool:
        """Whether all rows of a shared shard are what was written. It is read for that once, and the result noted
        in the own cache."""
        mark = _identity(shard)
        if mark in self._sound or self.is_checked(shard.path.stem, f"sound-{mark}"):
            return True
        try:
            _raise_if_damaged(shard)
        except FileNotFoundError:
            self._refused.add(mark)
            return False
        except StoreError as error:
            self._refuse(shard, error)
            return False
        self._sound.add(mark)
        self.mark_checked(shard.path.stem, f"sound-{mark}")
        return True

    def _pass_over(self, errors: Iterable[StoreError]) -> None:
        """Say, once, what of the shared caches is not used."""
        news = [text for error in errors if (text := _without_cure(error)) not in self._warned]
        self._warned.update(news)
        if news:
            more = f" (and {len(news) - 1} more like it)" if len(news) > 1 else ""
            _warn(
                f"in a shared cache, {news[0]}{more}. It is passed over, and the features that it should hold "
                "count as missing: an extraction computes them into the own cache. Only the shared cache's owner "
                "can mend it, by `headstart cache verify --repair` there"
            )


def _scan(
    folders: Sequence[Path],
    last: _Snapshot | None,
    dtype_name: str | None = None,
    is_refused: Callable[[Shard], bool] = lambda shard: False,
) -> _Snapshot:
    """The shards of a trunk now: those in its own folder, then those in shared ones. What has not changed since
    the last snapshot is not read again."""
    known = {(shard.path, shard.stamp): shard for shard in last.shards} if last else {}
    shards: list[Shard] = []
    damaged: list[DamagedShardError] = []
    passed_over: list[StoreError] = []
    own = 0
    for folder in folders:
        shared = folder is not folders[0]
        try:
            if shared:
                _read_description(folder)
            for path in _shard_paths(folder):
                try:
                    shard = known.get((path, _stamp(path))) or open_shard(path)
                    _check_fit(shard, folder.name, dtype_name, shards[0] if shards else None)
                except FileNotFoundError:
                    continue
                except DamagedShardError as error:
                    # Another one, as this one's traceback holds on to all that was read.
                    (passed_over if shared else damaged).append(DamagedShardError(error.path, error.reason))
                except StoreError as error:
                    if not shared:
                        raise
                    passed_over.append(StoreError(str(error)))
                else:
                    if not shared or not is_refused(shard):
                        shards.append(shard)
        except StoreError as error:
            if not shared:
                raise
            passed_over.append(StoreError(str(error)))
        own = own if shared else len(shards)
    errors = (tuple(damaged), tuple(passed_over))
    if last is not None and tuple(shards) == last.shards:  # shards compare by identity
        return _Snapshot(last.shards, own, *errors, last.keys, last.shard_of, last.row_of)
    ids = np.concatenate([np.empty((0, 16), np.uint8), *(shard.ids for shard in shards)])
    sizes = [len(shard) for shard in shards]
    keys = sort_keys(ids)
    order = np.argsort(keys, kind="stable")
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    row_of = np.concatenate([np.empty(0, np.intp), *(np.arange(size, dtype=np.intp) for size in sizes)])
    return _Snapshot(tuple(shards), own, *errors, keys[order], shard_of[order], row_of[order])


def _shard_paths(folder: Path) -> list[Path]:
    """Whatever is neither a file nor a link to one is left alone."""
    return sorted(
        Path(entry.path)
        for entry in _listing(folder)
        if entry.name.endswith(SUFFIX) and (entry.is_symlink() or entry.is_file())
    )


def _check_fit(shard: Shard, trunk: str, dtype_name: str | None, first: Shard | None) -> None:
    """DamagedShardError for a sound shard in the wrong place."""
    if shard.trunk != trunk:
        raise DamagedShardError(shard.path, f"it belongs to the trunk {shard.trunk}")
    if dtype_name is not None and shard.dtype_name != dtype_name:
        raise DamagedShardError(shard.path, f"it holds {shard.dtype_name}, its trunk key says {dtype_name}")
    if first is not None and shard.row_shape != first.row_shape:
        raise DamagedShardError(
            shard.path, f"its rows are {shard.row_shape}, those of {first.path.name} {first.row_shape}"
        )


def _raise_if_damaged(shard: Shard) -> None:
    """Read all rows: DamagedShardError unless each is what was written."""
    if bad := shard.damaged_rows():
        raise DamagedShardError(shard.path, f"{bad} of {len(shard)} rows differ from their checksums")


def _identity(shard: Shard) -> str:
    """Of the file, by its place and stamp: what replaces it is another."""
    return blake3(repr((str(shard.path), shard.stamp)).encode("utf-8", "surrogateescape")).hexdigest(length=8)


def _stamp(path: Path) -> tuple[int, int, int]:
    """See `Shard.stamp`."""
    try:
        status = path.stat()  # not the listing's, which Windows leaves without inode
    except OSError as error:
        raise_unreadable(path, error)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _gather(
    snapshot: _Snapshot,
    wanted: NDArray[np.bytes_],
    dtype: np.dtype[Any],
    folder: Path,
    out: NDArray[Any] | None,
    refuse: Callable[[Shard, StoreError], None],
) -> NDArray[Any]:
    """`TrunkFolder.read` from one snapshot. Damage in a shared shard is told to `refuse`, and passed over."""
    row_shape = snapshot.shards[0].row_shape if snapshot.shards else ()
    if out is not None and snapshot.shards:
        shape = (len(wanted), *row_shape)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise SettingError(f"out is {out.dtype} of shape {out.shape}; expected contiguous {dtype} {shape}")
    try:
        out = np.empty((len(wanted), *row_shape), dtype) if out is None else out
    except MemoryError as error:
        nbytes = len(wanted) * math.prod(row_shape) * dtype.itemsize
        raise StoreError(
            f"{len(wanted)} rows of {row_shape} from {folder} take {binary_size(nbytes)}, more than there is "
            "memory for; read fewer at a time"
        ) from error
    left = np.arange(len(wanted))
    place = snapshot.first(wanted)
    damage: DamagedShardError | None = snapshot.damaged[0] if snapshot.damaged else None
    while len(left):
        found = snapshot.stands_at(place[left], wanted[left])
        if not found.all():
            if damage is not None:
                raise damage
            first = array_to_ids(wanted[left[~found]][:1].view(np.uint8))[0]
            raise StoreError(
                f"{np.count_nonzero(~found)} of {len(wanted)} samples have no features in {folder}, "
                f"{first} among them; extract them first"
            )
        intact = np.zeros(len(left), np.bool_)
        owner = snapshot.shard_of[place[left]]
        row = snapshot.row_of[place[left]]
        # By shard, then by row: the disk is read forwards.
        order = np.argsort(owner.astype(np.int64) * MAX_ROWS + row)
        parts = _parts(order, owner, [shard.row_nbytes for shard in snapshot.shards])
        for part, (right, wrong) in _in_threads(partial(_read, snapshot.shards, out, left, owner, row), parts):
            shard = snapshot.shards[owner[part[0]]]
            if right is not None:
                intact[part] = right
            if wrong is None:
                continue
            if owner[part[0]] >= snapshot.own:
                refuse(shard, wrong)
            elif isinstance(wrong, DamagedShardError):
                damage = wrong
            else:
                raise wrong
        left = left[~intact]
        place[left] += 1  # the next shard's copy of the same sample, if there is one
    return out


def _parts(order: NDArray[np.intp], owner: NDArray[Any], row_nbytes: Sequence[int]) -> list[NDArray[np.intp]]:
    """`order`, which is by shard and by row, in parts of one shard and a few megabytes each."""
    runs = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    steps = [max(1, PART_NBYTES // row_nbytes[owner[run[0]]]) for run in runs]
    return [run[i : i + step] for run, step in zip(runs, steps, strict=True) for i in range(0, len(run), step)]


def _in_threads(action: Callable[[T], R], parts: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Each part and what `action` makes of it, in order. A disk is at its best with several requests at once,
    and what is copied out of the page cache is limited by the processor."""
    if len(parts) < 2 * READERS:
        yield from ((part, action(part)) for part in parts)
        return
    with ThreadPoolExecutor(READERS, thread_name_prefix="headstart-shards") as pool:
        try:
            yield from zip(parts, pool.map(action, parts), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(
    shards: Sequence[Shard],
    out: NDArray[Any],
    places: NDArray[np.intp],
    owner: NDArray[Any],
    rows: NDArray[Any],
    part: NDArray[np.intp],
) -> tuple[NDArray[np.bool_] | None, StoreError | None]:
    """Copy `rows[part]` of the one shard that has them to `out[places[part]]`: which are intact, None where none
    could be read, and what is wrong with the shard. One that has gone is neither."""
    shard = shards[owner[part[0]]]
    try:
        intact = shard.read_into(out, places[part], rows[part])
    except FileNotFoundError:
        return None, None
    except StoreError as error:
        return None, error
    bad = len(part) - np.count_nonzero(intact)
    reason = f"{bad} of {len(part)} rows read differ from their checksums"
    return intact, DamagedShardError(shard.path, reason) if bad else None


def _description(spec: Mapping[str, Any], label: Mapping[str, Any]) -> bytes:
    """The bytes of trunk.json. Its checksum covers the label, which the digest leaves out."""
    content = {"digest": spec_digest(spec), "label": label, "spec": spec}
    checksum = blake3(canonical_json(content).encode("ascii")).hexdigest(length=16)
    return (json.dumps(content | {"checksum": checksum}, indent=2, sort_keys=True) + "\n").encode("ascii")


def read_key(folder: Path) -> TrunkKey | None:
    """The key of the trunk that a folder is for; None where it has no description. StoreError for a wrong one."""
    found = _read_description(folder)
    return None if found is None else TrunkKey(folder.name, *found)


def _read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Spec and label from a folder's trunk.json; None where there is none. StoreError for a wrong one."""
    path = folder / DESCRIPTION
    cure = (
        "no features were used. `headstart cache verify --repair` sets it aside, and the next extraction "
        "writes it anew"
    )
    try:
        data = read_whole(path, MAX_DESCRIPTION_NBYTES)
    except EOFError:
        data = b""
    except OSError as error:
        if has_gone(error) or isinstance(error, NotADirectoryError):
            return None
        raise_unreadable(path, error)
    try:
        if len(data) > MAX_DESCRIPTION_NBYTES:
            raise ValueError
        content = json.loads(data.decode("ascii"))
        spec, label = dict(content["spec"]), dict(content["label"])
        same = _description(spec, label) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise StoreError(f"{path} is not as it was written: damaged, or edited; {cure}")
    if content["digest"] != folder.name:
        raise StoreError(f"{path} describes the trunk {content['digest']}, its folder is {folder.name}; {cure}")
    return spec, label


def _info(folder: Path) -> TrunkInfo | None:
    files = _files(folder)
    problems: list[str] = []
    spec: dict[str, Any] = {}
    label: dict[str, Any] = {}
    try:
        spec, label = _read_description(folder) or (spec, label)
    except StoreError as error:
        problems.append(str(error))
    snapshot = _scan([folder], None)
    if all(path.name == LAST_USED or path.parent.name == CHECKED for path in files):
        return None  # nothing but marks, of what is read from a shared cache
    problems.extend(str(error) for error in snapshot.damaged)
    backends = {str(shard.provenance["backend"]) for shard in snapshot.shards if "backend" in shard.provenance}
    return TrunkInfo(
        key=folder.name,
        label=label,
        spec=spec,
        rows=len(np.unique(snapshot.keys)),
        nbytes=sum(status.st_size for status in files.values()),
        shards=len(snapshot.shards),
        last_used=_last_used(folder, files),
        made_by=", ".join(sorted(backends)),
        path=folder,
        damaged=tuple(problems),
    )


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The store's own files in a trunk's folder, those set aside included; other files are left alone."""
    found: dict[Path, os.stat_result] = {}
    inner = [place for place in (folder / DAMAGED, folder / CHECKED) if not place.is_symlink()]
    for place in [folder, *inner]:
        for entry in _listing(place):
            ours = entry.name.endswith(SUFFIX) or entry.name.startswith(PARTIAL_PREFIX)
            if ours or entry.name in (DESCRIPTION, LAST_USED) or place is not folder:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise StoreError(f"cannot read {entry.path}: {error.strerror}") from error
                if stat.S_ISREG(status.st_mode):
                    found[Path(entry.path)] = status
    return found


def _last_used(folder: Path, files: Mapping[Path, os.stat_result]) -> float:
    """Writing is use, too; being set aside is not."""
    return max((status.st_mtime for path, status in files.items() if path.parent == folder), default=0.0)


def _leftovers(folder: Path) -> list[tuple[Path, int]]:
    old = time.time() - LEFTOVER_SECONDS
    return sorted(
        (path, status.st_size)
        for path, status in _files(folder).items()
        if path.name.startswith(PARTIAL_PREFIX) and status.st_mtime < old
    )


def _evict(folder: Path) -> int:
    """Delete a trunk's files, and its folders where nothing else lies in them. Returns bytes.

    Unfinished files of living writers stay: an eviction costs features that are stored, never work under way.
    """
    young = time.time() - LIVING_SECONDS
    files = [
        path
        for path, status in _files(folder).items()
        if not path.name.startswith(PARTIAL_PREFIX) or status.st_mtime < young
    ]
    freed = sum(_delete(path) for path in sorted(files) if path.name != DESCRIPTION)
    # The description goes last, and not at all if a writer has added to the folder meanwhile: what is left of
    # an eviction still says what it is.
    if not any(entry.name.endswith(SUFFIX) for entry in _listing(folder)):
        freed += sum(_delete(path) for path in files if path.name == DESCRIPTION)
    for place in (folder / DAMAGED, folder / CHECKED, folder):
        with contextlib.suppress(OSError):
            place.rmdir()
    return freed


def _delete(path: Path) -> int:
    with storage_errors(path, "delete"):
        try:
            nbytes = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return nbytes


def _set_aside(path: Path) -> Path | None:
    """Move a file into `damaged` beside it, under a free name; None where it has gone. What was set aside earlier
    is kept."""
    folder = path.parent / DAMAGED
    if folder.is_symlink():
        raise StoreError(f"cannot set aside {path}: {folder} is a link, and may lead out of the store; remove it")
    make_folder(folder)
    with storage_errors(path, "set aside"):
        names = (f"{path.name}{f'.{i}' if i else ''}" for i in range(1_000_000))
        target = next(target for name in names if not os.path.lexists(target := folder / name))
        try:
            path.replace(target)
        except FileNotFoundError:
            return None
    return target


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries; none where it does not exist. StoreError where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror or error}") from error


def _trunk_folders(root: Path) -> list[Path]:
    return sorted(
        Path(entry.path)
        for entry in _listing(root)
        if _DIGEST.fullmatch(entry.name) and os.path.isdir(entry.path)  # noqa: PTH112 - never an error
    )


def _the_one(prefix: str, keys: Sequence[str]) -> str:
    """The key that begins so. UnknownNameError for none, SettingError for several."""
    found = [key for key in keys if prefix and key.startswith(prefix)]
    if not found:
        raise UnknownNameError("trunk key", prefix, keys)
    if len(found) > 1:
        raise SettingError(
            f"trunk key {prefix!r} is the beginning of several: {', '.join(found)}; give more digits"
        )
    return found[0]


def _listed(infos: Sequence[TrunkInfo], staying: Mapping[str, str]) -> str:
    """Which trunks stay, and why: for a message."""
    lines = [
        f"{info.key[:12]}, {info.label.get('model', '?')} at {info.label.get('cut', '?')} "
        f"({binary_size(info.nbytes)}, {staying[info.key]})"
        for info in infos
        if info.key in staying
    ]
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f": {'; '.join(lines[:5])}{more}" if lines else ""


def _without_cure(error: StoreError) -> str:
    return f"{error.path}: {error.reason}" if isinstance(error, DamagedShardError) else str(error)


def _warn(text: str) -> None:
    warnings.warn(text, StoreWarning, stacklevel=3)
