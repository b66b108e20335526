"""Shards and descriptions as an enemy would make them: valid ones, changed where the structure is, under a name
that fits them, so that no early test saves the later ones from their input; and plain garbage.

Every case must end in a typed error or be right, judged by the safetensors library; in bounded memory and time.
Case i of a seed is always the same, so a failure can be repeated alone.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from blake3 import blake3
from faults.damage import several
from faults.workload import peak_nbytes

from headstart.common.errors import DamagedShardError, HeadstartError, StoreError
from headstart.store import FeatureStore, open_shard
from headstart.store.shard import FORMAT

MEMORY_NBYTES = 256 << 20  # above what the process holds before the first case
SECONDS_A_CASE = 10.0
PAGE = 4096

ITEMSIZE = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
NUMBERS = [
    0,
    1,
    2,
    3,
    16,
    -1,
    31,
    2**20,
    2**20 + 1,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64,
    10**40,
    10**4000,
    True,
    False,
]
NUMBERS += [0.0, 1.0, 1.5, -0.0, 1e308, float("nan"), float("inf")]
TEXTS = [
    "",
    "F16",
    "F32",
    "BF16",
    "U8",
    "U64",
    "F64",
    "I64",
    "f16",
    "features",
    "ids",
    "0" * 32,
    "Z" * 32,
    "\ud800",
]
TEXTS += ["\x00", "\x1b[2J", "é" * 50, "x" * 5000, "{}", "[]", "null", '{"a": NaN}', '{"a":1}', '{"a": 1, "a": 2}']
TEXTS += [
    '{"b": 1, "a": 2}',
    "{" * 50,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"backend": ["\\u001b"]}',
    FORMAT,
    FORMAT + "0",
]

Random = random.Random


def hostile_value(chance: Random, depth: int = 0) -> Any:
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5 or depth > 2:
        return None
    if kind == 6:
        return [hostile_value(chance, depth + 1) for _ in range(chance.choice([0, 1, 2, 3, 33]))]
    return {chance.choice(TEXTS): hostile_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def mutate(value: Any, chance: Random) -> Any:
    """The value with something, somewhere in it, changed, dropped, doubled, renamed or added."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        kind = chance.randrange(10)
        changed = dict(value)
        if kind < 6:
            changed[key] = mutate(value[key], chance)
        elif kind == 6:
            del changed[key]
        elif kind == 7:
            changed[chance.choice(TEXTS)] = changed.pop(key)
        elif kind == 8:
            changed[chance.choice([*TEXTS, *value])] = hostile_value(chance)
        else:
            items = list(value.items())
            chance.shuffle(items)
            changed = dict(items)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        kind = chance.randrange(5)
        if kind < 3:
            return [*value[:place], mutate(value[place], chance), *value[place + 1 :]]
        if kind == 3:
            return value[:place] + value[place + 1 :]
        return [*value[:place], value[place], *value[place:]]
    if type(value) is int and chance.random() < 0.7:
        return value + chance.choice([-1, 1, 2, 8, 4096, -4096, value, 2**32])
    if isinstance(value, str) and value.startswith("{") and chance.random() < 0.7:
        try:
            return json.dumps(mutate(json.loads(value), chance), sort_keys=chance.random() < 0.8)
        except ValueError:
            return value[:-1]
    return hostile_value(chance)


def header_text(entries: Any, chance: Random) -> bytes:
    """JSON as our writer spells it, mostly."""
    style = chance.randrange(12)
    try:
        if style == 0:
            text = json.dumps(entries, indent=1).encode()
        elif style == 1:
            text = json.dumps(entries, ensure_ascii=False).encode("utf-8", "surrogatepass")
        else:
            text = json.dumps(entries, separators=(",", ":")).encode()
    except ValueError:  # an integer of more digits than Python writes
        return b'{"features":{"dtype":"F16","shape":[' + b"9" * chance.choice([4000, 5000]) + b"]}}"
    if style == 2:
        text = damaged_text(text, chance)
    return text


def damaged_text(text: bytes, chance: Random) -> bytes:
    changed = bytearray(text)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(changed):
            changed[place] = chance.randrange(256)
        elif kind == 1:
            changed[place:place] = chance.choice(
                [b"[", b"{", b'"', b"\\", b"\x00", b"\xff", b",", b"1e999", b"[" * 3000]
            )
        elif kind == 2:
            del changed[place : place + chance.randrange(1, 40)]
        else:
            changed[place:place] = changed[place : place + chance.randrange(1, 200)]
    return bytes(changed)


def bomb(chance: Random) -> bytes:
    """Megabytes of JSON that become as many objects as possible: as many as a description may have, and more."""
    size = chance.choice([2, 16]) << 20
    unit = chance.choice([b"[],", b"{},", b'{"":0},', b"1.5,", b'"ab",', b"[[[[[[[[]]]]]]]],", b"-1,"])
    body = b"[" + unit * (size // len(unit)) + b"0]"
    if chance.random() < 0.5:
        return body
    # as a valid header's provenance: text within JSON
    quoted = json.dumps({"a": "@"}).replace("@", "\\" * 10) if chance.random() < 0.1 else body.decode()
    metadata = {"format": FORMAT, "trunk": "0" * 32, "provenance": '{"a": ' + quoted[: 1 << 20] + "}"}
    return json.dumps({"__metadata__": metadata, "features": {"dtype": "U8", "shape": [1]}}).encode()


def shard(valid: bytes, chance: Random) -> tuple[bytes, int, str]:
    """A hostile shard: its first bytes, the size it is to have, and its name without suffix."""
    kind = chance.random()
    if kind < 0.05:
        data = chance.randbytes(chance.choice([0, 1, 7, 8, 9, 100, 5000]))
        return data, len(data), f"{chance.getrandbits(128):032x}"
    if kind < 0.052:
        text = bomb(chance)
        data = len(text).to_bytes(8, "little") + text
        return data, len(data), f"{chance.getrandbits(128):032x}"
    length = int.from_bytes(valid[:8], "little")
    entries = json.loads(valid[8 : 8 + length])
    if chance.random() < 0.4:
        entries = coherent(entries["__metadata__"], chance)
        text = json.dumps(entries, separators=(",", ":")).encode()
    else:
        for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
            entries = mutate(entries, chance)
        text = header_text(entries, chance)
    if chance.random() < 0.9:
        text += b" " * (-(8 + len(text)) % PAGE)
    said = (
        len(text)
        if chance.random() < 0.95
        else chance.choice([0, len(text) - 1, len(text) + 1, 2**24, 2**63, 2**64 - 1])
    )
    header = said.to_bytes(8, "little") + text
    n, features = claims(entries)
    if n * 24 + features > 2 << 20:  # a file with a hole, as large as it says
        size = min(len(header) + features + 24 * n, 32 << 20)
        if len(header) + features + 24 * n == size and chance.random() < 0.5:
            return header, size, blake3(header + bytes(24 * n)).hexdigest(length=16)
        return header, size, f"{chance.getrandbits(128):032x}"
    rest = valid[8 + length :]
    if chance.random() < 0.7:
        rest = (rest + bytes(features + 24 * n))[: features + 24 * n]
        if n and features and chance.random() < 0.8:  # with checksums that are right
            from xxhash import xxh3_64_intdigest

            rows = [rest[i * (features // n) : (i + 1) * (features // n)] for i in range(n)]
            sums = b"".join(xxh3_64_intdigest(row).to_bytes(8, "little") for row in rows)
            rest = rest[:features] + sums + rest[features + 8 * n :]
    data = header + rest
    if chance.random() < 0.05:
        data = data[: chance.randrange(len(data) + 1)]
    if chance.random() < 0.05:
        data += chance.randbytes(chance.randrange(1, 100))
    ids = rest[features + 8 * n : features + 24 * n]
    name = blake3(header + ids + rest[features : features + 8 * n]).hexdigest(length=16)
    return data, len(data), name if chance.random() < 0.95 else f"{chance.getrandbits(128):032x}"


def coherent(metadata: dict[str, str], chance: Random) -> Any:
    """A header in which everything fits together, of a shard that may be absurd all the same."""
    tag = chance.choice(list(ITEMSIZE))
    rows = chance.choice([1, 1, 2, 5, 40, 1000, 2**20 if chance.random() < 0.02 else 3, 2**20 + 1, 2**31])
    dimensions = chance.choice([0, 1, 1, 2, 3, 31, 32, 64])
    shape = [rows, *(chance.choice([1, 1, 1, 2, 3, 2**10 if dimensions < 3 else 1]) for _ in range(dimensions))]
    features = math.prod(shape) * ITEMSIZE[tag]
    provenance = json.loads(metadata["provenance"])
    if chance.random() < 0.5:
        provenance = mutate(provenance, chance)
    try:
        text = json.dumps(provenance, sort_keys=chance.random() < 0.9)
    except ValueError:
        text = "{}"
    metadata = metadata | {"provenance": text}
    if chance.random() < 0.1:
        metadata["trunk"] = chance.choice(["f" * 32, "F" * 32, "../" * 5, ""])
    ends = [0, features, features + 8 * rows, features + 24 * rows]
    shapes = {"features": (tag, shape), "checksums": ("U64", [rows]), "ids": ("U8", [rows, 16])}
    tensors = {
        name: {"dtype": dtype, "shape": sizes, "data_offsets": ends[k : k + 2]}
        for k, (name, (dtype, sizes)) in enumerate(shapes.items())
    }
    return {"__metadata__": metadata, **tensors}


def claims(entries: Any) -> tuple[int, int]:
    """Rows, and bytes of features, that a header claims; zeros where it makes no sense."""
    try:
        shape = [int(side) for side in entries["features"]["shape"]]
        features = math.prod(shape) * ITEMSIZE[entries["features"]["dtype"]]
        if min(shape) < 0 or features > 1 << 40:
            return 0, 0
        return shape[0], features
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return 0, 0


def description(valid: bytes, chance: Random) -> bytes:
    """A hostile trunk.json."""
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.choice([0, 1, 100]))
    if kind < 0.055:
        return bomb(chance)
    if kind < 0.4:
        return damaged_text(valid, chance)
    content = mutate(json.loads(valid), chance)
    try:
        if chance.random() < 0.5 and isinstance(content, dict):  # with a checksum that is right
            signed = {key: value for key, value in content.items() if key != "checksum"}
            text = json.dumps(signed, sort_keys=True, separators=(",", ":"))
            content["checksum"] = blake3(text.encode()).hexdigest(length=16)
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8", "surrogatepass")
    except (ValueError, TypeError):
        return b"[" * 5000


class Judge:
    """Puts one case after the other into a store, and lets the store read it in every way it has."""

    def __init__(self, root: Path) -> None:
        self.stored = several(root)
        self.store = FeatureStore(root)
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.sound = [sorted(stored.folder.path.glob("*.safetensors"))[0].read_bytes() for stored in self.stored]
        self.described = [(stored.folder.path / "trunk.json").read_bytes() for stored in self.stored]

    def case(self, seed: int, number: int) -> None:
        chance = Random(f"{seed}-{number}")
        which = chance.randrange(len(self.stored))
        start = time.perf_counter()
        if chance.random() < 0.15:
            self._describe(which, description(self.described[which], chance))
        else:
            self._shard(which, *shard(self.sound[which], chance))
        self.slowest = max(self.slowest, time.perf_counter() - start)

    def _shard(self, which: int, data: bytes, size: int, name: str) -> None:
        stored = self.stored[which]
        path = stored.folder.path / f"{name}.safetensors"
        if path.exists():  # the valid one, unchanged
            self.outcomes["unchanged"] += 1
            return
        path.write_bytes(data)
        if size > len(data):
            os.truncate(path, size)
        try:
            try:
                found = open_shard(path)
            except DamagedShardError as error:
                self.outcomes[" ".join(word for word in error.reason.split()[:4] if word.isalpha())] += 1
                accepted = False
            else:
                self._judge(found, path.read_bytes())
                self.outcomes["accepted"] += 1
                accepted = found.key_digest == stored.folder.key.digest
            self._read_all(which, path, accepted)
        finally:
            path.unlink()

    def _judge(self, found: Any, data: bytes) -> None:
        """What was accepted is what an independent reader finds in the file."""
        tensors = dict(safetensors.deserialize(data))
        assert tensors.keys() == {"features", "checksums", "ids"}
        assert bytes(tensors["ids"]["data"]) == found.ids.tobytes()
        assert bytes(tensors["checksums"]["data"]) == found.checksums.tobytes()
        assert tensors["features"]["shape"] == [len(found), *found.row_shape]
        rows = np.empty((len(found), *found.row_shape), found.dtype)
        intact = found.read_into(rows, np.arange(len(found)), np.arange(len(found)))
        assert memoryview(tensors["features"]["data"]) == rows.reshape(-1).view(np.uint8).data
        assert found.damaged_rows()[0] == len(found) - np.count_nonzero(intact)
        assert isinstance(found.provenance, dict)
        json.dumps(found.provenance, allow_nan=False)

    def _read_all(self, which: int, path: Path, accepted: bool) -> None:
        """The rows that were there before are still read right, unless an error names the file."""
        stored = self.stored[which]
        folder = stored.fresh()
        self.quietly(folder.provenances)
        self.quietly(folder.ids)
        rows = self.quietly(lambda: folder.read(stored.ids))
        self.store.infos()
        if not accepted:
            assert rows is not None and np.array_equal(rows, stored.rows)
            digest = stored.folder.key.digest
            report = self.store.verify(prefix=digest)
            assert [damaged for damaged, _ in report.damaged] == [path]
            assert len(self.store.info(digest).damaged) == 1

    def _describe(self, which: int, data: bytes) -> None:
        stored = self.stored[which]
        path = stored.folder.path / "trunk.json"
        path.write_bytes(data)
        try:
            rows = self.quietly(lambda: stored.fresh().read(stored.ids))
            if rows is not None:  # unchanged, or another label under a checksum that fits it: a hint for people
                assert json.loads(data)["spec"] == json.loads(self.described[which])["spec"]
            self.quietly(lambda: stored.fresh().missing(stored.ids))
            damaged = self.store.verify(prefix=stored.folder.key.digest).damaged
            assert [one for one, _ in damaged] == ([path] if rows is None else [])
            self.store.infos()
            self.outcomes["trunk.json " + ("refused" if rows is None else "accepted")] += 1
        finally:
            path.write_bytes(self.described[which])

    @staticmethod
    def quietly(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except StoreError as error:
            assert isinstance(error, HeadstartError) and str(error).isprintable(), ascii(str(error))
            assert len(str(error)) < 2000
            return None


class _Hang(BaseException):
    pass


def fuzz(root: Path, seconds: float, seed: int, least: int = 0) -> dict[str, Any]:
    """Cases until the time is up and there were `least`, with a limit to this process's memory and to the seconds
    of each case."""
    judge = Judge(root)
    limit = _virtual_nbytes() + MEMORY_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def hang(*_: Any) -> None:
        raise _Hang(f"a case took more than {SECONDS_A_CASE} s")

    signal.signal(signal.SIGALRM, hang)
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until or number < least:
        signal.setitimer(signal.ITIMER_REAL, SECONDS_A_CASE)
        try:
            judge.case(seed, number)
        except BaseException as error:
            error.add_note(f"case {number} of seed {seed}")
            raise
        number += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {
        "cases": number,
        "slowest": judge.slowest,
        "peak": peak_nbytes(),
        "outcomes": dict(judge.outcomes.most_common()),
    }


def _virtual_nbytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
