"""The ids of a shard behind a URL, by one ranged read: they are the end of its file.

Those of small shards, which are read whole, are verified by the shard's name. Others are not: what they promise is
seen when the shard comes, which is verified as a whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DamagedShardError, RemoteDamagedError
from headstart.common.objects import Entry
from headstart.store.ids import ID_NBYTES
from headstart.store.remote.remote_store import RemoteFolder, digest_of
from headstart.store.shard import (
    ALIGNMENT,
    CHECKSUM,
    MAX_HEADER_NBYTES,
    MAX_ROWS,
    WRONG_NAME,
    ShardHeader,
    header_nbytes,
    parse_header,
    shard_digest,
)

SMALL = 64 << 10
"""Bytes of a shard that is read whole: that takes no longer than its end would."""
PER_ROW = CHECKSUM.itemsize + ID_NBYTES


def read_ids(folder: RemoteFolder, entry: Entry, row_nbytes: int | None) -> NDArray[np.uint8]:
    """The ids `(n, 16)` of a shard. `row_nbytes`: of a row of features, where it is known: if it is not, or the
    shard's size can mean several numbers of rows, its header is read first, by two more requests at most.

    RemoteError; RemoteDamagedError for what is no shard of this key.
    """
    size, objects = entry.nbytes, folder.objects
    if size <= SMALL:
        content = objects.get_range(entry.name, 0, size) if size else b""
        header = _header(folder, entry, content)
        ends = np.cumsum([len(header.content) + header.features_nbytes, header.rows * CHECKSUM.itemsize]).tolist()
        if shard_digest(header.content, content[ends[1] :], content[ends[0] : ends[1]]) != digest_of(entry):
            raise RemoteDamagedError(objects.url_of(entry.name), WRONG_NAME)
        return _ids(content[ends[1] :], header.rows)
    counts = [] if row_nbytes is None else possible_rows(size, row_nbytes)
    if len(counts) == 1:
        rows = counts[0]
    else:
        start = objects.get_range(entry.name, 0, ALIGNMENT)
        rows = _header(folder, entry, start).rows
    return _ids(objects.get_range(entry.name, size - rows * ID_NBYTES, rows * ID_NBYTES), rows)


def possible_rows(size: int, row_nbytes: int) -> list[int]:
    """How many rows a shard of `size` bytes can have: its header, of unknown length, takes a multiple of 4096."""
    longest = min(8 + MAX_HEADER_NBYTES, size)
    counts = []
    for header in range(ALIGNMENT, longest + 1, ALIGNMENT):
        rows, rest = divmod(size - header, row_nbytes + PER_ROW)
        if not rest and 1 <= rows <= MAX_ROWS:
            counts.append(rows)
    return counts


def _header(folder: RemoteFolder, entry: Entry, start: bytes) -> ShardHeader:
    """`start`: the shard's first bytes, of which more are read if need be."""
    path = Path(entry.name)
    try:
        length = header_nbytes(path, start[:8], entry.nbytes)
        if length > len(start):
            start += folder.objects.get_range(entry.name, len(start), length - len(start))
        header = parse_header(path, start[:length], entry.nbytes)
    except DamagedShardError as error:
        raise RemoteDamagedError(folder.objects.url_of(entry.name), error.reason) from error
    if header.key_digest != folder.key_digest:
        raise RemoteDamagedError(
            folder.objects.url_of(entry.name), f"it belongs to the trunk key {header.key_digest}"
        )
    return header


def _ids(content: bytes, rows: int) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8).reshape(rows, ID_NBYTES)
