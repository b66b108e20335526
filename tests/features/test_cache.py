"""`hs.cache`: what the command line does with the feature store, as functions."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.table import Table
from headstart.store import FeatureStore, trunk_key

pytestmark = pytest.mark.neutral


def store_features(cut: str, ids: Sequence[str], cache: Path | None = None, used: float = 1000.0) -> str:
    """Rows for these samples under a key of their own, last used at `used`; returns its key."""
    settings: dict[str, Any] = {"graph": [cut], "weights_digest": "0" * 32, "preprocess": {"size": 8}}
    key = trunk_key(**settings, precision="float32", dtype="float16", label={"model": "net", "cut": cut})
    folder = FeatureStore(cache).folder(key)
    with folder.writer((4,), "float16", {"backend": "torch"}) as out:
        out.add(ids, np.ones((len(ids), 4), np.float16))
    for path in folder.path.rglob("*"):
        os.utime(path, (used, used))
    return key.digest


@pytest.fixture
def data() -> Any:
    return hs.data.digits().subset(range(12))


@pytest.fixture
def keys(data: Any) -> list[str]:
    """Of all samples at "early", used first; of half of them at "late"."""
    return [store_features("early", data.ids, used=1000.0), store_features("late", data.ids[:6], used=2000.0)]


def assert_as_text(table: Table) -> None:
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(isinstance(text, str) for row in table.rows for text in row)


def test_an_empty_cache() -> None:
    assert len(hs.cache.list()) == 0
    assert hs.cache.list().as_list() == []
    assert (hs.cache.verify().shards, hs.cache.verify().damaged) == (0, [])
    assert hs.cache.gc(0).as_dict() == {"trunks": [], "deleted": False, "freed_bytes": 0}
    assert not FeatureStore().root.exists(), "looking creates nothing"


def test_list(keys: list[str]) -> None:
    listing = hs.cache.list()
    assert {trunk.key: trunk.rows for trunk in listing} == {keys[0]: 12, keys[1]: 6}
    assert sum(listing.nbytes.values()) == sum(row["bytes"] for row in listing.as_list())
    assert json.loads(json.dumps(listing.as_list())) == listing.as_list()
    assert_as_text(listing.as_table())
    assert {row[2] for row in listing.as_table().rows} == {"early", "late"}


def test_info(keys: list[str]) -> None:
    facts = hs.cache.info(keys[0][:10])
    assert [copy.key for copy in facts] == [keys[0]]
    assert facts.as_dict()["spec"]["preprocess"] == {"size": 8}
    assert facts.as_dict()["also_in"] == []
    (table,) = facts.as_tables()
    assert_as_text(table)
    assert {("cut", "early"), ("views", "none"), ("shared", "no")} <= set(table.rows)
    told = dict(table.rows)
    assert re.fullmatch(r"[\d,]+ \([\d.]+ k?B\)", told["bytes"]), "and how many that is"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", told["last_used"]), "a time as people read it"
    with pytest.raises(UnknownNameError, match="trunk key 'xyz'"):
        hs.cache.info("xyz")


def test_a_cache_elsewhere(keys: list[str], data: Any, tmp_path: Path) -> None:
    key = store_features("other", data.ids, cache=tmp_path / "other")
    assert [trunk.key for trunk in hs.cache.list(tmp_path / "other")] == [key]
    assert hs.cache.info(key, tmp_path / "other").copies[0].rows == 12


def test_verify_and_repair(keys: list[str]) -> None:
    (shard,) = (FeatureStore().path / keys[0]).glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert hs.cache.verify(keys[1]).damaged == []
    report = hs.cache.verify()
    assert [path for path, _ in report.damaged] == [shard]
    assert (report.in_reach, report.set_aside, shard.exists()) == (1, [], True)
    assert report.as_dict()["damaged"] == [[str(shard), report.damaged[0][1]]]
    assert len(hs.cache.verify(repair=True).set_aside) == 1
    assert not shard.exists()


def test_explain(keys: list[str], data: Any) -> None:
    model = hs.model("lenet", classes=data.classes)
    explanation = hs.cache.explain(model, data, ["pool2", "relu4"])
    assert [(line.cut, line.present, line.lacking) for line in explanation] == [("pool2", 0, 12), ("relu4", 0, 12)]
    assert explanation.as_dict()["model"] == "lenet"
    assert "the nearest (net" in str(explanation.coverages[0])


def test_gc_deletes_what_was_not_used_for_longest(keys: list[str]) -> None:
    sizes = {trunk.key: trunk.nbytes for trunk in hs.cache.list()}
    preview = hs.cache.gc(sizes[keys[1]])
    assert ([trunk.key for trunk in preview], preview.freed) == ([keys[0]], None)
    assert len(hs.cache.list()) == 2, "nothing goes unless it is told to"
    done = hs.cache.gc(f"{sizes[keys[1]]}B", delete=True)
    assert done.as_dict()["freed_bytes"] == sizes[keys[0]]
    assert [trunk.key for trunk in hs.cache.list()] == [keys[1]]


def test_gc_deletes_orphans(keys: list[str], data: Any) -> None:
    preview = hs.cache.gc(keep=data.subset(range(6)))
    assert [(orphans.key, orphans.rows, orphans.kept) for orphans in preview] == [(keys[0], 6, 6)]
    assert len(hs.cache.gc(keep=[data.subset(range(6)), data])) == 0
    done = hs.cache.gc(keep=data.subset(range(6)), delete=True)
    assert done.as_dict()["deleted"] and done.freed
    assert {trunk.rows for trunk in hs.cache.list()} == {6}


def test_gc_needs_one_limit(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_CACHE_MAX", raising=False)
    with pytest.raises(SettingError, match="gc needs a limit"):
        hs.cache.gc()
    with pytest.raises(SettingError, match="expected one of them"):
        hs.cache.gc(5, keep=data)
    monkeypatch.setenv("HEADSTART_CACHE_MAX", "1GB")
    assert len(hs.cache.gc()) == 0
