"""Where a data set's files lie, and what is asked of that place: the seam between data on this machine and data
behind a URL.

A walk asks what is in a folder, and whether a file is an image; a source asks for bytes, and for what tells that a
file has not changed since it was read last. Nothing else above this module asks which of the two it is.
`LOCAL` is this machine; `url_files` has buckets; `any_files` chooses.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from headstart.data.decode import read_file
from headstart.data.formats import PREFIX_NBYTES
from headstart.data.id_index import believed, settled, stamp_of
from headstart.data.litter import is_litter
from headstart.data.place import joined, parent_of
from headstart.data.signatures import no_image
from headstart.data.workers import in_threads

Key = tuple[int, int] | str
FOLDER, FILE, BROKEN = "folder", "file", "broken"
"""what a path can be: BROKEN is a link whose target cannot be reached"""


class Item(Protocol):
    """What lies in a folder, as `os.scandir` has it."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def is_dir(self) -> bool: ...
    def is_file(self) -> bool: ...
    def is_symlink(self) -> bool: ...


class Files(ABC):
    """Files by their paths, or URLs, wherever each of them lies. Thread-safe."""

    fetches = 0
    """how many reads should be under way at a time; 0: reading takes so little that who decodes may do it"""

    @abstractmethod
    def of(self, path: str) -> FileSystem:
        """Where this one lies."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of an image file. ImageError where there is none, or none that may be read."""

    @abstractmethod
    def nbytes(self, path: str) -> int:
        """How many bytes reading it brings, or about how many; 0 where that is of no matter, or it is not read."""

    @abstractmethod
    def stamps(self, paths: Sequence[str]) -> list[bytes | None]:
        """Of each file 32 bytes that are others once it has changed; None where nothing tells."""

    @abstractmethod
    def is_unchanged(self, path: str, stamp: bytes, since_ns: int) -> bool:
        """Whether what was read from `since_ns` on is what the stamp, taken before, stands for."""

    @abstractmethod
    def there(self, paths: Sequence[str]) -> list[bool]:
        """Which of these are there. Folders are listed, each once: a million files are not asked for one by
        one."""


class FileSystem(Files):
    """Files and folders of one place."""

    def of(self, path: str) -> FileSystem:
        return self

    @abstractmethod
    def kind(self, path: str) -> str | None:
        """FOLDER, FILE (a pipe or a device is one as well) or BROKEN; None where nothing is there."""

    @abstractmethod
    def scan(self, folder: str) -> Sequence[Item]:
        """What lies in a folder, sorted by name. OSError."""

    def folder_names(self, folder: str) -> list[str]:
        """The names of the folders right in a folder, sorted. OSError."""
        return [item.name for item in self.scan(folder) if item.is_dir()]

    @abstractmethod
    def identity(self, folder: str) -> Key:
        """The same for a folder by whichever path it is reached. OSError."""

    @abstractmethod
    def holders(self, folder: str) -> list[str]:
        """The folders that it really lies in."""

    @abstractmethod
    def is_link(self, path: str) -> bool:
        """Whether something else is meant by this name."""

    @abstractmethod
    def is_file(self, path: str) -> bool:
        """Whether a regular file is there."""

    @abstractmethod
    def first_bytes(self, path: str) -> bytes:
        """The first `PREFIX_NBYTES` bytes of a file. OSError."""

    def no_image(self, path: str) -> str | None:
        """Why a file cannot be an image that is read here; None where it can. OSError."""
        return no_image(self.first_bytes(path))

    @abstractmethod
    def full_name(self, path: str) -> str:
        """What a data set of it is called: the folder's name, also where the path says "."; behind a URL, this."""


class LocalFiles(FileSystem):
    """Files of this machine."""

    def read(self, path: str) -> bytes:
        return read_file(path)

    def nbytes(self, path: str) -> int:
        return 0

    def stamps(self, paths: Sequence[str]) -> list[bytes | None]:
        stamps: list[bytes | None] = []
        in_threads(stamp_of, paths, "looking for changes", lambda _, stamp: stamps.append(stamp), at_once=256)
        return believed(paths, stamps)

    def is_unchanged(self, path: str, stamp: bytes, since_ns: int) -> bool:
        # Of a file that is not the one that stat saw, or may yet change unseen, nothing is kept.
        return settled(stamp, since_ns) and stamp_of(path) == stamp

    def there(self, paths: Sequence[str]) -> list[bool]:
        listed: dict[str, set[str]] = {}
        result = []
        for path in paths:
            folder, _, name = path.rpartition(os.sep)
            if folder not in listed:
                try:
                    listed[folder] = set(os.listdir(folder or "." if folder or os.sep not in path else os.sep))  # noqa: PTH208 - names only, ten times as fast
                except OSError:
                    listed[folder] = set()
            result.append(name in listed[folder] or os.path.exists(path))  # noqa: PTH110 - capitals, or ..
        return result

    def kind(self, path: str) -> str | None:
        if not os.path.lexists(path):
            return None
        try:
            os.stat(path)  # noqa: PTH116 - Path.exists raises where a folder above may not be entered
        except OSError:
            return BROKEN
        return FOLDER if Path(path).is_dir() else FILE

    def scan(self, folder: str) -> Sequence[Item]:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)

    def identity(self, folder: str) -> Key:
        status = os.stat(folder)  # noqa: PTH116 - half the time of Path's on large trees
        return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)

    def holders(self, folder: str) -> list[str]:
        return [str(above) for above in Path(os.path.realpath(folder)).parents]

    def is_link(self, path: str) -> bool:
        return Path(path).is_symlink()

    def is_file(self, path: str) -> bool:
        return Path(path).is_file()

    def first_bytes(self, path: str) -> bytes:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(PREFIX_NBYTES)

    def full_name(self, path: str) -> str:
        name = Path(path).name  # of a link its own: people know the folder by the name that they gave
        return name if name not in ("", "..") else Path(path).resolve().name


LOCAL = LocalFiles()


class Folder:
    """A folder somewhere. Its text is its path or URL, and `/` names what is in it."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.files = files
        self.path = path

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> Folder:
        return self.at(joined(self.path, name))

    def at(self, path: str) -> Folder:
        """Another one of the same place."""
        return Folder(self.files, path)

    @property
    def parent(self) -> Folder:
        return self.at(parent_of(self.path))

    def folders(self) -> list[str]:
        """The names of the folders in it, sorted, without litter; none where it cannot be listed."""
        try:
            return [name for name in self.files.folder_names(self.path) if not is_litter(name)]
        except OSError:
            return []
