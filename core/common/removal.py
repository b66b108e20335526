"""Files that are deleted or moved are reached from a root that the user named, and no link is followed on the way:
what a link leads to may be another store's, another user's, or nobody's at all.

Folders are opened one after another, each in the one before it, and the file is named within the last one: a link
that is put there at the last moment leads nowhere, either. Where the system cannot do that, links are looked for.
Invariant: a link in the place of the file itself is deleted or moved as a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BY_HANDLE = {os.open, os.unlink, os.rename, os.rmdir, os.mkdir, os.stat} <= os.supports_dir_fd and hasattr(
    os, "O_NOFOLLOW"
)


class BehindLinkError(OSError):
    """A folder on the way to what was to be deleted or moved is a link; `filename` names it."""

    def __init__(self, link: Path) -> None:
        super().__init__(errno.ELOOP, "a link, and nothing behind links is deleted or moved", str(link))


def delete(path: Path, root: Path) -> int:
    """Delete a file beneath `root`, and return its bytes; 0 where it has gone. OSError, BehindLinkError."""
    try:
        with _folder(root, path.parent) as (handle, place):
            nbytes = os.stat(place(path.name), dir_fd=handle, follow_symlinks=False).st_size
            os.unlink(place(path.name), dir_fd=handle)
    except FileNotFoundError:
        return 0
    return nbytes


def remove_folder(path: Path, root: Path) -> None:
    """Remove an empty folder beneath `root`; nothing where it is not empty, or a link."""
    with contextlib.suppress(OSError), _folder(root, path.parent) as (handle, place):
        os.rmdir(place(path.name), dir_fd=handle)


def move_into(path: Path, inner: str, root: Path) -> Path | None:
    """Move a file into the folder `inner` beside it, under a free name; None where it has gone. The errors of
    `delete`."""
    folder = path.parent / inner
    try:
        with _folder(root, path.parent) as (handle, place):
            with contextlib.suppress(FileExistsError):
                os.mkdir(place(inner), dir_fd=handle)
            with _folder(root, folder) as (target, place_inside):
                for i in range(1_000_000):
                    name = f"{path.name}{f'.{i}' if i else ''}"
                    if not _exists(place_inside(name), target):
                        os.rename(place(path.name), place_inside(name), src_dir_fd=handle, dst_dir_fd=target)
                        return folder / name
    except FileNotFoundError:
        return None
    raise FileExistsError(errno.EEXIST, "full of files of that name", str(folder))


def require_no_link(root: Path, folder: Path) -> None:
    """BehindLinkError where `folder`, beneath `root`, is a link, or lies behind one. Nothing where there is
    none."""
    with contextlib.suppress(FileNotFoundError), _folder(root, folder):
        pass


def begun(partial: Path) -> int:
    """The bytes of an unfinished file that an earlier attempt left. A link or a pipe under its name is none of
    ours: it is removed, and what it leads to stays as it is."""
    try:
        about = partial.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(about.st_mode):
        return about.st_size
    partial.unlink()
    return 0


def continued(partial: Path) -> IO[bytes]:
    """An unfinished file, made if need be, to go on with; OSError where a link or a pipe has its name."""
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | safe, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EEXIST, "not a regular file", str(partial))
    return os.fdopen(handle, "r+b")


def _exists(name: str | Path, handle: int | None) -> bool:
    try:
        os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class _Place:
    """How a name in a folder is called: by itself, where the folder is open, or by its path."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str:
        return name if self.folder is None else str(self.folder / name)


@contextlib.contextmanager
def _folder(root: Path, folder: Path) -> Iterator[tuple[int | None, _Place]]:
    """A folder beneath `root`, opened without following a link below it."""
    parts = folder.relative_to(root).parts
    if not _BY_HANDLE:
        for place in (root.joinpath(*parts[: i + 1]) for i in range(len(parts))):
            if place.is_symlink():
                raise BehindLinkError(place)
        yield None, _Place(folder)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, part in enumerate(parts):
            try:
                inner = os.open(part, flags, dir_fd=handle)
            except OSError as error:
                link = root.joinpath(*parts[: i + 1])
                if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and link.is_symlink():
                    raise BehindLinkError(link) from error
                raise
            os.close(handle)
            handle = inner
        yield handle, _Place(None)
    finally:
        os.close(handle)
