"""The only place where files of the store are deleted or moved.

Invariant: no link is followed on the way from the store's root to what is deleted or moved
(`headstart.common.removal`); what cannot be done is said in the store's own errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from headstart.common import removal
from headstart.common.errors import StoreError
from headstart.common.removal import BehindLinkError, remove_folder
from headstart.store.files import storage_errors

__all__ = ["delete", "move_into", "remove_folder", "require_no_link"]


def delete(path: Path, root: Path) -> int:
    """Delete a file beneath `root`, and return its bytes; 0 where it has gone. StoreError where a folder on the
    way is a link; CacheNotWritableError and its kin."""
    with _errors(path, "delete"):
        return removal.delete(path, root)


def move_into(path: Path, inner: str, root: Path) -> Path | None:
    """Move a file into the folder `inner` beside it, under a free name; None where it has gone. The errors of
    `delete`."""
    with _errors(path, "set aside"):
        return removal.move_into(path, inner, root)


def require_no_link(root: Path, folder: Path) -> None:
    """StoreError where `folder`, beneath `root`, is a link, or lies behind one. It need not exist."""
    with _errors(folder, "open"):
        removal.require_no_link(root, folder)


@contextlib.contextmanager
def _errors(path: Path, action: str) -> Iterator[None]:
    with storage_errors(path, action):
        try:
            yield
        except BehindLinkError as error:
            raise StoreError(
                f"{error.filename} is a link. Links are read through, and nothing behind them is deleted or "
                "moved: name the place that it leads to (HEADSTART_CACHE), or replace the link by a folder"
            ) from error
