"""Rows gathered from the shards of one snapshot, each verified against its checksum on the way.

Invariant: every row that `gather_rows` returns has the bytes it was written with. A damaged copy is never
returned; another shard's copy is taken where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DamagedShardError, MissingFeaturesError, SettingError, StoreError
from headstart.common.pools import pool_of
from headstart.common.sizes import binary_size
from headstart.store.ids import array_to_ids
from headstart.store.shard import MAX_ROWS, Shard
from headstart.store.snapshot import Snapshot

T = TypeVar("T")
R = TypeVar("R")


PART_NBYTES = 8 << 20  # rows are read in parts of about this
READERS = 3  # threads that read them


def gather_rows(
    snapshot: Snapshot,
    keys: NDArray[np.bytes_],
    dtype: np.dtype[Any],
    folder: Path,
    out: NDArray[Any] | None,
    row_shape: tuple[int, ...] | None,
    refuse: Callable[[Shard, StoreError], None],
    cached_share: float,
) -> NDArray[Any]:
    """The rows of the samples `keys`, `(n, *row_shape)` of `dtype`, in their order; in `out` where one is given.

    `keys`: as `sort_keys` makes them of ids. Damage in a shared shard is told to `refuse`, and passed over; in one
    of the folder's own it is raised where no other shard has the sample. `cached_share`: of the shards so many, by
    bytes and always the same, are read through the system's page cache, the others past it. Raises
    DamagedShardError, MissingFeaturesError, SettingError for an `out` of another shape, StoreError where there is
    no memory."""
    if row_shape is None:
        row_shape = snapshot.shards[0].row_shape if snapshot.shards else ()
    if out is not None and snapshot.shards:
        shape = (len(keys), *row_shape)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise SettingError(f"out is {out.dtype} of shape {out.shape}; expected contiguous {dtype} {shape}")
    try:
        out = np.empty((len(keys), *row_shape), dtype) if out is None else out
    except MemoryError as error:
        nbytes = len(keys) * math.prod(row_shape) * dtype.itemsize
        raise StoreError(
            f"{len(keys)} rows of {row_shape} from {folder} take {binary_size(nbytes)}, more than there is "
            "memory for; read fewer at a time"
        ) from error
    left = np.arange(len(keys))
    place = snapshot.first(keys)
    past_cache = _past_cache(snapshot.shards, cached_share)
    damage: DamagedShardError | None = snapshot.damaged[0] if snapshot.damaged else None
    while len(left):
        stored = snapshot.stands_at(place[left], keys[left])
        if not stored.all():
            if damage is not None:
                raise damage
            first = array_to_ids(keys[left[~stored]][:1].view(np.uint8))[0]
            raise MissingFeaturesError(
                f"{np.count_nonzero(~stored)} of {len(keys)} samples have no features in {folder}, "
                f"{first} among them; extract them first"
            )
        intact = np.zeros(len(left), np.bool_)
        owner = snapshot.shard_of[place[left]]
        row = snapshot.row_of[place[left]]
        # By shard, then by row: the disk is read forwards.
        order = np.argsort(owner.astype(np.int64) * MAX_ROWS + row)
        parts = _parts(order, owner, [shard.row_nbytes for shard in snapshot.shards])
        read = partial(_read, snapshot.shards, past_cache, out, left, owner, row)
        for part, (right, wrong) in _in_threads(read, parts):
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


def _past_cache(shards: Sequence[Shard], cached_share: float) -> list[bool]:
    """Which shards are read past the page cache: those behind the first `cached_share` of all bytes."""
    if cached_share >= 1:
        return [False] * len(shards)
    ends = np.cumsum([len(shard) * shard.row_nbytes for shard in shards])
    return [bool(past) for past in ends > cached_share * ends[-1:]]


def _parts(order: NDArray[np.intp], owner: NDArray[Any], row_nbytes: Sequence[int]) -> list[NDArray[np.intp]]:
    """`order`, which is sorted by shard and row, cut into parts of one shard and a few megabytes each."""
    runs = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    steps = [max(1, PART_NBYTES // row_nbytes[owner[run[0]]]) for run in runs]
    return [run[i : i + step] for run, step in zip(runs, steps, strict=True) for i in range(0, len(run), step)]


def _in_threads(action: Callable[[T], R], parts: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Each part and what `action` makes of it, in order. A disk is at its best with several requests at once,
    and what is copied out of the page cache is limited by the processor."""
    if len(parts) < 2 * READERS:
        yield from ((part, action(part)) for part in parts)
        return
    with pool_of(READERS, "headstart-shards") as pool:
        yield from zip(parts, pool.map(action, parts), strict=True)


def _read(
    shards: Sequence[Shard],
    past_cache: Sequence[bool],
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
        intact = shard.read_into(out, places[part], rows[part], past_cache[owner[part[0]]])
    except FileNotFoundError:
        return None, None
    except StoreError as error:
        return None, error
    bad = len(part) - np.count_nonzero(intact)
    reason = f"{bad} of {len(part)} rows read differ from their checksums"
    return intact, DamagedShardError(shard.path, reason) if bad else None
