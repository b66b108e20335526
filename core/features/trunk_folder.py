"""One trunk's features: which samples have them, and the rows, from the own cache and from shared ones.

Invariant: what is wrong with a shared cache stops nobody: its rows are missing, and computed into the own cache.
What is wrong with the own cache is an error, for its owner to decide.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DamagedShardError, DiskSpaceError, SettingError, StoreError, StoreWarning
from headstart.features.description import DESCRIPTION, MAX_DESCRIPTION_NBYTES, description_of, read_description
from headstart.features.files import (
    despite_evictions,
    free_space,
    make_folder,
    probe_folder,
    touch,
    write_atomically,
)
from headstart.features.ids import array_to_ids, ids_to_array, sort_keys
from headstart.features.keys import TrunkKey, canonical_json, stored_dtype
from headstart.features.shard import MAX_ROWS, Shard
from headstart.features.snapshot import Snapshot, gather_rows, identity_of, raise_if_damaged, scan
from headstart.features.upkeep import CHECKED, LAST_USED
from headstart.features.writer import ShardWriter
from headstart.sizes import binary_size

TOUCH_SECONDS = 60.0  # reading is noted as use so often

Ids = Sequence[str] | NDArray[np.uint8]
"""32 hex digits each, or their bytes `(n, 16)`"""

# What this process has open or has used: it makes no room of the one, and the other is not another process's.
_open_folders: weakref.WeakSet[TrunkFolder] = weakref.WeakSet()
_open_lock = threading.Lock()
_used_here: dict[Path, float] = {}


def is_open(path: Path) -> bool:
    """Whether this process has a trunk's folder open."""
    with _open_lock:
        return any(folder.path == path for folder in _open_folders)


def used_here(path: Path) -> float:
    """When this process noted its use of a trunk's folder last, in seconds since the epoch; 0.0 for never."""
    return _used_here.get(path, 0.0)


class TrunkFolder:
    """The features of one trunk: which samples have them, and the rows themselves."""

    def __init__(self, path: Path, key: TrunkKey, shared: Sequence[Path] = ()) -> None:
        """`shared`: the same trunk's folders in shared caches. They are only read, and need not exist."""
        self.path = path
        self.key = key
        self.shared = tuple(shared)
        self.dtype_name: str = key.spec["dtype"]
        self.dtype = stored_dtype(self.dtype_name)
        self._snapshot: Snapshot | None = None
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
        gather = partial(
            gather_rows, wanted=wanted, dtype=self.dtype, folder=self.path, out=out, refuse=self._refuse
        )
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
        self._snapshot = scan([self.path, *self.shared], self._snapshot, self.dtype_name, self._is_refused)
        return self._snapshot

    def _is_refused(self, shard: Shard) -> bool:
        """Whether this shared shard has been found damaged, by this process or an earlier one."""
        mark = identity_of(shard)
        return mark in self._refused or self.is_checked(shard.path.stem, f"damaged-{mark}")

    def _refuse(self, shard: Shard, error: StoreError) -> None:
        """Never use a shared shard again, as long as it is the same file."""
        mark = identity_of(shard)
        self._refused.add(mark)
        if isinstance(error, DamagedShardError):
            self.mark_checked(shard.path.stem, f"damaged-{mark}")
        self._pass_over([error])

    def _is_sound(self, shard: Shard) -> bool:
        """Whether all rows of a shared shard are what was written. It is read for that once, and the result noted
        in the own cache."""
        mark = identity_of(shard)
        if mark in self._sound or self.is_checked(shard.path.stem, f"sound-{mark}"):
            return True
        try:
            raise_if_damaged(shard)
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
            warn(
                f"in a shared cache, {news[0]}{more}. It is passed over, and the features that it should hold "
                "count as missing: an extraction computes them into the own cache. Only the shared cache's owner "
                "can mend it, by `headstart cache verify --repair` there"
            )


def _without_cure(error: StoreError) -> str:
    return f"{error.path}: {error.reason}" if isinstance(error, DamagedShardError) else str(error)


def warn(text: str) -> None:
    warnings.warn(text, StoreWarning, stacklevel=3)
