"""Files of the store come into being here, and only here: whole under their final name, or not at all.

Invariant: at any instant, also one at which the power fails, a final name is absent or holds all its bytes.
Hence no locks: writers never see each other's unfinished files, and readers see none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import CacheNotWritableError, DiskSpaceError, StoreError

PARTIAL_PREFIX = ".partial-"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_MEND = "set HEADSTART_CACHE to a folder that can be written"


def binary_size(nbytes: float) -> str:
    """A number of bytes for people: "512 B", "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"


def write_atomically(path: Path, chunks: Iterable[bytes | NDArray[Any]]) -> None:
    """`replace_whole`, with errors that say what the cache's owner can do: DiskSpaceError,
    CacheNotWritableError or StoreError."""
    with storage_errors(path, "write"):
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
        finally:
            os.close(handle)
        os.replace(partial, path)  # noqa: PTH105 - the file operations stand together, as os has them
    except BaseException:  # an interrupt, too, leaves nothing behind
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    # Only now does the name itself survive a crash.
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, durably. CacheNotWritableError where that is not permitted."""
    with storage_errors(path, "create"):
        for folder in [*reversed(path.parents), path]:
            if not folder.is_dir():
                with contextlib.suppress(FileExistsError):  # another writer was faster; or it is a file: next line
                    os.mkdir(folder)  # noqa: PTH102
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
                sync_folder(folder.parent)


def probe_folder(path: Path) -> None:
    """Create an empty file in a folder and remove it: permission bits alone do not tell if that works."""
    probe = path / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    with storage_errors(path, "write into"):
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()


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
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError from the body into the typed error that says what could not be done, and the cure."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            free = ""
            with contextlib.suppress(OSError, StoreError):
                free = f", {binary_size(free_space(path))} free"
            raise DiskSpaceError(
                f"cannot {action} {path}: {reason}{free}; what was stored before is intact. Free some space "
                "(`headstart cache gc --max-size` shows what could go) or set HEADSTART_CACHE to another disk"
            ) from error
        if error.errno in _REFUSED:
            raise CacheNotWritableError(f"cannot {action} {path}: {reason}; {_MEND}") from error
        raise StoreError(f"cannot {action} {path}: {reason}; what was stored before is intact") from error


def _write_all(handle: int, chunk: bytes | NDArray[Any]) -> None:
    if not isinstance(chunk, bytes):
        # numpy offers no buffer for bfloat16, hence the bytes' view.
        view = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    else:
        view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]  # may write less than asked: nearly full disks, 2 GiB limit
