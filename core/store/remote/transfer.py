"""One shard on its way between a local store and one behind a URL.

Invariant: what is not a shard as its name says gets that name on neither side. The bytes that are verified are the
bytes that are kept or sent. Those that come are verified as they come, in one pass, and their file gets its name
when the last of them was as it should be; those that go are read once, into memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from headstart.common.errors import DamagedShardError, RemoteDamagedError, RemoteError
from headstart.common.files import read_whole
from headstart.common.objects import Objects
from headstart.store.files import despite_evictions, write_atomically
from headstart.store.ids import ID_NBYTES
from headstart.store.shard import (
    CHECKSUM,
    MAX_FEATURES_NBYTES,
    MAX_HEADER_NBYTES,
    MAX_ROWS,
    SUFFIX,
    WRONG_NAME,
    ShardHeader,
    finite_rows,
    header_nbytes,
    parse_header,
    raise_for_rows,
    raise_unreadable,
    row_checksums,
    shard_digest,
)

VERIFIED_NBYTES = 512 << 10
"""Rows are verified in pieces of about this. What is made on the way of larger ones is mapped and unmapped by the
system each time, which took as long as all the rest where several threads do it."""
MAX_SHARD_NBYTES = 8 + MAX_HEADER_NBYTES + MAX_FEATURES_NBYTES + MAX_ROWS * (CHECKSUM.itemsize + ID_NBYTES)

Advance = Callable[[int], object]
"""is told of bytes that have come, or have gone"""


class Stopped(Exception):  # noqa: N818 - no error: a transfer that is not wanted any more
    """Ends a transfer that is under way."""


def until(stopped: threading.Event, advance: Advance) -> Advance:
    """`advance`, until the event is set: then it raises `Stopped`, so that an interrupt waits for pieces of shards
    and not for shards."""

    def advance_or_stop(nbytes: int) -> None:
        if stopped.is_set():
            raise Stopped
        advance(nbytes)

    return advance_or_stop


def download_shard(
    objects: Objects,
    name: str,
    nbytes: int,
    folder: Path,
    *,
    dtype_name: str | None = None,
    row_shape: tuple[int, ...] | None = None,
    advance: Advance | None = None,
) -> Path:
    """Bring a shard into a trunk key's folder of a local store, and return its path. The folder must exist.

    `name`: the object's, `.../<digest>.safetensors`; `nbytes`: its size, as a listing says. `dtype_name`,
    `row_shape`: of the key's features, where they are known.

    Raises RemoteDamagedError where it is not the shard that its name says, or none of this key; RemoteError and
    its kin where it does not come; DiskSpaceError, CacheNotWritableError or StoreError where it cannot be written.
    Nothing of it is left then.
    """
    path = folder / PurePosixPath(name).name
    if nbytes > MAX_SHARD_NBYTES:
        raise RemoteDamagedError(objects.url_of(name), f"has {nbytes} bytes, a shard at most {MAX_SHARD_NBYTES}")
    pieces = objects.pieces(name, nbytes)
    try:
        write_atomically(
            path, _verified(pieces, path, nbytes, dtype_name, row_shape, advance or _nothing), nbytes=nbytes
        )
    except DamagedShardError as error:
        raise RemoteDamagedError(objects.url_of(name), error.reason) from error
    return path


def receive_shard(
    objects: Objects,
    name: str,
    nbytes: int,
    folder: Path,
    *,
    prepare: Callable[[], object],
    mark: Callable[[], object] | None = None,
    dtype_name: str | None = None,
    row_shape: tuple[int, ...] | None = None,
    advance: Advance | None = None,
) -> None:
    """`download_shard` into a folder that others may delete at any moment. `prepare` creates it and its
    description, where there are none: it is called before and, as an eviction may have gone by, afterwards. `mark`
    is called before the shard comes. Raises as `download_shard` does."""
    failure: RemoteError | None = None

    def receive() -> None:
        nonlocal failure
        failure = None
        prepare()
        if mark is not None:
            mark()
        try:
            download_shard(
                objects, name, nbytes, folder, dtype_name=dtype_name, row_shape=row_shape, advance=advance
            )
        except RemoteError as error:  # raised below: an object that is not there is no eviction here
            failure = error
        prepare()

    despite_evictions(receive)
    if failure is not None:
        raise failure


def upload_shard(objects: Objects, path: Path, name: str, *, advance: Advance | None = None) -> None:
    """Write a local shard to an object. It is read and verified first.

    Raises DamagedShardError where the local file is not what was written there, and nothing is sent;
    FileNotFoundError where it has gone; RemoteError and its kin where it cannot be sent.
    """
    try:
        content = read_whole(path, MAX_SHARD_NBYTES)
    except EOFError as error:
        raise DamagedShardError(path, f"{error} on reading") from error
    except OSError as error:
        raise_unreadable(path, error)
    for _ in _verified([memoryview(content)], path, len(content), None, None, _nothing):
        pass
    objects.put(name, content)
    if advance is not None:
        advance(len(content))


def verify_object(
    objects: Objects, name: str, nbytes: int, key_digest: str, advance: Advance | None = None
) -> int:
    """Read a shard of a trunk key and verify it; nothing is kept. Returns its number of rows. The errors of
    `download_shard`."""
    path = Path(key_digest) / PurePosixPath(name).name
    try:
        chunks = _verified(objects.pieces(name, nbytes), path, nbytes, None, None, advance or _nothing)
        (ids,) = deque(chunks, maxlen=1)
    except DamagedShardError as error:
        raise RemoteDamagedError(objects.url_of(name), error.reason) from error
    return len(ids) // ID_NBYTES


def _verified(
    pieces: Iterable[memoryview],
    path: Path,
    nbytes: int,
    dtype_name: str | None,
    row_shape: tuple[int, ...] | None,
    advance: Advance,
) -> Iterator[memoryview]:
    """The pieces' bytes, `nbytes` in all, as a shard's that is to have this path. DamagedShardError, by their end
    at the latest, where they are not that shard, whole and intact. What is yielded, the ids last, is valid until
    the next."""
    content = _Stream(pieces, path, advance)
    if nbytes < 8:
        raise DamagedShardError(path, f"has {nbytes} bytes")
    start = content.take(8)
    header = parse_header(path, start + content.take(header_nbytes(path, start, nbytes) - 8), nbytes)
    _check_fit(header, path, dtype_name, row_shape)
    yield memoryview(header.content)
    step = max(1, min(VERIFIED_NBYTES // header.row_nbytes, header.rows))
    scratch = np.empty((step, header.row_nbytes), np.uint8)
    computed = np.empty(header.rows, CHECKSUM)
    finite = np.empty(header.rows, np.bool_)
    for first in range(0, header.rows, step):
        rows = scratch[: header.rows - first]
        view = rows.reshape(-1).data
        content.fill(view)
        computed[first : first + step] = row_checksums(rows)
        finite[first : first + step] = finite_rows(rows.view(header.dtype))
        yield view
    checksums = content.take(header.rows * CHECKSUM.itemsize)
    ids = content.take(header.rows * ID_NBYTES)
    content.end()
    if shard_digest(header.content, ids, checksums) != path.name.removesuffix(SUFFIX):
        raise DamagedShardError(path, WRONG_NAME)
    intact = computed == np.frombuffer(checksums, CHECKSUM)
    raise_for_rows(path, header.rows, int(np.sum(~intact)), int(np.sum(intact & ~finite)))
    yield memoryview(checksums)
    yield memoryview(ids)


def _check_fit(header: ShardHeader, path: Path, dtype_name: str | None, row_shape: tuple[int, ...] | None) -> None:
    """DamagedShardError for a shard that does not belong into the folder of this path."""
    if header.key_digest != path.parent.name:
        raise DamagedShardError(path, f"it belongs to the trunk key {header.key_digest}")
    if dtype_name is not None and header.dtype_name != dtype_name:
        raise DamagedShardError(path, f"it holds {header.dtype_name}, its trunk key says {dtype_name}")
    if row_shape is not None and header.row_shape != row_shape:
        raise DamagedShardError(path, f"its rows are {header.row_shape}, those of this trunk key {row_shape}")


class _Stream:
    """Bytes that come in pieces of any size, taken in the sizes that are wanted."""

    def __init__(self, pieces: Iterable[memoryview], path: Path, advance: Advance) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._path, self._advance = path, advance

    def take(self, nbytes: int) -> bytes:
        content = bytearray(nbytes)
        self.fill(memoryview(content))
        return bytes(content)

    def fill(self, view: memoryview) -> None:
        """DamagedShardError where fewer come."""
        while view:
            if not self._piece:
                self._next()
            count = min(len(view), len(self._piece))
            view[:count] = self._piece[:count]
            view, self._piece = view[count:], self._piece[count:]

    def end(self) -> None:
        """Nothing may come any more. What watches the pieces sees their end."""
        if self._piece or any(map(len, self._pieces)):
            raise DamagedShardError(self._path, "is longer than its header says")

    def _next(self) -> None:
        try:
            self._piece = next(self._pieces).cast("B")
        except StopIteration:
            raise DamagedShardError(self._path, "is shorter than its header says") from None
        self._advance(len(self._piece))


def _nothing(nbytes: int) -> None:
    pass
