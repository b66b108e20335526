"""What is learned of the shards behind a URL, by how many requests, and the index objects that spare most."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from faults.damage import Stored, store
from object_proxy import ObjectProxy

from headstart.common.errors import RemoteDamagedError, RemoteError, RemoteRefusedError
from headstart.common.objects import open_objects
from headstart.store import open_shard
from headstart.store.remote import catalogue as catalogues
from headstart.store.remote.catalogue import Catalogue, write_index
from headstart.store.remote.cover import cover
from headstart.store.remote.index import indexes_of, merged
from headstart.store.remote.notes import UNUSED_SECONDS, Notes
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore, digest_of
from headstart.store.remote.tails import SMALL, possible_rows, read_ids

pytestmark = pytest.mark.neutral


@pytest.fixture
def prefix(proxy: ObjectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("headstart.common.objects.RETRIES", 0)
    proxy.rule = lambda request: None
    proxy.forget()
    return f"s3://photos/{tmp_path.name}"


@pytest.fixture
def made(tmp_path: Path) -> Stored:
    return store(tmp_path / "made", "float16", (300,), [6, 4, 3], 0)


def pushed(url: str, stored: Stored) -> RemoteFolder:
    folder = RemoteStore(open_objects(url)).folder(stored.folder.key.digest)
    folder.objects.put(folder.description_name, stored.folder.path / "trunk.json")
    for path in stored.folder.path.glob("*.safetensors"):
        folder.objects.put(folder.shard_name(path.stem), path)
    return folder


def ids_of(stored: Stored) -> dict[str, np.ndarray]:
    return {path.stem: open_shard(path).ids for path in stored.folder.path.glob("*.safetensors")}


def learned(catalogue: Catalogue) -> dict[str, np.ndarray]:
    return {digest: ids for digest, (_, ids) in merged(catalogue.indexes()).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def stop(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("shape", "rows", "known", "requests"),
    [
        ((5,), 4, True, 1),  # small ones are read whole
        ((300,), 150, True, 1),  # by size alone
        ((300,), 150, False, 2),  # the header first
        ((20,), 2000, True, 2),  # 64 bytes a row: any header would do
    ],
)
def test_ids_are_the_end_of_the_file(proxy, prefix, tmp_path, shape, rows, known, requests):
    made = store(tmp_path / "made", "float16", shape, [rows], 0)
    folder = pushed(prefix, made)
    (entry,) = folder.shards()
    assert (entry.nbytes <= SMALL) == (rows == 4)
    proxy.forget()
    ids = read_ids(folder, entry, 2 * shape[0] if known else None)
    assert np.array_equal(ids, ids_of(made)[digest_of(entry)])
    assert len(proxy.requests) == requests


def test_what_a_size_can_mean():
    assert possible_rows(4096 + 150 * (600 + 24), 600) == [150]
    assert possible_rows(8192 + 150 * (600 + 24), 600) == [150]
    assert possible_rows(4096 + 2000 * 64, 40)[:2] == [2000, 1936]
    assert possible_rows(4096 + 624 * 150 + 1, 600) == possible_rows(4096, 600) == []


def test_what_is_no_shard_is_named(prefix, made):
    folder = pushed(prefix, made)
    other = RemoteStore(folder.objects).folder("f" * 32)
    (first, *_) = folder.shards()
    folder.objects.put(other.shard_name(digest_of(first)), folder.objects.get(first.name, limit=1 << 20))
    shard = bytearray(folder.objects.get(first.name, limit=1 << 20))
    shard[-1] ^= 1  # of an id: the name tells
    folder.objects.put(first.name, bytes(shard))
    with pytest.raises(RemoteDamagedError, match="do not give its name"):
        read_ids(folder, first, 600)
    for number, content in enumerate((b"", b"12345", b"\xff" * 9000, bytes(70_000))):
        folder.objects.put(other.shard_name(f"{number:032x}"), content)
    errors: list[Exception] = []
    catalogue = Catalogue(other, None, errors.append)
    list(catalogue.learn(None))
    assert learned(catalogue) == {} and len(errors) == 5
    assert all(isinstance(error, RemoteDamagedError) for error in errors)
    assert {str(error).partition(".safetensors: ")[0] for error in errors} == {
        folder.objects.url_of(entry.name).removesuffix(".safetensors") for entry in other.shards()
    }


def test_what_was_learned_once_is_not_asked_again(proxy, prefix, made, tmp_path):
    folder = pushed(prefix, made)
    notes = Notes(tmp_path / "own", folder.url, folder.key_digest)

    def look() -> tuple[dict[str, np.ndarray], int]:
        proxy.forget()
        catalogue = Catalogue(folder, notes, stop)
        list(catalogue.learn(600))
        return learned(catalogue), len(proxy.requests)

    for asked in (5, 1):
        found, requests = look()
        assert same(found, ids_of(made)) and requests == asked
    new = store(tmp_path / "made", "float16", (300,), [2], 7)
    assert new.folder.key != made.folder.key
    with made.folder.writer((300,), "float16", {}) as out:
        out.add(new.ids, new.rows)
    pushed(prefix, made)
    found, requests = look()
    assert same(found, ids_of(made)) and requests == 2
    for path in notes.folder.iterdir():  # damaged notes are none
        path.write_bytes(path.read_bytes()[:-1])
    found, requests = look()
    assert same(found, ids_of(made)) and requests == 6
    assert len(list(notes.folder.iterdir())) <= 4


def test_notes_are_merged(tmp_path):
    notes = Notes(tmp_path, "s3://bucket", "a" * 32)
    noted, everything = {}, {}
    for number in range(30):
        shard = {f"{number:032x}": (number + 1, np.full((2, 16), number, np.uint8))}
        everything |= shard
        noted = notes.keep_seen(shard, noted)
        assert merged(noted.values()).keys() == everything.keys()
        assert notes.read().keys() == noted.keys() and len(noted) <= 9
    assert same(
        {digest: ids for digest, (_, ids) in merged(notes.read().values()).items()},
        {digest: ids for digest, (_, ids) in everything.items()},
    )


def test_notes_that_nobody_reads_go_when_others_begin(tmp_path):
    shard = {"0" * 32: (3, np.zeros((2, 16), np.uint8))}
    of_key = {letter: Notes(tmp_path, f"s3://{letter}", letter * 32) for letter in "abc"}
    for letter in "ab":
        of_key[letter].keep_seen(shard, {})
    for letter in "ab":
        os.utime(of_key[letter].folder, (0, time.time() - UNUSED_SECONDS - 60))
    (of_key["a"].folder.parent / "mine.txt").write_text("not the store's")
    assert of_key["b"].read()
    of_key["c"].keep_seen(shard, {})
    assert not of_key["a"].folder.exists() and (of_key["a"].folder.parent / "mine.txt").exists()
    assert of_key["b"].read() and of_key["c"].read()


def test_notes_that_cannot_be_kept_cost_requests_only(prefix, made, tmp_path):
    folder = pushed(prefix, made)
    (tmp_path / "own").write_text("a file")
    catalogue = Catalogue(folder, Notes(tmp_path / "own", folder.url, folder.key_digest), stop)
    list(catalogue.learn(600))
    assert same(learned(catalogue), ids_of(made))


def test_an_index_object_spares_requests(proxy, prefix, made):
    folder = pushed(prefix, made)
    proxy.forget()
    (name,) = write_index(folder, {}, None, stop, 600)
    assert len(proxy.requests) == 2 + 3 + 1
    assert write_index(folder, {}, None, stop) == []
    proxy.forget()
    catalogue = Catalogue(folder, None, stop)
    assert list(catalogue.fetch_indexes()) == [digest_of(folder.objects.entry(name))]
    assert same(learned(catalogue), ids_of(made))
    assert len([request for request in proxy.requests if request.method == "GET"]) == 2


def test_what_the_writer_knows_is_not_read(proxy, prefix, made):
    folder = pushed(prefix, made)
    known = {
        digest: (folder.objects.entry(folder.shard_name(digest)).nbytes, ids)
        for digest, ids in ids_of(made).items()
    }
    proxy.forget()
    write_index(folder, known, None, stop)
    assert [request.method for request in proxy.requests] == ["GET", "GET", "PUT"]
    catalogue = Catalogue(folder, None, stop)
    catalogue.fetch_indexes()
    assert same(learned(catalogue), ids_of(made))


def test_many_index_objects_become_one(tmp_path):
    folder = RemoteStore(open_objects(tmp_path.as_uri())).folder("a" * 32)
    everything: dict[str, np.ndarray] = {}
    most = 0
    for number in range(12):
        extra = np.full((2, 16), number, np.uint8)
        everything[f"{number:032x}"] = extra
        folder.objects.put(folder.shard_name(f"{number:032x}"), b"a shard, for all that an index knows")
        write_index(folder, {f"{number:032x}": (36, extra)}, None, stop)
        catalogue = Catalogue(folder, None, stop)
        live = catalogue.fetch_indexes()
        assert same(learned(catalogue), everything)
        most = max(most, len(live))
    assert most == 8 and len(folder.indexes()) == 12, "nothing is deleted"


def test_notes_of_what_was_merged_are_dropped(tmp_path):
    folder = RemoteStore(open_objects((tmp_path / "there").as_uri())).folder("a" * 32)
    notes = Notes(tmp_path / "own", folder.url, folder.key_digest)
    for number in range(9):
        folder.objects.put(folder.shard_name(f"{number:032x}"), b"x")
        write_index(folder, {f"{number:032x}": (1, np.full((2, 16), number, np.uint8))}, notes, stop)
        catalogue = Catalogue(folder, notes, stop)
        catalogue.recall()
        catalogue.fetch_indexes()
        assert len(catalogue.indexes()) == len(list(notes.folder.iterdir())) == (number + 1 if number < 8 else 1)
    assert len(merged(catalogue.indexes())) == 9


def test_a_merged_one_forgets_what_has_gone(tmp_path):
    folder = RemoteStore(open_objects(tmp_path.as_uri())).folder("a" * 32)
    for number in range(9):
        folder.objects.put(folder.shard_name(f"{number:032x}"), b"x")
        if number == 8:
            folder.objects.delete(folder.shard_name(f"{0:032x}"))
        write_index(folder, {f"{number:032x}": (1, np.full((2, 16), number, np.uint8))}, None, stop)
    catalogue = Catalogue(folder, None, stop)
    (index,) = catalogue.fetch_indexes().values()
    assert index.digests == [f"{number:032x}" for number in range(1, 9)] and len(index.replaces) == 8


@pytest.mark.parametrize("fault", ["flip", "short", "gone", "500"])
def test_index_objects_are_never_needed(proxy, prefix, made, fault):
    folder = pushed(prefix, made)
    (name,) = write_index(folder, {}, None, stop)
    proxy.rule = lambda request: fault if name in request.path else None
    errors: list[Exception] = []
    catalogue = Catalogue(folder, None, errors.append)
    assert catalogue.fetch_indexes() == {}
    assert len(errors) == (fault != "gone") and all(name in str(error) for error in errors)
    list(catalogue.learn(600))
    assert same(learned(catalogue), ids_of(made))


def test_a_damaged_index_object_is_written_anew(tmp_path, made):
    folder = pushed((tmp_path / "there").as_uri(), made)
    (name,) = write_index(folder, {}, None, stop)
    folder.objects.put(name, b"damaged")
    errors: list[Exception] = []
    assert write_index(folder, {}, None, errors.append) == [name]
    assert [str(error) for error in errors] == [f"{folder.objects.url_of(name)}: its bytes do not give its name"]
    catalogue = Catalogue(folder, None, stop)
    assert len(catalogue.fetch_indexes()) == 1 and same(learned(catalogue), ids_of(made))


def test_a_server_that_is_away_is_not_asked_for_everything(proxy, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogues, "READERS", 1)
    folder = pushed(prefix, store(tmp_path / "made", "float16", (5,), [1] * 9, 0))
    proxy.forget()
    proxy.rule = lambda request: None if request.is_listing else "500"
    errors: list[Exception] = []
    with pytest.raises(RemoteError, match=r"features/.*\.safetensors: "):
        list(Catalogue(folder, None, errors.append).learn(10))
    assert len(errors) == 2 and len(proxy.requests) < 8
    proxy.rule = lambda request: "403"
    with pytest.raises(RemoteRefusedError):
        list(Catalogue(folder, None, stop).learn(10))


def test_few_shards_are_chosen(made, tmp_path):
    other = store(tmp_path / "other", "float16", (300,), [9], 3)
    held = ids_of(made) | {"f" * 32: np.concatenate([ids_of(other).popitem()[1], *ids_of(made).values()])}
    indexes = indexes_of("a" * 32, {digest: (1, ids) for digest, ids in held.items()})
    everything = np.concatenate(list(ids_of(made).values()))
    stranger = np.zeros((1, 16), np.uint8)
    chosen, found = cover(indexes, np.concatenate([everything, stranger]), lambda digest: True)
    assert [digest for digest, _ in chosen] == ["f" * 32] and found.tolist() == [True] * 13 + [False]
    chosen, found = cover(indexes, everything, lambda digest: digest != "f" * 32)
    assert {digest for digest, _ in chosen} == ids_of(made).keys() and found.all()
    chosen, found = cover(indexes, stranger, lambda digest: True)
    assert chosen == [] and not found.any()
    assert cover([], everything, lambda digest: True)[0] == []


def test_what_a_shard_adds_counts(made):
    """Of two that hold what is left, the one with fewer bytes."""
    ids = np.concatenate([np.arange(6, dtype=np.uint8)[:, None], np.zeros((6, 15), np.uint8)], axis=1)
    held = {"a" * 32: (900, ids[:4]), "b" * 32: (500, ids[[0, 1, 4]]), "c" * 32: (100, ids[4:5])}
    indexes = indexes_of("f" * 32, {digest: held[digest] for digest in ("a" * 32, "b" * 32)})
    chosen, found = cover(indexes, ids, lambda digest: True)
    assert chosen == [("a" * 32, 900), ("b" * 32, 500)] and found.tolist() == [True] * 5 + [False]
    chosen, _ = cover(indexes_of("f" * 32, held), ids, lambda digest: True)
    assert chosen == [("a" * 32, 900), ("c" * 32, 100)]
