"""What is known of the objects in a bucket, so that one listing answers all that a walk asks.

* A bucket has no folders: they are made of the names. Listing what lies below one takes a request for every 1,000
  objects.
* Some programs write an object without a byte to stand for an empty folder: one that has no ending, or is called
  as a folder, is taken for that.
* What tells that an object has changed is its size and ETag; one whose ETag promises nothing is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from blake3 import blake3

from headstart.common.objects import PAGE, Entry, Objects, open_objects
from headstart.common.progress import track


class Known(NamedTuple):
    """What is known of an object."""

    nbytes: int
    tag: str | None

    def stamp(self) -> bytes | None:
        if not self.tag or self.tag.startswith("W/"):  # a weak one may be of other bytes as well
            return None
        return blake3(f"{self.nbytes} {self.tag}".encode()).digest(32)


@dataclass
class Names:
    """What lies in a folder."""

    folders: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class Bucket:
    """The objects of one bucket, by their URLs. Another process gets what is known, and its own connection."""

    def __init__(self, url: str) -> None:
        """`url`: `s3://photos`."""
        self.url = url
        self.known: dict[str, Known] = {}
        self.folders: dict[str, Names] = {}
        self._listed: set[str] = set()
        """folders below which everything is known"""
        self._lock = threading.RLock()
        self._objects: Objects | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_objects": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.RLock()}

    @property
    def objects(self) -> Objects:
        with self._lock:
            if self._objects is None:
                self._objects = open_objects(self.url)
            return self._objects

    def name(self, path: str) -> str:
        """The object's name in the bucket."""
        return path[len(self.url) + 1 :]

    def note(self, path: str, entry: Entry) -> None:
        self.known[path] = Known(entry.nbytes, entry.tag)

    def nbytes(self, path: str) -> int:
        """0 where that is not known, too."""
        known = self.known.get(path)
        return 0 if known is None else known.nbytes

    def stamp(self, path: str) -> bytes | None:
        known = self.known.get(path)
        return None if known is None else known.stamp()

    def is_listed(self, path: str) -> bool:
        """Whether everything is known of this path, of a folder's with a / behind it."""
        return any(path.startswith(f"{folder}/") for folder in self._listed)

    def list_below(self, folder: str) -> None:
        """Know everything below a folder."""
        with self._lock:
            if not self.is_listed(f"{folder}/"):
                with track(f"listing {folder}", None) as advance:
                    for page in _pages(self.objects.entries(self.name(folder)), PAGE):
                        self._take(page)
                        advance(len(page))
                self._listed.add(folder)

    def list_files(self, folder: str) -> None:
        """Know the files in a folder, and nothing of what is in the folders there."""
        with self._lock:
            self._take(self.objects.folders(self.name(folder))[1])

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            path = f"{self.url}/{entry.name}"
            holder, _, name = path.rpartition("/")
            if entry.nbytes or "." in name:
                self.note(path, entry)
                self._folder(holder).files.add(name)
            else:
                self._folder(path)

    def _folder(self, path: str) -> Names:
        if path not in self.folders:
            self.folders[path] = Names()
            if path != self.url:
                holder, _, name = path.rpartition("/")
                self._folder(holder).folders.add(name)
        return self.folders[path]


def _pages(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Lists of so many of them; the last may be shorter."""
    iterator = iter(entries)
    while page := list(islice(iterator, size)):
        yield page
