"""Damage on purpose: flipped bits, cut files, and the opposite, stores that nobody touched. Each function asserts
what must hold for every single case, and returns how many there were."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from faults.workload import Array, system

from headstart.common.errors import DamagedShardError, StoreError
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard, trunk_key

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "uint8": np.uint8}


@dataclass(frozen=True)
class Stored:
    """One trunk's features, and what they must be."""

    folder: FeatureFolder
    ids: list[str]
    rows: Array

    def fresh(self) -> FeatureFolder:
        """As another process would open it."""
        return FeatureFolder(self.folder.path, self.folder.key)

    def assert_sound(self, folder: FeatureFolder) -> None:
        assert folder.missing(self.ids) == []
        assert np.array_equal(folder.read(self.ids), self.rows)

    def verify(self) -> list[tuple[Path, str]]:
        root = self.folder.path.parent.parent
        return FeatureStore(root).verify(prefix=self.folder.key.digest).damaged


def store(root: Path, dtype: str, row_shape: tuple[int, ...], shards: list[int], seed: int) -> Stored:
    """A trunk with shards of so many rows each."""
    chance = np.random.default_rng(seed)
    n = sum(shards)
    key = trunk_key(
        graph=[{"name": "pool", "eps": 1e-05, "shape": list(row_shape)}],
        weights_digest=f"{seed:032x}",
        preprocess={"size": 224},
        precision="float32",
        dtype=dtype,
        label={"model": "tiny \u00e9", "cut": "pool"},
    )
    folder = FeatureStore(root).folder(key)
    ids = array_to_ids(chance.integers(0, 256, (n, 16), dtype=np.uint8))
    rows = chance.integers(0, 256, (n, *row_shape)).astype(DTYPES[dtype])
    start = 0
    for size in shards:
        with folder.writer(row_shape, dtype, {"backend": "numpy", "device": "cpu"}) as out:
            out.add(ids[start : start + size], rows[start : start + size])
        start += size
    return Stored(folder, ids, rows)


def several(root: Path) -> list[Stored]:
    """Trunks of every dtype, with rows of one byte to some hundred."""
    return [
        store(root, "float16", (5, 4), [30, 7], 1),
        store(root, "bfloat16", (3,), [1, 11], 2),
        store(root, "uint8", (), [40], 3),
        store(root, "float32", (2, 3, 4), [9, 9, 9], 4),
    ]


def regions(path: Path) -> dict[str, tuple[int, int]]:
    """The parts of a file, by their bytes."""
    size = path.stat().st_size
    if path.suffix == ".json":
        return {"trunk.json": (0, size)}
    shard = open_shard(path)
    text = 8 + len(path.read_bytes()[8 : shard.data_start].rstrip(b" "))
    checksums = shard.data_start + len(shard) * shard.row_nbytes
    bounds = [0, 8, text, shard.data_start, checksums, checksums + 8 * len(shard), size]
    names = ["header's length", "header", "header's padding", "features", "checksums", "ids"]
    return {name: (bounds[i], bounds[i + 1]) for i, name in enumerate(names)}


def flip_bits(root: Path, count: int, seed: int) -> Counter[str]:
    """Flip one bit at a time, anywhere, with the file's times put back: no row of the damaged part is used, and
    `verify` names that file and no other."""
    chance = np.random.default_rng(seed)
    trunks = several(root)
    places = [
        (stored, path, name, bounds)
        for stored in trunks
        for path in sorted(stored.folder.path.iterdir())
        if path.suffix in (".json", ".safetensors")
        for name, bounds in regions(path).items()
    ]
    before = [(stored, stored.fresh()) for stored in trunks]
    for stored, reader in before:
        stored.assert_sound(reader)
    readers = {id(stored): reader for stored, reader in before}
    flips = Counter[str]()
    for _ in range(count):
        stored, path, name, (begin, end) = places[chance.integers(len(places))]
        bit = int(chance.integers(8 * begin, 8 * end))
        flip(path, bit)
        _assert_noticed(stored, path)
        try:  # opened before the damage: what it has read was verified then, what it reads now is verified now
            assert np.array_equal(readers[id(stored)].read(stored.ids), stored.rows)
        except StoreError as error:
            assert str(path) in str(error)
        flip(path, bit)
        flips[name] += 1
    for stored, reader in before:
        stored.assert_sound(reader)
        stored.assert_sound(stored.fresh())
        assert stored.verify() == []
    return flips


def flip(path: Path, bit: int) -> None:
    """Flip a bit, and leave no trace in the file's times."""
    status = path.stat()
    with path.open("r+b", 0) as file:
        file.seek(bit // 8)
        value = file.read(1)[0] ^ (1 << (bit % 8))
        file.seek(bit // 8)
        file.write(bytes([value]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _assert_noticed(stored: Stored, path: Path) -> None:
    expected = DamagedShardError if path.suffix == ".safetensors" else StoreError
    try:
        stored.fresh().read(stored.ids)
    except expected as error:
        assert str(path) in str(error)
    else:
        raise AssertionError(f"{path} was read as if it were sound")
    try:
        assert stored.fresh().missing(stored.ids) == []  # else its rows would be computed again, unasked
    except expected as error:
        assert str(path) in str(error)
    assert [damaged for damaged, _ in stored.verify()] == [path]


def open_clean(root: Path, count: int, seed: int) -> int:
    """Open sound stores of all kinds, and find nothing wrong with them."""
    chance = np.random.default_rng(seed)
    stored: list[Stored] = []
    for i in range(count):
        if i % 20 == 0:
            shape = tuple(chance.integers(1, 6, chance.integers(0, 5)).tolist())
            sizes = chance.integers(1, 60, chance.integers(1, 5)).tolist()
            stored.append(store(root, list(DTYPES)[i // 20 % 4], shape, sizes, i))
        one = stored[chance.integers(len(stored))]
        one.assert_sound(one.fresh())
        assert one.verify() == []
    return count


def truncate(root: Path, count: int, seed: int) -> Counter[str]:
    """Cut shards: before they are opened, after, and while they are read."""
    chance = np.random.default_rng(seed)
    stored = store(root, "float16", (32, 32), [600], 0)  # 2 KiB a row: several reads
    path = next(stored.folder.path.glob("*.safetensors"))
    data = path.read_bytes()
    status = path.stat()
    moments = ("before it is opened", "after it was opened", "while it is read", "while it is verified")
    cuts = Counter[str]()
    calls = {moment: _count_reads(stored, moment) for moment in moments[2:]}
    edges = [0, 1, 7, 8, 9, 4095, 4096, 4097, len(data) - 1]
    for i in range(count):
        moment = moments[i % 4]
        length = edges[i // 4 % len(edges)] if chance.random() < 0.2 else int(chance.integers(0, len(data)))
        reader = stored.fresh()
        if moment == moments[1]:
            reader.missing(stored.ids)
        if i % 4 < 2:
            os.truncate(path, length)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            _assert_noticed(stored, path)
            try:
                reader.read(stored.ids)
                raise AssertionError("a shard that was cut was read as if it were whole")
            except DamagedShardError as error:
                assert error.path == path
        else:
            cutting = _Cutting(path, length, int(chance.integers(1, calls[moment] + 1)))
            with system(cutting):
                if moment == moments[2]:
                    try:  # all that was wanted may have been read before the cut
                        assert np.array_equal(reader.read(stored.ids), stored.rows)
                    except DamagedShardError as error:
                        assert error.path == path
                else:
                    damaged = stored.verify()
                    assert [one for one, _ in damaged] in ([], [path])
            assert cutting.cut
        cuts[moment] += 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    stored.assert_sound(stored.fresh())
    return cuts


class _Cutting(SimpleNamespace):
    """Stands for `os`: cuts a file just before its Nth read."""

    def __init__(self, path: Path, length: int, at: int) -> None:
        super().__init__(**vars(os))
        self.cut, self.reads = False, 0

        def preadv(*args: Any) -> int:
            self.reads += 1
            if self.reads == at:
                self.cut = True
                os.truncate(path, length)
            return os.preadv(*args)

        self.preadv = preadv


def _count_reads(stored: Stored, moment: str) -> int:
    counting = _Cutting(Path(), 0, 0)
    with system(counting):
        if moment == "while it is read":
            stored.fresh().read(stored.ids)
        else:
            stored.verify()
    return int(counting.reads)
