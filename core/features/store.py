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
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.errors import DamagedShardError, DiskSpaceError, SettingError, StoreError
from headstart.features.description import DESCRIPTION, read_description
from headstart.features.files import EVICTIONS
from headstart.features.keys import TrunkKey
from headstart.features.snapshot import raise_if_damaged, scan
from headstart.features.trunk_folder import TrunkFolder, is_open, used_here, warn
from headstart.features.upkeep import (
    DIGEST,
    GcPlan,
    TrunkInfo,
    VerifyReport,
    delete,
    evict,
    files_of,
    info_of,
    last_used,
    leftovers_of,
    listed,
    set_aside,
    the_one,
    trunk_folders,
)
from headstart.machine import cache_root
from headstart.progress import track
from headstart.sizes import binary_size, parse_nbytes

SHARED_VARIABLE = "HEADSTART_CACHE_SHARED"
MAX_VARIABLE = "HEADSTART_CACHE_MAX"
RECENT_SECONDS = 600.0  # what another process has used since then, it may want again; no room is made of it


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

    def trunk(self, key: TrunkKey, row_shape: Sequence[int] | None = None) -> TrunkFolder:
        """The folder of one trunk key, which need not exist yet. `row_shape`: of the features that the trunk
        gives, where it is known."""
        shared = [root / "features" / key.digest for root in self.shared]
        return TrunkFolder(self.folder / key.digest, key, shared, row_shape)

    def trunks(self) -> list[TrunkInfo]:
        """All trunks with anything stored, by key, the own cache's before the same one in shared caches. Damage is
        listed, not raised."""
        found = [info_of(folder) for folder in self._folders()]
        for folder in self._shared_folders():
            try:
                info = info_of(folder)
            except StoreError as error:
                warn(str(error))
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
        key = the_one(prefix, keys)
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
            key = the_one(prefix, sorted({folder.name for folder in [*own, *shared]}))
            own, shared = ([folder for folder in folders if folder.name == key] for folders in (own, shared))
        for folder in [*own, *shared]:
            before = len(report.damaged)
            try:
                read_description(folder)
            except StoreError as error:
                report.damaged.append((folder / DESCRIPTION, str(error)))
            try:
                snapshot = scan([folder], None)
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
                        raise_if_damaged(shard)
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
            report.set_aside.extend(moved for path in mendable if (moved := set_aside(path)) is not None)
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
                    f"{self.root}, and what must stay there takes {binary_size(left)}{listed(infos, staying)}. "
                    f"Raise {MAX_VARIABLE}, or cut later in the model, where features are smaller"
                )
            trunks += plan.trunks
            leftovers += plan.leftovers
            freed += self.gc(plan)  # what was used in between stays; then look again
            tries -= 1

    def _evictable(self) -> list[TrunkInfo]:
        """Trunks of the own cache, least recently used first."""
        infos = [info_of(folder) for folder in self._folders() if not folder.is_symlink()]
        return sorted((info for info in infos if info is not None), key=lambda info: (info.last_used, info.key))

    def _plan(
        self, infos: Sequence[TrunkInfo], max_nbytes: int, staying: Collection[str] = ()
    ) -> tuple[GcPlan, int]:
        """What to delete, and the bytes that are left then."""
        leftovers = {info.path: leftovers_of(info.path) for info in infos}
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
        if is_open(info.path):
            return "in use by this process"
        recently = time.time() - info.last_used < RECENT_SECONDS
        if recently and used_here(info.path) < info.last_used:
            return f"used by another process in the last {RECENT_SECONDS / 60:.0f} minutes"
        return None

    def gc(self, plan: GcPlan | Iterable[TrunkInfo]) -> int:
        """Delete what the plan lists, and return the bytes freed. A trunk used since the plan stays."""
        freed = 0
        for info in plan:
            named = info.path.parent == self.folder and DIGEST.fullmatch(info.path.name)
            if not named or info.path.is_symlink():
                raise SettingError(
                    f"{info.path} is no trunk of the store at {self.root}; nothing of it was deleted"
                )
            if last_used(info.path, files_of(info.path)) > info.last_used:
                continue
            freed += evict(info.path)
        for path in plan.leftovers if isinstance(plan, GcPlan) else ():
            freed += delete(path)
        return freed

    def _is_own(self, root: Path | str) -> bool:
        with contextlib.suppress(OSError):
            return self.root.samefile(root)
        return cache_root(root) == self.root

    @staticmethod
    def _shared_root(root: Path | str, named: str) -> Path:
        path = cache_root(root)
        if not os.path.isdir(path):  # noqa: PTH112 - never an error
            warn(
                f"the shared cache {path} (from {named}) is no folder that can be reached; it is left out, and "
                "what it holds is computed anew. Mount it, or correct the path"
            )
        return path

    def _folders(self) -> list[Path]:
        return trunk_folders(self.folder)

    def _shared_folders(self) -> list[Path]:
        found: list[Path] = []
        for root in self.shared:
            try:
                found += trunk_folders(root / "features")
            except StoreError as error:
                warn(f"the shared cache {root} is left out: {error}")
        return found
