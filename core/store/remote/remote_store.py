"""A store behind a URL: the layout of FORMAT.md, under the same names.

    <url>/features/<trunk key>/trunk.json, <digest>.safetensors
    <url>/indexes/<trunk key>/<digest>.safetensors      which ids are in which shards: derived

Invariant: a listing is a snapshot, and perhaps an old one: what it lacks is a miss, and so is what it names and
what has gone since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.common.errors import RemoteNotFoundError
from headstart.common.objects import Entry, Objects
from headstart.store.description import DESCRIPTION, MAX_DESCRIPTION_NBYTES, parse_description
from headstart.store.shard import SUFFIX
from headstart.store.upkeep import DIGEST

FEATURES = "features"
INDEXES = "indexes"


class RemoteStore:
    """All features under one URL. Makes no request before it must."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    @property
    def url(self) -> str:
        """As it may be shown."""
        return self.objects.url

    def keys(self) -> list[str]:
        """The trunk keys that have features here, sorted. RemoteError."""
        return self._keys_in(FEATURES)

    def indexed_keys(self) -> list[str]:
        """The trunk keys that have index objects here, sorted. RemoteError."""
        return self._keys_in(INDEXES)

    def _keys_in(self, prefix: str) -> list[str]:
        folders, _ = self.objects.folders(prefix)
        return sorted(key for folder in folders if DIGEST.fullmatch(key := _last(folder)))

    def folder(self, key_digest: str) -> RemoteFolder:
        """The features of one trunk key; there need not be any."""
        return RemoteFolder(self.objects, key_digest)


@dataclass(frozen=True)
class RemoteFolder:
    """The features of one trunk key behind a URL, as they are listed and named there."""

    objects: Objects
    key_digest: str

    @property
    def url(self) -> str:
        """As it may be shown."""
        return self.objects.url_of(f"{FEATURES}/{self.key_digest}")

    @property
    def description_name(self) -> str:
        """The object's name of trunk.json."""
        return f"{FEATURES}/{self.key_digest}/{DESCRIPTION}"

    def shard_name(self, digest: str) -> str:
        """The object's name of a shard."""
        return f"{FEATURES}/{self.key_digest}/{digest}{SUFFIX}"

    def index_name(self, digest: str) -> str:
        """The object's name of an index object."""
        return f"{INDEXES}/{self.key_digest}/{digest}{SUFFIX}"

    def entries(self) -> list[Entry]:
        """All that lies beside trunk.json, and it, too. A request for every 1,000. RemoteError."""
        return list(self.objects.entries(f"{FEATURES}/{self.key_digest}"))

    def shards(self, entries: Sequence[Entry] | None = None) -> list[Entry]:
        """The shards, by name: of these `entries`, else of a listing, a request for every 1,000. RemoteError."""
        if entries is None:
            entries = self.entries()
        named_by_content = (entry for entry in entries if self.shard_name(digest_of(entry)) == entry.name)
        return sorted(named_by_content, key=lambda entry: entry.name)

    def indexes(self) -> list[Entry]:
        """The index objects, the newest first, of equally old ones the largest. RemoteError."""
        entries = [
            entry
            for entry in self.objects.entries(f"{INDEXES}/{self.key_digest}")
            if self.index_name(digest_of(entry)) == entry.name
        ]
        return sorted(entries, key=lambda entry: (-entry.modified, -entry.nbytes, entry.name))

    def description(self) -> tuple[dict[str, object], dict[str, object]] | None:
        """Spec and label, None where there is no trunk.json. RemoteError; DamagedDescriptionError for one that is
        damaged, or another trunk's."""
        try:
            data = self.objects.get(self.description_name, limit=MAX_DESCRIPTION_NBYTES)
        except RemoteNotFoundError:
            return None
        where = self.objects.url_of(self.description_name)
        return parse_description(data, self.key_digest, where, "no features of that trunk were used")


def digest_of(entry: Entry) -> str:
    """The digest that an object is named by; "" where it is named otherwise."""
    digest = _last(entry.name).removesuffix(SUFFIX)
    return digest if DIGEST.fullmatch(digest) else ""


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
