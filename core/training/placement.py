"""Where features lie while a head is trained on them: on the device, in memory, or on the disk. The choice is made
from sizes, is reported, and can be forced by a bound on memory.

Invariant: what is streamed holds two pools at a time, and a framework's copy or two of one: half of the bound. The
rest is for what a framework makes of a pool on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headstart.common.errors import SettingError
from headstart.common.machine import available_memory
from headstart.common.sizes import binary_size, parse_nbytes
from headstart.features.feature_set import FeatureSet
from headstart.training.feeds import Feed, Pools, Resident, Streamed

DEVICE, MEMORY, DISK = "device", "memory", "disk"
BLOCK_NBYTES = 1 << 20  # reading this much at once costs a disk little more than its seek
POOL_BLOCKS = 16  # a pool mixes at least so many blocks, or smaller ones are drawn
POOLS = 8  # so many would fit within the bound
MAX_POOL_NBYTES = 256 << 20  # larger ones shuffle no better, and only wait longer for the first


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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    """Where features of so many bytes in all can lie from the first epoch to the last: `Placement.where`.

    On the device if they are within `limit`, the bytes that may be held, and leave it enough room to compute: they
    may take 70 % of `device_free`, what it has left of a memory of its own. A device without one (None) works in
    the machine's memory, where the limit alone counts. Within the limit they are in memory at least.
    """
    if nbytes > limit:
        return DISK
    return DEVICE if device_free is None or nbytes <= 0.7 * device_free else MEMORY


def place_features(
    features: Sequence[FeatureSet], cut: str, batch_size: int, memory: int | None, device_free: int | None
) -> Placement:
    """Decide where the features of these sets at `cut` go.

    `memory`: how many bytes of them may be held at once, by default half of what the machine has left.
    `device_free`: what the device has left of a memory of its own, None where it has none. Raises SettingError
    where not even a few batches fit.
    """
    nbytes = sum(data.nbytes(cut) * data.views for data in features)
    row = max(data.nbytes(cut) // max(1, len(data)) for data in features)
    limit = bytes_to_hold(memory)
    where = where_to(nbytes, limit, device_free)
    if where == DEVICE:
        return Placement(where, nbytes, limit, 0, 0)
    batch = batch_size * row
    room = (limit if device_free is None else min(limit, device_free)) // POOLS
    pool = min(room, MAX_POOL_NBYTES) // batch * batch
    if not pool:
        raise SettingError(
            f"memory={binary_size(limit)} is too little for batches of {batch_size} x {binary_size(row)}; "
            f"{POOLS} of them must fit: allow {binary_size(POOLS * batch)}, or take smaller batches"
        )
    block = max(row, min(BLOCK_NBYTES, pool // POOL_BLOCKS) // row * row)
    return Placement(where, nbytes, limit, pool, block)


def feeds_of(features: Sequence[FeatureSet], cut: str, placement: Placement) -> list[Feed]:
    """A feed for each set. Those that are streamed take turns with one pair of pools."""
    if placement.where == DEVICE:
        return [Resident(data, cut) for data in features]
    first = features[0]
    row = max(1, first.nbytes(cut) // max(1, len(first)))
    pools = Pools(placement.pool_nbytes // row, first.shape(cut), first.folder(cut).dtype)
    block = max(1, placement.block_nbytes // row)
    return [Streamed(data, cut, pools, block, placement.where == MEMORY) for data in features]
