"""Rows that belong to no sample any more: images that were removed or edited leave their features behind.

The store knows samples by id alone, so the user names the data sets whose rows stay; all other rows are orphans.
Invariant: at every moment each row of a named sample is in some shard. The rows that stay are written durably, as
a new shard, before the old one is deleted. A crash in between leaves them twice, which costs space until the next
run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DamagedShardError, DataError
from headstart.common.progress import track
from headstart.common.text import hint
from headstart.data import Dataset
from headstart.data.left_out import Unread
from headstart.data.summary import say
from headstart.data.walk import named
from headstart.store.feature_store import FeatureStore
from headstart.store.files import storage_errors
from headstart.store.ids import ID_NBYTES, ids_to_array, sort_keys
from headstart.store.removal import delete, require_no_link
from headstart.store.shard import SUFFIX, Shard, open_shard, write_shard


@dataclass(frozen=True)
class Orphans:
    """The rows of one trunk key that belong to no sample of the named data sets."""

    key: str
    label: dict[str, Any]
    rows: int
    nbytes: int
    """of the rows, with their checksums and ids"""
    kept: int
    """rows of named samples"""
    path: Path
    last_used: float
    """seconds since the epoch, when they were looked for"""

    def hint(self, name: str) -> str:
        """What the label says of "model", "weights" or "cut", fit for a terminal; "?" where it says nothing."""
        return hint(self.label, name)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"key": self.key, **self.label, "rows": self.rows, "bytes": self.nbytes, "kept": self.kept}


def find_orphans(store: FeatureStore, data: Iterable[Dataset]) -> list[Orphans]:
    """For each trunk key of the own cache, the rows that belong to no sample of these data sets; most bytes first.
    Damaged shards are left out. Raises ImageError for a file that cannot be read, DataError where `data` has
    skipped one."""
    ids_in_use = _wanted(data)
    orphaned = []
    for info in store.infos():
        if info.shared:
            continue
        rows = kept = nbytes = 0
        for shard in _shards(info.path):
            orphans = len(shard) - int(_is_wanted(shard, ids_in_use).sum())
            rows, kept = rows + orphans, kept + len(shard) - orphans
            nbytes += orphans * (shard.row_nbytes + shard.checksums.itemsize + ID_NBYTES)
        if rows:
            orphaned.append(Orphans(info.key, info.label, rows, nbytes, kept, info.path, info.last_used))
    return sorted(orphaned, key=lambda of_key: (-of_key.nbytes, of_key.key))


def drop_orphans(store: FeatureStore, orphaned: Iterable[Orphans], data: Iterable[Dataset]) -> int:
    """Write the shards that hold orphans anew without them, and return the bytes freed. A trunk used since they
    were looked for stays as it is.

    Raises DamagedShardError for a row to be kept that is not what was written (its shard is left as it is),
    DiskSpaceError, CacheNotWritableError or StoreError; whatever happens, no row of these data sets is lost.
    """
    ids_in_use = _wanted(data)
    freed = 0
    for orphans in orphaned:
        if any(info.path == orphans.path and info.last_used > orphans.last_used for info in store.infos()):
            continue
        require_no_link(store.root, orphans.path)
        shards = [shard for shard in _shards(orphans.path) if not _is_wanted(shard, ids_in_use).all()]
        with track(f"rewriting {orphans.key[:8]}", len(shards)) as advance:
            for shard in shards:
                freed += _rewrite(shard, np.flatnonzero(_is_wanted(shard, ids_in_use)))
                advance()
    return freed


def _rewrite(shard: Shard, rows: NDArray[np.intp]) -> int:
    """Keep only these rows of a shard; the bytes that frees."""
    with storage_errors(shard.path, "rewrite"):
        before = shard.path.stat().st_size
    after = 0
    if len(rows):
        kept = np.empty((len(rows), *shard.row_shape), shard.dtype)
        intact = shard.read_into(kept, np.arange(len(rows)), rows)
        if not intact.all():
            bad = len(rows) - np.count_nonzero(intact)
            raise DamagedShardError(shard.path, f"{bad} of {len(rows)} rows read differ from their checksums")
        new = write_shard(
            shard.path.parent,
            key_digest=shard.key_digest,
            ids=shard.ids[rows],
            checksums=shard.checksums[rows],
            blocks=[kept],
            provenance=shard.provenance,
        )
        after = open_shard(new).path.stat().st_size
    delete(shard.path, shard.path.parent.parent.parent)
    return before - after


def _wanted(data: Iterable[Dataset]) -> NDArray[np.bytes_]:
    """`(n,)` ids of all samples, sorted, each once. DataError where something could not be read: it would count as
    gone."""
    data = list(data)
    if unread := [line for dataset in data for line in dataset.skipped if isinstance(line, Unread)]:
        raise DataError(
            f"{named(unread)}. What cannot be read is not gone, so no features are called orphans; mend that, or "
            "remove it from the data"
        )
    for dataset in data:
        say(dataset)
    ids = [ids_to_array(dataset.ids) for dataset in data]
    return np.unique(sort_keys(np.concatenate([np.empty((0, ID_NBYTES), np.uint8), *ids])))


def _is_wanted(shard: Shard, wanted: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    return np.isin(sort_keys(shard.ids), wanted)


def _shards(folder: Path) -> list[Shard]:
    """The intact shards that are this trunk's own files."""
    intact = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.is_symlink() or folder.is_symlink():  # what it leads to may be another store's
            continue
        try:
            shard = open_shard(path)
        except (DamagedShardError, FileNotFoundError):
            continue
        if shard.key_digest == folder.name:
            intact.append(shard)
    return intact
