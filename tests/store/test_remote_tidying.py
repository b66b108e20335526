"""A store behind a URL is looked at, verified and tidied."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.damage import Stored, flip, several, store

import headstart as hs
from headstart.common.durations import parse_seconds
from headstart.common.errors import RemoteError, RemoteRefusedError, SettingError, UnknownNameError
from headstart.common.objects import Objects, open_objects
from headstart.store import FeatureStore
from headstart.store.description import MAX_DESCRIPTION_NBYTES
from headstart.store.remote import cleaning
from headstart.store.remote.catalogue import Catalogue
from headstart.store.remote.remote_store import RemoteStore

pytestmark = pytest.mark.neutral

DAY = 24 * 3600.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "team").as_uri()


def names(url: str) -> set[str]:
    return {entry.name for entry in open_objects(url).entries()}


def age(root: Path, days: float, pattern: str = "**/*") -> None:
    """Let files have come so long ago."""
    for path in root.glob(pattern):
        if path.is_file():
            os.utime(path, (time.time() - days * DAY,) * 2)


def pushed(root: Path, url: str, sizes: list[int], seed: int = 0) -> Stored:
    stored = store(root, "float16", (3,), sizes, seed)
    assert hs.cache.push(url, stored.folder.key.digest, cache=root).complete
    return stored


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_what_is_there_is_listed_described_and_verified(kind, request, url, tmp_path) -> None:
    url = url if kind == "file" else f"{request.getfixturevalue('bucket')}/looked/at"
    several(tmp_path / "cache")
    hs.cache.push(url, cache=tmp_path / "cache")
    there = hs.cache.at(url)
    own = {info.key: info for info in FeatureStore(tmp_path / "cache").infos()}
    listing = there.list()
    assert [trunk.key for trunk in listing] == sorted(own)
    for trunk in listing:
        info = own[trunk.key]
        assert (trunk.rows, trunk.shards, trunk.label, trunk.spec) == (
            info.rows,
            info.shards,
            info.label,
            info.spec,
        )
        assert trunk.nbytes > info.nbytes and trunk.indexes == 1 and not trunk.damaged
        assert abs(trunk.written - time.time()) < 60
    assert there.info(listing.trunks[0].key[:8]).as_dict() == listing.trunks[0].as_dict()
    report = there.verify()
    assert (bool(report), report.shards, report.rows) == (True, 8, sum(info.rows for info in own.values()))
    one = there.verify(listing.trunks[0].key[:8])
    assert (one.shards, one.rows) == (listing.trunks[0].shards, listing.trunks[0].rows)
    for ask in (there.info, there.verify):
        with pytest.raises(UnknownNameError, match="'zz'"):
            ask("zz")


def test_rows_are_counted_once_however_often_they_are_stored(url, tmp_path) -> None:
    first = pushed(tmp_path / "one", url, [4, 5])
    again = store(tmp_path / "other", "float16", (3,), [9], 0)
    hs.cache.push(url, cache=tmp_path / "other")
    assert again.ids == first.ids
    info = hs.cache.at(url).info(first.folder.key.digest)
    assert (info.rows, info.shards) == (9, 3)


def test_damage_of_each_kind_is_named(url, tmp_path) -> None:
    stored = pushed(tmp_path / "cache", url, [40, 50])
    team = tmp_path / "team"
    for path in sorted(path for path in team.rglob("*") if path.is_file()):
        flip(path, 8 * (path.stat().st_size - 1))
        report = hs.cache.at(url).verify()
        assert [where for where, _ in report.damaged] == [path.as_uri()] and not report.unreadable
        assert report.shards == 2 - (path.parent.parent.name == "features" and path.suffix == ".safetensors")
        flip(path, 8 * (path.stat().st_size - 1))
    (team / "features" / stored.folder.key.digest / "trunk.json").unlink()
    assert "there is no such object" in hs.cache.at(url).verify().damaged[0][1]
    assert "there is no such object" in hs.cache.at(url).list().trunks[0].damaged[0]


def test_what_cannot_be_read_is_not_called_damaged(url, tmp_path, monkeypatch) -> None:
    pushed(tmp_path / "cache", url, [4, 5])

    def fail(self: Objects, name: str, nbytes: int) -> Iterator[memoryview]:
        raise RemoteError(self.url_of(name), "planted")
        yield

    monkeypatch.setattr(Objects, "pieces", fail)
    report = hs.cache.at(url).verify()
    assert not report and not report.damaged and [reason for _, reason in report.unreadable] == ["planted"] * 2


def test_a_description_that_is_not_read_hides_no_other_trunk(url, tmp_path) -> None:
    pushed(tmp_path / "cache", url, [4], seed=1)
    wrong = pushed(tmp_path / "cache", url, [5], seed=2).folder.key.digest
    name = f"features/{wrong}/trunk.json"
    open_objects(url).put(name, b" " * (MAX_DESCRIPTION_NBYTES + 1))
    problems = {trunk.key: trunk.damaged for trunk in hs.cache.at(url).list()}
    assert len(problems) == 2 and [key for key, damaged in problems.items() if damaged] == [wrong]
    assert f"{url}/{name}: has" in problems[wrong][0]
    report = hs.cache.at(url).verify()
    assert report.rows == 9 and [where for where, _ in report.unreadable] == [f"{url}/{name}"] and not report


def test_a_store_that_is_not_there_holds_nothing(url) -> None:
    there = hs.cache.at(url)
    assert len(there.list()) == 0 and there.verify().shards == 0 and len(there.gc()) == 0
    with pytest.raises(SettingError, match="begins with"):
        hs.cache.at("ftp://host/x")


# ---- deleting


def test_only_what_is_older_than_the_grace_goes_and_only_when_told(url, tmp_path) -> None:
    stored = pushed(tmp_path / "cache", url, [4, 5])
    before, team, there = names(url), tmp_path / "team", hs.cache.at(url)
    age(team, 6.9)
    assert len(there.gc()) == 0 == len(there.gc(delete=True)) and names(url) == before
    age(team, 7.1)
    planned = there.gc()
    (trunk,) = planned
    assert (trunk.key, len(trunk.shards), trunk.staying, planned.freed) == (stored.folder.key.digest, 2, 0, None)
    assert names(url) == before
    done = there.gc(delete=True)
    assert done.freed == trunk.nbytes == done.trunks[0].nbytes and not done.failures
    assert names(url) == set()
    assert done.as_dict()["freed_bytes"] == trunk.nbytes


def test_a_young_shard_stays_and_its_description_with_it(url, tmp_path) -> None:
    stored = pushed(tmp_path / "cache", url, [4, 5, 6])
    team, there = tmp_path / "team", hs.cache.at(url)
    age(team, 8)
    young = sorted(team.glob("features/*/*.safetensors"))[1]
    os.utime(young)
    (trunk,) = there.gc(delete=True)
    assert (len(trunk.shards), trunk.staying, trunk.description) == (2, 1, None)
    left = names(url)
    assert {name for name in left if name.startswith("features")} == {
        f"features/{young.parent.name}/{young.name}",
        f"features/{young.parent.name}/trunk.json",
    }
    # An index object holds what stays, and nothing that has gone.
    folder = RemoteStore(open_objects(url)).folder(stored.folder.key.digest)
    catalogue = Catalogue(folder, None, pytest.fail)
    catalogue.fetch_indexes()
    assert [index.digests for index in catalogue.indexes()] == [[young.stem]]
    pulled = hs.cache.pull(url, cache=tmp_path / "elsewhere")
    assert pulled.moved == 1 and pulled.complete


def test_only_named_trunks_go(url, tmp_path) -> None:
    one, other = pushed(tmp_path / "cache", url, [4], 1), pushed(tmp_path / "cache", url, [5], 2)
    hs.cache.at(url).gc(one.folder.key.digest[:9], grace=0, delete=True)
    assert [trunk.key for trunk in hs.cache.at(url).list()] == [other.folder.key.digest]
    with pytest.raises(UnknownNameError, match="'zz'"):
        hs.cache.at(url).gc(["zz"])


def test_what_was_written_longest_ago_goes_first_until_the_rest_fits(url, tmp_path) -> None:
    trunks = [pushed(tmp_path / "cache", url, [40 + seed], seed) for seed in range(3)]
    for days, stored in zip((10, 30, 20), trunks, strict=True):
        age(tmp_path / "team", days, f"*/{stored.folder.key.digest}/*")
    there = hs.cache.at(url)
    sizes = {trunk.key: trunk.nbytes for trunk in there.list()}
    keys = [stored.folder.key.digest for stored in trunks]
    assert [trunk.key for trunk in there.gc(max_size=sizes[keys[0]])] == [keys[1], keys[2]]
    assert [trunk.key for trunk in there.gc(max_size=sizes[keys[0]] + sizes[keys[2]])] == [keys[1]]
    assert [trunk.key for trunk in there.gc(max_size="1GB")] == []
    assert [trunk.key for trunk in there.gc(grace="25d")] == [keys[1]]


def test_superseded_index_objects_go(url, tmp_path) -> None:
    for seed in range(10):  # more than a reader is to fetch: they are merged
        one = store(tmp_path / f"{seed}", "float16", (3,), [4], 0)
        rows = np.full((3, 3), seed, np.float16)
        with one.folder.writer((3,), "float16", {"backend": "numpy"}) as out:
            out.add([f"{seed:032x}", f"{seed + 100:032x}", f"{seed + 200:032x}"], rows)
        hs.cache.push(url, cache=tmp_path / f"{seed}")
    folder = RemoteStore(open_objects(url)).folder(one.folder.key.digest)
    assert len(folder.indexes()) == 10 or len(folder.indexes()) > 8
    age(tmp_path / "team", 8, "indexes/**/*")
    (trunk,) = hs.cache.at(url).gc(delete=True)
    assert not trunk.shards and trunk.superseded and trunk.staying == 11
    info = hs.cache.at(url).info(one.folder.key.digest)
    assert info.shards == 11 and info.rows == 34 and info.indexes == len(folder.indexes()) < 3
    assert hs.cache.pull(url, cache=tmp_path / "elsewhere").moved == 11


def test_index_objects_of_no_trunk_and_foreign_objects(url, tmp_path) -> None:
    stored = pushed(tmp_path / "cache", url, [4])
    team = tmp_path / "team"
    (team / "notes.txt").write_text("ours")
    (team / "features" / stored.folder.key.digest / "readme").write_text("ours")
    (team / "features" / "readme").write_text("ours")
    shutil.copytree(team / "indexes" / stored.folder.key.digest, team / "indexes" / ("f" * 32))
    hs.cache.at(url).gc(grace=0, delete=True)
    assert names(url) == {"notes.txt", "features/readme", f"features/{stored.folder.key.digest}/readme"}


def test_somebody_pushes_while_it_deletes(url, tmp_path, monkeypatch) -> None:
    """Between any two requests of it: afterwards every shard that is left has its description."""
    stored = pushed(tmp_path / "cache", url, [4])
    later = store(tmp_path / "other", "float16", (3,), [4, 5], 0)
    (shard,) = sorted(
        set(later.folder.path.glob("*.safetensors")) - set(stored.folder.path.glob("*.safetensors"))
    )[:1]
    prefix = f"features/{stored.folder.key.digest}"
    requests = ("entries", "get", "delete", "put", "folders", "entry")
    originals = {name: getattr(Objects, name) for name in requests}
    moment = 0
    while True:
        shutil.rmtree(tmp_path / "team")
        hs.cache.push(url, cache=tmp_path / "cache")
        counted = {"requests": 0, "done": False}

        def before(name: str, counted: dict = counted, moment: int = moment):
            def call(self: Objects, *args, **more):
                counted["requests"] += 1
                if counted["requests"] == moment + 1 and not counted["done"]:
                    counted["done"] = True
                    originals["put"](self, f"{prefix}/{shard.name}", shard.read_bytes())
                return originals[name](self, *args, **more)

            return call

        with monkeypatch.context() as patch:
            for name in requests:
                patch.setattr(Objects, name, before(name))
            hs.cache.at(url).gc(grace=0, delete=True)
        left = names(url)
        if f"{prefix}/{shard.name}" in left:
            assert f"{prefix}/trunk.json" in left, moment
        if not counted["done"]:
            break
        moment += 1
    assert moment > 8


def test_no_permission_to_delete_and_failures(url, tmp_path, monkeypatch) -> None:
    stored = pushed(tmp_path / "cache", url, [4, 5])
    delete = Objects.delete

    def refuse(self: Objects, name: str) -> None:
        raise RemoteRefusedError(self.url_of(name), "planted")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "delete", refuse)
        with pytest.raises(RemoteRefusedError, match="planted"):
            hs.cache.at(url).gc(grace=0, delete=True)
    failing = sorted(stored.folder.path.glob("*.safetensors"))[0]

    def fail(self: Objects, name: str) -> None:
        if name.endswith(failing.name):
            raise RemoteError(self.url_of(name), "planted")
        delete(self, name)

    monkeypatch.setattr(Objects, "delete", fail)
    done = hs.cache.at(url).gc(grace=0, delete=True)
    assert done.failures == ((f"{url}/features/{failing.parent.name}/{failing.name}", "planted"),)
    left = names(url)
    assert f"features/{failing.parent.name}/trunk.json" in left, "a shard stays, and so does what describes it"


def test_the_servers_clock_counts_where_it_deletes(bucket, url, tmp_path, monkeypatch) -> None:
    objects = open_objects(f"{bucket}/clock")
    assert abs(cleaning.clock(objects) - time.time()) < 5
    assert list(objects.entries()) == []
    pushed(tmp_path / "cache", url, [4])
    ahead = time.time() + 30 * DAY
    with monkeypatch.context() as patch:
        patch.setattr("headstart.store.remote.cleaning.time.time", lambda: ahead)
        assert len(hs.cache.at(url).gc()) == 1  # all that can be said without writing
        assert len(hs.cache.at(url).gc(delete=True)) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 7 * DAY), ("12h", 12 * 3600), ("30 m", 1800), ("1.5w", 10.5 * DAY), ("45S", 45), ("0", 0), ("0d", 0)],
)
def test_spans_of_time(text, seconds) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "nan d", "infd", "7x", "7 days"])
def test_what_is_no_span_of_time(text) -> None:
    with pytest.raises(SettingError, match="is no span of time; expected a number with a unit"):
        parse_seconds(text)
