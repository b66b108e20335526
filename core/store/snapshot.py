"""The shards of a trunk at one moment, the index from ids to rows over them, and how rows are read through it.

Invariants: a listing is a snapshot, so what has gone since is a miss and no error; no row is handed out that was
not verified on this very reading.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.common.errors import DamagedShardError, MissingFeaturesError, SettingError, StoreError
from headstart.common.sizes import binary_size
from headstart.store.description import read_description
from headstart.store.ids import array_to_ids, sort_keys
from headstart.store.shard import MAX_ROWS, SUFFIX, Shard, open_shard, raise_unreadable

T = TypeVar("T")
R = TypeVar("R")

PART_NBYTES = 8 << 20  # rows are read in parts of about this
READERS = 3  # threads that read them


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
    """The shards of a trunk now: those in its own folder, then those in shared ones. What has not changed since
    the last snapshot is not read again. `row_shape`: what the trunk gives; of shared shards no other is taken."""
    known = {(shard.path, shard.stamp): shard for shard in last.shards} if last else {}
    shards: list[Shard] = []
    damaged: list[DamagedShardError] = []
    passed_over: list[StoreError] = []
    own = 0
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
                            path, f"its rows are {shard.row_shape}, those of this trunk {row_shape}"
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
        own = own if shared else len(shards)
    errors = (tuple(damaged), tuple(passed_over))
    if last is not None and tuple(shards) == last.shards:  # shards compare by identity
        return Snapshot(last.shards, own, *errors, last.keys, last.shard_of, last.row_of)
    ids = np.concatenate([np.empty((0, 16), np.uint8), *(shard.ids for shard in shards)])
    sizes = [len(shard) for shard in shards]
    keys = sort_keys(ids)
    order = np.argsort(keys, kind="stable")
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    row_of = np.concatenate([np.empty(0, np.intp), *(np.arange(size, dtype=np.intp) for size in sizes)])
    return Snapshot(tuple(shards), own, *errors, keys[order], shard_of[order], row_of[order])


def _shard_paths(folder: Path) -> list[Path]:
    """Whatever is neither a file nor a link to one is left alone."""
    return sorted(Path(entry.path) for entry in listing(folder) if entry.name.endswith(SUFFIX) and _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or a link. What cannot be told is said to be one: reading it says what is wrong."""
    try:
        return entry.is_symlink() or entry.is_file()
    except OSError:
        return True


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


def raise_if_damaged(shard: Shard) -> None:
    """Read all rows: DamagedShardError unless each is what was written, and can have been."""
    bad, not_finite = shard.damaged_rows()
    if bad:
        raise DamagedShardError(shard.path, f"{bad} of {len(shard)} rows differ from their checksums")
    if not_finite:
        reason = f"{not_finite} of {len(shard)} rows hold NaN or infinity, which no writer stores"
        raise DamagedShardError(shard.path, reason)


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


def gather_rows(
    snapshot: Snapshot,
    wanted: NDArray[np.bytes_],
    dtype: np.dtype[Any],
    folder: Path,
    out: NDArray[Any] | None,
    row_shape: tuple[int, ...] | None,
    refuse: Callable[[Shard, StoreError], None],
) -> NDArray[Any]:
    """`TrunkFolder.read` from one snapshot. Damage in a shared shard is told to `refuse`, and passed over."""
    if row_shape is None:
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
            raise MissingFeaturesError(
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


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries; none where it does not exist. StoreError where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror or error}") from error
