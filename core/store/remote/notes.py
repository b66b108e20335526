"""What this cache has once learned of the shards behind a URL, so that it is asked once.

    <root>/remote/<digest of the URL>/<trunk key>/<digest>.safetensors        an index object, as it came
    <root>/remote/<digest of the URL>/<trunk key>/seen-<digest>.safetensors   of shards that were looked into

Invariant: notes only spare requests. They may be deleted at any time, and those that nobody has read for
`UNUSED_SECONDS` are, when others begin; one that is damaged is passed over; where none can be written, nothing is
said.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.common.errors import StoreError
from headstart.common.files import read_whole
from headstart.store.files import make_folder, write_atomically
from headstart.store.remote.index import (
    MAX_INDEX_NBYTES,
    ShardIndex,
    index_digest,
    indexes_of,
    merged,
    parse_index,
)
from headstart.store.removal import delete, remove_folder
from headstart.store.shard import SUFFIX
from headstart.store.snapshot import listing
from headstart.store.upkeep import clear_leftovers, files_of

SEEN = "seen-"
MOST_SEEN = 8
"""indexes of shards' ids; more are merged"""
UNUSED_SECONDS = 90 * 24 * 3600.0
"""without being read, after which notes go"""


class Notes:
    """The notes of one trunk key and one URL."""

    def __init__(self, root: Path, url: str, key_digest: str) -> None:
        """`root`: of the own cache; `url`: as it may be shown."""
        self._root, self._key_digest = root, key_digest
        self.folder = root / "remote" / blake3(url.encode()).hexdigest(length=16) / key_digest

    def read(self) -> dict[str, ShardIndex]:
        """The indexes that are noted, by the names of their files without the ending."""
        indexes = {}
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # this is use
        with contextlib.suppress(StoreError):
            for entry in listing(self.folder):
                name = entry.name.removesuffix(SUFFIX)
                with contextlib.suppress(ValueError, OSError, EOFError):
                    content = read_whole(self.folder / entry.name, MAX_INDEX_NBYTES)
                    indexes[name] = parse_index(content, name.removeprefix(SEEN), self._key_digest)
        return indexes

    def keep(self, name: str, content: bytes) -> None:
        """Note an index under this name."""
        with contextlib.suppress(StoreError):
            if not os.path.isdir(self.folder):  # noqa: PTH112 - never an error
                clear_unused(self._root)
            make_folder(self.folder)
            write_atomically(self.folder / f"{name}{SUFFIX}", [content])

    def drop(self, name: str) -> None:
        """Forget an index."""
        with contextlib.suppress(StoreError):
            delete(self.folder / f"{name}{SUFFIX}", self._root)

    def keep_seen(
        self, shards: Mapping[str, tuple[int, NDArray[np.uint8]]], noted: Mapping[str, ShardIndex]
    ) -> dict[str, ShardIndex]:
        """Note shards whose ids were read, by digest: bytes and ids `(rows, 16)`. `noted`: what `read` gave.
        Returns it with what was added, and without what was merged into that."""
        earlier = {name: index for name, index in noted.items() if name.startswith(SEEN)}
        if len(earlier) < MOST_SEEN:
            earlier = {}
        clear_leftovers(self.folder)
        added = {}
        for index in indexes_of(self._key_digest, {**merged(earlier.values()), **shards}):
            content = index.to_bytes()
            name = SEEN + index_digest(content)
            self.keep(name, content)
            added[name] = index
        for name in earlier.keys() - added.keys():
            self.drop(name)
        return {name: index for name, index in noted.items() if name not in earlier} | added


def clear_unused(root: Path) -> None:
    """Delete the notes that were not read for `UNUSED_SECONDS`, of any URL and key, in the cache `root`. What
    cannot be deleted stays."""
    old = time.time() - UNUSED_SECONDS
    with contextlib.suppress(StoreError, OSError):
        for of_url in listing(root / "remote"):
            for of_key in listing(Path(of_url.path)):
                if of_key.stat(follow_symlinks=False).st_mtime < old:
                    for path in files_of(Path(of_key.path)):
                        delete(path, root)
                    remove_folder(Path(of_key.path), root)
            remove_folder(Path(of_url.path), root)
