"""Files in a bucket, to whoever walks or reads them as those of a folder are.

* An object is refused by its size before a byte of it is asked for.
* What was listed is believed until it is read: `bucket` says what is known of an object, and what of its change.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from headstart.common.errors import ImageError, RemoteError, RemoteNotFoundError
from headstart.data.bucket import Bucket, Names
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


class UrlFiles(FileSystem):
    """The objects of one bucket, by their URLs."""

    fetches = FETCHES

    def __init__(self, bucket: str) -> None:
        """`bucket`: its URL, `s3://photos`."""
        self._bucket = Bucket(bucket)
        self._looks: dict[str, str | OSError | None] = {}
        """of files whose names do not tell: why they are no images"""

    # --- what is there

    def kind(self, path: str) -> str | None:
        if path.lower().endswith(BELIEVED) and self.is_file(path):
            return FILE
        self._bucket.list_below(path)
        if path in self._bucket.folders:
            return FOLDER
        return FILE if self.is_file(path) else None

    def is_file(self, path: str) -> bool:
        if path in self._bucket.known:
            return True
        if self._bucket.is_listed(path) or path == self._bucket.url:
            return False
        try:
            self._bucket.note(path, self._bucket.objects.entry(self._bucket.name(path)))
        except RemoteNotFoundError:
            return False
        return True

    def scan(self, folder: str) -> Sequence[Item]:
        self._bucket.list_below(folder)
        there = self._bucket.folders.get(folder, Names())
        items = [Listed(name, f"{folder}/{name}", True) for name in there.folders]
        files = {name: f"{folder}/{name}" for name in there.files}
        items += [
            Listed(name, path, False)
            for name, path in files.items()
            if self._bucket.nbytes(path) or name not in there.folders
        ]
        return sorted(items, key=lambda item: item.name)

    def folder_names(self, folder: str) -> list[str]:
        if self._bucket.is_listed(f"{folder}/"):
            return super().folder_names(folder)
        folders, _ = self._bucket.objects.folders(self._bucket.name(folder))
        return sorted(name.rpartition("/")[2] for name in folders)

    def there(self, paths: Sequence[str]) -> list[bool]:
        folders = {parent_of(path) for path in paths}
        if len(folders) > SINGLY:
            common = posixpath.commonpath([folder.removeprefix(self._bucket.url) or "/" for folder in folders])
            self._bucket.list_below(self._bucket.url + common.rstrip("/"))
        for folder in sorted(folders):
            if not self._bucket.is_listed(f"{folder}/"):
                self._bucket.list_files(folder)
        return [path in self._bucket.known for path in paths]

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
        if (nbytes := self._bucket.nbytes(path)) > MAX_NBYTES:
            raise ImageError(path, f"has {nbytes:,} bytes; an encoded image at a URL may have {MAX_NBYTES:,}")
        listed = self._bucket.known.get(path)
        try:
            entry, content = self._bucket.objects.fetch(self._bucket.name(path), MAX_NBYTES)
        except RemoteNotFoundError as error:
            what = "there is no such object" if listed is None else "is not there any more"
            raise ImageError(path, what) from error
        except RemoteError as error:
            raise ImageError(path, f"cannot be read: {error.reason}") from error
        if listed is not None and listed.tag == entry.tag and listed.nbytes != entry.nbytes:
            raise ImageError(path, f"cannot be read: {entry.nbytes:,} of its {listed.nbytes:,} bytes came")
        self._bucket.note(path, entry)  # it may be another one than was listed
        return content

    def nbytes(self, path: str) -> int:
        known = self._bucket.known.get(path)
        if known is None:
            return ASSUMED_NBYTES
        return known.nbytes if known.nbytes <= MAX_NBYTES else 0

    def stamps(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._bucket.stamp(path) for path in paths]

    def is_unchanged(self, path: str, stamp: bytes, since_ns: int) -> bool:
        return self._bucket.stamp(path) == stamp

    def first_bytes(self, path: str) -> bytes:
        name = self._bucket.name(path)
        try:
            objects = self._bucket.objects
            count = min(self._bucket.nbytes(path) or objects.entry(name).nbytes, PREFIX_NBYTES)
            return objects.get_range(name, 0, count) if count else b""
        except RemoteError as error:
            raise OSError(error.reason) from error

    def no_image(self, path: str) -> str | None:
        """The first who asks has all files looked at whose names do not tell, many at a time."""
        if path not in self._looks:
            names = [name for name in self._bucket.known if name not in self._looks and self._is_doubtful(name)]
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
        parts = path.removeprefix(self._bucket.url).split("/")
        return not path.lower().endswith(BELIEVED) and not any(map(is_litter, parts[1:]))
