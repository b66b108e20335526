"""Stores made to do harm: every kind of file under the store's names, headers that lie, values that only reading
bears. Typed errors, bounded memory and time, nothing touched outside. `tox -e faults` fuzzes for ten minutes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.campaigns import campaign
from faults.damage import Stored, store

from headstart.common.errors import DamagedShardError, SettingError, StoreError
from headstart.store import FeatureStore, open_shard, shard
from headstart.store.shard import MAX_FEATURES_NBYTES, MAX_ROWS, write_shard

pytestmark = pytest.mark.neutral


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return store(tmp_path / "cache", "float16", (5,), [6], 0)


def test_fuzzed_shards_and_descriptions(tmp_path: Path) -> None:
    found = campaign("fuzz", tmp_path, seconds=1, seed=0, least=220)
    assert found["cases"] >= 220 and len(found["outcomes"]) > 8


def made(
    folder: Path, provenance: Any = None, key_digest: str = "0" * 32, shape: tuple[int, ...] = (2, 3)
) -> Path:
    """A shard as our own writer makes it, of whatever it is given."""
    folder.mkdir(exist_ok=True)
    return write_shard(
        folder,
        key_digest=key_digest,
        ids=np.zeros((shape[0], 16), np.uint8),
        checksums=np.zeros(shape[0], np.uint64),
        blocks=[np.zeros(shape, np.uint8)],
        provenance=provenance or {},
    )


@pytest.mark.parametrize(
    "key_digest", ["", "0" * 31, "F" * 32, "../../etc", "\x1b[2J" + "0" * 28, None, 5, ["0" * 32]]
)
def test_a_key_that_is_no_digest_is_refused(tmp_path: Path, key_digest: Any) -> None:
    with pytest.raises(DamagedShardError):
        open_shard(made(tmp_path, key_digest=key_digest))


def test_numbers_with_too_many_digits_are_refused(tmp_path: Path) -> None:
    """Python refuses to write them, with an error of its own, when their product is to be compared."""
    path = made(tmp_path)
    data = path.read_bytes()
    huge = "9" * 4000
    text = data[8:4096].replace(b"[2,3]", f"[{huge},{huge}]".encode(), 1).rstrip(b" ")
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(10_000))
    with pytest.raises(DamagedShardError, match="not that of a feature shard"):
        open_shard(path)


def test_nesting_as_deep_as_only_reading_bears_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    entries = json.loads(path.read_bytes()[8:4096])
    for depth in range(800, 1020):
        entries["__metadata__"]["provenance"] = '{"a": ' * depth + "1" + "}" * depth
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % 4096)
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2 * (3 + 8 + 16)))
        with pytest.raises(DamagedShardError):
            open_shard(path)


def test_what_a_header_claims_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, shape=(8, 4))
    for limit in ("MAX_ROWS", "MAX_FEATURES_NBYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(shard, limit, 7)
            with pytest.raises(DamagedShardError, match="claims 8 rows and 32 bytes of features"):
                open_shard(path)
    assert MAX_ROWS * 24 < 32 << 20  # ids and checksums, all that an open shard keeps


def test_rows_that_no_shard_may_hold_are_refused_before_they_are_computed(stored: Stored) -> None:
    with pytest.raises(SettingError, match=r"takes 1\.0 GiB, at most 1\.0 GiB can be stored; cut where"):
        FeatureStore(stored.folder.path / "other").folder(stored.folder.key).writer(
            (MAX_FEATURES_NBYTES // 2 + 1,), "float16", {}
        )


def test_rows_beyond_all_memory_are_a_typed_error(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.folder.missing(stored.ids)
    monkeypatch.setattr(np, "empty", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(StoreError, match=r"6 rows of \(5,\) from .* take 60 B, more than there is memory for"):
        stored.folder.read(stored.ids)


@pytest.mark.parametrize("provenance", [{1: "a", 10: "b", 9: "c"}, {"a": (1, 2)}, {"a": {"b": 1.5, "ü": None}}])
def test_what_our_own_writer_takes_is_never_refused(stored: Stored, provenance: Any) -> None:
    folder = stored.folder
    with folder.writer((5,), "float16", provenance) as out:
        out.add(["ab" * 16], np.ones((1, 5), np.float16))
    assert json.loads(json.dumps(provenance)) in folder.provenances()
    assert stored.verify() == []


def test_damage_that_is_found_keeps_nothing_of_the_file(stored: Stored) -> None:
    """An error's traceback would hold on to what was parsed, for as long as the reader lives."""
    next(stored.folder.path.glob("*.safetensors")).write_bytes(b"x" * 100)
    reader = stored.fresh()
    with pytest.raises(DamagedShardError):
        reader.missing(stored.ids)
    assert reader._snapshot is not None
    (error,) = reader._snapshot.damaged
    assert error.__cause__ is None and error.__context__ is None


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedShardError("a/b", "is gone")))
    assert str(error) == str(DamagedShardError("a/b", "is gone")) and error.path == Path("a/b")


# What somebody may put under a shard's name, or in the place of trunk.json.
STRANGERS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path),
    "link to a folder": lambda path: path.symlink_to(path.parent),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", ["f" * 32 + ".safetensors", "trunk.json"])
def test_files_that_are_none(stored: Stored, stranger: str, name: str) -> None:
    path = stored.folder.path / name
    path.unlink(missing_ok=True)
    STRANGERS[stranger](path)
    absent = stranger == "link to nothing" or (name != "trunk.json" and stranger in ("pipe", "folder"))
    assert [damaged for damaged, _ in stored.verify()] == ([] if absent else [path])
    assert FeatureStore(stored.folder.path.parent.parent).infos()[0].rows == 6
    if absent or name != "trunk.json":
        stored.assert_sound(stored.fresh())
    else:
        with pytest.raises(StoreError, match=r"trunk\.json"):
            stored.fresh().read(stored.ids)
    report = FeatureStore(stored.folder.path.parent.parent).verify(repair=True)
    assert len(report.set_aside) == (0 if absent else 1)
    stored.assert_sound(stored.fresh())


def test_a_description_beyond_all_size_is_refused(stored: Stored) -> None:
    path = stored.folder.path / "trunk.json"
    os.truncate(path, 1 << 40)  # a hole
    with pytest.raises(StoreError, match="not as it was written"):
        stored.fresh().read(stored.ids)
    assert [damaged for damaged, _ in stored.verify()] == [path]


def test_links_lead_nowhere_where_files_are_deleted_moved_or_marked(stored: Stored, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = [outside / name for name in ("model.safetensors", "trunk.json", "last_used", ".partial-x", "x")]
    for path in kept:
        path.write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in kept}
    root = stored.folder.path.parent.parent
    (stored.folder.path.parent / ("e" * 32)).symlink_to(outside)
    for name in ("damaged", "checked"):
        (stored.folder.path / name).symlink_to(outside)
    (stored.folder.path / "last_used").symlink_to(outside / "last_used")
    (stored.folder.path / ("d" * 32 + ".safetensors")).write_text("damaged")
    cache = FeatureStore(root)
    stored.folder.touch()
    stored.folder.mark_checked("a" * 32, "b")
    assert not stored.folder.is_checked("a" * 32, "b")
    report = cache.verify(repair=True)
    assert not report.set_aside and all("is a link" in reason for _, reason in report.not_moved)
    assert len(report.not_moved) == 3
    plan = cache.gc_plan(0)
    assert [info.path for info in plan] == [stored.folder.path]
    cache.gc(plan)
    with pytest.raises(SettingError, match="no features of the store"):
        cache.gc([info for info in cache.infos() if info.key == "e" * 32])
    assert {path: path.stat().st_mtime_ns for path in outside.iterdir()} == before
    assert all(path.read_text() == "mine" for path in kept)
