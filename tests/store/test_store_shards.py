"""Shards: what is read is what was written, or a typed error. Bits are flipped and files cut everywhere, briefly
here and at length in `tox -e faults`."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from blake3 import blake3
from faults import damage
from faults.campaigns import campaign
from faults.workload import system
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from headstart.common import files
from headstart.common.errors import DamagedShardError, StoreError
from headstart.store import FeatureFolder, FeatureStore, TrunkKey, array_to_ids, open_shard, trunk_key
from headstart.store.shard import Shard

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

pytestmark = pytest.mark.neutral

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "uint8": np.uint8}


def key_of(dtype: str = "float16", size: int = 224) -> TrunkKey:
    label = {"model": "tiny é", "cut": "pool"}
    graph = [{"name": "pool", "op": "pool", "eps": 1e-05}]
    return trunk_key(
        graph=graph,
        weights_digest="0" * 32,
        preprocess={"size": size},
        precision="float32",
        dtype=dtype,
        label=label,
    )


def samples(
    n: int, row_shape: tuple[int, ...], dtype: str, seed: int = 0
) -> tuple[list[str], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    rows: np.ndarray[Any, Any] = rng.integers(0, 256, (n, *row_shape)).astype(np.float32)
    if dtype != "uint8":
        rows = rows / np.float32(7) - np.float32(9)
    return array_to_ids(rng.integers(0, 256, (n, 16), dtype=np.uint8)), rows.astype(DTYPES[dtype])


def write(root: Path, dtype: str, ids: list[str], rows: np.ndarray[Any, Any]) -> FeatureFolder:
    folder = FeatureStore(root).folder(key_of(dtype))
    with folder.writer(rows.shape[1:], dtype, {"backend": "numpy", "device": "cpu"}) as writer:
        writer.add(ids, rows)
    assert writer.rows_written == len(ids)
    return folder


def only_shard(folder: FeatureFolder) -> Path:
    (path,) = folder.path.glob("*.safetensors")
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), row_shape=array_shapes(min_dims=0, max_dims=4, max_side=7), seed=st.integers(0, 9))
def test_round_trip(dtype: str, n: int, row_shape: tuple[int, ...], seed: int) -> None:
    ids, rows = samples(n, row_shape, dtype, seed)
    with tempfile.TemporaryDirectory() as root:
        folder = write(Path(root), dtype, ids, rows)
        shuffled = np.random.default_rng(seed).integers(0, n, 2 * n)
        for reader in (folder, FeatureStore(root).folder(folder.key)):
            read = reader.read([ids[i] for i in shuffled])
            assert read.dtype == DTYPES[dtype] and read.flags.writeable
            np.testing.assert_array_equal(read, rows[shuffled])
            assert reader.missing(ids) == []
            assert reader.row_shape == row_shape
            assert reader.ids() == sorted(ids)
        path = only_shard(folder)
        shard = open_shard(path)
        assert shard.data_start % 4096 == 0 and shard.damaged_rows() == (0, 0)

        tensors = safetensors.numpy.load_file(path)
        assert list(tensors) and set(tensors) == {"features", "checksums", "ids"}
        np.testing.assert_array_equal(tensors["features"], rows)
        assert array_to_ids(tensors["ids"]) == ids
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
        assert metadata["trunk"] == folder.key.digest
        assert json.loads(metadata["provenance"]) == {"backend": "numpy", "device": "cpu"}
        begin = path.read_bytes().find(rows.tobytes(), shard.data_start)
        assert begin == shard.data_start


@pytest.mark.parametrize("row_shape", [(), (3,), (700,), (5000,), (20_000,)], ids=str)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), past_cache=st.booleans())
def test_any_rows_come_to_any_places(row_shape: tuple[int, ...], seed: int, past_cache: bool) -> None:
    """Neighbours, gaps narrow and wide, rows twice; more of them than are read at once."""
    chance = np.random.default_rng(seed)
    n = min(2000, 8_000_000 // max(1, *row_shape, 1))
    ids, rows = samples(n, row_shape, "uint8", seed)
    with tempfile.TemporaryDirectory() as root:
        shard = open_shard(only_shard(write(Path(root), "uint8", ids, rows)))
        wanted = np.sort(chance.integers(0, n, chance.integers(1, n)))
        if seed % 3:
            wanted = np.arange(n)[seed :: seed % 3]
        places = chance.permutation(len(wanted)) if seed % 2 else np.arange(len(wanted))
        out = np.empty((len(wanted), *row_shape), np.uint8)
        assert shard.read_into(out, places, wanted, past_cache).all()
        np.testing.assert_array_equal(out[places], rows[wanted])


def test_reading_goes_on_where_the_system_gives_less_or_has_no_preadv(tmp_path: Path) -> None:
    ids, rows = samples(300, (5, 4), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    chosen = np.sort(np.random.default_rng(0).choice(300, 100, replace=False))

    def short(handle: int, views: list[memoryview], start: int) -> int:
        return os.preadv(handle, [views[0][:7]], start) if start % 3 else os.preadv(handle, views[:2], start)

    without = {name: value for name, value in vars(os).items() if name != "preadv"}
    for other in (vars(os) | {"preadv": short}, without):
        with system(SimpleNamespace(**other)):
            reader = FeatureStore(tmp_path).folder(folder.key)
            np.testing.assert_array_equal(reader.read([ids[i] for i in chosen]), rows[chosen])
            assert FeatureStore(tmp_path).verify().rows == 300


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="nothing is read past the cache here")
@pytest.mark.parametrize("how", ["less", "ended", "refused", "not allowed", "not there"])
def test_reading_past_the_cache_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where the system gives less than is asked for, or will not have it: a row in the middle of a page at both
    ends, and the last one, behind which the file ends within a page."""
    ids, rows = samples(3000, (5, 7), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    asked: list[bool] = []

    def preadv(handle: int, views: list[memoryview], start: int) -> int:
        asked.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT))
        if asked[-1] and how == "refused":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if how == "ended" and len(asked) > 1:
            return 0
        count = os.preadv(handle, views, start)
        return min(count, 5000) if how in ("less", "ended") else count

    def set_flags(handle: int, command: int, *flags: int) -> int:
        if flags and flags[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fcntl.fcntl(handle, command, *flags)

    if how == "not allowed":
        numbers = {name: getattr(fcntl, name) for name in ("F_GETFL", "F_SETFL")}
        monkeypatch.setattr(files, "fcntl", SimpleNamespace(fcntl=set_flags, **numbers))
    if how == "not there":
        monkeypatch.setattr(files, "fcntl", None)
    (path,) = folder.path.glob("*.safetensors")
    shard, out = open_shard(path), np.empty_like(rows[1:])
    with system(SimpleNamespace(**(vars(os) | {"preadv": preadv}))):
        if how == "ended":
            with pytest.raises(DamagedShardError, match="ends at byte"):
                shard.read_into(out, np.arange(2999), np.arange(1, 3000), True)
            return
        assert shard.read_into(out, np.arange(2999), np.arange(1, 3000), True).all()
    np.testing.assert_array_equal(out, rows[1:])
    assert asked[0] == (how in ("less", "refused")) and asked[-1] == (how == "less")
    assert (len(asked) > 20) == (how == "less")


def test_a_share_of_the_shards_stays_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones, whichever rows are asked for."""
    ids, rows = samples(40, (3,), "float16")
    for start in range(0, 40, 10):
        folder = write(tmp_path, "float16", ids[start : start + 10], rows[start : start + 10])
    past: dict[Path, bool] = {}
    read_into = Shard.read_into

    def noting(shard: Shard, out: Any, places: Any, numbers: Any, past_cache: bool = False) -> Any:
        assert past.setdefault(shard.path, past_cache) == past_cache
        return read_into(shard, out, places, numbers, past_cache)

    monkeypatch.setattr(Shard, "read_into", noting)
    for share, expected in ((1.0, 0), (0.5, 2), (0.7, 2), (0.0, 4)):
        past.clear()
        for chosen in (slice(None), slice(7, 31), slice(33, 40)):
            np.testing.assert_array_equal(folder.read(ids[chosen], cached_share=share), rows[chosen])
        assert (len(past), sum(past.values())) == (4, expected)


def test_reading_takes_memory_for_the_rows_and_little_more(tmp_path: Path) -> None:
    ids, rows = samples(4000, (4096,), "uint8")
    folder = write(tmp_path, "uint8", ids, rows)
    folder.missing(ids)
    tracemalloc.start()
    try:
        out = folder.read(ids[::7])
        assert tracemalloc.get_traced_memory()[1] < out.nbytes + (4 << 20)
        assert FeatureStore(tmp_path).verify().rows == 4000
        assert tracemalloc.get_traced_memory()[1] < out.nbytes + (8 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("given_dtype", ["float32", "bfloat16"])
def test_rows_are_cast_and_copied(tmp_path: Path, given_dtype: str) -> None:
    ids, rows = samples(9, (2, 3), given_dtype)
    given_rows = rows.copy()
    folder = FeatureStore(tmp_path).folder(key_of("bfloat16"))
    with folder.writer((2, 3), "bfloat16", {}) as writer:
        writer.add(ids, given_rows)
        given_rows[:] = 0  # the writer has its own copy
    np.testing.assert_array_equal(folder.read(ids), rows.astype(ml_dtypes.bfloat16))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    flips = damage.flip_bits(tmp_path, 400, 1)
    assert min(flips.values()) > 10 and len(flips) == 7


def test_sound_stores_are_found_sound(tmp_path: Path) -> None:
    assert damage.open_clean(tmp_path, 80, 1) == 80


def test_shards_that_are_cut_are_refused_before_opening_after_it_and_while_they_are_read(tmp_path: Path) -> None:
    assert damage.truncate(tmp_path, 160, 1).total() == 160


def test_a_shard_that_shrinks_and_grows_does_not_kill_its_reader(tmp_path: Path) -> None:
    found = campaign("shrink", tmp_path, times=60, seed=1)
    assert found["right"] and found["refused"]


def test_only_the_rows_that_are_damaged_are_lost(tmp_path: Path) -> None:
    ids, rows = samples(30, (5, 4), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    path = only_shard(folder)
    start = open_shard(path).data_start
    damage.flip(path, 8 * (start + 7 * 40))
    reader = FeatureStore(tmp_path).folder(folder.key)
    np.testing.assert_array_equal(reader.read(ids[:7] + ids[8:]), np.delete(rows, 7, axis=0))
    with pytest.raises(DamagedShardError, match="1 of 2 rows read differ"):
        reader.read(ids[6:8])


def test_lengthened_shards_are_refused(tmp_path: Path) -> None:
    ids, rows = samples(30, (5, 4), "float16")
    path = only_shard(write(tmp_path, "float16", ids, rows))
    data = path.read_bytes()
    for more in (b"\0", b"\0" * 4096, data):
        path.write_bytes(data + more)
        with pytest.raises(DamagedShardError, match="bytes instead of"):
            open_shard(path)


def test_no_writer_starts_beside_a_damaged_trunk_json(tmp_path: Path) -> None:
    ids, rows = samples(3, (2,), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    damage.flip(folder.path / "trunk.json", 800)
    with pytest.raises(StoreError, match=r"trunk\.json"):
        FeatureStore(tmp_path).folder(folder.key).writer((2,), "float16", {})


def test_a_shard_under_another_name_or_in_another_folder_is_damaged(tmp_path: Path) -> None:
    ids, rows = samples(4, (2,), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    path = only_shard(folder)
    with pytest.raises(DamagedShardError, match="do not give its name"):
        open_shard(path.rename(path.with_name("0" * 32 + ".safetensors")))
    path.with_name("0" * 32 + ".safetensors").rename(path)
    stranger = FeatureStore(tmp_path).folder(key_of(size=225))
    stranger.path.mkdir()
    (stranger.path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DamagedShardError, match=f"belongs to the trunk key {folder.key.digest}"):
        stranger.read(ids)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"__metadata__": 1, "features": 2}',
        b'{"__metadata__": {"format": "headstart-features/2", "trunk": "", "provenance": "{}"}, '
        b'"features": {"dtype": "F16", "shape": [1]}}',
        b'{"__metadata__": {"format": "headstart-features/1", "trunk": "", "provenance": "{}"}, '
        b'"features": {"dtype": "F16", "shape": [99999999999999999999, 99999999999999999999]}}',
        b'{"__metadata__": {"format": "headstart-features/1", "trunk": "", "provenance": "{}"}, '
        b'"features": {"dtype": "F16", "shape": [-1, 2]}}',
        b'{"__metadata__": {"format": "headstart-features/1", "trunk": "", "provenance": "{}"}, '
        b'"features": {"dtype": [], "shape": [0]}}',
    ],
)
def test_hostile_headers_give_a_typed_error(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / f"{'0' * 32}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DamagedShardError):
        open_shard(path)
    path.write_bytes((1 << 62).to_bytes(8, "little") + header)
    with pytest.raises(DamagedShardError, match=r"wrong header length|ends at byte"):
        open_shard(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"[0,160]", b"[8,160]"),  # other offsets
        (b"[0,160]", b"[0, 60]"),
        (b'"shape":[4,5,4]', b'"shape":[5,4,4]'),  # more rows than ids
        (b'"shape":[4,16]', b'"shape":[2,32]'),
        (b'"dtype":"U64"', b'"dtype":"I64"'),
        (b'"checksums":{', b'"checksum_":{'),
        (b"    ", b"   x"),  # padding
    ],
)
def test_a_forged_header_is_refused_although_the_name_fits(tmp_path: Path, old: bytes, new: bytes) -> None:
    ids, rows = samples(4, (5, 4), "float16")
    path = only_shard(write(tmp_path, "float16", ids, rows))
    data = path.read_bytes()
    forged = data.replace(old, new, 1)
    assert forged != data
    header, identities = forged[:4096], forged[4096 + rows.nbytes + 32 :]
    checksums = forged[4096 + rows.nbytes : 4096 + rows.nbytes + 32]
    name = blake3(header + identities + checksums).hexdigest(length=16)
    forged_path = path.with_name(f"{name}.safetensors")
    forged_path.write_bytes(forged)
    with pytest.raises(DamagedShardError, match="its header"):
        open_shard(forged_path)


def test_an_edited_trunk_json_is_refused_even_if_consistent(tmp_path: Path) -> None:
    ids, rows = samples(3, (2,), "float16")
    folder = write(tmp_path, "float16", ids, rows)
    other = FeatureStore(tmp_path).folder(key_of(size=225))
    with other.writer((2,), "float16", {}) as writer:
        writer.add(ids, rows)
    (folder.path / "trunk.json").write_bytes((other.path / "trunk.json").read_bytes())
    with pytest.raises(
        StoreError, match=f"describes the trunk {other.key.digest}, its folder is {folder.key.digest}"
    ):
        FeatureStore(tmp_path).folder(folder.key).read(ids)
