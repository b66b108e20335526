"""Files come into being here, and only here: whole under their final name, or not at all.

Invariant: at any instant, also one at which the power fails, a final name is absent or holds all its bytes.
Hence no locks: writers never see each other's unfinished files, and readers see none.

They are read here, too, and never mapped: a mapped file that shrinks, or a disk that fails under it, kills the
process by a signal; a read that comes back short is an error that can be told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL_PREFIX = ".partial-"
WRITE_BEHIND_NBYTES = 8 << 20
"""So many bytes of a file are on their way to the disk while others are still coming."""
PAGE_NBYTES = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)

Chunk = bytes | memoryview | NDArray[Any]
"""part of a file's content; a view is of bytes"""


def replace_whole(path: Path, chunks: Iterable[Chunk]) -> None:
    """Write the chunks to `path`, so that the name holds either all of them, durably, or what it held before:
    also where the iterable raises before its end.

    Raises OSError; the unfinished file is removed where possible.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    try:
        # O_EXCL: the name is ours alone even if two machines draw the same one.
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            written = begun = 0
            for chunk in chunks:
                written += _write_all(handle, chunk)
                if written - begun >= WRITE_BEHIND_NBYTES:
                    _begin_to_store(handle, begun, written - begun)
                    begun = written
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


def bypass_cache(handle: int) -> bool:
    """Have what is read from the handle by `read_span` pass by the page cache, straight from the disk: a third of
    the processor's time. False where the system or the file system cannot do that; nothing has changed then."""
    if fcntl is None or not _DIRECT:
        return False
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | _DIRECT)
    except OSError:
        return False
    return True


def read_span(handle: int, start: int, stop: int, memory: memoryview) -> memoryview:
    """The file's bytes from `start` to `stop`, in `memory`, which begins at a page and has room for a page more at
    both ends; for a handle to which `bypass_cache` said yes. EOFError at the file's end."""
    # Such a reading begins and ends at a page, or at the file's end.
    low = start - start % PAGE_NBYTES
    pages = memory[: stop - low + -stop % PAGE_NBYTES]
    try:
        done = os.preadv(handle, [pages], low)
        while done < stop - low:  # less than was asked for; what ends within a page is read again from there
            at = done - done % PAGE_NBYTES
            more = os.preadv(handle, [pages[at:]], low + at)
            if at + more <= done:
                raise EOFError(f"ends at byte {low + done}")
            done = at + more
    except OSError as error:
        # It was promised, and is refused for these places or this memory: larger sectors, a file system in user
        # space. The next span is read as this one is then, through the page cache.
        if error.errno != errno.EINVAL:
            raise
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) & ~_DIRECT)
        read_at(handle, low, [pages[: stop - low]])
    return pages[start - low : stop - low]


def _seek_and_read(handle: int, views: Sequence[memoryview], start: int) -> int:
    """`os.preadv` where there is none; it may fill less than all."""
    os.lseek(handle, start, os.SEEK_SET)
    data = os.read(handle, len(views[0]))
    views[0][: len(data)] = data
    return len(data)


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


def _begin_to_store(handle: int, start: int, nbytes: int) -> None:
    """Have the system write these bytes to the disk now, where it can, and wait for nothing: else it begins when
    the whole file is synced, while nothing else is done."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # an advice
            # Linux begins to write what is not stored yet, and keeps it in memory, which it gives back of what is.
            os.posix_fadvise(handle, start, nbytes, os.POSIX_FADV_DONTNEED)


def _write_all(handle: int, chunk: Chunk) -> int:
    """Returns how many bytes it has."""
    if isinstance(chunk, np.ndarray):
        # numpy offers no buffer for bfloat16, hence the bytes' view.
        view = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    else:
        view = memoryview(chunk)
    nbytes = len(view)
    while view:
        count = os.write(handle, view)  # may be less than asked: nearly full disks, 2 GiB limit
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view = view[count:]
    return nbytes
