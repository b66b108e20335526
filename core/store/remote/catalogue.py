"""What is known of one trunk key's shards behind a URL, and of the ids in them: from notes in the own cache, which
cost nothing, from index objects, a few requests, and from the shards themselves, a request for each that is new.

Invariant: nothing here is trusted. Ids lead to shards, and shards are verified when they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import RemoteDamagedError, RemoteError, RemoteNotFoundError, StoreError
from headstart.common.objects import Entry
from headstart.common.pools import pool_of
from headstart.common.progress import track
from headstart.store.remote.index import (
    MAX_INDEX_NBYTES,
    MAX_INDEX_ROWS,
    ShardIndex,
    index_digest,
    indexes_of,
    merged,
    parse_index,
)
from headstart.store.remote.notes import Notes
from headstart.store.remote.remote_store import RemoteFolder, digest_of
from headstart.store.remote.tails import read_ids

READERS = 16  # threads that ask for shards' ids: what costs is the way there and back
AT_ONCE = 1024  # shards whose ids are read before they are noted
FAILURES = 3  # requests, one after another, that a server did not answer: it is away
FEW_SHARDS = 2000  # which two or three requests list
FEW_UNKNOWN = 16  # shards that are looked into at once, as fast as one would find out who else has done so
MOST_INDEXES = 8
"""index objects that a reader has to fetch; more are merged"""

Tell = Callable[[StoreError], None]
"""is told what is wrong with an object that is passed over"""
Shards = dict[str, tuple[int, NDArray[np.uint8]]]
"""digest -> (bytes, ids `(rows, 16)`)"""


class Catalogue:
    """What is known of the shards of one trunk key behind a URL. For one thread."""

    def __init__(self, folder: RemoteFolder, notes: Notes | None, tell: Tell) -> None:
        """`notes`: where what is learned is kept; None keeps nothing."""
        self.folder = folder
        self.listed: dict[str, Entry] | None = None
        """the shards of the last listing, by digest; None where there was none yet"""
        self.listed_indexes: dict[str, Entry] = {}
        """the index objects of the last listing, by digest, merged ones, too"""
        self._notes, self._tell = notes, tell
        self._indexes: dict[str, ShardIndex] = {}

    def indexes(self) -> list[ShardIndex]:
        """What is known by now. A shard may be in several of them."""
        return list(self._indexes.values())

    def recall(self) -> None:
        """Learn from the notes."""
        if self._notes is not None:
            self._indexes = self._notes.read()

    def fetch_indexes(self) -> dict[str, ShardIndex]:
        """Learn from the index objects: a listing, and those that are not known yet, without those that were
        merged into others. Returns the ones that are listed and count. RemoteError where they cannot be listed."""
        self.listed_indexes = {digest_of(entry): entry for entry in self.folder.indexes()}
        replaced = {name for index in self._indexes.values() for name in index.replaces}
        for digest, entry in self.listed_indexes.items():
            if digest in self._indexes or digest in replaced:
                continue
            try:
                index = self._fetch(entry, digest)
            except RemoteNotFoundError:
                continue
            except RemoteError as error:
                self._tell(error)
                continue
            self._indexes[digest] = index
            replaced.update(index.replaces)
        for digest in replaced & self._indexes.keys():
            del self._indexes[digest]
            if self._notes is not None:
                self._notes.drop(digest)
        return {digest: self._indexes[digest] for digest in self.listed_indexes if digest in self._indexes}

    def learn(self, row_nbytes: int | None) -> Iterator[bool]:
        """Learn from one source after another, by as few requests as can be, and yield whether there is no further
        one. `row_nbytes`: of a row of features, where it is known. RemoteError where the server is away."""
        self.recall()
        yield False
        if not 0 < self.known <= FEW_SHARDS:
            self.fetch_indexes()
            yield False
            self.list_shards()
        else:  # a listing of few is soon had, and most of them are known
            self.list_shards()
            if len(self.unknown()) > FEW_UNKNOWN:
                self.fetch_indexes()
        self.read_shards(self.unknown(), row_nbytes)
        yield True

    @property
    def known(self) -> int:
        """How many shards are known; one that is in several indexes counts several times."""
        return sum(map(len, self._indexes.values()))

    def list_shards(self, entries: Sequence[Entry] | None = None) -> None:
        """Find out which shards there are. `entries`: what lies there, where that has just been listed.
        RemoteError where they cannot be listed."""
        self.listed = {digest_of(entry): entry for entry in self.folder.shards(entries)}

    def unknown(self) -> list[Entry]:
        """The listed shards of which it is not known what is in them."""
        known = {digest for index in self._indexes.values() for digest in index.digests}
        return [entry for digest, entry in (self.listed or {}).items() if digest not in known]

    def read_shards(self, entries: Sequence[Entry], row_nbytes: int | None) -> Shards:
        """Read the ids of shards, and keep them. What cannot be read is told, and left out. RemoteError where the
        server is away."""
        shards: Shards = {}
        with track(f"looking into {self.folder.objects.url}", len(entries)) as advance:
            for start in range(0, len(entries), AT_ONCE):
                some: Shards = {}
                try:
                    for entry, ids in self._tails(entries[start : start + AT_ONCE], row_nbytes):
                        advance()
                        if ids is not None:
                            some[digest_of(entry)] = (entry.nbytes, ids)
                finally:
                    self._keep(some)
                shards |= some
        return shards

    def _keep(self, shards: Shards) -> None:
        if not shards:
            return
        if self._notes is not None:
            self._indexes = self._notes.keep_seen(shards, self._indexes)
        else:
            for number, index in enumerate(indexes_of(self.folder.key_digest, shards)):
                self._indexes[f"{len(self._indexes)}-{number}"] = index

    def _tails(
        self, entries: Sequence[Entry], row_nbytes: int | None
    ) -> Iterator[tuple[Entry, NDArray[np.uint8] | None]]:
        def read(entry: Entry) -> NDArray[np.uint8] | StoreError:
            try:
                return read_ids(self.folder, entry, row_nbytes)
            except RemoteError as error:
                return error

        in_a_row = 0
        with pool_of(READERS, "headstart-ids") as pool:
            for entry, result in zip(entries, pool.map(read, entries), strict=True):
                in_a_row = in_a_row + 1 if is_absence(result) else 0
                if isinstance(result, StoreError):
                    if in_a_row == FAILURES:
                        raise result
                    self._tell(result)
                yield entry, None if isinstance(result, StoreError) else result

    def _fetch(self, entry: Entry, digest: str) -> ShardIndex:
        index, content = fetch_index(self.folder, entry)
        if self._notes is not None:
            self._notes.keep(digest, content)
        return index


def fetch_index(folder: RemoteFolder, entry: Entry) -> tuple[ShardIndex, bytes]:
    """An index object, and its bytes. RemoteDamagedError for one that is none; RemoteError."""
    content = folder.objects.get(entry.name, limit=MAX_INDEX_NBYTES)
    try:
        return parse_index(content, digest_of(entry), folder.key_digest), content
    except ValueError as error:
        raise RemoteDamagedError(folder.objects.url_of(entry.name), str(error)) from error


def is_absence(result: object) -> bool:
    """Whether this is an error that speaks of a server, and not of one object."""
    return isinstance(result, RemoteError) and not isinstance(result, RemoteNotFoundError | RemoteDamagedError)


def write_index(
    folder: RemoteFolder, known: Shards, notes: Notes | None, tell: Tell, row_nbytes: int | None = None
) -> list[str]:
    """Write index objects, so that every shard of a trunk key is in one, and readers need to fetch few of them.
    Returns the names of the objects written: none where that is so already.

    `known`: shards that are there, or have just come there: digest -> (bytes, ids `(rows, 16)`). Of others that no
    index object holds, the ids are read; `row_nbytes`, of a row of features, spares requests then. Any number of
    writers may do this at once. `tell` is told which shards cannot be read, and are left out; `notes` spare
    requests. RemoteError, RemoteRefusedError where it cannot be written, or the server is away.
    """
    catalogue = Catalogue(folder, notes, tell)
    catalogue.recall()
    live = catalogue.fetch_indexes()
    covered = {digest for index in live.values() for digest in index.digests}
    catalogue.list_shards()
    listed = catalogue.listed or {}
    lacking = (listed.keys() | known.keys()) - covered
    small = {name: index for name, index in live.items() if len(index.ids) < MAX_INDEX_ROWS // 2}
    merge = len(small) + bool(lacking) > MOST_INDEXES
    if not lacking and not merge:
        return []
    noted = merged(catalogue.indexes())
    shards = {digest: found for digest in lacking if (found := known.get(digest) or noted.get(digest))}
    shards |= catalogue.read_shards([listed[digest] for digest in sorted(lacking - shards.keys())], row_nbytes)
    replaces: set[str] = set()
    if merge:
        there = {digest: held for digest, held in merged(small.values()).items() if digest in listed}
        shards = there | shards
        earlier = {name for index in small.values() for name in index.replaces}
        replaces = small.keys() | (earlier & catalogue.listed_indexes.keys())
    written = []
    for index in indexes_of(folder.key_digest, shards, replaces):
        content = index.to_bytes()
        name = folder.index_name(index_digest(content))
        folder.objects.put(name, content)
        written.append(name)
    return written
