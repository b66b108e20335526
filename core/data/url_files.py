"""Files in a bucket, to whoever walks or reads them as those of a folder are.

* A bucket has no folders: they are made of the names. One listing below a folder, a request for every 1,000
  objects, answers all that a walk asks.
* What tells that an object has changed is its size and ETag; one whose ETag promises nothing is read again.
* An object is refused by its size before a byte of it is asked for.
* Some programs write an object without a byte to stand for an empty folder: one that has no ending, or is called
  as a folder, is taken for that.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from blake3 import blake3

from headstart.common.errors import ImageError, RemoteError, RemoteNotFoundError
from headstart.common.objects import PAGE, Entry, Objects, open_objects
from headstart.common.progress import track
from headstart.data.file_system import FILE, FOLDER, FileSystem, Item, Key
from headstart.data.formats import BELIEVED, PREFIX_NBYTES
from headstart.data.limits import MAX_NBYTES
from headstart.data.litter import is_litter
from headstart.data.place import parent_of
from headstart.data.workers import FETCHES, in_threads

ASSUMED_NBYTES = 4 << 20
"""of an object that was not listed"""
SINGLY = 32
"""folders that are listed one by one for the files named in them; of more, what holds them all is listed"""


def _pages(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Lists of so many of them; the last may be shorter."""
    iterator = iter(entries)
    while page := list(islice(iterator, size)):
        yield page


class Known(NamedTuple):
    """What is known of an object."""

    nbytes: int
    tag: str | None

    def stamp(self) -> bytes | None:
        if not self.tag or self.tag.startswith("W/"):  # a weak one may be of other bytes as well
            return None
        return blake3(f"{self.nbytes} {self.tag}".encode()).digest(32)


@dataclass(frozen=True)
class Listed:
    """An object, or a folder, in a folder."""

    name: str
    path: str
    is_folder: bool

    def is_dir(self) -> bool:
        return self.is_folder

    def is_file(self) -> bool:
        return not self.is_folder

    def is_symlink(self) -> bool:
        return False


@dataclass
class _Folder:
    folders: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class UrlFiles(FileSystem):
    """The objects of one bucket, by their URLs."""

    fetches = FETCHES

    def __init__(self, bucket: str) -> None:
        """`bucket`: its URL, `s3://photos`."""
        self.bucket = bucket
        self._known: dict[str, Known] = {}
        self._folders: dict[str, _Folder] = {}
        self._listed: set[str] = set()
        """folders below which everything is known"""
        self._looks: dict[str, str | OSError | None] = {}
        """of files whose names do not tell: why they are no images"""
        self._lock = threading.RLock()
        self._objects: Objects | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_objects": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.RLock()}

    # --- what is there

    def kind(self, path: str) -> str | None:
        if path.lower().endswith(BELIEVED) and self.is_file(path):
            return FILE
        self._list(path)
        if path in self._folders:
            return FOLDER
        return FILE if self.is_file(path) else None

    def is_file(self, path: str) -> bool:
        if path in self._known:
            return True
        if self._is_listed(path) or path == self.bucket:
            return False
        try:
            entry = self._opened().entry(self._name(path))
        except RemoteNotFoundError:
            return False
        self._known[path] = Known(entry.nbytes, entry.tag)
        return True

    def scan(self, folder: str) -> Sequence[Item]:
        self._list(folder)
        there = self._folders.get(folder, _Folder())
        items = [Listed(name, f"{folder}/{name}", True) for name in there.folders]
        files = {name: f"{folder}/{name}" for name in there.files}
        items += [
            Listed(name, path, False)
            for name, path in files.items()
            if self._nbytes(path) or name not in there.folders
        ]
        return sorted(items, key=lambda item: item.name)

    def folder_names(self, folder: str) -> list[str]:
        if self._is_listed(f"{folder}/"):
            return super().folder_names(folder)
        return sorted(name.rpartition("/")[2] for name in self._opened().folders(self._name(folder))[0])

    def there(self, paths: Sequence[str]) -> list[bool]:
        folders = {parent_of(path) for path in paths}
        if len(folders) > SINGLY:
            common = posixpath.commonpath([folder.removeprefix(self.bucket) or "/" for folder in folders])
            self._list(self.bucket + common.rstrip("/"))
        for folder in sorted(folders):
            if not self._is_listed(f"{folder}/"):
                self._list_files(folder)
        return [path in self._known for path in paths]

    def identity(self, folder: str) -> Key:
        return folder

    def holders(self, folder: str) -> list[str]:
        return []

    def is_link(self, path: str) -> bool:
        return False

    def full_name(self, path: str) -> str:
        return path

    # --- what is in it

    def read(self, path: str) -> bytes:
        if (nbytes := self._nbytes(path)) > MAX_NBYTES:
            raise ImageError(path, f"has {nbytes:,} bytes; an encoded image at a URL may have {MAX_NBYTES:,}")
        try:
            entry, content = self._opened().fetch(self._name(path), MAX_NBYTES)
        except RemoteNotFoundError as error:
            what = "is not there any more" if path in self._known else "there is no such object"
            raise ImageError(path, what) from error
        except RemoteError as error:
            raise ImageError(path, f"cannot be read: {error.reason}") from error
        listed = self._known.get(path)
        if listed is not None and listed.tag == entry.tag and listed.nbytes != entry.nbytes:
            raise ImageError(path, f"cannot be read: {entry.nbytes:,} of its {listed.nbytes:,} bytes came")
        self._known[path] = Known(entry.nbytes, entry.tag)  # it may be another one than was listed
        return content

    def nbytes(self, path: str) -> int:
        known = self._known.get(path)
        if known is None:
            return ASSUMED_NBYTES
        return known.nbytes if known.nbytes <= MAX_NBYTES else 0

    def stamps(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._stamp(path) for path in paths]

    def is_unchanged(self, path: str, stamp: bytes, since_ns: int) -> bool:
        return self._stamp(path) == stamp

    def first_bytes(self, path: str) -> bytes:
        try:
            nbytes = self._nbytes(path) or self._opened().entry(self._name(path)).nbytes
            count = min(nbytes, PREFIX_NBYTES)
            return self._opened().get_range(self._name(path), 0, count) if count else b""
        except RemoteError as error:
            raise OSError(error.reason) from error

    def no_image(self, path: str) -> str | None:
        """The first who asks has all files looked at whose names do not tell, many at a time."""
        if path not in self._looks:
            names = [known for known in self._known if known not in self._looks and self._is_doubtful(known)]
            in_threads(self._look, [*names, *({path} - set(names))], "looking at files", self._saw, 1, FETCHES)
        look = self._looks[path]
        if isinstance(look, OSError):
            raise look
        return look

    def _look(self, path: str) -> str | OSError | None:
        try:
            return super().no_image(path)
        except OSError as error:
            return error

    def _saw(self, path: str, look: str | OSError | None) -> None:
        self._looks[path] = look

    def _is_doubtful(self, path: str) -> bool:
        parts = path.removeprefix(self.bucket).split("/")
        return not path.lower().endswith(BELIEVED) and not any(map(is_litter, parts[1:]))

    # --- listing

    def _list(self, folder: str) -> None:
        """Know everything below a folder."""
        with self._lock:
            if not self._is_listed(f"{folder}/"):
                with track(f"listing {folder}", None) as advance:
                    for page in _pages(self._opened().entries(self._name(folder)), PAGE):
                        self._take(page)
                        advance(len(page))
                self._listed.add(folder)

    def _list_files(self, folder: str) -> None:
        """Know the files in a folder, and nothing of what is in the folders there."""
        with self._lock:
            self._take(self._opened().folders(self._name(folder))[1])

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            path = f"{self.bucket}/{entry.name}"
            holder, _, name = path.rpartition("/")
            if entry.nbytes or "." in name:
                self._known[path] = Known(entry.nbytes, entry.tag)
                self._folder(holder).files.add(name)
            else:
                self._folder(path)

    def _folder(self, path: str) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder()
            if path != self.bucket:
                holder, _, name = path.rpartition("/")
                self._folder(holder).folders.add(name)
        return self._folders[path]

    def _is_listed(self, path: str) -> bool:
        return any(path.startswith(f"{folder}/") for folder in self._listed)

    def _nbytes(self, path: str) -> int:
        known = self._known.get(path)
        return 0 if known is None else known.nbytes

    def _stamp(self, path: str) -> bytes | None:
        known = self._known.get(path)
        return None if known is None else known.stamp()

    def _name(self, path: str) -> str:
        return path[len(self.bucket) + 1 :]

    def _opened(self) -> Objects:
        with self._lock:
            if self._objects is None:
                self._objects = open_objects(self.bucket)
            return self._objects
