"""A shared cache behind a URL, as a store reads it: what is needed comes whole into the own cache.

Invariant: what is damaged or missing behind the URL, and a URL that cannot be reached, stop nobody: that is a
miss, and a StoreWarning that names the object and the reason, once. So is what has no room here: that it lies
there is no reason to fail. A URL that is away is not asked again by this process. What goes wrong in writing the
own cache is an error, as always.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import (
    DamagedDescriptionError,
    DiskSpaceError,
    RemoteError,
    RemoteNotFoundError,
    StoreError,
    StoreWarning,
)
from headstart.common.objects import Objects, open_objects, without_secrets
from headstart.common.progress import track
from headstart.common.text import counted
from headstart.store.remote.catalogue import FAILURES, Catalogue, is_absence
from headstart.store.remote.cover import cover
from headstart.store.remote.notes import Notes
from headstart.store.remote.remote_store import RemoteFolder
from headstart.store.remote.transfer import Advance, receive_shard, until

LOADERS = 4  # shards that come at once

_away: set[str] = set()
"""URLs that this process does not ask again"""
_said: set[str] = set()
"""warnings that this process has given"""
_lock = threading.Lock()


@dataclass(frozen=True)
class Destination:
    """The own cache's folder of a trunk key, as shards come into it."""

    path: Path
    dtype_name: str
    row_shape: tuple[int, ...] | None
    """None where it is not known yet"""
    row_nbytes: int | None
    require_room: Callable[[int], object]
    """is called with the bytes that are to come; raises where there is no room, or no permission"""
    prepare: Callable[[], object]
    """creates the folder and its description, where there are none; is called around every shard"""
    mark: Callable[[str], object]
    """notes, before it comes, that the shard of this digest comes from elsewhere"""
    is_refused: Callable[[str], bool]
    """whether the shard of this digest came once, and was wrong"""
    lacking: Callable[[], NDArray[np.uint8]]
    """the wanted ids `(n, 16)` that are still in no shard, none twice"""


class SharedRemote:
    """A shared cache behind a URL. It is only read."""

    def __init__(self, url: str, root: Path) -> None:
        """`root`: of the own cache, which keeps notes. Makes no request. SettingError for a URL that is none."""
        self.url = without_secrets(url)
        self._root = root
        self._objects: Objects | None = None
        try:
            self._objects = open_objects(url)
        except RemoteError as error:
            self.leave(error)

    def __repr__(self) -> str:
        return f"SharedRemote({self.url!r})"

    def folder(self, key_digest: str) -> SharedRemoteFolder | None:
        """The features of one trunk key; None where the URL cannot be opened."""
        if self._objects is None:
            return None
        return SharedRemoteFolder(self, RemoteFolder(self._objects, key_digest), self.notes(key_digest))

    def notes(self, key_digest: str) -> Notes:
        """What was learned of one trunk key."""
        return Notes(self._root, self.url, key_digest)

    @property
    def is_away(self) -> bool:
        """Whether this process has given up on it."""
        with _lock:
            return self.url in _away

    def leave(self, error: StoreError) -> None:
        """Do not ask any more, and say so."""
        with _lock:
            known = self.url in _away
            _away.add(self.url)
        if not known:
            warn_once(
                f"the shared cache {self.url} is left out: {error}. It is not asked again by this process, and "
                "what it holds is computed"
            )


class SharedRemoteFolder:
    """The features of one trunk key in a shared cache behind a URL."""

    def __init__(self, remote: SharedRemote, folder: RemoteFolder, notes: Notes) -> None:
        self._remote, self._folder, self._notes = remote, folder, notes
        self._failures = 0
        self._described = False

    def present(
        self, wanted: NDArray[np.uint8], row_nbytes: int | None, is_refused: Callable[[str], bool]
    ) -> NDArray[np.bool_]:
        """`(n,)` bool: which of the ids `(n, 16)`, none twice, are in a shard there, as far as is known. No
        features come. `is_refused`: see `Destination`."""
        present = np.zeros(len(wanted), np.bool_)
        if self._remote.is_away:
            return present
        try:
            catalogue = self._catalogue()
            for _ in catalogue.learn(row_nbytes):
                _, present = cover(
                    catalogue.indexes(), wanted, _usable(catalogue, lambda digest: not is_refused(digest))
                )
                if present.all():
                    break
        except RemoteError as error:
            self._remote.leave(error)
        return present

    def fetch(self, into: Destination) -> None:
        """Bring the shards that hold what the own cache lacks, as far as there is room for them: of others a
        StoreWarning tells, and what they hold can be computed.

        Raises CacheNotWritableError, DiskSpaceError or StoreError where the own cache cannot be written after all.
        """
        if self._remote.is_away:
            return
        tried: set[str] = set()
        gone: set[str] = set()
        lacking = into.lacking()
        try:
            catalogue = self._catalogue()
            for is_last in catalogue.learn(into.row_nbytes):
                if is_last:  # what has gone and is listed all the same is asked for once more
                    tried.difference_update(gone)
                usable = _usable(catalogue, lambda digest: digest not in tried and not into.is_refused(digest))
                while len(lacking):
                    to_bring, covered = cover(catalogue.indexes(), lacking, usable)
                    if not to_bring or not (is_last or covered.all()):
                        break  # to where more is known
                    if not self._is_described():
                        return
                    shards = _sized(to_bring, catalogue)
                    fitting, no_room = _fitting(shards, into)
                    if no_room is not None:
                        if not is_last:
                            break  # to where sizes are those of a listing, and not what an index claims
                        self._tell_left(len(shards) - len(fitting), no_room)
                    absent = self._bring(fitting, into)
                    if is_last:
                        for error in absent.values():
                            tell(error)
                    gone |= absent.keys()
                    tried.update(digest for digest, _ in to_bring)
                    lacking = into.lacking()
                if not len(lacking):
                    return
        except RemoteError as error:
            self._remote.leave(error)

    def _catalogue(self) -> Catalogue:
        return Catalogue(self._folder, self._notes, tell)

    def _is_described(self) -> bool:
        """Whether trunk.json there is this trunk's, or missing; says so where it is another one's, or does not
        come."""
        if not self._described:
            try:
                self._folder.description()
            except (DamagedDescriptionError, RemoteError) as error:
                tell(error)
                return False
            self._described = True
        return True

    def _bring(self, shards: Sequence[tuple[str, int]], into: Destination) -> dict[str, RemoteNotFoundError]:
        """Bring shards, digest and bytes of each, as far as they come. Returns those that are not there: they may
        have been deleted since they were noted. RemoteError where the server is away."""
        absent: dict[str, RemoteNotFoundError] = {}
        stopped = threading.Event()
        with (
            track(f"fetching features from {self._remote.url}", _nbytes(shards)) as advance,
            ThreadPoolExecutor(LOADERS, thread_name_prefix="headstart-fetch") as pool,
        ):
            try:
                told = until(stopped, advance)
                results = pool.map(lambda shard: self._bring_one(shard[0], shard[1], into, told), shards)
                for (digest, _), error in zip(shards, results, strict=True):
                    self._failures = self._failures + 1 if is_absence(error) else 0
                    if isinstance(error, RemoteNotFoundError):
                        absent[digest] = error
                    elif error is not None:
                        if self._failures == FAILURES:
                            raise error
                        tell(error)  # refused, too, it may be this one alone: archived, say
            finally:
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
        return absent

    def _tell_left(self, count: int, error: DiskSpaceError) -> None:
        """Warn, once, of shards that have no room in the own cache."""
        warn_once(
            f"{counted(count, 'shard')} of the shared cache {self._remote.url} did not come, and what they hold "
            f"counts as missing: {error}"
        )

    def _bring_one(self, digest: str, nbytes: int, into: Destination, advance: Advance) -> RemoteError | None:
        """What was wrong with the shard, or with the way to it."""
        try:
            receive_shard(
                self._folder.objects,
                self._folder.shard_name(digest),
                nbytes,
                into.path,
                prepare=into.prepare,
                mark=partial(into.mark, digest),
                dtype_name=into.dtype_name,
                row_shape=into.row_shape,
                advance=advance,
            )
        except RemoteError as error:
            return error
        return None


def _usable(catalogue: Catalogue, is_usable: Callable[[str], bool]) -> Callable[[str], bool]:
    """Once the shards are listed, those that are not there are of no use."""
    listed = catalogue.listed
    return is_usable if listed is None else lambda digest: digest in listed and is_usable(digest)


def _fitting(
    shards: Sequence[tuple[str, int]], into: Destination
) -> tuple[Sequence[tuple[str, int]], DiskSpaceError | None]:
    """(as many of the first ones as there is room for, about: all, half of them, a quarter and so on, what stands
    against all of them). Room has then been made. CacheNotWritableError where nothing can be written."""
    no_room: DiskSpaceError | None = None
    while shards:
        try:
            into.require_room(_nbytes(shards))
            break
        except DiskSpaceError as error:
            no_room = no_room or error
            shards = shards[: len(shards) // 2]
    return shards, no_room


def _nbytes(shards: Sequence[tuple[str, int]]) -> int:
    return sum(nbytes for _, nbytes in shards)


def _sized(chosen: Sequence[tuple[str, int]], catalogue: Catalogue) -> list[tuple[str, int]]:
    """The shards with the bytes that they were listed with, if they were."""
    listed = catalogue.listed or {}
    return [(digest, listed[digest].nbytes if digest in listed else nbytes) for digest, nbytes in chosen]


def tell(error: StoreError) -> None:
    """Warn, once, of an object that is passed over."""
    warn_once(f"in a shared cache, {error}. It is passed over, and what it should hold counts as missing")


def warn_once(text: str) -> None:
    """A StoreWarning, if this process has not given it yet."""
    with _lock:
        known = text in _said
        _said.add(text)
    if not known:
        warnings.warn(text, StoreWarning, stacklevel=3)
