"""The shards of a trunk key at one moment, and the index from ids to rows over them.

Invariant: a listing is a snapshot, so what has gone since is a miss and no error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.common.errors import DamagedShardError, StoreError
from headstart.store.description import read_description
from headstart.store.files import unreadable
from headstart.store.ids import sort_keys
from headstart.store.shard import SUFFIX, Shard, open_shard, raise_for_rows, raise_unreadable


@dataclass(frozen=True, eq=False)
class Snapshot:
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


def scan(
    folders: Sequence[Path],
    last: Snapshot | None,
    dtype_name: str | None = None,
    is_refused: Callable[[Shard], bool] = lambda shard: False,
    row_shape: tuple[int, ...] | None = None,
) -> Snapshot:
    """The shards of a trunk key now: those in the own cache's folder, then those in shared ones. What has not
    changed since the last snapshot is not read again. `row_shape`: shape of a sample's features; shards of shared
    caches with rows of another shape are passed over."""
    known = {(shard.path, shard.stamp): shard for shard in last.shards} if last else {}
    shards: list[Shard] = []
    damaged: list[DamagedShardError] = []
    passed_over: list[StoreError] = []
    of_own_folder = 0
    for folder in folders:
        shared = folder is not folders[0]
        try:
            if shared:
                read_description(folder)
            for path in _shard_paths(folder):
                try:
                    shard = known.get((path, _stamp(path))) or open_shard(path)
                    _check_fit(shard, folder.name, dtype_name, shards[0] if shards else None)
                    if shared and row_shape is not None and shard.row_shape != row_shape:
                        raise DamagedShardError(
                            path, f"its rows are {shard.row_shape}, those of this trunk key {row_shape}"
                        )
                except FileNotFoundError:
                    continue
                except DamagedShardError as error:
                    # Another one, as this one's traceback holds on to all that was read.
                    (passed_over if shared else damaged).append(type(error)(error.path, error.reason))
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
        of_own_folder = of_own_folder if shared else len(shards)
    errors = (tuple(damaged), tuple(passed_over))
    if last is not None and tuple(shards) == last.shards:  # shards compare by identity
        return Snapshot(last.shards, of_own_folder, *errors, last.keys, last.shard_of, last.row_of)
    ids = np.concatenate([np.empty((0, 16), np.uint8), *(shard.ids for shard in shards)])
    sizes = [len(shard) for shard in shards]
    keys = sort_keys(ids)
    order = np.argsort(keys, kind="stable")
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    row_of = np.concatenate([np.empty(0, np.intp), *(np.arange(size, dtype=np.intp) for size in sizes)])
    return Snapshot(tuple(shards), of_own_folder, *errors, keys[order], shard_of[order], row_of[order])


def _shard_paths(folder: Path) -> list[Path]:
    """Whatever is neither a file nor a link to one is left alone."""
    return sorted(Path(entry.path) for entry in listing(folder) if entry.name.endswith(SUFFIX) and _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or a link. What cannot be told is said to be one: reading it says what is wrong."""
    try:
        return entry.is_symlink() or entry.is_file()
    except OSError:
        return True


def _check_fit(shard: Shard, key_digest: str, dtype_name: str | None, first: Shard | None) -> None:
    """DamagedShardError for a sound shard in the wrong place."""
    if shard.key_digest != key_digest:
        raise DamagedShardError(shard.path, f"it belongs to the trunk key {shard.key_digest}")
    if dtype_name is not None and shard.dtype_name != dtype_name:
        raise DamagedShardError(shard.path, f"it holds {shard.dtype_name}, its trunk key says {dtype_name}")
    if first is not None and shard.row_shape != first.row_shape:
        raise DamagedShardError(
            shard.path, f"its rows are {shard.row_shape}, those of {first.path.name} {first.row_shape}"
        )


def raise_if_damaged(shard: Shard) -> None:
    """Read all rows: DamagedShardError unless each is what was written, and can have been."""
    raise_for_rows(shard.path, len(shard), *shard.damaged_rows())


def identity_of(shard: Shard) -> str:
    """Of the file, by its place and stamp: what replaces it is another."""
    return blake3(repr((str(shard.path), shard.stamp)).encode("utf-8", "surrogateescape")).hexdigest(length=8)


def _stamp(path: Path) -> tuple[int, int, int]:
    """See `Shard.stamp`."""
    try:
        status = path.stat()  # not the listing's, which Windows leaves without inode
    except OSError as error:
        raise_unreadable(path, error)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries; none where it does not exist. StoreError where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
