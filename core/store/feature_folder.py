"""The features of one trunk key: which samples have them, and their rows, from the own cache and from shared
ones.

Invariant: damage in a shared cache stops nobody: its rows count as missing, and are computed into the own cache.
Damage in the own cache is an error, and its owner decides what to do. Rows are read from files alone: what a
shared cache behind a URL has comes into the own one when samples are looked for, and is trusted no more than it
was there.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import (
    DamagedShardError,
    FeatureDriftError,
    MissingFeaturesError,
    SettingError,
    StoreError,
)
from headstart.common.files import touch
from headstart.common.sizes import binary_size
from headstart.store.description import DESCRIPTION, MAX_DESCRIPTION_NBYTES, description_of, read_description
from headstart.store.files import despite_evictions, make_folder, probe_folder, require_space, write_atomically
from headstart.store.gather import gather_rows
from headstart.store.ids import ID_NBYTES, array_to_ids, ids_to_array, sort_keys
from headstart.store.keys import TrunkKey, canonical_json, stored_dtype
from headstart.store.shard import MAX_ROWS, Shard
from headstart.store.snapshot import Snapshot, scan
from headstart.store.trust import PULLED, Trust
from headstart.store.upkeep import LAST_USED, clear_leftovers
from headstart.store.writer import ShardWriter

if TYPE_CHECKING:
    from headstart.store.remote.shared import Destination, SharedRemoteFolder

TOUCH_SECONDS = 60.0  # reading is noted as use so often
RESTORES = 3  # so often one reading has rows computed anew

Ids = Sequence[str] | NDArray[np.uint8]
"""32 hex digits each, or their bytes `(n, 16)`"""

# Folders that are open in this process are not deleted to make room; those that it has used were not used by
# another process.
_open_folders: weakref.WeakSet[FeatureFolder] = weakref.WeakSet()
_open_lock = threading.Lock()
_used_here: dict[Path, float] = {}
_restore_lock = threading.RLock()  # one extraction at a time, whatever threads miss rows


def is_open(path: Path) -> bool:
    """Whether this process has a `FeatureFolder` of this path."""
    with _open_lock:
        return any(folder.path == path for folder in _open_folders)


def used_here(path: Path) -> float:
    """When this process last noted its use of the folder, in seconds since the epoch; 0.0 for never."""
    return _used_here.get(path, 0.0)


class FeatureFolder:
    """The features of one trunk key: which samples have them, and their rows."""

    def __init__(
        self,
        path: Path,
        key: TrunkKey,
        shared: Sequence[Path] = (),
        row_shape: Sequence[int] | None = None,
        remotes: Sequence[SharedRemoteFolder] = (),
        make_room: Callable[[int], object] | None = None,
    ) -> None:
        """`shared`: the same key's folders in shared caches. They are only read, and need not exist.
        `row_shape`: shape of a sample's features, where it is known: shards of shared caches with rows of another
        shape are passed over. `remotes`: the same key in shared caches behind URLs, of which shards come into
        this folder; `make_room` is called with their bytes before."""
        self.path = path
        self._expected = None if row_shape is None else tuple(int(side) for side in row_shape)
        self.key = key
        self.shared = tuple(shared)
        self._remotes, self._make_room = tuple(remotes), make_room or _no_room_needed
        self.dtype_name: str = key.spec["dtype"]
        self.dtype = stored_dtype(self.dtype_name)
        self._snapshot: Snapshot | None = None
        self._touched = -math.inf
        self._trust = Trust(path, parents=bool(self.shared))
        self._restorers: dict[int, Callable[[], object]] = {}
        self._restoring_in = os.getpid()
        self._restoring = False
        with _open_lock:
            _open_folders.add(self)

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of one row, or None while there are none and the trunk's is not known."""
        if self._expected is not None:
            return self._expected
        snapshot = self._snapshot
        if snapshot is None or not snapshot.shards:  # rows may have come since
            snapshot = self._refresh()
        return snapshot.shards[0].row_shape if snapshot.shards else None

    def ids(self) -> list[str]:
        """The samples that have features in an intact shard, sorted."""
        unique = np.unique(self._refresh().keys)
        return array_to_ids(unique.view(np.uint8))

    def missing(self, ids: Sequence[str], fetch: bool = True) -> list[str]:
        """Those of the ids that have no features yet, each once, in the order of their first occurrence. What a
        shared cache behind a URL has of them is brought into the own cache; with `fetch=False` it only counts as
        there.

        Raises DamagedShardError where some are missing and a shard of the own cache that may hold them is damaged:
        whether to compute them again is the user's decision. StoreError where trunk.json describes another trunk,
        FeatureDriftError where the own cache's rows have another shape than the trunk gives.
        Damage in a shared cache makes its rows missing, with a StoreWarning; a shared shard is read in full for
        that when it is first needed; and of what has no room in the own cache. DiskSpaceError and
        CacheNotWritableError where what is fetched cannot be written.
        """
        keys = sort_keys(ids_to_array(ids))
        unique, places = np.unique(keys, return_index=True)
        self._trust.look_anew()
        snapshot, there = self._look_for(unique)
        for remote in self._remotes:
            if there.all():
                break
            if fetch:
                remote.fetch(self._destination(unique))
                snapshot, there = self._look_for(unique)
            else:
                lacking = _as_bytes(unique[~there])
                there[~there] = remote.present(lacking, self._row_nbytes(snapshot), self.came_wrong)
        absent = np.sort(places[~there])
        if len(absent):
            self._trust.pass_over(snapshot.passed_over)
            if snapshot.damaged:
                raise snapshot.damaged[0]
        return [ids[place] for place in absent]

    def _look_for(self, unique: NDArray[np.bytes_]) -> tuple[Snapshot, NDArray[np.bool_]]:
        """The shards of now, and which of the ids are in a sound one."""
        while True:
            snapshot = self._refresh()
            self._check_shape(snapshot)
            place = snapshot.first(unique)
            there = snapshot.stands_at(place, unique)
            used = np.unique(snapshot.shard_of[place[there]])
            # Damage in shared shards must show now, while the rows can still be computed.
            sound = [self._trust.is_sound(snapshot.shards[k]) for k in used[used >= snapshot.own].tolist()]
            self._trust.say()
            if all(sound):
                return snapshot, there

    def _destination(self, unique: NDArray[np.bytes_]) -> Destination:
        """Where shards with these ids come into."""
        from headstart.store.remote.shared import Destination

        def require_room(nbytes: int) -> None:
            self._make_room(nbytes)
            self.require_writable()
            self.require_space(nbytes)

        return Destination(
            path=self.path,
            dtype_name=self.dtype_name,
            row_shape=self.row_shape,
            row_nbytes=self._row_nbytes(self._snapshot),
            require_room=require_room,
            prepare=self.prepare,
            mark=self.mark_pulled,
            is_refused=self.came_wrong,
            lacking=lambda: _as_bytes(unique[~self._look_for(unique)[1]]),
        )

    def _row_nbytes(self, snapshot: Snapshot | None) -> int | None:
        """Bytes of a row, where its shape is known."""
        shape = self._expected
        if shape is None and snapshot is not None and snapshot.shards:
            shape = snapshot.shards[0].row_shape
        return None if shape is None else math.prod(shape) * self.dtype.itemsize

    def read(
        self, ids: Ids, out: NDArray[Any] | None = None, restore: bool = True, cached_share: float = 1.0
    ) -> NDArray[Any]:
        """The rows of these samples, `(n, *row_shape)` in the stored dtype, in the order of the ids, which
        may come twice; in `out`, a contiguous array of this shape and dtype, where one is given.

        Every row is verified. Where one is damaged, another shard's copy is taken, if there is one. What a shared
        cache does not give any more is computed into the own one, if `restore_with` said how; `restore=False`
        leaves that out. Raises DamagedShardError where there is no copy, MissingFeaturesError where a sample has
        no features.

        `cached_share`: so much of the folder is read through the system's page cache, always the same shards, and
        the rest past it, where the file system can do that: for whoever reads all of it time and again, and knows
        that the page cache cannot hold it.
        """
        keys = sort_keys(ids_to_array(ids))
        if time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            self.touch()
        gather = partial(
            gather_rows,
            keys=keys,
            dtype=self.dtype,
            folder=self.path,
            out=out,
            row_shape=self._expected,
            refuse=self._trust.doubt,
            cached_share=cached_share,
        )
        for left in reversed(range(RESTORES if restore and self._can_restore() else 1)):
            try:
                return self._read(gather)
            except MissingFeaturesError:
                self._trust.say()
                if not left:
                    raise
                self._restore()
            finally:
                self._trust.say()
        raise AssertionError("the last attempt returns or raises")

    def _read(self, gather: Callable[[Snapshot], NDArray[Any]]) -> NDArray[Any]:
        if self._snapshot is not None:
            # Rows may have come, gone or been repaired since that listing: on failure, look again.
            with contextlib.suppress(StoreError):
                return gather(self._snapshot)
        return gather(self._refresh())

    def restore_with(self, owner: object, extract: Callable[[], object]) -> None:
        """Have rows that vanish from shared caches computed into the own cache, by calling `extract`. `owner`:
        what they are computed from, such as a data set; a second call with it replaces the first. `extract` must
        keep it alive.

        From now on, shards that appear in shared caches are not read until `extract` has checked them."""
        self._trust.approve()
        self._restorers[id(owner)] = extract

    def _can_restore(self) -> bool:
        """False in a process forked from the one that called `restore_with`: it lacks the framework's threads."""
        return bool(self._restorers) and not self._restoring and os.getpid() == self._restoring_in

    def _restore(self) -> None:
        self._trust.warn_once(
            f"{self.path.name}: features that a shared cache had are not there any more, or cannot be read: "
            "it has gone, or was changed. They are computed into the own cache, and the work goes on"
        )
        with _restore_lock:
            self._restoring = True
            try:
                for extract in list(self._restorers.values()):
                    extract()
            finally:
                self._restoring = False

    def __getstate__(self) -> dict[str, Any]:
        """Another process cannot restore: it has no trunk. Nor does it look for samples, so it asks no URL."""
        return {**self.__dict__, "_restorers": {}, "_remotes": (), "_make_room": _no_room_needed}

    def disk_order(self, ids: Ids) -> NDArray[np.intp]:
        """The places in `ids` in the order in which their rows lie on the disk, shard by shard; samples without
        features come first."""
        keys = sort_keys(ids_to_array(ids))
        snapshot = self._snapshot or self._refresh()
        place = snapshot.first(keys)
        there = snapshot.stands_at(place, keys)
        lies_at = np.full(len(keys), -1, np.int64)
        lies_at[there] = (
            snapshot.shard_of[place[there]].astype(np.int64) * MAX_ROWS + snapshot.row_of[place[there]]
        )
        return np.argsort(lies_at, kind="stable")

    def writer(
        self,
        row_shape: Sequence[int],
        dtype: str,
        provenance: Mapping[str, Any],
        written: Callable[[TrunkKey, Path], object] | None = None,
    ) -> ShardWriter:
        """A writer of rows of this shape; `dtype` must be the key's. Its first shard creates the folder.
        `written`: is told of each shard that is there for good."""
        if dtype != self.dtype_name:
            raise SettingError(f"received feature dtype {dtype!r}; this trunk key says {self.dtype_name!r}")
        snapshot = self._snapshot
        if snapshot is None or not snapshot.own:  # rows may have come since
            snapshot = self._refresh()
        if snapshot.own and snapshot.shards[0].row_shape != tuple(row_shape):
            present = snapshot.shards[0].row_shape
            raise SettingError(f"received rows of shape {tuple(row_shape)}; {self.path} holds rows of {present}")
        clear_leftovers(self.path)
        told = None if written is None else partial(written, self.key)
        return ShardWriter(self.path, self.key.digest, row_shape, dtype, provenance, self.prepare, told)

    def makers(self) -> set[str]:
        """The backends that made the rows of the intact shards."""
        return {shard.maker for shard in self._refresh().shards}

    def provenances(self) -> list[dict[str, Any]]:
        """The different provenances of the intact shards: backend, device, versions."""
        found = {canonical_json(shard.provenance): shard.provenance for shard in self._refresh().shards}
        return [found[text] for text in sorted(found)]

    def sources(self, ids: Sequence[str]) -> list[tuple[Shard, bool, NDArray[np.intp]]]:
        """The shards that these samples are read from, whether each lies in a shared cache or has come from one
        behind a URL, and the places in `ids` of its samples. Samples without features are in none."""
        keys = sort_keys(ids_to_array(ids))
        snapshot = self._refresh()
        place = snapshot.first(keys)
        there = np.flatnonzero(snapshot.stands_at(place, keys))
        owner = snapshot.shard_of[place[there]]
        return [
            (snapshot.shards[k], k >= snapshot.own or self._trust.is_pulled(snapshot.shards[k]), there[owner == k])
            for k in np.unique(owner).tolist()
        ]

    def copies(self, ids: Sequence[str]) -> Iterator[tuple[Shard, NDArray[np.intp], NDArray[Any]]]:
        """Every stored copy of these samples' rows, verified: the shard, places in `ids` `(k,)`, and rows
        `(k, *row_shape)`. DamagedShardError for the own cache's; what a shared one cannot give is passed over."""
        keys = sort_keys(ids_to_array(ids))
        snapshot = self._refresh()
        held: dict[int, list[tuple[int, int]]] = {}
        place, left = snapshot.first(keys), np.arange(len(keys))
        while len(left := left[snapshot.stands_at(place[left], keys[left])]):
            for i in left.tolist():
                held.setdefault(int(snapshot.shard_of[place[i]]), []).append((int(snapshot.row_of[place[i]]), i))
            place[left] += 1
        for k, pairs in sorted(held.items()):
            shard = snapshot.shards[k]
            rows, places = np.array(sorted(pairs), np.intp).T
            out = np.empty((len(rows), *shard.row_shape), shard.dtype)
            try:
                bad = len(rows) - np.count_nonzero(shard.read_into(out, np.arange(len(rows)), rows))
                if bad:
                    raise DamagedShardError(
                        shard.path, f"{bad} of {len(rows)} rows read differ from their checksums"
                    )
            except FileNotFoundError:
                continue
            except StoreError as error:
                if k < snapshot.own:
                    raise
                self._trust.refuse(shard, error)
                self._trust.say()
            else:
                yield shard, places, out

    def refuse_shared(self, names: Collection[str], reason: str) -> None:
        """Have this process use no shard of these names (`Shard.path.stem`) in a shared cache any more. Those that
        have come from behind a URL are set aside, and do not come again. CacheNotWritableError or StoreError where
        they cannot be."""
        snapshot = self._snapshot or self._refresh()
        named = [k for k, shard in enumerate(snapshot.shards) if shard.path.stem in names]
        self._trust.refuse_rows((snapshot.shards[k] for k in named if k >= snapshot.own), reason)
        for shard in (snapshot.shards[k] for k in named if k < snapshot.own):
            if self._trust.is_pulled(shard):
                self._trust.set_aside(shard, reason)

    def mark_pulled(self, digest: str) -> None:
        """Note that the shard of this digest comes from behind a URL: it is trusted no more than there."""
        self._trust.mark_checked(digest, PULLED)

    def came_wrong(self, digest: str) -> bool:
        """Whether the shard of this digest came from behind a URL once, and was refused."""
        return self._trust.came_wrong(digest)

    def is_checked(self, shard: str, by: str) -> bool:
        """Whether `mark_checked` was called with the same arguments."""
        return self._trust.is_checked(shard, by)

    def mark_checked(self, shard: str, by: str) -> None:
        """Note in the own cache that a shard's rows were compared with those that `by` computes. Failure is
        ignored: a read-only store is compared anew each time."""
        self._trust.mark_checked(shard, by)

    def touch(self) -> None:
        """Record in the own cache that the features are in use. Failure is ignored: read-only stores must work."""
        with contextlib.suppress(OSError):
            touch(self.path / LAST_USED)
            _used_here[self.path] = (self.path / LAST_USED).lstat().st_mtime

    def require_space(self, nbytes: int) -> None:
        """Raise DiskSpaceError unless so many bytes are free where the features go."""
        mend = (
            "free some space (`headstart cache gc --max-size` shows what could go), set HEADSTART_CACHE to "
            "another disk, or cut later in the model, where features are smaller"
        )
        require_space(self.path, nbytes, mend)

    def require_writable(self) -> None:
        """Raise CacheNotWritableError unless files can be created in the folder; creates it if need be."""
        despite_evictions(self._probe)

    def _probe(self) -> None:
        make_folder(self.path)
        probe_folder(self.path)

    def prepare(self) -> None:
        """Create the folder and its description. Called around every shard: an eviction may have removed them."""
        make_folder(self.path)
        if read_description(self.path) is None:
            description = description_of(self.key.spec, self.key.label)
            if len(description) > MAX_DESCRIPTION_NBYTES:
                raise SettingError(
                    f"the trunk's description takes {binary_size(len(description))} of JSON, at most "
                    f"{binary_size(MAX_DESCRIPTION_NBYTES)} can be stored"
                )
            write_atomically(self.path / DESCRIPTION, [description])

    def _refresh(self) -> Snapshot:
        read_description(self.path)
        self._snapshot = scan(
            [self.path, *self.shared], self._snapshot, self.dtype_name, self._trust.is_refused, self._expected
        )
        return self._snapshot

    def _check_shape(self, snapshot: Snapshot) -> None:
        if snapshot.own and self._expected is not None and snapshot.shards[0].row_shape != self._expected:
            raise FeatureDriftError(
                f"{self.path}: the stored rows have the shape {snapshot.shards[0].row_shape}, and this trunk "
                f"gives {self._expected}: they are another trunk's. Extract into another cache (HEADSTART_CACHE), "
                "or remove this folder"
            )


def _as_bytes(keys: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    """`(n,)` ids as `sort_keys` makes them -> `(n, 16)`"""
    return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, ID_NBYTES)


def _no_room_needed(nbytes: int) -> None:
    pass
