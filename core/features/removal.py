"""Files leave the store here, and only here.

Invariant: no link is followed on the way from the store's root to what is deleted or moved: what a link leads to
may be another store's, or no store's at all.

Folders are opened one after another, each in the one before it, and the file is named within the last one: a link
that is put there at the last moment leads nowhere, either. Where the system cannot do that, links are looked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import StoreError
from headstart.features.files import storage_errors

_BY_HANDLE = {os.open, os.unlink, os.rename, os.rmdir, os.mkdir, os.stat} <= os.supports_dir_fd and hasattr(
    os, "O_NOFOLLOW"
)


def delete(path: Path, root: Path) -> int:
    """Delete a file beneath `root`, and return its bytes; 0 where it has gone. StoreError where a folder on the
    way is a link; CacheNotWritableError and its kin."""
    with storage_errors(path, "delete"):
        try:
            with _folder(root, path.parent) as (handle, place):
                nbytes = os.stat(place(path.name), dir_fd=handle, follow_symlinks=False).st_size
                os.unlink(place(path.name), dir_fd=handle)
        except FileNotFoundError:
            return 0
        return nbytes


def remove_folder(path: Path, root: Path) -> None:
    """Remove an empty folder beneath `root`; nothing where it is not empty, or a link."""
    with contextlib.suppress(OSError, StoreError), _folder(root, path.parent) as (handle, place):
        os.rmdir(place(path.name), dir_fd=handle)


def move_into(path: Path, inner: str, root: Path) -> Path | None:
    """Move a file into the folder `inner` beside it, under a free name; None where it has gone. The errors of
    `delete`."""
    folder = path.parent / inner
    with storage_errors(path, "set aside"):
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
    raise StoreError(f"cannot set aside {path}: {folder} is full of files of that name")


def require_no_link(root: Path, folder: Path) -> None:
    """StoreError where `folder`, beneath `root`, is a link, or lies behind one. Nothing where there is none."""
    with storage_errors(folder, "open"), contextlib.suppress(FileNotFoundError), _folder(root, folder):
        pass


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
                raise _is_link(place)
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
                    raise _is_link(link) from error
                raise
            os.close(handle)
            handle = inner
        yield handle, _Place(None)
    finally:
        os.close(handle)


def _is_link(path: Path) -> StoreError:
    return StoreError(
        f"{path} is a link. Links are read through, and nothing behind them is deleted or moved: name the place "
        "that it leads to (HEADSTART_CACHE), or replace the link by a folder"
    )
