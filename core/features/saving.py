"""Errors of writing outside the cache: they name the user's folder, where the store's own speak of
HEADSTART_CACHE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from headstart.common.errors import CacheNotWritableError, DiskSpaceError, StoreError
from headstart.store.files import storage_errors

MEND: dict[type[StoreError], str] = {
    DiskSpaceError: "free some space there, or save to another disk",
    CacheNotWritableError: "save to a folder that can be written",
    StoreError: "save to another disk",
}


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn the body's errors of writing below `folder` into ones that say what to do there: DiskSpaceError,
    CacheNotWritableError or StoreError."""
    try:
        with storage_errors(folder, "save to"):
            yield
    except StoreError as error:
        cause = error.__cause__
        if type(error) not in MEND or not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise type(error)(f"cannot save features to {folder}: {reason}; {MEND[type(error)]}") from cause
