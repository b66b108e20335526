"""The store as its users see it: what is missing, what is refused, what is listed, moved and deleted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from faults.users import as_nobody
from numpy.testing import assert_array_equal

from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    DiskSpaceError,
    FeatureOverflowError,
    SettingError,
    StoreError,
    UnknownNameError,
)
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard, trunk_key, writer
from headstart.store.files import make_folder
from headstart.store.gather import READERS
from headstart.store.shard import Shard

pytestmark = pytest.mark.neutral

N = 12


def folder_in(root: Path | str, dtype: str = "float16", size: int = 224) -> FeatureFolder:
    key = trunk_key(
        graph=["conv"],
        weights_digest="0" * 32,
        preprocess={"size": size},
        precision="float32",
        dtype=dtype,
        label={"model": "tiny", "cut": "conv"},
    )
    return FeatureStore(root).folder(key)


@pytest.fixture
def ids() -> list[str]:
    return array_to_ids(np.random.default_rng(0).integers(0, 256, (N, 16), dtype=np.uint8))


@pytest.fixture
def rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(N, 6)).astype(np.float32)


def fill(folder: FeatureFolder, ids: list[str], rows: np.ndarray[Any, Any], backend: str = "numpy") -> Path:
    """Write one shard, and return its path."""
    before = set(folder.path.glob("*.safetensors"))
    with folder.writer(rows.shape[1:], folder.dtype_name, {"backend": backend}) as out:
        out.add(ids, rows)
    (path,) = set(folder.path.glob("*.safetensors")) - before
    return path


def damage(path: Path, row: int = 0) -> None:
    """Flip a bit of one row."""
    shard = open_shard(path)
    data = bytearray(path.read_bytes())
    data[shard.data_start + row * shard.row_nbytes] ^= 1
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------- reading and missing


def test_opening_and_reading_create_nothing(tmp_path: Path, ids: list[str]) -> None:
    root = tmp_path / "cache"
    folder = folder_in(root)
    assert folder.missing([*ids, ids[0], ids[3]]) == ids  # unique, in the order of first occurrence
    assert folder.missing([]) == [] and folder.ids() == [] and folder.provenances() == []
    assert folder.row_shape is None
    assert folder.read([]).shape == (0,)
    with pytest.raises(StoreError, match="12 of 12 samples have no features"):
        folder.read(ids)
    folder.touch()
    folder.writer((6,), "float16", {}).close()
    assert FeatureStore(root).infos() == [] and FeatureStore(root).verify().shards == 0
    assert not root.exists()


def test_only_what_is_missing_is_missing(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path)
    fill(folder, ids[3:7], rows[3:7])
    assert folder.missing(ids[::-1]) == (ids[:3] + ids[7:])[::-1]
    with pytest.raises(StoreError, match=f"1 of 3 samples have no features in .*{ids[2]} among them"):
        folder.read(ids[2:5])


def test_rows_come_in_the_order_of_the_ids_across_shards(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path, "float32")
    for start in range(0, N, 4):
        fill(folder, ids[start : start + 4], rows[start : start + 4])
    order = np.random.default_rng(2).integers(0, N, 100)
    np.testing.assert_array_equal(folder.read([ids[i] for i in order]), rows[order])


def test_another_writers_rows_are_seen_at_once(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    reader = folder_in(tmp_path)
    shapes = [reader.row_shape]
    fill(folder_in(tmp_path), ids[:5], rows[:5])
    shapes.append(reader.row_shape)
    assert shapes == [None, (6,)]
    assert reader.missing(ids) == ids[5:]
    fill(folder_in(tmp_path), ids[5:], rows[5:])
    np.testing.assert_array_equal(reader.read(ids), rows.astype(np.float16))  # without asking what is missing


def test_ids_that_end_in_zero_bytes_are_told_apart(tmp_path: Path) -> None:
    ids = ["00" * 16, "01" + "00" * 15, "01" + "00" * 14 + "01", "0100" * 8, "ff" + "00" * 15]
    folder = folder_in(tmp_path, "uint8")
    values = np.arange(5, dtype=np.uint8)[:, None]
    fill(folder, ids[:4], values[:4])
    assert folder.missing(ids) == [ids[4]]
    np.testing.assert_array_equal(folder.read(ids[3::-1]), values[3::-1])


def test_a_vanished_shard_is_a_miss(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path)
    first = fill(folder, ids[:6], rows[:6])
    fill(folder, ids[6:], rows[6:])
    folder.read(ids)
    first.unlink()
    with pytest.raises(StoreError, match="6 of 12 samples have no features"):
        folder.read(ids)
    assert folder.missing(ids) == ids[:6]


def test_an_intact_copy_serves_for_a_damaged_one(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    one = fill(folder, ids[:8], rows[:8], "torch")
    two = fill(folder, ids[4:], rows[4:], "jax")
    expected = rows.astype(np.float16)
    for path, row in ((one, 5), (two, 2)):  # samples 5 and 6, each intact in the other shard
        damage(path, row)
    for reader in (folder, folder_in(tmp_path)):
        np.testing.assert_array_equal(reader.read(ids + ids[::-1]), np.concatenate([expected, expected[::-1]]))
    damage(one, 6)
    with pytest.raises(DamagedShardError):
        folder_in(tmp_path).read(ids)


def test_many_shards_are_read_by_threads(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of step, with one gone and one damaged, both of which another shard has as well; then without that."""
    folder = folder_in(tmp_path)
    paths = [fill(folder, ids[i : i + 1], rows[i : i + 1]) for i in range(N)]
    copies = fill(folder_in(tmp_path / "copies"), ids[4:8], rows[4:8])
    shutil.copy(copies, folder.path)
    names: set[str] = set()
    read = Shard.read_into

    def late(self: Shard, out: Any, places: Any, wanted: Any, past_cache: bool) -> Any:
        names.add(threading.current_thread().name)
        time.sleep(0.002 * (N - int(places[0])))  # the first to begin is the last to end
        return read(self, out, places, wanted, past_cache)

    monkeypatch.setattr(Shard, "read_into", late)
    order = [7, 0, 11, 4, 5, 2, 9, 1, 10, 6, 3, 8]
    expected = rows.astype(np.float16)[order]
    assert_array_equal(folder.read([ids[i] for i in order]), expected)
    assert len(names) == READERS
    paths[5].unlink()
    damage(paths[6])
    assert_array_equal(folder.read([ids[i] for i in order]), expected)
    (folder.path / copies.name).unlink()
    with pytest.raises(DamagedShardError, match=paths[6].name):
        folder.read([ids[i] for i in order if i != 5])


def test_a_damaged_shard_is_not_quietly_extracted_again(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    path = fill(folder, ids[:6], rows[:6])
    fill(folder, ids[6:], rows[6:])
    path.write_bytes(path.read_bytes()[:-1])
    reader = folder_in(tmp_path)
    assert reader.missing(ids[6:]) == []
    with pytest.raises(DamagedShardError, match="cache verify --repair") as caught:
        reader.missing(ids)
    assert caught.value.path == path


# ------------------------------------------------------------------------------------------------- writing


def test_shards_are_closed_by_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    monkeypatch.setattr(writer, "SHARD_NBYTES", 5 * 12 + 11)
    folder = folder_in(tmp_path)
    with folder.writer((6,), "float16", {}) as out:
        out.add(ids, rows)  # one call, three shards
        assert out.rows_written == 10
    assert out.rows_written == 12
    assert sorted(len(open_shard(path)) for path in folder.path.glob("*.safetensors")) == [2, 5, 5]
    np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))


def test_shards_are_closed_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    now = 0.0
    monkeypatch.setattr("headstart.store.writer.time.monotonic", lambda: now)
    out = folder_in(tmp_path).writer((6,), "float16", {})
    for i, (at, written) in enumerate([(0, 0), (59, 0), (60, 3), (100, 3), (159, 3), (160, 6)]):
        now = at
        out.add([ids[i]], rows[i : i + 1])
        assert out.rows_written == written


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 70000.0, "is 70000, more than float16 holds .65504.; store as bfloat16 or float32"),
        ("float16", -1e30, "is 1e.30, more than float16"),
        ("bfloat16", 3.4e38, "is 3.4e.38, more than bfloat16 holds .3.38953e.38."),
        ("float16", np.nan, "NaN or infinity as it computed them"),
        ("bfloat16", np.nan, "NaN or infinity as it computed them"),
        ("float32", np.nan, "NaN or infinity as it computed them"),
        ("float32", -np.inf, "NaN or infinity as it computed them"),
        ("float16", np.inf, "NaN or infinity as it computed them"),
    ],
)
def test_what_is_not_finite_is_refused_and_named(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any], dtype: str, value: float, message: str
) -> None:
    folder = folder_in(tmp_path, dtype)
    bad = rows[4:].copy()
    bad[3, 2] = value
    with pytest.raises(FeatureOverflowError, match=message) as caught, folder.writer((6,), dtype, {}) as out:
        out.add(ids[:4], rows[:4])
        out.add(ids[4:], bad)
    assert ids[7] in str(caught.value)
    assert folder.missing(ids) == ids[4:]  # the rows before it are kept, none of its batch


def test_the_largest_values_are_kept(tmp_path: Path, ids: list[str]) -> None:
    for dtype, largest in (("float16", 65504.0), ("bfloat16", 3.3895314e38), ("float32", 3.4028235e38)):
        folder = folder_in(tmp_path, dtype)
        rows = np.array([[largest, -largest, 0.0]], np.float32)
        fill(folder, ids[:1], rows)
        np.testing.assert_array_equal(folder.read(ids[:1]).astype(np.float32), rows)


@pytest.mark.parametrize(
    ("dtype", "given_dtype", "message"),
    [
        ("uint8", np.float32, "received features in float32; expected uint8"),
        ("float16", np.uint8, "received features in uint8; expected float16 or float32"),
        ("float32", np.float64, "received features in float64; expected float32"),
        ("float16", np.int64, "received features in int64"),
        ("float32", ">f4", "expected float32"),
    ],
)
def test_other_dtypes_are_refused(
    tmp_path: Path, ids: list[str], dtype: str, given_dtype: Any, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        folder_in(tmp_path, dtype).writer((6,), dtype, {}).add(ids, np.zeros((N, 6), given_dtype))


def test_settings_that_do_not_fit_are_refused(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path)
    with pytest.raises(SettingError, match="received feature dtype 'float32'; this trunk key says 'float16'"):
        folder.writer((6,), "float32", {})
    with pytest.raises(SettingError, match="shape"):
        folder.writer((6, 0), "float16", {})
    with pytest.raises(SettingError, match="JSON"):
        folder.writer((6,), "float16", {"backend": object()})
    with pytest.raises(SettingError, match=r"provenance is 1\.9 MiB of JSON, at most 64\.0 KiB"):
        folder.writer((6,), "float16", {"backend": "x" * 2_000_000})
    out = folder.writer((6,), "float16", {})
    with pytest.raises(SettingError, match=r"received 11 ids and rows of shape \(12, 6\); expected \(11, 6\)"):
        out.add(ids[:-1], rows)
    with pytest.raises(SettingError, match=r"rows of shape \(12, 3\)"):
        out.add(ids, rows[:, :3])
    fill(folder, ids, rows)
    with pytest.raises(SettingError, match=r"rows of shape \(3,\); .* holds rows of \(6,\)"):
        folder.writer((3,), "float16", {})


def test_a_large_provenance_moves_the_features_to_the_next_page(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    provenance = {"backend": "numpy", "note": "ü" * 5000}
    with folder.writer((6,), "float16", provenance) as out:
        out.add(ids, rows)
    (path,) = folder.path.glob("*.safetensors")
    assert open_shard(path).data_start > 4096 and open_shard(path).data_start % 4096 == 0
    np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))
    assert folder.provenances() == [provenance]


def test_bfloat16_rows_are_taken_as_they_are(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path, "bfloat16")
    fill(folder, ids, rows.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(folder.read(ids), rows.astype(ml_dtypes.bfloat16))


# -------------------------------------------------------------------------------- places that cannot be used


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_a_root_that_is_a_file_is_refused(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any], below: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = folder_in(tmp_path / "file" / below)
    assert folder.missing(ids) == ids
    with pytest.raises(CacheNotWritableError, match="Not a directory; set HEADSTART_CACHE"):
        folder.require_writable()
    with pytest.raises(CacheNotWritableError):
        fill(folder, ids, rows)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that even root cannot write")
def test_a_place_that_even_root_cannot_write_is_refused(ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in("/sys/kernel/headstart")
    with pytest.raises(CacheNotWritableError, match="HEADSTART_CACHE"):
        folder.require_writable()
    with pytest.raises(CacheNotWritableError, match="HEADSTART_CACHE"):
        fill(folder, ids, rows)


def test_a_read_only_store_is_readable(ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        root = Path(place) / "cache"
        path = fill(folder_in(root), ids, rows)
        folders = [path.parent, path.parent.parent, root]
        for one in folders:
            one.chmod(0o555)
        try:
            with as_nobody():
                folder = folder_in(root)
                assert folder.missing(ids) == []
                np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))
                assert FeatureStore(root).verify().rows == N
                assert len(FeatureStore(root).infos()) == 1
                with pytest.raises(CacheNotWritableError, match=r"Permission denied.*HEADSTART_CACHE_SHARED"):
                    folder.require_writable()
                with pytest.raises(CacheNotWritableError, match="Permission denied"):
                    fill(folder, ids, rows)
                with pytest.raises(CacheNotWritableError, match="cannot delete"):
                    FeatureStore(root).gc(FeatureStore(root).gc_plan(0))
            assert not (path.parent / "last_used").exists()
        finally:
            for one in folders:
                one.chmod(0o755)


def test_an_unreadable_shard_is_not_called_damaged(ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        path = fill(folder_in(place), ids, rows)
        path.chmod(0)
        with as_nobody(), pytest.raises(StoreError, match="Permission denied; have its owner let this") as caught:
            folder_in(place).read(ids)
        assert not isinstance(caught.value, DamagedShardError)


def test_where_the_system_makes_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/proc says "No such file or directory", and other words than these send nobody to the variable."""

    def refused(path: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr("headstart.store.files.os.mkdir", refused)
    with pytest.raises(CacheNotWritableError, match="no folder can be made there; set HEADSTART_CACHE to a"):
        make_folder(tmp_path / "features")


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return usage(10, 5, 3 * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    folder = folder_in(tmp_path / "not" / "yet")
    folder.require_space(3 * 2**20)
    with pytest.raises(DiskSpaceError, match=r"need 1\.5 GiB, and 3\.0 MiB are free"):
        folder.require_space(3 * 2**29)
    assert set(asked) == {tmp_path}
    assert not (tmp_path / "not").exists()


def test_the_root_comes_from_argument_environment_or_user_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "env"))
    assert FeatureStore().root == tmp_path / "env"
    assert FeatureStore(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.setenv("HEADSTART_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "headstart" in FeatureStore().root.parts


@pytest.mark.each  # where it is installed
def test_importing_is_light() -> None:
    heavy = ("platformdirs", "safetensors", "rich", "torch", "tensorflow", "keras", "jax", "PIL", "sklearn")
    program = f"import headstart.features, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------- listing and upkeep


def test_listing(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path)
    fill(folder, ids[:8], rows[:8], "torch")
    fill(folder, ids[4:], rows[4:], "jax")
    (tmp_path / "features" / "notes").mkdir()
    (tmp_path / "features" / ("0" * 32)).mkdir()  # nothing in it
    feature_store = FeatureStore(tmp_path)
    (info,) = feature_store.infos()
    assert (info.key, info.path) == (folder.key.digest, folder.path)
    assert (info.rows, info.shards, info.made_by, info.damaged) == (12, 2, "jax, torch", ())
    assert info.label == {"model": "tiny", "cut": "conv"} and info.spec == folder.key.spec
    assert info.nbytes == sum(path.stat().st_size for path in folder.path.iterdir())
    assert [provenance["backend"] for provenance in folder.provenances()] == ["jax", "torch"]
    assert feature_store.info(info.key[:5]) == info
    for unknown in ("zz", ""):
        with pytest.raises(UnknownNameError, match=info.key):
            feature_store.info(unknown)


def test_an_ambiguous_prefix_lists_the_candidates(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    keys: list[str] = []
    for size in range(17):  # of 17 keys, two begin with the same digit
        folder = folder_in(tmp_path, size=size)
        fill(folder, ids[:1], rows[:1])
        keys.append(folder.key.digest)
    prefix = next(key[0] for key in keys if sum(other[0] == key[0] for other in keys) > 1)
    with pytest.raises(SettingError, match="beginning of several") as caught:
        FeatureStore(tmp_path).info(prefix)
    assert all(key in str(caught.value) for key in keys if key[0] == prefix)


def test_verify_and_repair(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path)
    paths = [fill(folder, ids[i : i + 4], rows[i : i + 4]) for i in (0, 4, 8)]
    other = folder_in(tmp_path, size=1)
    fill(other, ids, rows)
    feature_store = FeatureStore(tmp_path)
    report = feature_store.verify()
    assert (report.shards, report.rows, report.damaged, report.set_aside) == (4, 24, [], [])

    damage(paths[0], 2)
    paths[1].write_bytes(paths[1].read_bytes()[:4200])
    (other.path / "trunk.json").write_text("{}")
    report = feature_store.verify()
    assert (report.shards, report.rows, report.set_aside) == (2, 16, [])
    reasons = dict(report.damaged)
    assert set(reasons) == {paths[0], paths[1], other.path / "trunk.json"}
    assert reasons[paths[0]] == "1 of 4 rows differ from their checksums"
    assert all(path.exists() for path in reasons)  # nothing was moved unasked
    assert {path for path, _ in feature_store.verify(prefix=folder.key.digest[:8]).damaged} == set(paths[:2])
    assert len(feature_store.info(folder.key.digest).damaged) == 1  # a listing reads no rows

    report = feature_store.verify(repair=True)
    assert sorted(report.set_aside) == sorted(path.parent / "damaged" / path.name for path in reasons)
    assert all(path.exists() for path in report.set_aside) and not any(path.exists() for path in reasons)
    assert feature_store.verify().damaged == []
    reader = folder_in(tmp_path)
    assert reader.missing(ids) == ids[:8]
    fill(reader, ids[:8], rows[:8])
    np.testing.assert_array_equal(reader.read(ids), rows.astype(np.float16))
    np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))  # opened before the damage
    np.testing.assert_array_equal(other.read(ids), rows.astype(np.float16))
    fill(folder_in(tmp_path, size=1), ids[:1], rows[:1])  # the next writer describes the trunk again
    assert feature_store.info(other.key.digest).spec == other.key.spec


def test_what_was_set_aside_is_kept_when_it_happens_again(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    for times in range(1, 4):
        path = fill(folder, ids, rows)
        damage(path)
        FeatureStore(tmp_path).verify(repair=True)
        assert len(list((folder.path / "damaged").iterdir())) == times


def test_the_same_shard_written_again_heals_the_damaged_one(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    path = fill(folder, ids, rows)
    damage(path)
    path.rename(path.with_name("kept"))
    assert fill(folder, ids, rows) == path  # same rows, same name
    np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))


def aged(folder: FeatureFolder, seconds: float) -> None:
    for path in folder.path.iterdir():
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


def test_gc_previews_and_evicts_the_least_recently_used(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    feature_store = FeatureStore(tmp_path)
    folders = [folder_in(tmp_path, size=size) for size in range(3)]
    for folder, age in zip(folders, (5000, 9000, 7000), strict=True):
        fill(folder, ids, rows)
        aged(folder, age)
    sizes = {info.key: info.nbytes for info in feature_store.infos()}
    total = sum(sizes.values())
    assert not feature_store.gc_plan(total) and list(feature_store.gc_plan(total)) == []
    expected = [folders[i].key.digest for i in (1, 2, 0)]
    assert [info.key for info in feature_store.gc_plan(total - 1)] == expected[:1]
    assert [info.key for info in feature_store.gc_plan(0)] == expected
    assert feature_store.gc_plan(0).nbytes == total

    folders[1].read(ids)  # reading is use
    plan = feature_store.gc_plan(total - 1)
    assert [info.key for info in plan] == [folders[2].key.digest]
    assert len(feature_store.infos()) == 3  # a preview deletes nothing
    (folders[2].path / "notes.txt").write_text("mine")
    assert feature_store.gc(plan) == plan.nbytes == sizes[folders[2].key.digest]
    assert {info.key for info in feature_store.infos()} == {folders[0].key.digest, folders[1].key.digest}
    assert [path.name for path in folders[2].path.iterdir()] == ["notes.txt"]  # not ours, not deleted
    np.testing.assert_array_equal(folders[1].read(ids), rows.astype(np.float16))
    assert feature_store.gc(plan) == 0  # once more does no harm
    with pytest.raises(SettingError, match="-1"):
        feature_store.gc_plan(-1)


def test_gc_spares_what_was_used_since_the_preview(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    feature_store = FeatureStore(tmp_path)
    folder = folder_in(tmp_path)
    fill(folder, ids, rows)
    aged(folder, 1000)
    plan = feature_store.gc_plan(0)
    folder.touch()
    assert feature_store.gc(plan) == 0
    assert folder.missing(ids) == []


def test_gc_of_leftovers(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    feature_store = FeatureStore(tmp_path)
    folder = folder_in(tmp_path)
    fill(folder, ids, rows)
    old, young = folder.path / ".partial-old", folder.path / ".partial-young"
    for path, hours in ((old, 25), (young, 23)):
        path.write_bytes(b"x" * 1000)
        at = path.stat().st_mtime - 3600 * hours
        os.utime(path, (at, at))
    assert folder_in(tmp_path).missing(ids) == []
    plan = feature_store.gc_plan(10**9)
    assert plan and list(plan) == [] and plan.leftovers == (old,) and plan.nbytes == 1000
    assert old.exists()
    assert feature_store.gc(plan) == 1000
    assert not old.exists() and young.exists()
    assert feature_store.gc(feature_store.gc_plan(0)) > 1000
    assert not folder.path.exists()


def test_gc_spares_what_a_living_writer_has_begun(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    path = fill(folder, ids, rows)
    begun = folder.path / ".partial-begun"
    begun.write_bytes(b"x" * 1000)
    feature_store = FeatureStore(tmp_path)
    feature_store.gc(feature_store.gc_plan(0))
    assert not path.exists() and begun.exists()


def test_gc_deletes_nothing_outside_the_store(tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]) -> None:
    folder = folder_in(tmp_path / "one")
    path = fill(folder, ids, rows)
    plan = FeatureStore(tmp_path / "one").gc_plan(0)
    with pytest.raises(SettingError, match="no features of the store"):
        FeatureStore(tmp_path / "two").gc(plan)
    assert path.exists()


def test_a_folder_named_like_a_shard_is_ignored(
    tmp_path: Path, ids: list[str], rows: np.ndarray[Any, Any]
) -> None:
    folder = folder_in(tmp_path)
    fill(folder, ids, rows)
    (folder.path / f"{'0' * 32}.safetensors").mkdir()
    np.testing.assert_array_equal(folder.read(ids), rows.astype(np.float16))
