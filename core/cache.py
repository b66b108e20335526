"""The feature store as a user looks at it: what `headstart cache` does, as functions.

    hs.cache.list()                                  # every trunk's features: model, cut, rows, bytes, last use
    hs.cache.info("3f2a")                            # everything about one trunk
    hs.cache.verify(repair=True)                     # read every byte; set damaged files aside
    hs.cache.explain(model, data, ["layer3"])        # what an extraction would find, and why not more
    hs.cache.gc("5GB", delete=True)                  # delete what was not used for longest
    hs.cache.gc(keep=[data], delete=True)            # delete the features of images that are gone
    hs.cache.push("s3://bucket/team")                # write to a store behind a URL what it lacks of this one
    hs.cache.pull("s3://bucket/team", ["3f2a"])      # bring what this one lacks
    hs.cache.at("s3://bucket/team").list()           # what is there; info, verify, explain and gc likewise

Every function looks at the cache in HEADSTART_CACHE, or at `cache`, and at those in HEADSTART_CACHE_SHARED.
Invariant: nothing is computed, and nothing is deleted or moved unless `delete` or `repair` says so.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from headstart.common.errors import SettingError
from headstart.common.objects import open_objects
from headstart.common.sizes import parse_nbytes
from headstart.common.table import Table, facts_table
from headstart.common.text import nbytes_text, when
from headstart.data import Dataset
from headstart.features.coverage import explain
from headstart.features.orphans import Orphans, drop_orphans, find_orphans
from headstart.features.remote_cache import RemoteCache, RemoteCleaning, RemoteListing
from headstart.store.feature_store import MAX_VARIABLE, FeatureStore, cache_limit
from headstart.store.moving import pull as pulling
from headstart.store.moving import push as pushing
from headstart.store.moving.moves import Moves
from headstart.store.upkeep import FolderInfo, GcPlan, VerifyReport, spec_facts

__all__ = [
    "Listing",
    "Moves",
    "OrphanCleaning",
    "RemoteCache",
    "RemoteCleaning",
    "RemoteListing",
    "TrunkCleaning",
    "TrunkCopies",
    "at",
    "explain",
    "gc",
    "info",
    "list",
    "pull",
    "push",
    "verify",
]


@dataclass(frozen=True)
class Listing:
    """The trunks in the cache and in shared ones. Iterates over them."""

    trunks: tuple[FolderInfo, ...]
    """by key, the own cache's before the same one in shared caches"""
    nbytes: dict[Path, int]
    """folder of a cache -> bytes of its features, the own cache first"""

    def __iter__(self) -> Iterator[FolderInfo]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    def as_list(self) -> builtins.list[dict[str, Any]]:
        """JSON-able: a dict for each trunk."""
        return [folder.as_dict() for folder in self.trunks]

    def as_table(self) -> Table:
        """For a terminal."""
        rows = [
            (
                folder.key[:12],
                f"{folder.hint('model')} ({folder.hint('weights')})",
                folder.hint("cut"),
                folder.view,
                f"{folder.rows:,}",
                nbytes_text(folder.nbytes),
                when(folder.last_used),
                folder.made_by,
                "shared" if folder.shared else "own",
            )
            for folder in self.trunks
        ]
        columns = ("key", "model", "cut", "view", "rows", "size", "last used", "made by", "where")
        return Table(columns, rows, right=(4, 5))


def list(cache: str | Path | None = None) -> Listing:
    """What the cache holds: a `FolderInfo` for each trunk that has features in it or in a shared cache."""
    store = FeatureStore(cache)
    folders = tuple(store.infos())
    roots = (store.root, *store.shared)
    nbytes = {root: sum(f.nbytes for f in folders if f.path.parent.parent == root) for root in roots}
    return Listing(folders, nbytes)


@dataclass(frozen=True)
class TrunkCopies:
    """One trunk's features, wherever they are stored. Iterates over the copies."""

    copies: tuple[FolderInfo, ...]
    """at least one; the own cache's first"""

    def __iter__(self) -> Iterator[FolderInfo]:
        return iter(self.copies)

    def __len__(self) -> int:
        return len(self.copies)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the first copy with its spec, and the others."""
        first, *others = self.copies
        return {**first.as_dict(), "spec": first.spec, "also_in": [copy.as_dict() for copy in others]}

    def as_tables(self) -> builtins.list[Table]:
        """For a terminal: a table of facts for each copy."""
        return [facts_table(spec_facts(copy.spec) | copy.as_dict()) for copy in self.copies]


def info(key: str, cache: str | Path | None = None) -> TrunkCopies:
    """Everything about one trunk's features. `key`: a trunk key, or its beginning.

    Raises UnknownNameError where no trunk's key begins so, SettingError where several do.
    """
    return TrunkCopies(tuple(FeatureStore(cache).copies(key)))


def verify(key: str | None = None, *, repair: bool = False, cache: str | Path | None = None) -> VerifyReport:
    """Read every byte of every shard, or of one trunk's, and compare with the checksums. With `repair`, damaged
    files of the own cache are set aside, so that the next extraction computes just their rows.

    Checksums find damage, not malice; `hs.verify(model, data)` computes rows again and compares.

    Raises CacheNotWritableError or StoreError where a file cannot be moved, and as `info` for a key.
    """
    return FeatureStore(cache).verify(repair=repair, prefix=key)


@dataclass(frozen=True)
class TrunkCleaning:
    """What `gc` would delete, or has deleted, to keep a limit. Iterates over the trunks."""

    plan: GcPlan
    freed: int | None
    """bytes; None where nothing was to be deleted yet"""

    def __iter__(self) -> Iterator[FolderInfo]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"trunks": [folder.as_dict() for folder in self.plan], **_outcome(self.freed)}


@dataclass(frozen=True)
class OrphanCleaning:
    """The rows of no named sample that `gc` would delete, or has deleted. Iterates over the trunks' orphans, most
    bytes first."""

    orphans: tuple[Orphans, ...]
    freed: int | None
    """bytes; None where nothing was to be deleted yet"""

    def __iter__(self) -> Iterator[Orphans]:
        return iter(self.orphans)

    def __len__(self) -> int:
        return len(self.orphans)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"orphans": [orphans.as_dict() for orphans in self.orphans], **_outcome(self.freed)}


def _outcome(freed: int | None) -> dict[str, Any]:
    return {"deleted": freed is not None, "freed_bytes": freed or 0}


@overload
def gc(
    max_size: int | str | None = None, *, delete: bool = False, cache: str | Path | None = None
) -> TrunkCleaning: ...


@overload
def gc(
    *, keep: Dataset | Sequence[Dataset], delete: bool = False, cache: str | Path | None = None
) -> OrphanCleaning: ...


def gc(
    max_size: int | str | None = None,
    *,
    keep: Dataset | Sequence[Dataset] | None = None,
    delete: bool = False,
    cache: str | Path | None = None,
) -> TrunkCleaning | OrphanCleaning:
    """What to delete so that the cache takes at most `max_size` (bytes, or a text such as "5GB"; default
    HEADSTART_CACHE_MAX): whole trunks, those that were not used for longest first. With `keep`, instead the
    orphans: rows of images that are in none of these data sets (any more).

    Deletes only with `delete`, and nothing in shared caches. Raises SettingError where there is no limit, or both
    a limit and `keep`; DataError, ImageError and StoreError as reading data and deleting files do.
    """
    store = FeatureStore(cache)
    if keep is not None:
        if max_size is not None:
            raise SettingError("keep deletes orphans and max_size whole trunks; expected one of them")
        data = [keep] if isinstance(keep, Dataset) else [*keep]
        orphans = find_orphans(store, data)
        return OrphanCleaning(tuple(orphans), drop_orphans(store, orphans, data) if delete else None)
    limit = cache_limit() if max_size is None else max_size
    if limit is None:
        raise SettingError(f"gc needs a limit: max_size, such as '20GB', or {MAX_VARIABLE}")
    plan = store.gc_plan(parse_nbytes(limit) if isinstance(limit, str) else limit)
    return TrunkCleaning(plan, store.gc(plan) if delete else None)


def at(url: str, cache: str | Path | None = None) -> RemoteCache:
    """The store behind a URL, such as "s3://bucket/team", to look at and to tidy. Makes no request. `cache`: the
    own cache's folder, which keeps notes of what has been learned there. SettingError for a URL that is none."""
    return RemoteCache(url, cache)


def push(
    url: str, keys: str | Sequence[str] = (), *, dry_run: bool = False, cache: str | Path | None = None
) -> Moves:
    """Write to the store behind a URL, such as "s3://bucket/team", the shards that it lacks of the cache's trunks:
    of all, or of those whose keys, or their beginnings, are given. Each is read and verified first. Shared caches
    are left alone. The same call goes on where an earlier one has stopped. `dry_run`: only say what would go.

    What cannot be pushed is in the result, with the reason. Raises UnknownNameError and SettingError for `keys`
    and `url`; RemoteError where the store cannot be reached, RemoteRefusedError where it may not be written;
    TransferInterrupted for Ctrl-C.
    """
    return pushing.push(FeatureStore(cache, shared=()), open_objects(url), _beginnings(keys), dry_run)


def pull(
    url: str, keys: str | Sequence[str] = (), *, dry_run: bool = False, cache: str | Path | None = None
) -> Moves:
    """Bring the shards that the cache lacks of the trunks in the store behind a URL: of all, or of those whose
    keys, or their beginnings, are given. Each is verified before it has its name. The same call goes on where an
    earlier one has stopped. `dry_run`: only say what would come.

    As an extraction does, it makes room by HEADSTART_CACHE_MAX first. What cannot be pulled is in the result, with
    the reason. Raises as `push` does; DiskSpaceError where there is no room, before anything is fetched;
    CacheNotWritableError.
    """
    return pulling.pull(FeatureStore(cache, shared=()), open_objects(url), _beginnings(keys), dry_run)


def _beginnings(keys: str | Sequence[str]) -> builtins.list[str]:
    return [keys] if isinstance(keys, str) else [*keys]
