"""Reading of tar archives that may be hostile.

Invariants: only regular files and folders ever come out, with names that stay below where they are unpacked, so no
link can lead anywhere; and an archive costs no more than was allowed for it: what it inflates to, how many members
it has and how long their headers are is counted while it is read, since what it claims may be anything.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tarfile import TarError, TarFile, TarInfo

from headstart.common.errors import DataError

BLOCK = 1 << 20  # nothing is read in larger pieces, headers included


class _Bounded(io.RawIOBase):
    """What a gzip file inflates to, up to so many bytes, and never many at once."""

    def __init__(self, inflated: gzip.GzipFile, limit: int) -> None:
        self._inflated, self._limit = inflated, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise TarError(f"a header of {size:,} bytes")
        self._allow(self.tell() + size)
        return self._inflated.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only positions from the start")
        self._allow(offset)
        return self._inflated.seek(offset)

    def tell(self) -> int:
        return self._inflated.tell()

    def _allow(self, position: int) -> None:
        if position > self._limit:
            raise TarError(f"it inflates to more than the {self._limit:,} bytes that are allowed")


@contextmanager
def opened(archive: Path, max_nbytes: int, max_members: int) -> Iterator[tuple[TarFile, Iterator[TarInfo]]]:
    """A .tar.gz, and its members one after another; their data must be read before the next one is asked for.

    Raises DataError for an archive that is damaged, that inflates to more than `max_nbytes`, or has more than
    `max_members`: also from within the body, where that reads.
    """
    try:
        with (
            gzip.open(archive, "rb") as inflated,
            TarFile(fileobj=_Bounded(inflated, max_nbytes), mode="r") as tar,
        ):
            yield tar, _counted(tar, max_members)
    except DataError:
        raise
    except Exception as error:  # tarfile raises anything over a hostile header
        reason = str(error) or type(error).__name__
        if len(reason) > 300:  # names in archives may be as long as they like
            reason = f"{reason[:300]}..."
        raise DataError(
            f"{archive} cannot be unpacked: {reason}; if it is damaged, remove it to download it again"
        ) from error


def _counted(tar: TarFile, limit: int) -> Iterator[TarInfo]:
    for count, member in enumerate(iter(tar.next, None)):
        if count >= limit:
            raise TarError(f"it has more than the {limit:,} members that are allowed")
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # else all of them would be kept until the end


def checked(member: TarInfo) -> TarInfo:
    """The member itself; TarError for what may not be unpacked: neither a file nor a folder, or a name that leads
    elsewhere."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise TarError(f"{member.name!r} is neither a file nor a folder")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise TarError(f"{member.name!r} leads out of the folder")
    return member
