"""One shard: a safetensors file of some rows of features, never changed once it has its name.

Layout: 8 bytes of length and a JSON header, padded by spaces to a multiple of 4096; then `features`
`(n, *row_shape)`, `checksums` `(n,)` U64, `ids` `(n, 16)` U8. The features so begin at a page, for whoever
maps them. The safetensors library packs its headers tightly, hence our own writer; it reads the result.

Invariants: no bit is damaged unnoticed (by accident: whoever can write a shard can write right checksums for other
rows, see `recompute`). The file's name is the digest of header, ids and checksums, tested
when a shard is opened; the checksums (xxh3, one a row) cover the features, tested whenever a row is read.
And no file, whoever made it, costs more than it says: what a header claims is held against the limits below
and the file's size before anything is made from it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from headstart.common.errors import DamagedShardError, UnreadableShardError
from headstart.common.files import PAGE_NBYTES, bypass_cache, opened, read_at, read_span
from headstart.common.memory import aligned_empty
from headstart.store.files import unreadable, write_atomically
from headstart.store.ids import ID_NBYTES
from headstart.store.keys import DTYPES, FORMAT_VERSION

ALIGNMENT = 4096
MAX_DIMENSIONS = 32
MAX_ROWS = 1 << 20
MAX_FEATURES_NBYTES = 1 << 30
MAX_PROVENANCE_NBYTES = 64 << 10
# Quoting can double the provenance. A longer header would only cost memory: Python's values take up to thirty
# times the bytes of their JSON.
MAX_HEADER_NBYTES = 2 * MAX_PROVENANCE_NBYTES + (16 << 10)
SUFFIX = ".safetensors"
FORMAT = f"headstart-features/{FORMAT_VERSION}"
CHECKSUM = np.dtype("<u8")
_PIECE_NBYTES = 4 << 20  # rows are read and verified in pieces of about this, to stay in the processor's cache
WRONG_NAME = "its header, ids and checksums do not give its name"

_TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}
_NAMES = {tag: name for name, tag in _TAGS.items()}
_UNFIT = re.compile(r"[^A-Za-z0-9_ .+-]")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_ADVISABLE = hasattr(os, "posix_fadvise")
_GAP_NBYTES = 16 << 10  # reading so much for nothing costs less than another call
# Twice as many buffers are within every system's limit for one call; and with many more of them at once Python's
# garbage collector would come by, and look at all that the process holds.
_ROWS_AT_ONCE = 256
_SPAN_NBYTES = 1 << 20  # past the page cache so much is read at once, which the processor's own cache holds
# What file systems with checksums of their own say of theirs, and what is no file at all.
_DAMAGE = {errno.EISDIR, errno.ELOOP} | {
    getattr(errno, name, errno.EISDIR) for name in ("EBADMSG", "ENODATA", "EUCLEAN")
}
# Media errors. A cable may be loose, or a server away: the bytes may be there.
_UNREADABLE = {errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}


@dataclass(frozen=True)
class ShardHeader:
    """What the head of a shard's file says; it says it as a writer does, and within the limits."""

    content: bytes
    """the file's first bytes: length, JSON and padding, a multiple of 4096"""
    key_digest: str
    dtype_name: str
    shape: tuple[int, ...]
    """of the features: `(n, *row_shape)`"""
    provenance: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype_name]

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def features_nbytes(self) -> int:
        return self.rows * self.row_nbytes

    @property
    def nbytes(self) -> int:
        """of the whole file"""
        return len(self.content) + self.features_nbytes + self.rows * (CHECKSUM.itemsize + ID_NBYTES)


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard whose header, ids and checksums have been verified. Its rows are verified as they are read.

    No file stays open: thousands of shards would use up the process's allowance.
    """

    path: Path
    key_digest: str
    """Digest of the trunk key that the rows belong to."""
    dtype_name: str
    row_shape: tuple[int, ...]
    ids: NDArray[np.uint8]
    """`(n, 16)` uint8"""
    checksums: NDArray[np.uint64]
    """`(n,)` uint64"""
    provenance: dict[str, Any]
    data_start: int
    """Where the features begin, in bytes; a multiple of 4096."""
    stamp: tuple[int, int, int]
    """Inode, size in bytes and modification time in ns: another stamp is another file."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype_name]

    @property
    def maker(self) -> str:
        """By which backend the rows were made, as the shard says: a stranger's word, made fit for a table."""
        return _UNFIT.sub("?", str(self.provenance.get("backend")))[:40]

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    def read_into(
        self,
        out: NDArray[Any],
        places: NDArray[np.intp],
        rows: NDArray[np.intp],
        past_cache: bool = False,
    ) -> NDArray[np.bool_]:
        """Copy rows to `out[places]`, and tell for each, `(k,)` bool, whether it is what was written. The file is
        read forwards if the rows ascend. `past_cache`: from the disk, where that can be done, and nothing stays in
        the system's page cache.

        Verified is a copy that nobody else can write to: what is tested is what is used. Raises FileNotFoundError
        where the shard has gone, DamagedShardError where the file is shorter than it was or the disk cannot give
        it back.
        """
        intact = np.empty(len(rows), np.bool_)
        target = out.reshape(-1).view(np.uint8).reshape(-1, self.row_nbytes)
        with self._reading() as handle:
            if _ADVISABLE:  # what is read ahead unasked, as much again as a block, is not used
                with suppress(OSError):
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            if past_cache and bypass_cache(handle):
                self._read_spans(handle, target, places, rows, intact)
            else:
                self._read_rows(handle, target, places, rows, intact)
        return intact

    def _read_rows(
        self,
        handle: int,
        target: NDArray[np.uint8],
        places: NDArray[np.intp],
        rows: NDArray[np.intp],
        intact: NDArray[np.bool_],
    ) -> None:
        """Rows straight to their places, out of the page cache or into it; `target` is `(n, row_nbytes)`."""
        nbytes, memory = self.row_nbytes, target.reshape(-1).data
        gap = memoryview(bytearray(_GAP_NBYTES))
        step = max(1, min(_ROWS_AT_ONCE, _PIECE_NBYTES // nbytes))
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            piece_rows = rows[piece]
            views = [memory[place : place + nbytes] for place in (places[piece] * nbytes).tolist()]
            gaps = (np.diff(piece_rows) - 1) * nbytes
            apart = np.flatnonzero(gaps)  # few, where whole blocks are read
            # Rows that are near each other are read by one call, straight to their places.
            near: list[memoryview] = []
            first = done = 0
            for k, nothing in zip((apart + 1).tolist(), gaps[apart].tolist(), strict=True):
                near += views[done:k]
                done = k
                if 0 < nothing <= _GAP_NBYTES:
                    near.append(gap[:nothing])
                else:
                    read_at(handle, self.data_start + int(piece_rows[first]) * nbytes, near)
                    near, first = [], k
            near += views[done:]
            read_at(handle, self.data_start + int(piece_rows[first]) * nbytes, near)
            checksums = np.fromiter(map(xxh3_64_intdigest, views), CHECKSUM, len(views))
            intact[piece] = checksums == self.checksums[piece_rows]

    def _read_spans(
        self,
        handle: int,
        target: NDArray[np.uint8],
        places: NDArray[np.intp],
        rows: NDArray[np.intp],
        intact: NDArray[np.bool_],
    ) -> None:
        """As `_read_rows`, past the page cache: runs of rows into memory that is used again and again, then to
        their places. A disk is slower where it has to scatter them itself."""
        nbytes = self.row_nbytes
        most = min(max(_SPAN_NBYTES, nbytes), len(self) * nbytes) + 2 * PAGE_NBYTES
        scratch = aligned_empty((most,), np.dtype(np.uint8), PAGE_NBYTES).data
        for piece in self._near_each_other(rows):
            numbers = rows[piece]
            first, last = int(numbers[0]), int(numbers[-1])
            begin, end = self.data_start + first * nbytes, self.data_start + (last + 1) * nbytes
            span = np.frombuffer(read_span(handle, begin, end, scratch), np.uint8).reshape(-1, nbytes)
            if len(span) != len(numbers):
                span = span[numbers - first]
            # All in the processor's own cache: verified there, and copied from there.
            intact[piece] = row_checksums(span) == self.checksums[numbers]
            target[places[piece]] = span

    def _near_each_other(self, rows: NDArray[np.intp]) -> Iterator[slice]:
        """Runs of rows that `_read_spans` reads at once: not too long, with gaps that cost less than a call."""
        nbytes = self.row_nbytes
        gaps = (np.diff(rows) - 1) * nbytes
        apart = np.flatnonzero((gaps < 0) | (gaps > _GAP_NBYTES)) + 1
        most = max(1, _SPAN_NBYTES // nbytes)  # rows, those in gaps included
        start = 0
        for stop in [*apart.tolist(), len(rows)]:
            while start < stop:
                end = start + int(np.searchsorted(rows[start:stop], rows[start] + most))
                yield slice(start, end)
                start = end

    def damaged_rows(self) -> tuple[int, int]:
        """Read all rows, and count those that differ from their checksums, and those that do not and yet hold NaN
        or infinity, which no writer stores. Raises as `read_into` does."""
        step = max(1, _PIECE_NBYTES // self.row_nbytes)
        scratch = np.empty((min(step, len(self)), self.row_nbytes), np.uint8)
        damaged = not_finite = 0
        with self._reading() as handle:
            for start in range(0, len(self), step):
                copied = scratch[: len(self) - start]
                read_at(handle, self.data_start + start * self.row_nbytes, [copied.reshape(-1).data])
                wrong = row_checksums(copied) != self.checksums[start : start + step]
                damaged += int(np.count_nonzero(wrong))
                not_finite += int(np.count_nonzero(~wrong & ~finite_rows(copied.view(self.dtype))))
        return damaged, not_finite

    @contextmanager
    def _reading(self) -> Iterator[int]:
        try:
            with opened(self.path) as handle:
                size = os.fstat(handle).st_size
                if size != self.stamp[1]:
                    raise DamagedShardError(self.path, f"has {size} bytes, had {self.stamp[1]} when opened")
                yield handle
        except EOFError as error:
            raise DamagedShardError(self.path, f"{error} on reading, had {self.stamp[1]} when opened") from error
        except OSError as error:
            raise_unreadable(self.path, error)


def raise_for_rows(path: Path, rows: int, damaged: int, not_finite: int) -> None:
    """DamagedShardError where some of a shard's rows are damaged, or not finite: see `Shard.damaged_rows`."""
    if damaged:
        raise DamagedShardError(path, f"{damaged} of {rows} rows differ from their checksums")
    if not_finite:
        raise DamagedShardError(path, f"{not_finite} of {rows} rows hold NaN or infinity, which no writer stores")


def finite_rows(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """`(n,)` bool: which rows `(n, k)` of a stored dtype hold neither NaN nor infinity. Read off the exponents'
    bits: several times faster than isfinite on 16-bit floats."""
    if rows.dtype == np.uint8 or not rows.size:
        return np.ones(len(rows), np.bool_)
    bits = 8 * rows.dtype.itemsize
    unsigned, sign = np.dtype(f"u{rows.dtype.itemsize}"), 1 << (bits - 1)
    infinity = int(np.array(np.inf, rows.dtype).view(unsigned))
    # As whole numbers, the largest of the positive ones, and the one that is furthest below zero: two passes, and
    # nothing is made on the way.
    if rows.view(f"i{rows.dtype.itemsize}").max() < infinity and rows.view(unsigned).max() < sign + infinity:
        return np.ones(len(rows), np.bool_)
    return np.asarray(((rows.view(unsigned) & np.array(sign - 1, unsigned)) < infinity).all(axis=1))


def row_checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """xxh3 of each row of bytes: `(n, row_nbytes)` uint8, contiguous -> `(n,)` uint64."""
    view, step = rows.reshape(-1).data, rows.shape[1]
    digests = (xxh3_64_intdigest(view[i : i + step]) for i in range(0, len(view), step))
    return np.fromiter(digests, CHECKSUM, len(rows))


def write_shard(
    folder: Path,
    *,
    key_digest: str,
    ids: NDArray[np.uint8],
    checksums: NDArray[np.uint64],
    blocks: Sequence[NDArray[Any]],
    provenance: Mapping[str, Any],
) -> Path:
    """Write one shard durably, and return its path. The folder must exist.

    `ids` is `(n, 16)` uint8, `checksums` `(n,)` uint64; the blocks, `(k, *row_shape)` each and of one stored
    dtype, hold n rows together. Raises DiskSpaceError, CacheNotWritableError or StoreError.
    """
    header = _header(blocks[0].dtype.name, (len(ids), *blocks[0].shape[1:]), key_digest, provenance)
    path = folder / (shard_digest(header, ids.tobytes(), checksums.tobytes()) + SUFFIX)
    write_atomically(path, [header, *blocks, checksums, ids])
    return path


def open_shard(path: Path) -> Shard:
    """Open a shard, and verify all of it but the rows.

    Raises DamagedShardError for anything that the writer cannot have written under this name,
    FileNotFoundError for a shard that has gone, StoreError for one that may not be read.
    """
    try:
        with opened(path) as handle:
            return _parse(path, handle)
    except EOFError as error:
        raise DamagedShardError(path, f"{error} on reading") from error
    except OSError as error:
        raise_unreadable(path, error)


def raise_unreadable(path: Path, error: OSError) -> NoReturn:
    """A file that has gone is FileNotFoundError; one that the disk cannot give back is of no use, either."""
    if has_gone(error):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    if error.errno in _UNREADABLE:
        raise UnreadableShardError(path, f"cannot be read ({error.strerror})") from error
    if error.errno in _DAMAGE:
        raise DamagedShardError(path, f"cannot be read ({error.strerror})") from error
    # Anything else (no permission, too many open files) says nothing against the shard.
    raise unreadable(path, error) from error


def has_gone(error: OSError) -> bool:
    """Whether there is no such file (any more): deleted, also on its server while it was open here."""
    return error.errno in (errno.ENOENT, errno.ESTALE)


def _header(dtype_name: str, shape: tuple[int, ...], key_digest: str, provenance: Mapping[str, Any]) -> bytes:
    """Length and JSON, padded so that the data begins at a multiple of 4096."""
    metadata = {
        "format": FORMAT,
        "trunk": key_digest,
        "checksums": "xxh3_64 of each row's bytes",
        "name": "blake3, 16 bytes, of header, ids and checksums",
        "provenance": json.dumps(provenance, sort_keys=True, allow_nan=False),
    }
    n = shape[0]
    features = math.prod(shape) * DTYPES[dtype_name].itemsize
    checksums = features + n * CHECKSUM.itemsize
    entries = {
        "__metadata__": metadata,
        "features": _entry(_TAGS[dtype_name], shape, 0, features),
        "checksums": _entry("U64", (n,), features, checksums),
        "ids": _entry("U8", (n, ID_NBYTES), checksums, checksums + n * ID_NBYTES),
    }
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # safetensors allows trailing spaces
    return len(text).to_bytes(8, "little") + text


def _entry(tag: str, shape: Iterable[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": tag, "shape": list(shape), "data_offsets": [start, end]}


def shard_digest(header: bytes, ids: bytes, checksums: bytes) -> str:
    """A shard's name, without its ending."""
    digest = blake3(header)
    for part in (ids, checksums):
        digest.update(part)  # which returns None in blake3 0.4.0
    return digest.hexdigest(length=16)


def header_nbytes(path: Path, start: bytes, size: int) -> int:
    """How many bytes of a file of `size` bytes are its header, by its first 8. DamagedShardError, naming `path`,
    for a number that is none."""
    length = int.from_bytes(start, "little")
    if len(start) != 8 or length > MAX_HEADER_NBYTES or 8 + length > size:
        raise DamagedShardError(path, f"is cut short or has a wrong header length ({size} bytes)")
    return 8 + length


def parse_header(path: Path, content: bytes, size: int) -> ShardHeader:
    """What the header of a file of `size` bytes says, held against the limits and the size. DamagedShardError,
    naming `path`, for one that no writer writes."""
    stranger = DamagedShardError(path, "its header is not that of a feature shard")
    try:
        entries = json.loads(content[8:].decode("ascii"))
        metadata, entry = entries["__metadata__"], entries["features"]
        format_name = metadata["format"]
        dtype_name, shape = _NAMES[entry["dtype"]], tuple(entry["shape"])
        provenance = json.loads(metadata["provenance"])
        key_digest = metadata["trunk"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise stranger from error
    if format_name != FORMAT:
        raise DamagedShardError(path, f"its format is {_short(format_name)}, this version reads {FORMAT!r}")
    # From here on shape and trunk are of a kind that the next lines, and whoever reads the shard, can use.
    dimensions = all(type(side) is int and 0 < side <= size for side in shape)
    if not dimensions or not 1 <= len(shape) <= MAX_DIMENSIONS or not isinstance(provenance, dict):
        raise stranger
    if not isinstance(key_digest, str) or not _DIGEST.fullmatch(key_digest):
        raise stranger
    header = ShardHeader(
        content=content, key_digest=key_digest, dtype_name=dtype_name, shape=shape, provenance=provenance
    )
    if header.rows > MAX_ROWS or header.features_nbytes > MAX_FEATURES_NBYTES:
        raise DamagedShardError(
            path,
            f"claims {header.rows} rows and {header.features_nbytes} bytes of features, at most {MAX_ROWS} and "
            f"{MAX_FEATURES_NBYTES}",
        )
    # One test for offsets, shapes, padding and stray fields: it is what the writer would write, or it is not.
    try:
        same = _header(dtype_name, shape, key_digest, provenance) == content
    except (ValueError, RecursionError):  # NaN; nested as deep as only reading bears
        same = False
    if not same:
        raise DamagedShardError(path, "its header is not what a writer of feature shards writes")
    if size != header.nbytes:
        raise DamagedShardError(path, f"has {size} bytes instead of {header.nbytes}")
    return header


def _parse(path: Path, handle: int) -> Shard:
    status = os.fstat(handle)
    size = status.st_size
    start = _read(handle, 0, min(8, size))
    length = header_nbytes(path, start, size)
    header = parse_header(path, start + _read(handle, 8, length - 8), size)
    checksums = _read(handle, length + header.features_nbytes, header.rows * CHECKSUM.itemsize)
    ids = _read(handle, size - header.rows * ID_NBYTES, header.rows * ID_NBYTES)
    if shard_digest(header.content, ids, checksums) != path.name.removesuffix(SUFFIX):
        raise DamagedShardError(path, WRONG_NAME)
    return Shard(
        path=path,
        key_digest=header.key_digest,
        dtype_name=header.dtype_name,
        row_shape=header.row_shape,
        ids=np.frombuffer(ids, np.uint8).reshape(header.rows, ID_NBYTES),
        checksums=np.frombuffer(checksums, CHECKSUM),
        provenance=header.provenance,
        data_start=length,
        stamp=(status.st_ino, size, status.st_mtime_ns),
    )


def _read(handle: int, start: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    read_at(handle, start, [memoryview(buffer)])
    return bytes(buffer)


def _short(value: Any) -> str:
    """For a message: a stranger's value, of any kind and length, without characters that steer a terminal."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
