"""Deleting from a store behind a URL: the only place where that is done.

Invariant: only what is older than the grace goes, by the server's own clock, and only objects of ours. Index
objects that name a shard go before it, and trunk.json last, where no shard is left: somebody who pushes at the
same time writes trunk.json first, so it is young then and stays; where it went all the same, it is written back.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headstart.common.errors import RemoteDamagedError, RemoteError, RemoteRefusedError, StoreError
from headstart.common.objects import Entry, Objects
from headstart.common.progress import track
from headstart.common.text import hint
from headstart.store.description import MAX_DESCRIPTION_NBYTES
from headstart.store.remote.catalogue import Catalogue, Shards, write_index
from headstart.store.remote.index import merged
from headstart.store.remote.notes import Notes
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore, digest_of
from headstart.store.remote.requests import at_once
from headstart.store.upkeep import keys_beginning

GRACE_SECONDS = 7 * 24 * 3600.0
AT_ONCE = 256  # deletions between two looks at the progress


@dataclass(frozen=True)
class RemoteGcTrunk:
    """What may go of one trunk key."""

    key: str
    label: dict[str, Any]
    """hints for people"""
    written: float
    """when its newest shard came: seconds since the epoch, by the server's clock; 0.0 where there is none"""
    nbytes_there: int
    """of all of the key's objects"""
    shards: tuple[Entry, ...]
    """that are older than the grace"""
    staying: int
    """shards that stay"""
    superseded: tuple[Entry, ...]
    """index objects that are older than the grace, and that nobody needs"""
    indexes: tuple[Entry, ...]
    """further ones, which are of no use once the shards are gone"""
    description: Entry | None
    """trunk.json, where it may go, too"""
    known: Shards
    """what the index objects say of shards that stay"""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """In the order in which they go."""
        last = () if self.description is None else (self.description,)
        return (*self.superseded, *self.indexes, *self.shards, *last)

    @property
    def nbytes(self) -> int:
        """That it frees."""
        return sum(entry.nbytes for entry in self.entries)

    def hint(self, name: str) -> str:
        """What the label says of "model", "weights" or "cut", fit for a terminal; "?" where it says nothing."""
        return hint(self.label, name)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **self.label,
            "key": self.key,
            "written": self.written,
            "shards": len(self.shards),
            "staying": self.staying,
            "index_objects": len(self.superseded) + len(self.indexes),
            "bytes": self.nbytes,
        }


def gc_plan(
    remote: RemoteStore,
    notes: Path,
    keys: Sequence[str] = (),
    grace_seconds: float = GRACE_SECONDS,
    max_nbytes: int = 0,
    now: float | None = None,
) -> list[RemoteGcTrunk]:
    """What may go of all trunk keys, or of those that begin so: whole trunks, those that were written to longest
    ago first, until the rest takes at most `max_nbytes`; of each, what is older than the grace. And index objects
    that nobody needs. Deletes nothing. `now`: by the server's clock (`clock`); else this machine's.

    Raises RemoteError; UnknownNameError and SettingError for a beginning of no key, or of several.
    """
    names = keys_beginning(keys, sorted({*remote.keys(), *remote.indexed_keys()}))
    before = (time.time() if now is None else now) - grace_seconds
    trunks = [_trunk(remote.folder(key), Notes(notes, remote.url, key), before) for key in names]
    left = sum(trunk.nbytes_there - sum(entry.nbytes for entry in trunk.superseded) for trunk in trunks)
    plan = []
    for trunk in sorted(trunks, key=lambda trunk: (trunk.written, trunk.key)):
        goes = trunk
        if left <= max_nbytes:
            goes = replace(
                trunk, shards=(), staying=trunk.staying + len(trunk.shards), indexes=(), description=None
            )
        left -= goes.nbytes - sum(entry.nbytes for entry in goes.superseded)
        if goes.entries:
            plan.append(goes)
    return plan


def clock(objects: Objects) -> float:
    """What the time is on the server, in seconds since the epoch: of an object that is written for it, and deleted
    again. RemoteError."""
    name = f".clock-{uuid.uuid4().hex}"
    objects.put(name, b"")
    try:
        return objects.entry(name).modified
    finally:
        objects.delete(name)


def gc(remote: RemoteStore, notes: Path, plan: Sequence[RemoteGcTrunk]) -> tuple[int, list[tuple[str, str]]]:
    """Delete what the plan lists. Returns (bytes freed, (URL, reason) of each object that could not be deleted).
    RemoteRefusedError where nothing may be deleted."""
    freed = 0
    failures: list[tuple[str, str]] = []
    with track(f"deleting from {remote.url}", sum(len(trunk.entries) for trunk in plan)) as advance:
        for trunk in plan:
            folder = remote.folder(trunk.key)
            doomed = [*trunk.superseded, *trunk.indexes, *trunk.shards]
            for start in range(0, len(doomed), AT_ONCE):
                some = doomed[start : start + AT_ONCE]
                for entry, failure in zip(
                    some, at_once(lambda entry: _deleted(remote.objects, entry), some), strict=True
                ):
                    freed += entry.nbytes if failure is None else 0
                    failures += [] if failure is None else [failure]
                advance(len(some))
            with _noted(failures):
                if trunk.description is not None:
                    freed += _delete_description(folder, trunk.description)
                    advance(1)
                elif trunk.shards:
                    # Those that stay are to be found as fast as before.
                    write_index(folder, trunk.known, Notes(notes, remote.url, trunk.key), lambda error: None)
    return freed, failures


def _trunk(folder: RemoteFolder, notes: Notes, before: float) -> RemoteGcTrunk:
    entries = folder.entries()
    shards = [entry for entry in entries if entry.name == folder.shard_name(digest_of(entry))]
    old = [entry for entry in shards if entry.modified <= before]
    label: dict[str, Any] = {}
    with contextlib.suppress(StoreError):
        _, label = folder.description() or ({}, {})
    wrong: list[StoreError] = []
    catalogue = Catalogue(folder, notes, wrong.append)
    catalogue.recall()
    live = catalogue.fetch_indexes()
    # What could not be read for now is left.
    unknown = {
        error.url
        for error in wrong
        if isinstance(error, RemoteError) and not isinstance(error, RemoteDamagedError)
    }
    doomed = {digest_of(entry) for entry in old}
    superseded, useless = [], []
    indexes = folder.indexes()
    for entry in indexes:
        if entry.modified > before or folder.objects.url_of(entry.name) in unknown:
            continue
        index = live.get(digest_of(entry))
        if index is None:
            superseded.append(entry)
        elif len(old) == len(shards) or not doomed.isdisjoint(index.digests):
            useless.append(entry)
    descriptions = [
        entry for entry in entries if entry.name == folder.description_name and entry.modified <= before
    ]
    there = {digest_of(entry) for entry in shards} - doomed
    return RemoteGcTrunk(
        key=folder.key_digest,
        label=label,
        written=max((entry.modified for entry in shards), default=0.0),
        nbytes_there=sum(entry.nbytes for entry in [*entries, *indexes]),
        shards=tuple(old),
        staying=len(shards) - len(old),
        superseded=tuple(superseded),
        indexes=tuple(useless),
        description=descriptions[0] if descriptions and len(old) == len(shards) else None,
        known={digest: known for digest, known in merged(live.values()).items() if digest in there},
    )


def _deleted(objects: Objects, entry: Entry) -> tuple[str, str] | None:
    """Delete an object. Returns what it is and the reason where that fails; RemoteRefusedError is raised."""
    failures: list[tuple[str, str]] = []
    with _noted(failures):
        objects.delete(entry.name)
    return failures[0] if failures else None


def _delete_description(folder: RemoteFolder, entry: Entry) -> int:
    """Delete trunk.json unless somebody has pushed shards meanwhile. Returns the bytes freed."""
    if folder.shards():
        return 0
    content = folder.objects.get(entry.name, limit=MAX_DESCRIPTION_NBYTES)
    folder.objects.delete(entry.name)
    if folder.shards():
        folder.objects.put(entry.name, content)
        return 0
    return entry.nbytes


@contextlib.contextmanager
def _noted(failures: list[tuple[str, str]]) -> Iterator[None]:
    """What fails in the body, but for a lack of permission."""
    try:
        yield
    except RemoteRefusedError:
        raise
    except RemoteError as error:
        failures.append((error.url, error.reason))
