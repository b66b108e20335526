"""Writing into the store: files and folders of `headstart.common.files`, with errors that say what the cache's
owner can do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from headstart.common.errors import CacheNotWritableError, DiskSpaceError, RemoteError, StoreError
from headstart.common.files import PARTIAL_PREFIX, Chunk, replace_whole, sync_folder
from headstart.common.sizes import binary_size

EVICTIONS = 10  # so many in a row, each at the very moment of a write, are no coincidence

# EFBIG: a limit on the size of one file, of the file system or of the process (`ulimit -f`).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_MEND = (
    "set HEADSTART_CACHE to a folder that can be written (one that this user may only read goes into "
    "HEADSTART_CACHE_SHARED)"
)


def write_atomically(path: Path, chunks: Iterable[Chunk], nbytes: int | None = None) -> None:
    """`replace_whole`, with errors that say what the cache's owner can do: DiskSpaceError (with what the file
    needs), CacheNotWritableError or StoreError. `nbytes`: what the chunks hold together; counted where it is not
    given."""
    if nbytes is None:
        chunks = list(chunks)
        nbytes = sum(len(chunk) if isinstance(chunk, bytes) else chunk.nbytes for chunk in chunks)
    with storage_errors(path, "write", nbytes):
        replace_whole(path, chunks)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, durably. CacheNotWritableError where that is not permitted."""
    with storage_errors(path, "create"):
        for folder in [*reversed(path.parents), path]:
            if not folder.is_dir():
                try:
                    os.mkdir(folder)  # noqa: PTH102
                except FileNotFoundError:
                    if folder.parent.is_dir():  # no eviction: the system makes no folders there, as in /proc
                        raise PermissionError(errno.EACCES, "no folder can be made there", str(folder)) from None
                    raise
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
        except RemoteError:
            raise  # an object that is not there
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or not left:
                raise
        else:
            return


def free_space(path: Path) -> int:
    """Bytes free on the file system that holds `path`, or will hold it."""
    with storage_errors(path, "measure the free space for"):
        return shutil.disk_usage(nearest_folder(path)).free


def require_space(path: Path, nbytes: int, mend: str) -> None:
    """Raise DiskSpaceError unless so many bytes of features have room where `path` is, or will be. `mend`: what
    to do where they have none."""
    if nbytes > (free := free_space(path)):
        raise DiskSpaceError(
            f"the features need {binary_size(nbytes)}, and {binary_size(free)} are free at {path}; {mend}"
        )


def nearest_folder(path: Path) -> Path:
    """The path itself, or of what it lies in the first that exists. OSError."""
    return next(folder for folder in [path, *path.parents] if folder.exists())


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


def unreadable(path: Path | str, error: OSError) -> StoreError:
    """The error that says why something in the store cannot be read, and the cure where others may read it."""
    cure = (
        "; have its owner let this user read it (chmod -R a+rX, and umask 022 from then on), or set "
        "HEADSTART_CACHE to another folder"
    )
    refused = error.errno in (errno.EACCES, errno.EPERM)
    return StoreError(f"cannot read {path}: {error.strerror or error}{cure if refused else ''}")


def _room(path: Path, nbytes: int | None) -> str:
    """What is needed, and what is free."""
    needed = "room for one more entry is needed" if nbytes is None else f"it needs {binary_size(nbytes)}"
    try:
        free = free_space(path)
    except (OSError, StoreError):
        return needed
    other = " (so the limit may be a quota, the number of files, or the size of one)"
    return f"{needed}, {binary_size(free)} are free{other if free > (nbytes or 0) else ''}"
