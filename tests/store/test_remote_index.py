"""Indexes of a remote store's shards: what is written is read, and nothing else is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load

from headstart.common.errors import DamagedDescriptionError
from headstart.common.objects import open_objects
from headstart.store.remote import index as indexes
from headstart.store.remote.index import ShardIndex, index_digest, indexes_of, merged, parse_index
from headstart.store.remote.remote_store import RemoteStore, digest_of

pytestmark = pytest.mark.neutral

KEY = "0123456789abcdef" * 2


def shards(count: int, seed: int = 0) -> dict[str, tuple[int, np.ndarray]]:
    chance = np.random.default_rng(seed)
    sizes = chance.integers(1, 9, count)
    return {
        chance.bytes(16).hex(): (int(size) * 1000, chance.integers(0, 256, (size, 16), np.uint8)) for size in sizes
    }


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[name][0] == other[name][0] and np.array_equal(one[name][1], other[name][1]) for name in one
    )


def test_what_is_written_is_read():
    held = shards(7)
    (index,) = indexes_of(KEY, held, {"b" * 32, "a" * 32})
    content = index.to_bytes()
    read = parse_index(content, index_digest(content), KEY)
    assert same(merged([read]), held)
    assert read.replaces == ("a" * 32, "b" * 32)
    assert read.digests == sorted(held)
    assert [held[read.digests[k]][1][0].tobytes() for k in range(7)] == [
        read.ids[read.shard_of == k][0].tobytes() for k in range(7)
    ]
    arrays = load(content)  # by the format's own library
    assert np.array_equal(arrays["ids"], read.ids) and arrays["rows"].sum() == len(read.ids)
    (again,) = indexes_of(KEY, dict(reversed(held.items())), ["a" * 32, "b" * 32])
    assert again.to_bytes() == content, "equal shards give equal bytes"
    assert same(merged([read, *indexes_of(KEY, shards(3, 1))]), held | shards(3, 1))


def test_limits_divide_it_and_the_last_part_says_what_it_replaces(monkeypatch):
    monkeypatch.setattr(indexes, "MAX_INDEX_ROWS", 12)
    held = shards(9)
    parts = indexes_of(KEY, held, ["a" * 32])
    assert len(parts) > 2 and all(len(part.ids) <= 12 for part in parts)
    assert same(merged(parts), held)
    assert [part.replaces for part in parts] == [()] * (len(parts) - 1) + [("a" * 32,)]


def damage(content: bytes, what: str) -> bytes:
    """Under a right digest, as a stranger may write it."""
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    k = head["names"]["shape"][0]
    if what == "order":
        return content[: 8 + length] + data[16:32] + data[:16] + data[32:]
    if what == "twice":
        return content[: 8 + length] + data[:16] + data[:16] + data[32:]
    if what == "rows":
        rows = np.frombuffer(data[24 * k : 32 * k], "<u8") + np.eye(1, k, dtype=np.uint64)[0]
        return content[: 8 + length] + data[: 24 * k] + rows.tobytes() + data[32 * k :]
    if what == "short":
        return content[:-16]
    if what == "length":
        return (1 << 40).to_bytes(8, "little") + content[8:]
    if what == "no JSON":
        return content[:8] + b"[" * length + data
    if what == "empty":
        return b""
    head["names"]["shape"][0] = {"float": float(k), "bool": True, "huge": 1 << 60, "text": "7", "less": -k}[what]
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "what",
    ["order", "twice", "rows", "short", "length", "no JSON", "empty", "float", "bool", "huge", "text", "less"],
)
def test_what_no_writer_writes_is_refused(what):
    (index,) = indexes_of(KEY, shards(7))
    content = damage(index.to_bytes(), what)
    with pytest.raises(ValueError, match=r"shards|order"):
        parse_index(content, index_digest(content), KEY)


def test_every_bit_counts():
    (index,) = indexes_of(KEY, shards(2))
    content = index.to_bytes()
    digest = index_digest(content)
    for place in range(0, 8 * len(content), 37):
        wrong = bytearray(content)
        wrong[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="do not give its name"):
            parse_index(bytes(wrong), digest, KEY)
    with pytest.raises(ValueError, match="no index"):
        parse_index(content, digest, "f" * 32)
    assert isinstance(parse_index(content, digest, KEY), ShardIndex)


def test_what_lies_behind_a_url(tmp_path):
    objects = open_objects(tmp_path.as_uri())
    store = RemoteStore(objects)
    assert store.keys() == [] and store.folder(KEY).shards() == store.folder(KEY).indexes() == []
    assert store.folder(KEY).description() is None
    folder = store.folder(KEY)
    for digest in ("b" * 32, "a" * 32):
        objects.put(folder.shard_name(digest), b"shard")
        objects.put(folder.index_name(digest), b"index")
    for stray in ("features/notes/one", f"features/{KEY}/one.safetensors", f"indexes/{KEY}/.partial-1"):
        objects.put(stray, b"x")
    objects.put(folder.shard_name("c" * 32).replace(KEY, f"{KEY}/damaged"), b"x")
    assert store.keys() == [KEY]
    assert [digest_of(entry) for entry in folder.shards()] == ["a" * 32, "b" * 32]
    assert {digest_of(entry) for entry in folder.indexes()} == {"a" * 32, "b" * 32}
    objects.put(folder.description_name, b"{}")
    with pytest.raises(DamagedDescriptionError, match=rf"features/{KEY}/trunk.json is not as it was written"):
        folder.description()
