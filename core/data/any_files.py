"""Which files a path or URL is among, where a table or a list names several of either."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from headstart.common.places import reachable
from headstart.data.file_system import LOCAL, Files, FileSystem, Folder
from headstart.data.place import bucket_of, is_remote, place_of
from headstart.data.url_files import UrlFiles
from headstart.data.workers import FETCHES


class AnyFiles(Files):
    """Files of this machine and of buckets. Each of these is opened once, when it is first named."""

    fetches = FETCHES

    def __init__(self) -> None:
        self._buckets: dict[str, UrlFiles] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_buckets": self._buckets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.Lock()}

    def of(self, path: str) -> FileSystem:
        if not is_remote(path):
            return LOCAL
        bucket = bucket_of(path)
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = UrlFiles(bucket)
            return self._buckets[bucket]

    def read(self, path: str) -> bytes:
        return self.of(path).read(path)

    def nbytes(self, path: str) -> int:
        return self.of(path).nbytes(path)

    def stamps(self, paths: Sequence[str]) -> list[bytes | None]:
        return self._each(paths, lambda place, some: place.stamps(some))

    def is_unchanged(self, path: str, stamp: bytes, since_ns: int) -> bool:
        return self.of(path).is_unchanged(path, stamp, since_ns)

    def there(self, paths: Sequence[str]) -> list[bool]:
        return self._each(paths, lambda place, some: place.there(some))

    def _each(self, paths: Sequence[str], ask: Callable[[FileSystem, list[str]], list[Any]]) -> list[Any]:
        """What each place answers about those that lie there, in the order of the paths."""
        of_place: dict[FileSystem, list[int]] = {}
        for i, path in enumerate(paths):
            of_place.setdefault(self.of(path), []).append(i)
        answers: list[Any] = [None] * len(paths)
        for place, positions in of_place.items():
            for i, answer in zip(positions, ask(place, [paths[i] for i in positions]), strict=True):
                answers[i] = answer
        return answers


def files_for(paths: Iterable[str]) -> Files:
    """What has all of these, as `place_of` gives them: this machine alone where none of them is a URL."""
    return AnyFiles() if any(map(is_remote, paths)) else LOCAL


def folder_at(path: str | os.PathLike[str]) -> Folder:
    """A folder, or whatever is there, by what somebody has called it. Raises what `place_of` does."""
    place = place_of(path)
    if not is_remote(place):
        reachable(Path(place))
    return Folder(files_for([place]).of(place), place)
