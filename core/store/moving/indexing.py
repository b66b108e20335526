"""Index objects after a push: whoever opens the store behind the URL then finds its shards by a few requests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from headstart.common.errors import RemoteError, StoreError
from headstart.store.remote.catalogue import Shards, write_index
from headstart.store.remote.notes import Notes
from headstart.store.remote.remote_store import RemoteFolder
from headstart.store.shard import SUFFIX, open_shard
from headstart.store.trust import warn


def index_pushed(root: Path, folder: RemoteFolder, pushed: Iterable[str]) -> None:
    """Have index objects hold all shards of a trunk key, of which those of these digests were just pushed from the
    store at `root`. StoreWarning where that fails: index objects only spare requests."""
    known: Shards = {}
    row_nbytes = None
    for digest in pushed:
        with contextlib.suppress(StoreError, FileNotFoundError):
            shard = open_shard(root / "features" / folder.key_digest / (digest + SUFFIX))
            known[digest] = (shard.stamp[1], shard.ids)
            row_nbytes = shard.row_nbytes
    try:
        # A shard that cannot be read now is in no index object, and is listed: nothing to tell here.
        write_index(
            folder, known, Notes(root, folder.objects.url, folder.key_digest), lambda error: None, row_nbytes
        )
    except RemoteError as error:
        warn(f"no index object was written, so that opening takes more requests: {error}")
