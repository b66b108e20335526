"""Shared caches behind URLs: what is needed comes into the own cache, once and verified, and nothing that is wrong
there stops anybody."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.damage import Stored, store
from object_proxy import ObjectProxy, Request

from headstart.cli import main as cli
from headstart.common import files
from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    DiskSpaceError,
    SettingError,
    StoreWarning,
)
from headstart.common.objects import Objects, open_objects
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, ids_to_array, open_shard
from headstart.store.feature_store import split_shared
from headstart.store.moving.pull import pull
from headstart.store.remote import shared as remotes
from headstart.store.remote import transfer
from headstart.store.remote.catalogue import write_index
from headstart.store.remote.index import index_digest, indexes_of
from headstart.store.remote.looking import verify
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore

pytestmark = pytest.mark.neutral

NEW = array_to_ids(np.full((1, 16), 7, np.uint8))


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "_away", set())
    monkeypatch.setattr(remotes, "_said", set())
    monkeypatch.setattr("headstart.common.objects.RETRIES", 0)


@pytest.fixture
def proxy(proxy: ObjectProxy) -> ObjectProxy:
    """Without what tests before have told it."""
    proxy.rule = lambda request: None
    proxy.forget()
    return proxy


@pytest.fixture
def made(tmp_path: Path) -> Stored:
    """A team's cache with shards of 6, 4 and 3 rows."""
    return store(tmp_path / "made", "float16", (5,), [6, 4, 3], 0)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own"


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, made: Stored, tmp_path: Path) -> str:
    return bucket(made, request) if request.param == "s3" else root_of(made).as_uri()


@pytest.fixture
def s3(request: pytest.FixtureRequest, made: Stored, proxy: ObjectProxy) -> str:
    there = bucket(made, request)
    proxy.forget()
    return there


def bucket(made: Stored, request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("proxy")
    url = f"s3://photos/{root_of(made).parent.name}"
    folder = remote(url, made)
    for path in made.folder.path.iterdir():
        folder.objects.put(f"features/{made.folder.key.digest}/{path.name}", path)
    return url


def root_of(stored: Stored) -> Path:
    return stored.folder.path.parent.parent


def remote(url: str, stored: Stored) -> RemoteFolder:
    return RemoteStore(open_objects(url)).folder(stored.folder.key.digest)


def reader(url: str, stored: Stored, own: Path, shape: tuple[int, ...] | None = (5,)) -> FeatureFolder:
    return FeatureStore(own, shared=[url]).folder(stored.folder.key, shape)


def shard_of(stored: Stored, rows: int) -> str:
    """The digest of the shard with so many rows."""
    return next(p.stem for p in stored.folder.path.glob("*.safetensors") if len(open_shard(p)) == rows)


def came(own: Path) -> list[int]:
    """The rows of the shards in the own cache."""
    return sorted(len(open_shard(path)) for path in own.glob("features/*/*.safetensors"))


# ----------------------------------------------------------------------------------------- what is needed comes


def test_what_is_needed_comes_whole_and_once(url: str, made: Stored, own: Path) -> None:
    folder = reader(url, made, own)
    assert folder.missing([*made.ids[6:10], *NEW]) == NEW
    assert came(own) == [4] and np.array_equal(folder.read(made.ids[6:10]), made.rows[6:10])
    assert reader(url, made, own).missing(made.ids) == []
    assert came(own) == [3, 4, 6]
    alone = FeatureStore(own, shared=[]).folder(made.folder.key)
    assert alone.missing(made.ids) == [] and np.array_equal(alone.read(made.ids), made.rows)
    assert {path.name: path.read_bytes() for path in made.folder.path.glob("*.*")} == {
        path.name: path.read_bytes() for path in alone.path.glob("*.*") if path.name != "last_used"
    }
    assert FeatureStore(own, shared=[]).verify().damaged == []


def test_without_a_shape_it_is_learned(url: str, made: Stored, own: Path) -> None:
    folder = reader(url, made, own, None)
    assert folder.missing(made.ids) == [] and folder.row_shape == (5,)
    assert np.array_equal(folder.read(made.ids), made.rows)


def test_asking_brings_nothing(url: str, made: Stored, own: Path) -> None:
    folder = reader(url, made, own)
    assert folder.missing([*made.ids, *NEW], fetch=False) == NEW
    assert came(own) == [] and not (own / "features").exists()


def test_requests(s3: str, made: Stored, own: Path, proxy: ObjectProxy) -> None:
    """Two listings, each new shard's ids, trunk.json, the shard."""
    assert reader(s3, made, own).missing(made.ids[:6]) == []
    assert len(proxy.requests) == 2 + 3 + 1 + 1
    proxy.forget()
    assert reader(s3, made, own).missing(made.ids[:6]) == []
    assert len(proxy.requests) == 0, "what is in the own cache is not asked for"
    assert reader(s3, made, own).missing(made.ids[:10]) == []
    assert len(proxy.requests) == 1 + 1, "what is noted is not asked for"
    proxy.forget()
    assert reader(s3, made, own).missing(NEW) == NEW
    assert len(proxy.requests) == 1, "warm: a listing"


def test_with_an_index_object(s3: str, made: Stored, own: Path, proxy: ObjectProxy) -> None:
    write_index(remote(s3, made), {}, None, lambda error: None)
    proxy.forget()
    assert reader(s3, made, own).missing(made.ids[:6]) == []
    assert len(proxy.requests) == 2 + 1 + 1, "no listing of the shards"


def test_what_an_index_names_and_what_is_gone_is_looked_for(s3: str, made: Stored, own: Path) -> None:
    folder = remote(s3, made)
    write_index(folder, {}, None, lambda error: None)
    again = store(root_of(made) / "again", "float16", (5,), [13], 0)  # the same rows in another shard
    (path,) = again.folder.path.glob("*.safetensors")
    assert again.folder.key == made.folder.key
    folder.objects.put(folder.shard_name(path.stem), path)
    for rows in (6, 3):
        folder.objects.delete(folder.shard_name(shard_of(made, rows)))
    assert reader(s3, made, own).missing(made.ids[:8]) == []  # no warning: an index is no promise
    assert came(own) == [4, 13]


def test_a_writer_beside_is_seen_at_once(url: str, made: Stored, own: Path) -> None:
    folder = reader(url, made, own)
    assert folder.missing(NEW) == NEW
    with made.folder.writer((5,), "float16", {}) as out:
        out.add(NEW, np.full((1, 5), 9, np.float32))
    there = remote(url, made)
    for path in made.folder.path.glob("*.safetensors"):
        if not url.startswith("file"):
            there.objects.put(there.shard_name(path.stem), path)
    assert folder.missing(NEW) == []
    assert np.array_equal(folder.read(NEW), np.full((1, 5), 9, np.float16))


def test_other_caches_come_first(made: Stored, own: Path, s3: str, proxy: ObjectProxy) -> None:
    folder = FeatureStore(own, shared=[s3, root_of(made)]).folder(made.folder.key, (5,))
    assert folder.missing(made.ids) == [] and proxy.requests == []


def test_two_urls(made: Stored, own: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root, rows in ((first, 6), (second, 4)):
        place = root / "features" / made.folder.key.digest
        place.mkdir(parents=True)
        shutil.copy(made.folder.path / f"{shard_of(made, rows)}.safetensors", place)
    cache = FeatureStore(own, shared=[first.as_uri(), second.as_uri(), first.as_uri() + "/"])
    assert len(cache.remotes) == 2
    assert cache.folder(made.folder.key).missing(made.ids) == made.ids[10:]
    assert came(own) == [4, 6]


def test_the_variable_names_folders_and_urls(made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_shared("s3://a/b:/mnt/team:file:///x", ":") == ["s3://a/b", "/mnt/team", "file:///x"]
    assert split_shared("/mnt/team::gs://a:az://b/c:", ":") == ["/mnt/team", "gs://a", "az://b/c"]
    assert split_shared("C:\\team;s3://a/b;;//server/share", ";") == ["C:\\team", "s3://a/b", "//server/share"]
    assert split_shared("", ":") == split_shared("::", ":") == []
    assert split_shared("/a@b:file:///x:/c@d/e:s3://a:/f@g", ":") == [
        *("/a@b", "file:///x", "/c@d/e", "s3://a", "/f@g"),
    ]
    assert split_shared("/a:s3://u:p/w@b/c:/d", ":") == ["/a", "s3://u:p/w@b/c", "/d"]
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", os.pathsep.join([str(own), root_of(made).as_uri()]))
    cache = FeatureStore(own)
    assert cache.shared == () and [remote.url for remote in cache.remotes] == [root_of(made).as_uri()]
    assert cache.folder(made.folder.key).missing(made.ids) == []


def test_what_is_no_url_and_what_is_no_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        SettingError, match=r"ftp://host/team cannot be opened; expected a URL that begins with s3"
    ):
        FeatureStore(own, shared=["ftp://host/team"])
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", "s3://key:verysecret@bucket/team")
    with pytest.raises(SettingError, match=r"^s3://bucket/team: a URL holds no credentials"):
        FeatureStore(own)
    with pytest.raises(SettingError, match=r"the cache is s3://bucket/team, a URL; expected a folder"):
        FeatureStore("s3://key:secret@bucket/team")
    monkeypatch.setenv("HEADSTART_CACHE", "s3://bucket/team")
    monkeypatch.setattr("sys.argv", ["headstart", "cache", "ls"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "HEADSTART_CACHE is s3://bucket/team, a URL; expected a folder. To read" in capsys.readouterr().err


def test_another_process_reads_and_does_not_ask(made: Stored, own: Path, url: str) -> None:
    folder = reader(url, made, own)
    assert folder.missing(made.ids) == []
    assert np.array_equal(pickle.loads(pickle.dumps(folder)).read(made.ids), made.rows)


# --------------------------------------------------------------------------------------- what is wrong there


def put_wrong(folder: RemoteFolder, made: Stored, rows: int, what: str) -> str:
    digest = shard_of(made, rows)
    content = bytearray((made.folder.path / f"{digest}.safetensors").read_bytes())
    if what == "row":
        content[4096] ^= 1
    elif what == "header":
        content[100] ^= 1
    elif what == "ids":
        content[-1] ^= 1
    elif what == "short":
        del content[-16:]
    elif what == "empty":
        content.clear()
    folder.objects.put(folder.shard_name(digest), bytes(content))
    return digest


@pytest.mark.parametrize("what", ["row", "header", "ids", "short", "empty"])
def test_damage_there_is_a_miss(what: str, made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    digest = put_wrong(remote(url, made), made, 4, what)
    with pytest.warns(StoreWarning, match=rf"{url}/features/.*/{digest}\.safetensors: ") as said:
        assert reader(url, made, own).missing(made.ids) == made.ids[6:10]
    assert len(said) == 1
    assert came(own) == [3, 6]
    assert reader(url, made, own).missing(made.ids) == made.ids[6:10], "and is said once"


def test_another_copy_is_taken(made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    again = store(own.with_name("again"), "float16", (5,), [13], 0)
    (path,) = again.folder.path.glob("*.safetensors")
    shutil.copy(path, made.folder.path)
    put_wrong(remote(url, made), made, 4, "row")
    folder = remote(url, made)
    content = bytearray(path.read_bytes())
    content[4096] ^= 1
    folder.objects.put(folder.shard_name(path.stem), bytes(content))
    with pytest.warns(StoreWarning) as said:
        assert reader(url, made, own).missing(made.ids) == made.ids[6:10]
    assert len(said) == 2 and came(own) == [3, 6]


def test_rows_of_another_shape_or_dtype(made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    with pytest.warns(StoreWarning, match=r"its rows are \(5,\), those of this trunk key \(7,\)"):
        assert reader(url, made, own, (7,)).missing(made.ids[:2]) == made.ids[:2]
    assert came(own) == []


def test_another_trunk_is_passed_over(made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    (made.folder.path / "trunk.json").write_text("{}")
    with pytest.warns(StoreWarning, match=rf"{url}/features/.*/trunk\.json is not as it was written"):
        assert reader(url, made, own).missing(made.ids) == made.ids
    (made.folder.path / "trunk.json").unlink()
    assert reader(url, made, own).missing(made.ids) == [], "shards without a description are whose they say"
    assert (own / "features" / made.folder.key.digest / "trunk.json").exists()


def test_damage_in_the_own_cache_is_mended(made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    assert reader(url, made, own).missing(made.ids) == []
    path = own / "features" / made.folder.key.digest / f"{shard_of(made, 4)}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedShardError):
        FeatureStore(own, shared=[]).folder(made.folder.key).missing(made.ids)
    folder = reader(url, made, own)
    assert folder.missing(made.ids) == [] and np.array_equal(folder.read(made.ids), made.rows)


def each(fault: str, part: str):
    def rule(request: Request) -> str | None:
        return fault if part in request.path else None

    return rule


@pytest.mark.parametrize("fault", ["drop", "cut", "500", "503", "short", "flip", "gone"])
def test_a_shard_that_does_not_come_is_a_miss(
    fault: str, s3: str, made: Stored, own: Path, proxy: ObjectProxy
) -> None:
    digest = shard_of(made, 4)
    assert reader(s3, made, own).missing(NEW) == NEW  # what there is is noted
    proxy.rule = each(fault, digest)
    with pytest.warns(StoreWarning) as said:
        assert reader(s3, made, own).missing(made.ids) == made.ids[6:10]
    (text,) = [str(warning.message) for warning in said]
    assert f"{s3}/features/{made.folder.key.digest}/{digest}.safetensors: " in text and "secret" not in text
    proxy.rule = lambda request: None
    folder = reader(s3, made, own)
    assert folder.missing(made.ids) == [] and np.array_equal(folder.read(made.ids), made.rows)


@pytest.mark.parametrize("fault", ["drop", "cut", "500", "403"])
def test_a_url_that_is_away_is_asked_once(
    fault: str, s3: str, made: Stored, own: Path, proxy: ObjectProxy
) -> None:
    proxy.rule = lambda request: fault
    with pytest.warns(StoreWarning, match=rf"the shared cache {s3} is left out: {s3}/indexes/.*not asked again"):
        assert reader(s3, made, own).missing(made.ids) == made.ids
    asked = len(proxy.requests)
    folder = reader(s3, made, own)
    assert folder.missing(made.ids) == folder.missing(made.ids, fetch=False) == made.ids
    assert len(proxy.requests) == asked <= 2


def test_a_server_that_goes_away_on_the_way(
    s3: str, made: Stored, own: Path, proxy: ObjectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "LOADERS", 1)
    assert reader(s3, made, own).missing(NEW) == NEW
    proxy.rule = each("500", ".safetensors")
    with pytest.warns(StoreWarning) as said:
        assert reader(s3, made, own).missing(made.ids) == made.ids
    assert len(said) == 3 and "is left out" in str(said[-1].message)
    assert came(own) == []


def test_no_permission_to_read_is_found_out_soon(
    s3: str, made: Stored, own: Path, proxy: ObjectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "LOADERS", 1)
    assert reader(s3, made, own).missing(NEW) == NEW
    proxy.rule = each("403", ".safetensors")
    with pytest.warns(StoreWarning) as said:
        assert reader(s3, made, own).missing(made.ids) == made.ids
    assert len(said) == 3 and came(own) == []
    assert re.search(r"is left out: .*\.safetensors: access was refused", str(said[-1].message))
    assert sum(request.path.endswith(".safetensors") for request in proxy.requests[-3:]) == 3


def test_an_object_that_alone_is_refused_is_passed_over(
    s3: str, made: Stored, own: Path, proxy: ObjectProxy
) -> None:
    """As of an archived one."""
    digest = shard_of(made, 6)
    proxy.rule = each("403", digest)
    with pytest.warns(StoreWarning, match=rf"{digest}\.safetensors: access was refused") as said:
        assert reader(s3, made, own).missing(made.ids) == made.ids[:6]
    assert len(said) == 1 and came(own) == [3, 4]
    proxy.rule = each("403", "trunk.json")
    with pytest.warns(StoreWarning, match=r"trunk\.json: access was refused"):
        assert reader(s3, made, own).missing(made.ids) == made.ids[:6]
    assert reader(s3, made, own.with_name("another")).missing(NEW) == NEW, "the URL is asked as before"


@pytest.mark.parametrize("what", ["fetch", "verify", "pull"])
def test_an_interrupt_waits_for_pieces_and_not_for_shards(
    what: str, made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as one of three shards comes, on a slow line."""
    url, begun, came_after = root_of(made).as_uri(), threading.Barrier(3), []
    whole = Objects.pieces

    def slowly(self: Objects, name: str, nbytes: int) -> Iterator[memoryview]:
        begun.wait(10)
        if name.endswith(f"{shard_of(made, 6)}.safetensors"):
            raise KeyboardInterrupt
        for piece in whole(self, name, nbytes):
            for start in range(0, nbytes, 16):
                time.sleep(0.01)
                came_after.append(start)
                yield piece[start : start + 16]

    monkeypatch.setattr(Objects, "pieces", slowly)
    with pytest.raises(KeyboardInterrupt):
        if what == "fetch":
            reader(url, made, own).missing(made.ids)
        elif what == "verify":
            verify(RemoteStore(open_objects(url)))
        else:
            pull(FeatureStore(own), open_objects(url))
    assert len(came_after) < 100  # of 512
    assert came(own) == [] and not [*own.glob("features/*/.partial*")]


def test_old_listings_miss_and_do_no_harm(s3: str, made: Stored, own: Path, proxy: ObjectProxy) -> None:
    folder = remote(s3, made)
    assert reader(s3, made, own).missing(NEW) == NEW  # the proxy has listings now
    with made.folder.writer((5,), "float16", {}) as out:
        out.add(NEW, np.full((1, 5), 9, np.float32))
    folder.objects.put(folder.shard_name(shard_of(made, 1)), made.folder.path / f"{shard_of(made, 1)}.safetensors")
    folder.objects.delete(folder.shard_name(shard_of(made, 4)))
    proxy.rule = lambda request: "stale" if request.is_listing else None
    with pytest.warns(StoreWarning, match=rf"{shard_of(made, 4)}\.safetensors: there is no such object"):
        assert reader(s3, made, own).missing([*made.ids, *NEW]) == [*made.ids[6:10], *NEW]
    proxy.rule = lambda request: None
    assert reader(s3, made, own).missing([*made.ids, *NEW]) == made.ids[6:10]


def test_obstore_that_is_not_installed_is_said(made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.warns(StoreWarning, match=r"s3://bucket is left out: .*pip install 'headstart\[remote\]'"):
        cache = FeatureStore(own, shared=["s3://bucket"])
    assert cache.folder(made.folder.key).missing(made.ids) == made.ids


# -------------------------------------------------------------------------------- what is wrong here


def test_a_full_disk_is_an_error(made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = root_of(made).as_uri()

    def full(handle: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        with pytest.raises(DiskSpaceError):
            reader(url, made, own).missing(made.ids)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.store.files.free_space", lambda path: 100)
        with pytest.warns(StoreWarning, match="3 shards of .* did not come, .* missing: the features need"):
            assert reader(url, made, own).missing(made.ids) == made.ids
    assert came(own) == [] and reader(url, made, own).missing(made.ids) == []


def test_a_limit_makes_room_or_leaves_the_rest(made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = root_of(made).as_uri()
    old = store(own, "float16", (5,), [40], 9)
    for path in old.folder.path.iterdir():
        os.utime(path, (1e9, 1e9))
    del old
    size = sum(path.stat().st_size for path in made.folder.path.glob("*.safetensors"))
    monkeypatch.setenv("HEADSTART_CACHE_MAX", str(size + 4000))
    assert reader(url, made, own).missing(made.ids) == []
    assert came(own) == [3, 4, 6]
    monkeypatch.setenv("HEADSTART_CACHE_MAX", "9000")
    another = own.with_name("another")
    with pytest.warns(StoreWarning, match="2 shards of .* did not come, .*: .*HEADSTART_CACHE_MAX allows") as said:
        assert reader(url, made, another).missing(made.ids) == made.ids[6:]
    assert len(said) == 1 and came(another) == [6]
    monkeypatch.setenv("HEADSTART_CACHE_MAX", "90")
    with pytest.warns(StoreWarning, match="3 shards of .* did not come"):
        assert reader(url, made, own.with_name("third")).missing(made.ids) == made.ids


@pytest.mark.parametrize("claimed", [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_an_index_that_lies_about_sizes_stops_nothing(
    claimed: int, s3: str, made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_MAX", "1MB")
    folder = remote(s3, made)
    lies = {shard_of(made, n): (claimed, ids_to_array(made.ids[a : a + n])) for n, a in ((6, 0), (4, 6), (3, 10))}
    (lie,) = indexes_of(made.folder.key.digest, lies)
    folder.objects.put(folder.index_name(index_digest(lie.to_bytes())), lie.to_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        lacking = reader(s3, made, own).missing(made.ids)
    there = [id for id in made.ids if id not in lacking]
    assert lacking == (made.ids if claimed in (0, 1) else [])
    assert np.array_equal(reader(s3, made, own).read(there), made.rows[: len(there)])


def test_a_cache_that_cannot_be_written_is_an_error(made: Stored, own: Path) -> None:
    own.write_text("a file")
    with pytest.raises(CacheNotWritableError):
        reader(root_of(made).as_uri(), made, own).missing(made.ids)


def test_an_eviction_beside_costs_a_second_try(made: Stored, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, evictions = root_of(made).as_uri(), 0
    download = transfer.download_shard

    def evicted(objects, name, nbytes, folder, **settings):
        nonlocal evictions
        if evictions < 2:
            evictions += 1
            shutil.rmtree(folder)
        return download(objects, name, nbytes, folder, **settings)

    monkeypatch.setattr(remotes, "LOADERS", 1)
    monkeypatch.setattr(transfer, "download_shard", evicted)
    folder = reader(url, made, own)
    assert folder.missing(made.ids) == [] and np.array_equal(folder.read(made.ids), made.rows)


# ------------------------------------------------------------------------------------------------- trust


def test_what_came_is_trusted_as_it_was_there(made: Stored, own: Path) -> None:
    url = root_of(made).as_uri()
    folder = reader(url, made, own)
    with folder.writer((5,), "float16", {}) as out:
        out.add(NEW, np.ones((1, 5), np.float32))
    assert folder.missing(made.ids[:10]) == []
    held = {len(shard): shared for shard, shared, _ in folder.sources([*made.ids[:10], *NEW])}
    assert held == {1: False, 4: True, 6: True}
    digest, four = shard_of(made, 6), shard_of(made, 4)
    with pytest.warns(
        StoreWarning, match=rf"{digest}.safetensors, which came from a shared cache: wrong. It is set"
    ):
        folder.refuse_shared(
            [path.stem for path in folder.path.glob("*.safetensors") if path.stem != four], "wrong"
        )
    assert came(own) == [1, 4]
    assert folder.missing(made.ids[:10]) == made.ids[:6]
    assert reader(url, made, own).missing(made.ids[:10]) == made.ids[:6], "it is not fetched again"
    assert reader(url, made, own).missing(made.ids[:10], fetch=False) == made.ids[:6]
