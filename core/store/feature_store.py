"""The store: a folder for each trunk key, with immutable shards in it. There is no other state.

    <root>/features/<digest>/trunk.json, <digest of shard>.safetensors ..., last_used

* A listing is a snapshot: other writers' shards may appear, and evicted ones vanish, at any time. What has
  gone is a miss, never an error.
* The index from ids to rows is derived from the shards whenever they change, and lives in memory only.
* No row is handed out that has not been verified on this very reading.
* Nothing is deleted but by `gc`, and there only what its preview listed, by `make_room` where a limit asks for it,
  and what killed writers left a day ago.
* Links are followed to read, never to delete or move what they lead to (`removal`).
* Shared caches are laid out alike, and only ever read; of those behind URLs, what is needed comes into the own
  one. What is wrong with them stops nobody: their rows are missing, and computed into the own cache. What is wrong
  with the own cache is an error, for its owner to decide.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.common.errors import (
    CacheNotWritableError,
    DamagedDescriptionError,
    DamagedShardError,
    DiskSpaceError,
    SettingError,
    StoreError,
    UnreadableShardError,
)
from headstart.common.machine import cache_root
from headstart.common.objects import is_url
from headstart.common.places import spelled_out
from headstart.common.progress import track
from headstart.common.sizes import binary_size, parse_nbytes
from headstart.store.description import DESCRIPTION, format_of_others, read_description
from headstart.store.feature_folder import FeatureFolder, is_open, used_here
from headstart.store.files import EVICTIONS
from headstart.store.keys import TrunkKey
from headstart.store.removal import delete, move_into, require_no_link
from headstart.store.shard import Shard, open_shard
from headstart.store.snapshot import raise_if_damaged, scan
from headstart.store.trust import warn
from headstart.store.upkeep import (
    DAMAGED,
    DIGEST,
    FolderInfo,
    GcPlan,
    VerifyReport,
    evict,
    feature_folders,
    files_of,
    info_of,
    key_beginning,
    last_used,
    leftovers_of,
    listed,
)

if TYPE_CHECKING:
    from headstart.store.remote.shared import SharedRemote

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


def split_shared(text: str, separator: str = os.pathsep) -> list[str]:
    """The folders and URLs in HEADSTART_CACHE_SHARED. Where colons stand between them, one before `//` belongs to
    a URL, and so does that between a user and a password, which are refused, and not taken for a folder."""
    if separator != ":":
        return [part for part in text.split(separator) if part]
    return re.findall(r"(?:[A-Za-z][\w+.-]*://(?:[^:/@]*:[^:/@][^:@]*@)?)?[^:]+", text)


def _remotes(urls: Collection[str], root: Path) -> tuple[SharedRemote, ...]:
    """The shared caches behind these URLs. What reads such is imported where there are any."""
    if not urls:
        return ()
    from headstart.store.remote.shared import SharedRemote

    return tuple(SharedRemote(url, root) for url in urls)


class FeatureStore:
    """All features under one root: the argument, else HEADSTART_CACHE, else the user's cache folder.

    Opening it creates nothing, and reading never needs permission to write.
    """

    def __init__(self, root: Path | str | None = None, shared: Iterable[Path | str] | None = None) -> None:
        """`shared`: further caches, on any file system or behind URLs, that are only read; by default those in
        HEADSTART_CACHE_SHARED, with `os.pathsep` between them. StoreWarning for one that does not exist: a
        share may be away for a time, and its features can be computed. SettingError for a URL that is none."""
        self.root = cache_root(root)
        self.path = self.root / "features"
        named = "the argument shared"
        if shared is None:
            named = SHARED_VARIABLE
            shared = split_shared(os.environ.get(SHARED_VARIABLE, ""))
        everything = list(shared)
        urls = dict.fromkeys(root.rstrip("/") for root in everything if isinstance(root, str) and is_url(root))
        self.remotes = _remotes(urls, self.root)
        others = [root for root in everything if not is_url(root) and not self._is_own(root)]
        self.shared = tuple(dict.fromkeys(self._shared_root(root, named) for root in others))

    def folder(self, key: TrunkKey, row_shape: Sequence[int] | None = None) -> FeatureFolder:
        """The features of one trunk key; their folder need not exist yet. `row_shape`: the shape of a sample's
        features, where it is known."""
        shared = [root / "features" / key.digest for root in self.shared]
        remotes = [folder for remote in self.remotes if (folder := remote.folder(key.digest)) is not None]
        make_room = partial(self.make_room, keep=[key.digest])
        return FeatureFolder(self.path / key.digest, key, shared, row_shape, remotes, make_room)

    def infos(self) -> list[FolderInfo]:
        """What each folder holds, by key; the own cache's comes before the same key's in shared caches. Damage is
        listed, not raised; StoreWarning for a folder that cannot be read, such as another user's."""
        infos = []
        own = self._folders()
        for folder in [*own, *self._shared_folders()]:
            info = _info_if_readable(folder)
            infos.append(info if info is None or folder in own else replace(info, shared=True))
        return sorted((info for info in infos if info is not None), key=lambda info: info.key)

    def info(self, prefix: str) -> FolderInfo:
        """What the folder holds whose key begins with `prefix`: the own cache's, if it is there. UnknownNameError
        where no key begins so, SettingError where several do."""
        return self.copies(prefix)[0]

    def copies(self, prefix: str) -> list[FolderInfo]:
        """As `info`, for every cache that has the key, the own one first."""
        infos = self.infos()
        key = key_beginning(prefix, sorted({info.key for info in infos}))
        return [info for info in infos if info.key == key]

    def verify(self, repair: bool = False, prefix: str | None = None) -> VerifyReport:
        """Read every byte of every shard, or of one key's, in shared caches, too. With `repair`, damaged files
        of the own cache are moved to the folder `damaged` beside them, where nothing reads them: the next
        extraction computes just their rows. Nothing is moved in a shared cache, whose damaged shards are passed
        over anyhow.

        Raises CacheNotWritableError or StoreError where a file cannot be moved; `info`'s errors for a prefix.
        """
        report = VerifyReport(0, 0, [], [])
        own, shared = self._folders(), self._shared_folders()
        if prefix is not None:
            key = key_beginning(prefix, sorted({folder.name for folder in [*own, *shared]}))
            own, shared = ([folder for folder in folders if folder.name == key] for folders in (own, shared))
        shards = rows = 0
        for folder in [*own, *shared]:
            before = len(report.damaged)
            for shard in self._look_at(folder, report):
                shards, rows = shards + 1, rows + len(shard)
            if folder in shared:
                report.shared.extend(path for path, _ in report.damaged[before:])
        for path, _ in report.damaged if repair else ():
            if path in report.shared or not self._is_still_damaged(path):
                continue
            try:
                moved = move_into(path, DAMAGED, self.root)
            except CacheNotWritableError:
                raise
            except StoreError as error:
                report.not_moved.append((path, str(error)))
            else:
                report.set_aside.extend([] if moved is None else [moved])
        return replace(report, shards=shards, rows=rows)

    @staticmethod
    def _look_at(folder: Path, report: VerifyReport) -> Iterator[Shard]:
        """Yields the folder's intact shards, each read in full; adds what is wrong to the report."""

        def tell(error: StoreError, path: Path) -> None:
            if isinstance(error, DamagedShardError):
                wrong = report.unreadable if isinstance(error, UnreadableShardError) else report.damaged
                wrong.append((error.path, error.reason))
            elif isinstance(error, DamagedDescriptionError):
                report.damaged.append((path, str(error)))
            else:
                report.unreadable.append((path, str(error)))

        if said := format_of_others(folder):
            report.unreadable.append((folder, said))
            return
        try:
            read_description(folder)
        except StoreError as error:
            tell(error, folder / DESCRIPTION)
        try:
            snapshot = scan([folder], None)
        except StoreError as error:
            tell(error, folder)
            return
        for damage in snapshot.damaged:
            tell(damage, damage.path)
        with track(f"verifying {folder.name[:8]}", len(snapshot.shards)) as advance:
            for shard in snapshot.shards:
                advance()
                try:
                    raise_if_damaged(shard)
                except FileNotFoundError:
                    continue
                except StoreError as error:
                    tell(error, shard.path)
                else:
                    yield shard

    @staticmethod
    def _is_still_damaged(path: Path) -> bool:
        """Whether a file is still damaged when it is read again: a sound file may have taken its place. A file
        that cannot be read now is not known to be damaged."""
        try:
            if path.name == DESCRIPTION:
                read_description(path.parent)
            else:
                raise_if_damaged(open_shard(path))
                # Sound by itself, but it may belong to another key, or hold rows of another shape.
                return any(error.path == path for error in scan([path.parent], None).damaged)
        except UnreadableShardError:
            return False
        except (DamagedShardError, DamagedDescriptionError):
            return True
        except (FileNotFoundError, StoreError):
            return False
        return False

    def gc_plan(self, max_nbytes: int) -> GcPlan:
        """What to delete so that the features take at most `max_nbytes`: whole folders of the own cache, least
        recently used first, and unfinished files older than a day in those that stay. Deletes nothing."""
        if max_nbytes < 0:
            raise SettingError(f"the store cannot shrink to {max_nbytes} bytes; expected 0 or more")
        return self._plan(self._evictable(), max_nbytes)[0]

    def make_room(self, nbytes: int, keep: Collection[str] = ()) -> GcPlan | None:
        """Where HEADSTART_CACHE_MAX sets a limit, delete what was not used for longest until `nbytes` more keep
        within it. Returns what was deleted, None where there was no need.

        What is in use stays: folders whose keys' digests are in `keep`, those that this process has open (for a
        feature set or a writer), and those that another process has used within the last ten minutes.

        Raises DiskSpaceError, and deletes nothing, where that is too little; SettingError for a limit that is no
        size.
        """
        limit = cache_limit()
        if limit is None:
            return None
        deleted: list[FolderInfo] = []
        leftovers: list[Path] = []
        freed = 0
        tries = EVICTIONS
        while True:
            infos = self._evictable()
            if sum(info.nbytes for info in infos) + nbytes <= limit:
                return GcPlan(tuple(deleted), tuple(leftovers), freed) if freed else None
            staying = {info.key: why for info in infos if (why := self._why_it_stays(info, keep))}
            plan, left = self._plan(infos, max(0, limit - nbytes), staying)
            if left + nbytes > limit or tries == 0:
                raise DiskSpaceError(
                    f"the features need {binary_size(nbytes)}; {MAX_VARIABLE} allows {binary_size(limit)} at "
                    f"{self.root}, and what must stay there takes {binary_size(left)}{listed(infos, staying)}. "
                    f"Raise {MAX_VARIABLE}, or cut later in the model, where features are smaller"
                )
            deleted += plan.folders
            leftovers += plan.leftovers
            freed += self.gc(plan)  # what was used in between stays; then look again
            tries -= 1

    def _evictable(self) -> list[FolderInfo]:
        """The own cache's folders, least recently used first."""
        infos = [_info_if_readable(folder) for folder in self._folders() if not folder.is_symlink()]
        return sorted((info for info in infos if info is not None), key=lambda info: (info.last_used, info.key))

    def _plan(
        self, infos: Sequence[FolderInfo], max_nbytes: int, staying: Collection[str] = ()
    ) -> tuple[GcPlan, int]:
        """(what to delete, the bytes that are left then)."""
        leftovers = {info.path: leftovers_of(info.path) for info in infos}
        freed = sum(size for files in leftovers.values() for _, size in files)
        left = sum(info.nbytes for info in infos) - freed
        evicted: list[FolderInfo] = []
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
    def _why_it_stays(info: FolderInfo, keep: Collection[str]) -> str | None:
        if info.key in keep:
            return "wanted now"
        if is_open(info.path):
            return "in use by this process"
        recently = time.time() - info.last_used < RECENT_SECONDS
        if recently and used_here(info.path) < info.last_used:
            return f"used by another process in the last {RECENT_SECONDS / 60:.0f} minutes"
        return None

    def gc(self, plan: GcPlan | Iterable[FolderInfo]) -> int:
        """Delete what the plan lists, and return the bytes freed. A folder used since the plan stays. StoreError
        where `features` is a link: nothing is deleted behind links."""
        require_no_link(self.root, self.path)
        freed = 0
        for info in plan:
            named = info.path.parent == self.path and DIGEST.fullmatch(info.path.name)
            if not named or info.path.is_symlink():
                raise SettingError(
                    f"{info.path} holds no features of the store at {self.root}; nothing in it was deleted"
                )
            if last_used(info.path, files_of(info.path)) > info.last_used:
                continue
            freed += evict(info.path)
        for path in plan.leftovers if isinstance(plan, GcPlan) else ():
            freed += delete(path, self.root)
        return freed

    def _is_own(self, root: Path | str) -> bool:
        with contextlib.suppress(OSError):
            return self.root.samefile(root)
        return spelled_out(root).absolute() == self.root

    @staticmethod
    def _shared_root(root: Path | str, named: str) -> Path:
        path = spelled_out(root).absolute()  # one that cannot be reached now is left out, and ends nothing
        if not os.path.isdir(path):  # noqa: PTH112 - never an error
            warn(
                f"the shared cache {path} (from {named}) is no folder that can be reached; it is left out, and "
                "what it holds is computed anew. Mount it, or correct the path"
            )
        return path

    def _folders(self) -> list[Path]:
        return feature_folders(self.path)

    def _shared_folders(self) -> list[Path]:
        found: list[Path] = []
        for root in self.shared:
            try:
                found += feature_folders(root / "features")
            except StoreError as error:
                warn(f"the shared cache {root} is left out: {error}")
        return found


def _info_if_readable(folder: Path) -> FolderInfo | None:
    """What the folder holds; None, and a StoreWarning, where it cannot be read."""
    try:
        return info_of(folder)
    except StoreError as error:
        warn(f"{error}. It is passed over")
        return None
