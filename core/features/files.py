"""Files of the store come into being here, and only here: whole under their final name, or not at all.

Invariant: at any instant, also one at which the power fails, a final name is absent or holds all its bytes.
Hence no locks: writers never see each other's unfinished files, and readers see none.

They are read here, too, and never mapped: a mapped file that shrinks, or a disk that fails under it, kills the
process by a signal; a read that comes back short is an error that can be told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import CacheNotWritableError, DiskSpaceError, StoreError
from headstart.sizes import binary_size

PARTIAL_PREFIX = ".partial-"

EVICTIONS = 10  # so many in a row, each at the very moment of a write, are no coincidence

# EFBIG: a limit on the size of one file, of the file system or of the process (`ulimit -f`).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_MEND = "set HEADSTART_CACHE to a folder that can be written"


def write_atomically(path: Path, chunks: Sequence[bytes | NDArray[Any]]) -> None:
    """`replace_whole`, with errors that say what the cache's owner can do: DiskSpaceError (with what the file
    needs), CacheNotWritableError or StoreError."""
    nbytes = sum(len(chunk) if isinstance(chunk, bytes) else chunk.nbytes for chunk in chunks)
    with storage_errors(path, "write", nbytes):
        replace_whole(path, chunks)


def replace_whole(path: Path, chunks: Iterable[bytes | NDArray[Any]]) -> None:
    """Write the chunks to `path`, so that the name holds either all of them, durably, or what it held before.

    Raises OSError; the unfinished file is removed where possible.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    try:
        # O_EXCL: the name is ours alone even if two machines draw the same one.
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            for chunk in chunks:
                _write_all(handle, chunk)
            # The bytes must be on the disk before the name is: after a crash a journal may keep the
            # rename and lose the data, which would leave a final name with a hole in it.
            os.fsync(handle)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.close(handle)
            raise
        os.close(handle)  # here a file server may tell that it could not store what it took
        os.replace(partial, path)  # noqa: PTH105 - the file operations stand together, as os has them
    except BaseException:  # an interrupt, too, leaves nothing behind
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    # Only now does the name itself survive a crash.
    sync_folder(path.parent)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A handle to read a regular file from. OSError for anything else: a pipe or a device that somebody put
    under the name would block, or never end."""
    # O_NONBLOCK: opening a pipe must not wait for its other end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EISDIR, "not a regular file", str(path))
        yield handle
    finally:
        with contextlib.suppress(OSError):  # what was read is verified by itself
            os.close(handle)


def read_at(handle: int, start: int, views: Sequence[memoryview]) -> None:
    """Fill the views, one after the other, with the file's bytes from `start` on. EOFError at the file's end."""
    read = getattr(os, "preadv", _seek_and_read)
    left = read(handle, views, start)
    if left == sum(map(len, views)):
        return
    for view in views:  # less than asked: signals, network file systems, 2 GiB limit; or the file's end
        count = min(left, len(view))
        left -= count
        while count < len(view):
            more = read(handle, [view[count:]], start + count)
            if not more:
                raise EOFError(f"ends at byte {start + count}")
            count += more
        start += len(view)


def _seek_and_read(handle: int, views: Sequence[memoryview], start: int) -> int:
    """`os.preadv` where there is none; it may fill less than all."""
    os.lseek(handle, start, os.SEEK_SET)
    data = os.read(handle, len(views[0]))
    views[0][: len(data)] = data
    return len(data)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, durably. CacheNotWritableError where that is not permitted."""
    with storage_errors(path, "create"):
        for folder in [*reversed(path.parents), path]:
            if not folder.is_dir():
                try:
                    os.mkdir(folder)  # noqa: PTH102
                except FileExistsError:  # another writer was faster; or it is a file
                    if not folder.is_dir() and os.path.lexists(folder):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
                sync_folder(folder.parent)


def probe_folder(path: Path) -> None:
    """Create an empty file in a folder and remove it: permission bits alone do not tell if that works."""
    probe = path / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    with storage_errors(path, "write into"):
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.close(handle)
        finally:
            probe.unlink(missing_ok=True)  # an eviction may have been faster


def despite_evictions(action: Callable[[], None]) -> None:
    """Run an action that writes, and again where a folder or an unfinished file has vanished under it: another
    process was deleting at that very moment."""
    for left in reversed(range(EVICTIONS)):
        try:
            action()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or not left:
                raise
        else:
            return


def touch(path: Path) -> None:
    """Create an empty file, or set its time to now. OSError for a link, which could lead out of the store."""
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | safe, 0o666)
    try:
        os.utime(handle if os.utime in os.supports_fd else path)
    finally:
        os.close(handle)


def read_whole(path: Path, limit: int) -> bytes:
    """A file's bytes; of a file larger than `limit` the first `limit + 1`. OSError; EOFError where it shrinks."""
    with opened(path) as handle:
        buffer = bytearray(min(os.fstat(handle).st_size, limit + 1))
        read_at(handle, 0, [memoryview(buffer)])
    return bytes(buffer)


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable, where the system can."""
    if os.name == "nt":  # folders cannot be opened there; a rename is journalled
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a parent above the cache that may be passed but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(handle)


def free_space(path: Path) -> int:
    """Bytes free on the file system that holds `path`, or will hold it."""
    with storage_errors(path, "measure the free space for"):
        nearest = next(folder for folder in [path, *path.parents] if folder.exists())
        return shutil.disk_usage(nearest).free


@contextlib.contextmanager
def storage_errors(path: Path, action: str, nbytes: int | None = None) -> Iterator[None]:
    """Turn an OSError from the body into the typed error that says what could not be done, and the cure.
    `nbytes` is what the body has to store."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskSpaceError(
                f"cannot {action} {path}: {reason}; {_room(path, nbytes)}; what was stored before is intact. "
                "Free some space (`headstart cache gc --max-size` shows what could go) or set HEADSTART_CACHE to "
                "another disk"
            ) from error
        if error.errno in _REFUSED:
            raise CacheNotWritableError(f"cannot {action} {path}: {reason}; {_MEND}") from error
        raise StoreError(f"cannot {action} {path}: {reason}; what was stored before is intact") from error


def _room(path: Path, nbytes: int | None) -> str:
    """What is needed, and what is free."""
    needed = "room for one more entry is needed" if nbytes is None else f"it needs {binary_size(nbytes)}"
    try:
        free = free_space(path)
    except (OSError, StoreError):
        return needed
    other = " (so the limit may be a quota, the number of files, or the size of one)"
    return f"{needed}, {binary_size(free)} are free{other if free > (nbytes or 0) else ''}"


def _write_all(handle: int, chunk: bytes | NDArray[Any]) -> None:
    if not isinstance(chunk, bytes):
        # numpy offers no buffer for bfloat16, hence the bytes' view.
        view = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    else:
        view = memoryview(chunk)
    while view:
        count = os.write(handle, view)  # may be less than asked: nearly full disks, 2 GiB limit
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view = view[count:]
