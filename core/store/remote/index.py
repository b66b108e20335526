"""Which ids are in which shards of one trunk key: an index object behind a URL, or a note in the own cache.

Invariant: an index is derived from shards, and never authoritative: what it says and what is not so is a miss.
Its name is the digest of its bytes, tested whenever it is read, and nothing is allocated that these limits do not
allow.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.store.ids import ID_NBYTES, array_to_ids, ids_to_array, sort_keys
from headstart.store.shard import MAX_ROWS
from headstart.store.upkeep import DIGEST

FORMAT = "headstart-index/1"
MAX_INDEX_ROWS = 1 << 24
MAX_INDEX_SHARDS = 1 << 20
MAX_REPLACED = 1 << 12
MAX_HEADER_NBYTES = (1 << 10) + 40 * MAX_REPLACED
NUMBER = np.dtype("<u8")
MAX_INDEX_NBYTES = 8 + MAX_HEADER_NBYTES + MAX_INDEX_ROWS * ID_NBYTES + MAX_INDEX_SHARDS * (ID_NBYTES + 16)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Shards of one trunk key, and their ids."""

    key_digest: str
    names: NDArray[np.uint8]
    """`(k, 16)`: the shards' digests, ascending"""
    nbytes: NDArray[np.uint64]
    """`(k,)`: of the shards' files"""
    rows: NDArray[np.uint64]
    """`(k,)`: 1 or more"""
    ids: NDArray[np.uint8]
    """`(n, 16)`: the shards' ids, one shard's after another's"""
    replaces: tuple[str, ...] = ()
    """digests of the index objects that were merged into this one, sorted"""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digests(self) -> list[str]:
        """The shards' digests, as 32 hex digits each."""
        return array_to_ids(self.names)

    @cached_property
    def shard_of(self) -> NDArray[np.int64]:
        """`(n,)`: the shard of each id, by its place in `names`"""
        return np.repeat(np.arange(len(self.names)), self.rows.astype(np.int64))

    def shards(self) -> Iterator[tuple[str, int, NDArray[np.uint8]]]:
        """Digest, bytes and ids `(rows, 16)` of each shard."""
        ends = np.cumsum(self.rows).tolist()
        for digest, nbytes, start, end in zip(self.digests, self.nbytes.tolist(), [0, *ends], ends, strict=False):
            yield digest, nbytes, self.ids[start:end]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        parts: list[NDArray[Any]] = [self.names, self.nbytes.astype(NUMBER), self.rows.astype(NUMBER), self.ids]
        head = _header(self.key_digest, len(self.names), len(self.ids), self.replaces)
        return b"".join([head, *(np.ascontiguousarray(part).view(np.uint8).data for part in parts)])


def index_digest(content: bytes) -> str:
    """What an index is named by: the digest of all its bytes."""
    return blake3(content).hexdigest(length=ID_NBYTES)


def parse_index(content: bytes, digest: str, key_digest: str) -> ShardIndex:
    """The index that these bytes are. ValueError, with what is wrong, where no writer of indexes writes them under
    this name for this trunk key."""
    if index_digest(content) != digest:
        raise ValueError("its bytes do not give its name")
    stranger = "it is no index of shards"
    length = int.from_bytes(content[:8], "little")
    if length > MAX_HEADER_NBYTES or 8 + length > len(content):
        raise ValueError(stranger)
    head, data = content[: 8 + length], memoryview(content)[8 + length :]
    try:
        entries = json.loads(head[8:].decode("ascii"))
        replaces = tuple(json.loads(entries["__metadata__"]["replaces"]))
        (k, _), (n, _) = entries["names"]["shape"], entries["ids"]["shape"]
        same = type(k) is type(n) is int and k >= 0 <= n and _header(key_digest, k, n, replaces) == head
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(stranger) from None
    if not same or len(data) != k * (ID_NBYTES + 2 * NUMBER.itemsize) + n * ID_NBYTES:
        raise ValueError(stranger)
    if k > MAX_INDEX_SHARDS or n > MAX_INDEX_ROWS or not all(map(_is_digest, replaces)):
        raise ValueError(stranger)
    ends = np.cumsum([k * ID_NBYTES, k * NUMBER.itemsize, k * NUMBER.itemsize]).tolist()
    names = np.frombuffer(data[: ends[0]], np.uint8).reshape(k, ID_NBYTES)
    rows = np.frombuffer(data[ends[1] : ends[2]], NUMBER)
    if not k or not (rows.min() >= 1 and rows.max() <= MAX_ROWS and rows.sum() == n):
        raise ValueError("its shards have other numbers of rows than it has ids")
    keys = sort_keys(names)
    if not (keys[:-1] < keys[1:]).all():
        raise ValueError("its shards are not in the order of their names")
    return ShardIndex(
        key_digest=key_digest,
        names=names,
        nbytes=np.frombuffer(data[ends[0] : ends[1]], NUMBER),
        rows=rows,
        ids=np.frombuffer(data[ends[2] :], np.uint8).reshape(n, ID_NBYTES),
        replaces=replaces,
    )


def indexes_of(
    key_digest: str, shards: Mapping[str, tuple[int, NDArray[np.uint8]]], replaces: Collection[str] = ()
) -> list[ShardIndex]:
    """Indexes of these shards, digest -> (bytes, ids `(rows, 16)`): one, or as many as the limits ask for. Equal
    shards give equal indexes. The last one says what they replace together, so it is to be written last."""
    parts: list[list[str]] = []
    rows = 0
    for digest in sorted(shards):
        count = len(shards[digest][1])
        if not parts or rows + count > MAX_INDEX_ROWS or len(parts[-1]) == MAX_INDEX_SHARDS:
            parts.append([])
            rows = 0
        parts[-1].append(digest)
        rows += count
    return [
        ShardIndex(
            key_digest=key_digest,
            names=ids_to_array(part),
            nbytes=np.array([shards[digest][0] for digest in part], NUMBER),
            rows=np.array([len(shards[digest][1]) for digest in part], NUMBER),
            ids=np.concatenate([shards[digest][1] for digest in part]),
            replaces=tuple(sorted(replaces))[:MAX_REPLACED] if part is parts[-1] else (),
        )
        for part in parts
    ]


def merged(indexes: Iterable[ShardIndex]) -> dict[str, tuple[int, NDArray[np.uint8]]]:
    """What these indexes say together: a shard's digest -> (bytes, ids)."""
    of_each = chain.from_iterable(index.shards() for index in indexes)
    return {digest: (nbytes, ids) for digest, nbytes, ids in of_each}


def _header(key_digest: str, k: int, n: int, replaces: Iterable[str]) -> bytes:
    metadata = {"format": FORMAT, "trunk": key_digest, "replaces": json.dumps(list(replaces))}
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, tag, shape, nbytes in (
        ("names", "U8", [k, ID_NBYTES], k * ID_NBYTES),
        ("nbytes", "U64", [k], k * NUMBER.itemsize),
        ("rows", "U64", [k], k * NUMBER.itemsize),
        ("ids", "U8", [n, ID_NBYTES], n * ID_NBYTES),
    ):
        entries[name] = {"dtype": tag, "shape": shape, "data_offsets": [start, start + nbytes]}
        start += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # safetensors allows trailing spaces
    return len(text).to_bytes(8, "little") + text


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and DIGEST.fullmatch(text) is not None
