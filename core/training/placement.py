"""Where features lie while a head is trained on them: on the device, in memory, or on the disk. The choice is made
from sizes, is reported, and can be forced by a bound on memory.

Invariant: a stream holds two pools at a time, and the framework one or two copies of a pool. Together these are
half of the bound; the other half is left for what the framework allocates while it copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.machine import available_memory
from headstart.common.sizes import binary_size, parse_nbytes
from headstart.features.feature_set import FeatureSet
from headstart.training.feature_feeds import Pools, Resident, Streamed
from headstart.training.feeds import FeatureFeed

DEVICE, MEMORY, DISK = "device", "memory", "disk"
BLOCK_NBYTES = 1 << 20  # reading this much at once costs a disk little more than its seek
POOL_BLOCKS = 16  # a pool is mixed of at least so many blocks; blocks are made smaller for that
POOLS = 8  # the bound divided by the size of a pool
MAX_POOL_NBYTES = 256 << 20  # larger pools shuffle no better, and the first step waits longer for its pool


@dataclass(frozen=True)
class Placement:
    """Where the features of a training run are."""

    where: str
    """"device", "memory" (and pools of it on the device) or "disk" (in pools)"""
    nbytes: int
    """of all features that are trained and evaluated on, every view"""
    limit: int
    """how many may be held at once"""
    pool_nbytes: int
    """of one pool, where there are pools"""
    block_nbytes: int
    """of rows side by side that are drawn together, where they are on the disk"""
    cached_share: float = 1.0
    """how much of what is on the disk is left to the system's page cache; the rest is read past it"""

    def as_dict(self) -> dict[str, Any]:
        """What a run records: all but `cached_share`, which changes nothing of what comes out."""
        return {name: value for name, value in asdict(self).items() if name != "cached_share"}


def memory_limit(memory: int | str | None) -> int | None:
    """Bytes meant by `memory`; SettingError for what is no size."""
    if isinstance(memory, str):
        memory = parse_nbytes(memory)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise SettingError(f"memory={memory!r}; expected a number of bytes, or a text such as '512MB'")
    return memory


def bytes_to_hold(memory: int | None) -> int:
    """How many bytes of features may be held at once: `memory`, or half of what the machine has left."""
    return available_memory() // 2 if memory is None else memory


def where_to(nbytes: int, limit: int, device_free: int | None) -> str:
    """Where features of `nbytes` in all can stay from the first epoch to the last: a value of `Placement.where`.

    `limit`: bytes that may be held. More than that are read from the disk.
    `device_free`: free bytes of the device's own memory, of which features may take 70 %, as the rest is needed to
    compute. Features that take more stay in the machine's memory. None: the device works in the machine's memory,
    and the limit alone counts.
    """
    if nbytes > limit:
        return DISK
    return DEVICE if device_free is None or nbytes <= 0.7 * device_free else MEMORY


def place_features(
    features: Sequence[FeatureSet], cut: str, batch_size: int, memory: int | None, device_free: int | None
) -> Placement:
    """Decide where the features of these sets at `cut` are kept.

    `memory`: bytes of them that may be held at once; None: half of what the machine has left.
    `device_free`: see `where_to`. Raises SettingError where fewer than eight batches fit.
    """
    nbytes = sum(data.nbytes(cut) * data.views for data in features)
    row_nbytes = max(data.nbytes(cut) // max(1, len(data)) for data in features)
    limit = bytes_to_hold(memory)
    where = where_to(nbytes, limit, device_free)
    if where == DEVICE:
        return Placement(where, nbytes, limit, 0, 0)
    batch = batch_size * row_nbytes
    room = (limit if device_free is None else min(limit, device_free)) // POOLS
    pool = min(room, MAX_POOL_NBYTES) // batch * batch
    if not pool:
        raise SettingError(
            f"memory={binary_size(limit)} is too little for batches of {batch_size} x {binary_size(row_nbytes)}; "
            f"{POOLS} of them must fit: allow {binary_size(POOLS * batch)}, or take smaller batches"
        )
    block = max(row_nbytes, min(BLOCK_NBYTES, pool // POOL_BLOCKS) // row_nbytes * row_nbytes)
    # What the page cache cannot hold until the next epoch would only push out of it what it can.
    share = min(1.0, max(0, available_memory() - limit) / max(1, nbytes))
    return Placement(where, nbytes, limit, pool, block, share)


def feeds_of(
    features: Sequence[FeatureSet],
    cut: str,
    placement: Placement,
    weights: np.ndarray | None = None,
    targets: Sequence[np.ndarray] | None = None,
) -> list[FeatureFeed]:
    """A feed for each set. Feeds that stream features of one dtype share one pair of pools. `weights`: of the
    first set's samples. `targets`: of each set, as the loss takes them; None: the labels."""
    counting = [weights, *[None] * (len(features) - 1)]
    aims = [data.labels for data in features] if targets is None else targets
    sets = list(zip(features, counting, aims, strict=True))
    if placement.where == DEVICE:
        return [Resident(data, cut, of_set, aim) for data, of_set, aim in sets]
    in_memory, cached = placement.where == MEMORY, placement.cached_share
    pools: dict[np.dtype[Any], Pools] = {}
    feeds: list[FeatureFeed] = []
    for data, of_set, aim in sets:
        row_nbytes, dtype = max(1, data.nbytes(cut) // max(1, len(data))), data.folder(cut).dtype
        if dtype not in pools:
            pools[dtype] = Pools(placement.pool_nbytes // row_nbytes, data.shape(cut), dtype)
        block = max(1, placement.block_nbytes // row_nbytes)
        feeds.append(Streamed(data, cut, pools[dtype], block, in_memory, of_set, aim, cached))
    return feeds
