"""The file of a table, which is opened several times: on this machine where it lies, of a URL from memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from headstart.common.errors import DataError
from headstart.common.machine import available_memory
from headstart.common.objects import open_objects
from headstart.data.place import is_remote, name_of, parent_of, suffix_of


class TableFile:
    """Its text is its path or URL."""

    def __init__(self, place: str) -> None:
        """`place`: as `place_of` gives it."""
        self.place = place
        self.suffix = suffix_of(place)
        self._content: bytes | None = None

    def __str__(self) -> str:
        return self.place

    def missing(self) -> str | None:
        """What there is in its stead; None where there is a file, or a URL, which shows when it is opened."""
        path = Path(self.place)
        if is_remote(self.place) or path.is_file():
            return None
        return "is a folder" if path.is_dir() else "does not exist"

    def open(self) -> BinaryIO:
        """Its bytes. OSError; RemoteError and its kin of a URL, whose object may take half of the free memory."""
        if not is_remote(self.place):
            return Path(self.place).open("rb")
        if self._content is None:
            self._content = self._fetched()
        return io.BytesIO(self._content)

    def _fetched(self) -> bytes:
        objects, limit = open_objects(parent_of(self.place)), available_memory() // 2
        name = name_of(self.place)
        if (nbytes := objects.entry(name).nbytes) > limit:
            raise DataError(
                f"{self.place} has {nbytes:,} bytes, more than half of this machine's free memory; download it, "
                "and name the file, with root= (--root) for the URL of its images"
            )
        return objects.get(name, limit)
