"""One shard: a safetensors file of some rows of features, never changed once it has its name.

Layout: 8 bytes of length and a JSON header, padded by spaces to a multiple of 4096; then `features`
`(n, *row_shape)`, `checksums` `(n,)` U64, `ids` `(n, 16)` U8. The features so begin at a page, and can be
mapped without a copy. The safetensors library packs its headers tightly, hence our own writer; it reads the
result.

Invariant: no bit can change unnoticed. The file's name is the digest of header, ids and checksums, tested
when a shard is opened; the checksums (xxh3, one a row) cover the features, tested whenever a row is read.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from headstart.errors import DamagedShardError, StoreError
from headstart.features.files import write_atomically
from headstart.features.ids import ID_NBYTES
from headstart.features.keys import DTYPES, FORMAT_VERSION

ALIGNMENT = 4096
MAX_HEADER_NBYTES = 16 << 20
MAX_DIMENSIONS = 32
SUFFIX = ".safetensors"
FORMAT = f"headstart-features/{FORMAT_VERSION}"

_TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}
_NAMES = {tag: name for name, tag in _TAGS.items()}
_CHECKSUM = np.dtype("<u8")
_GATHER_NBYTES = 8 << 20  # rows are copied and verified in pieces of about this, to stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard whose header, ids and checksums have been verified. Its rows are verified as they are read.

    No file stays open: thousands of shards would use up the process's allowance.
    """

    path: Path
    trunk: str
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
    def row_nbytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    def features(self) -> NDArray[Any]:
        """All rows, `(n, *row_shape)`, mapped read-only from the file and **not verified**.

        Raises FileNotFoundError where the shard has gone, DamagedShardError where the file is too short:
        reading a map beyond its file's end would kill the process.
        """
        flat = self._map().view(self.dtype)
        return flat.reshape(len(self), *self.row_shape)

    def read_into(self, out: NDArray[Any], places: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Copy rows to `out[places]`, and tell for each, `(k,)` bool, whether it is what was written.

        Verified is the copy, not the map: what is tested is what is used. Raises as `features` does.
        """
        source = self._map().reshape(len(self), self.row_nbytes)
        target = out.reshape(len(out), -1).view(np.uint8)
        intact = np.empty(len(rows), np.bool_)
        step = max(1, _GATHER_NBYTES // self.row_nbytes)
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            copied = source[rows[piece]]  # (k, row_nbytes)
            intact[piece] = row_checksums(copied) == self.checksums[rows[piece]]
            target[places[piece]] = copied
        return intact

    def _map(self) -> NDArray[np.uint8]:
        try:
            with self.path.open("rb") as file:
                if _size(file) != self.stamp[1]:
                    raise DamagedShardError(self.path, f"has {_size(file)} bytes, had {self.stamp[1]} when opened")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise_unreadable(self.path, error)
        return np.frombuffer(mapped, np.uint8, len(self) * self.row_nbytes, self.data_start)


def row_checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """xxh3 of each row of bytes: `(n, row_nbytes)` uint8, contiguous -> `(n,)` uint64."""
    view, step = rows.reshape(-1).data, rows.shape[1]
    digests = (xxh3_64_intdigest(view[i : i + step]) for i in range(0, len(view), step))
    return np.fromiter(digests, _CHECKSUM, len(rows))


def write_shard(
    folder: Path,
    *,
    trunk: str,
    ids: NDArray[np.uint8],
    checksums: NDArray[np.uint64],
    blocks: Sequence[NDArray[Any]],
    provenance: Mapping[str, Any],
) -> Path:
    """Write one shard durably, and return its path. The folder must exist.

    `ids` is `(n, 16)` uint8, `checksums` `(n,)` uint64; the blocks, `(k, *row_shape)` each and of one stored
    dtype, hold n rows together. Raises DiskSpaceError, CacheNotWritableError or StoreError.
    """
    metadata = {
        "format": FORMAT,
        "trunk": trunk,
        "checksums": "xxh3_64 of each row's bytes",
        "name": "blake3, 16 bytes, of header, ids and checksums",
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    header = _header(blocks[0].dtype.name, (len(ids), *blocks[0].shape[1:]), metadata)
    path = folder / (_digest(header, ids.tobytes(), checksums.tobytes()) + SUFFIX)
    write_atomically(path, [header, *blocks, checksums, ids])
    return path


def open_shard(path: Path) -> Shard:
    """Open a shard, and verify all of it but the rows.

    Raises DamagedShardError for anything that the writer cannot have written under this name,
    FileNotFoundError for a shard that has gone, StoreError for one that may not be read.
    """
    try:
        with path.open("rb") as file:
            return _parse(path, file)
    except OSError as error:
        raise_unreadable(path, error)


def damaged_rows(shard: Shard) -> int:
    """Read all rows, and count those that are not what was written. Raises as `Shard.features` does."""
    data = shard._map().reshape(len(shard), shard.row_nbytes)
    return int(np.count_nonzero(row_checksums(data) != shard.checksums))


def raise_unreadable(path: Path, error: OSError) -> NoReturn:
    """A file that has gone stays FileNotFoundError; one that the disk cannot give back is damaged."""
    if isinstance(error, FileNotFoundError):
        raise error
    if error.errno == errno.EIO:
        raise DamagedShardError(path, f"cannot be read ({error.strerror})") from error
    # Anything else (no permission, too many open files) says nothing against the shard.
    raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def _header(dtype_name: str, shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded so that the data begins at a multiple of 4096."""
    n = shape[0]
    features = math.prod(shape) * DTYPES[dtype_name].itemsize
    checksums = features + n * _CHECKSUM.itemsize
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


def _digest(header: bytes, ids: bytes, checksums: bytes) -> str:
    return blake3(header).update(ids).update(checksums).hexdigest(length=16)


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _parse(path: Path, file: BinaryIO) -> Shard:
    status = os.fstat(file.fileno())
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
    size = status.st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    # Everything is bounded by the file's size before it is read: a length is only a claim.
    if len(start) < 8 or length > MAX_HEADER_NBYTES or 8 + length > size:
        raise DamagedShardError(path, f"is cut short or has a wrong header length ({size} bytes)")
    header = start + file.read(length)
    try:
        entries = json.loads(header[8:].decode("ascii"))
        metadata, entry = entries["__metadata__"], entries["features"]
        found = metadata["format"]
        dtype_name, shape = _NAMES[entry["dtype"]], tuple(entry["shape"])
        provenance = json.loads(metadata["provenance"])
        trunk = metadata["trunk"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedShardError(path, "its header is not that of a feature shard") from error
    if found != FORMAT:
        raise DamagedShardError(path, f"its format is {found!r}, this version reads {FORMAT!r}")
    dimensions = all(type(one) is int and one > 0 for one in shape)
    if not dimensions or not 1 <= len(shape) <= MAX_DIMENSIONS or not isinstance(provenance, dict):
        raise DamagedShardError(path, "its header is not that of a feature shard")
    # One test for offsets, shapes, padding and stray fields: it is what the writer would write, or it is not.
    if _header(dtype_name, shape, metadata) != header:
        raise DamagedShardError(path, "its header is not what a writer of feature shards writes")
    n = shape[0]
    features = math.prod(shape) * DTYPES[dtype_name].itemsize
    expected = len(header) + features + n * (_CHECKSUM.itemsize + ID_NBYTES)
    if size != expected:
        raise DamagedShardError(path, f"has {size} bytes instead of {expected}")
    file.seek(len(header) + features)
    checksums, ids = file.read(n * _CHECKSUM.itemsize), file.read(n * ID_NBYTES)
    if _digest(header, ids, checksums) != path.name.removesuffix(SUFFIX):
        raise DamagedShardError(path, "its header, ids and checksums do not give its name")
    return Shard(
        path=path,
        trunk=trunk,
        dtype_name=dtype_name,
        row_shape=shape[1:],
        ids=np.frombuffer(ids, np.uint8).reshape(n, ID_NBYTES),
        checksums=np.frombuffer(checksums, _CHECKSUM),
        provenance=provenance,
        data_start=len(header),
        stamp=stamp,
    )
