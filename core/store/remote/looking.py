"""What a store behind a URL holds, and whether it is as it was written.

Invariant: nothing is written there. What is learned of ids is noted in the own cache, as an extraction does it, so
that looking twice asks once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import RemoteDamagedError, RemoteError, RemoteNotFoundError, StoreError
from headstart.common.objects import Entry
from headstart.common.progress import track
from headstart.common.table import Table, facts_table
from headstart.store.ids import sort_keys
from headstart.store.remote.catalogue import Catalogue, fetch_index
from headstart.store.remote.notes import Notes
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore, digest_of
from headstart.store.remote.transfer import until, verify_object
from headstart.store.upkeep import Described, key_beginning, spec_facts

READERS = 8  # shards that are read at once


@dataclass(frozen=True)
class RemoteInfo(Described):
    """What there is of one trunk key behind a URL, at the moment of a listing."""

    rows: int
    """samples with features in a shard"""
    nbytes: int
    """of all objects of the key, index objects, too"""
    shards: int
    indexes: int
    """index objects"""
    written: float
    """when the newest shard came: seconds since the epoch, by the server's clock"""
    url: str
    damaged: tuple[str, ...]
    """a line for each object that is known to be of no use; shards are not read for it"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the spec."""
        return {
            **self.label,
            "key": self.key,
            "views": self.spec.get("views"),
            "rows": self.rows,
            "bytes": self.nbytes,
            "shards": self.shards,
            "index_objects": self.indexes,
            "written": self.written,
            "url": self.url,
            "damaged": list(self.damaged),
        }

    def as_table(self) -> Table:
        """For a terminal: all there is to say."""
        return facts_table(spec_facts(self.spec) | self.as_dict())


@dataclass(frozen=True)
class RemoteVerifyReport:
    """The outcome of reading every byte of every object of a store behind a URL."""

    shards: int
    """intact shards"""
    rows: int
    """rows in them"""
    damaged: tuple[tuple[str, str], ...]
    """(URL, what is wrong with it) of damaged objects"""
    unreadable: tuple[tuple[str, str], ...]
    """(URL, reason) of objects that could not be read; they may be sound"""

    def __bool__(self) -> bool:
        """Whether all is as it was written."""
        return not self.damaged and not self.unreadable

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "shards": self.shards,
            "rows": self.rows,
            "damaged": [list(line) for line in self.damaged],
            "unreadable": [list(line) for line in self.unreadable],
        }


def infos(remote: RemoteStore, notes: Path, keys: Sequence[str] | None = None) -> list[RemoteInfo]:
    """What there is of each trunk key, or of these, by key. `notes`: the root of the own cache. RemoteError."""
    folders = [remote.folder(key) for key in keys or remote.keys()]
    results = [_info(folder, Notes(notes, remote.url, folder.key_digest)) for folder in folders]
    return [info for info in results if info is not None]


def beginning(remote: RemoteStore, prefix: str) -> str:
    """The trunk key that begins so. UnknownNameError where none does, SettingError where several do."""
    return key_beginning(prefix, remote.keys())


def _info(folder: RemoteFolder, notes: Notes) -> RemoteInfo | None:
    """None where there is nothing (any more)."""
    problems: list[str] = []
    spec: dict[str, Any] = {}
    label: dict[str, Any] = {}
    try:
        described = folder.description()
        if described is None:
            problems.append(f"{folder.objects.url_of(folder.description_name)}: there is no such object")
        else:
            spec, label = described
    except StoreError as error:
        problems.append(str(error))
    catalogue = Catalogue(folder, notes, lambda error: problems.append(str(error)))
    catalogue.recall()
    catalogue.fetch_indexes()
    entries = folder.entries()
    catalogue.list_shards(entries)
    catalogue.read_shards(catalogue.unknown(), None)
    listed, indexes = catalogue.listed or {}, catalogue.listed_indexes
    if not listed and not spec and not indexes:
        return None
    ids = [
        ids for index in catalogue.indexes() for digest, _, ids in index.shards() if digest in listed
    ]  # a shard may be in several
    rows = len(np.unique(sort_keys(np.concatenate(ids)))) if ids else 0
    return RemoteInfo(
        key=folder.key_digest,
        label=label,
        spec=spec,
        rows=rows,
        nbytes=sum(entry.nbytes for entry in [*entries, *indexes.values()]),
        shards=len(listed),
        indexes=len(indexes),
        written=max((entry.modified for entry in listed.values()), default=0.0),
        url=folder.url,
        damaged=tuple(problems),
    )


def verify(remote: RemoteStore, keys: Sequence[str] | None = None) -> RemoteVerifyReport:
    """Read every byte of each trunk key's objects, or of those of these. Nothing is kept. RemoteError where the
    store cannot be listed."""
    damaged: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    counts: list[int] = []
    lock = threading.Lock()
    stopped = threading.Event()
    work: list[tuple[RemoteFolder, Entry]] = []
    for key in keys or remote.keys():
        folder = remote.folder(key)
        shards = folder.shards()
        work += [(folder, entry) for entry in [*shards, *folder.indexes()]]
        _check_description(folder, bool(shards), damaged, unreadable)

    def read(folder: RemoteFolder, entry: Entry, advance: Any) -> None:
        try:
            if entry.name == folder.shard_name(digest_of(entry)):
                rows = verify_object(
                    folder.objects, entry.name, entry.nbytes, folder.key_digest, until(stopped, advance)
                )
                with lock:
                    counts.append(rows)
            else:
                fetch_index(folder, entry)
                advance(entry.nbytes)
        except RemoteNotFoundError:
            pass  # it has been deleted since the listing
        except RemoteError as error:
            with lock:
                wrong = damaged if isinstance(error, RemoteDamagedError) else unreadable
                wrong.append((error.url, error.reason))

    with (
        track(f"verifying {remote.url}", sum(entry.nbytes for _, entry in work)) as advance,
        ThreadPoolExecutor(READERS, thread_name_prefix="headstart-verify") as pool,
    ):
        try:
            for future in as_completed([pool.submit(read, folder, entry, advance) for folder, entry in work]):
                future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return RemoteVerifyReport(
        shards=len(counts), rows=sum(counts), damaged=tuple(sorted(damaged)), unreadable=tuple(sorted(unreadable))
    )


def _check_description(
    folder: RemoteFolder, needed: bool, damaged: list[tuple[str, str]], unreadable: list[tuple[str, str]]
) -> None:
    url = folder.objects.url_of(folder.description_name)
    try:
        if folder.description() is None and needed:
            damaged.append((url, "there is no such object; a push from a cache that has this trunk writes it"))
    except RemoteError as error:
        unreadable.append((url, error.reason))
    except StoreError as error:
        damaged.append((url, str(error)))
