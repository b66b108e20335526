"""A store behind a URL as a user looks at it: what `hs.cache` does for the cache of this machine.

    there = hs.cache.at("s3://bucket/team")
    there.list()                                # every trunk's features
    there.info("3f2a")                          # everything about one trunk
    there.verify()                              # read every byte
    there.explain(model, data, ["layer3"])      # what an extraction would find there, and why not more
    there.gc(["3f2a"], delete=True)             # delete what is older than a week

Invariant: nothing is written or deleted there but by `gc` with `delete`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.durations import parse_seconds
from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.machine import cache_root
from headstart.common.objects import open_objects
from headstart.common.sizes import parse_nbytes
from headstart.common.table import Table
from headstart.common.text import nbytes_text, when
from headstart.data import Dataset
from headstart.features.coverage import Explanation, explain
from headstart.models import Model
from headstart.store.remote import cleaning, looking
from headstart.store.remote.cleaning import RemoteGcTrunk
from headstart.store.remote.looking import RemoteInfo, RemoteVerifyReport
from headstart.store.remote.remote_store import RemoteStore

GRACE = "7d"


@dataclass(frozen=True)
class RemoteListing:
    """The trunks in a store behind a URL. Iterates over them."""

    url: str
    trunks: tuple[RemoteInfo, ...]
    """by key"""

    def __iter__(self) -> Iterator[RemoteInfo]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    @property
    def nbytes(self) -> int:
        return sum(trunk.nbytes for trunk in self.trunks)

    def as_list(self) -> builtins.list[dict[str, Any]]:
        """JSON-able: a dict for each trunk."""
        return [trunk.as_dict() for trunk in self.trunks]

    def as_table(self) -> Table:
        """For a terminal."""
        rows = [
            (
                trunk.key[:12],
                f"{trunk.hint('model')} ({trunk.hint('weights')})",
                trunk.hint("cut"),
                trunk.view,
                f"{trunk.rows:,}",
                f"{trunk.shards:,}",
                nbytes_text(trunk.nbytes),
                when(trunk.written),
            )
            for trunk in self.trunks
        ]
        columns = ("key", "model", "cut", "view", "rows", "shards", "size", "last written")
        return Table(columns, rows, right=(4, 5, 6))


@dataclass(frozen=True)
class RemoteCleaning:
    """What `gc` would delete from a store behind a URL, or has deleted. Iterates over the trunks, those that were
    written to longest ago first."""

    url: str
    trunks: tuple[RemoteGcTrunk, ...]
    freed: int | None
    """bytes; None where nothing was to be deleted yet"""
    failures: tuple[tuple[str, str], ...] = ()
    """(URL, reason) for each object that could not be deleted"""

    def __iter__(self) -> Iterator[RemoteGcTrunk]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "url": self.url,
            "trunks": [trunk.as_dict() for trunk in self.trunks],
            "deleted": self.freed is not None,
            "freed_bytes": self.freed or 0,
            "failures": [list(failure) for failure in self.failures],
        }


class RemoteCache:
    """A store behind a URL. Credentials are those of the environment; none is kept.

    All methods raise RemoteError where the store cannot be reached; UnknownNameError where no trunk's key begins
    with a given text, SettingError where several do."""

    def __init__(self, url: str, cache: str | Path | None = None) -> None:
        """Makes no request. `cache`: the own cache, which keeps notes of what has been learned. SettingError for a
        URL that is none."""
        self._store = RemoteStore(open_objects(url))
        self._given_url = url
        self._notes = cache_root(cache)

    @property
    def url(self) -> str:
        """As it may be shown."""
        return self._store.url

    def list(self) -> RemoteListing:
        """What is there: a `RemoteInfo` for each trunk."""
        return RemoteListing(self.url, tuple(looking.infos(self._store, self._notes)))

    def info(self, key: str) -> RemoteInfo:
        """What is there of one trunk. `key`: a trunk key, or its beginning."""
        digest = looking.beginning(self._store, key)
        infos = looking.infos(self._store, self._notes, [digest])
        if not infos:  # an empty folder, or one that somebody has just emptied
            raise UnknownNameError("trunk key", key, [])
        return infos[0]

    def verify(self, key: str | None = None) -> RemoteVerifyReport:
        """Read every byte of all objects, or of one trunk's, and compare with their checksums. Nothing is kept.

        Checksums find damage, not malice; `hs.verify(model, data)` computes rows of the own cache again."""
        return looking.verify(self._store, None if key is None else [looking.beginning(self._store, key)])

    def explain(
        self, model: Model, data: Dataset, cuts: str | Sequence[str] | None = None, **options: Any
    ) -> Explanation:
        """What `hs.extract` with these arguments would find there; `options`: those of `hs.cache.explain`."""
        return explain(model, data, cuts, url=self._given_url, **options)

    def gc(
        self,
        keys: str | Sequence[str] = (),
        *,
        grace: str | float = GRACE,
        max_size: int | str = 0,
        delete: bool = False,
    ) -> RemoteCleaning:
        """What to delete, of all trunks or of those whose keys begin so: objects that are older than `grace`
        (seconds, or a text such as "7d" or "12h"), of whole trunks, those that were written to longest ago first,
        until the rest takes at most `max_size`; and index objects that nobody needs. trunk.json goes where no
        shard stays.

        Deletes only with `delete`: then the server's clock says how old an object is, else this machine's.
        RemoteRefusedError where nothing may be deleted; what else fails is in the result.
        """
        seconds = parse_seconds(grace) if isinstance(grace, str) else grace
        if not seconds >= 0:
            raise SettingError(f"grace={grace!r}; expected a number of seconds, or a text such as '7d'")
        limit = parse_nbytes(max_size) if isinstance(max_size, str) else max_size
        now = cleaning.clock(self._store.objects) if delete else None
        beginnings = [keys] if isinstance(keys, str) else [*keys]
        plan = cleaning.gc_plan(self._store, self._notes, beginnings, seconds, limit, now)
        if not delete:
            return RemoteCleaning(self.url, tuple(plan), None)
        freed, failures = cleaning.gc(self._store, self._notes, plan)
        return RemoteCleaning(self.url, tuple(plan), freed, tuple(failures))
