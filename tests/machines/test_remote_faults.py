"""Faults at random in what is read from behind a URL: no row is wrong, none is lost, and what is said names object
and reason."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.damage import Stored, store
from object_proxy import FAULTS, ObjectProxy, Request, Rule, proxied
from object_server import served

from headstart.common.errors import StoreWarning
from headstart.common.objects import open_objects
from headstart.store import FeatureFolder, FeatureStore
from headstart.store.remote import shared as remotes
from headstart.store.remote.catalogue import write_index
from headstart.store.remote.remote_store import RemoteStore

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")

FAULTS_AT_LEAST = 500
OLD_LISTINGS: dict[str, Any] = {}
SIZES = [6, 4, 130, 9, 125, 2]
"""rows of 600 bytes a shard: small ones are read whole for their ids, large ones are not"""
NAMED = re.compile(r"s3://photos/(plain|indexed)/(features|indexes)/[0-9a-f]{32}[^ ]*(:| is| describes) \S+")


@pytest.fixture(scope="module")
def proxy() -> Iterator[ObjectProxy]:
    with served() as server, proxied(server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def made(proxy: ObjectProxy, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A store, without an index object and with two. The proxy's old listings are of when half of it was there."""
    made = store(tmp_path_factory.mktemp("made"), "float16", (300,), SIZES, 0)
    for prefix in ("plain", "indexed"):
        folder = RemoteStore(open_objects(f"s3://photos/{prefix}")).folder(made.folder.key.digest)
        for number, path in enumerate(sorted(made.folder.path.iterdir())):
            if path.suffix == ".safetensors":
                folder.objects.put(folder.shard_name(path.stem), path)
            if prefix == "indexed" and number in (3, 5):
                write_index(folder, {}, None, lambda error: None)
            if number == 3:
                proxy.listings.clear()
                folder.shards(), folder.indexes()
                OLD_LISTINGS.update(proxy.listings)
        folder.objects.put(folder.description_name, made.folder.path / "trunk.json")
    return made


def reader(own: Path, prefix: str, made: Stored) -> FeatureFolder:
    """As a new process would open it."""
    remotes._away.clear()
    remotes._said.clear()
    return FeatureStore(own, shared=[f"s3://photos/{prefix}"]).folder(made.folder.key, (300,))


def drawn_rule(chance: random.Random) -> Rule:
    """One request, requests now and then, or all of one kind."""
    faults = [fault for fault in FAULTS if chance.random() < 0.4] or [chance.choice(FAULTS)]
    how = chance.choice(["one", "some", "kind"])
    number, rate = chance.randrange(10), chance.choice([0.1, 0.3, 0.7])
    kind = chance.choice(["list-type=", "trunk.json", "features/", "indexes/", ".safetensors"])

    def rule(request: Request) -> str | None:
        fault = "stale" if request.is_listing and "stale" in faults else chance.choice(faults)
        if fault == "stale" and not request.is_listing:
            return None
        if how == "one":
            return fault if request.number == number else None
        if how == "some":
            return fault if chance.random() < rate else None
        return fault if kind in request.path else None

    return rule


def test_faults_in_reading(
    proxy: ObjectProxy, made: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    injected: Counter[str] = Counter()
    said: Counter[str] = Counter()
    fetched = computed = later = case = 0
    longest = 0.0
    rows = dict(zip(made.ids, made.rows, strict=True))
    while injected.total() < FAULTS_AT_LEAST or case < FAULTS_AT_LEAST:
        chance = random.Random(case)
        monkeypatch.setattr("headstart.common.objects.RETRIES", chance.choice([0, 0, 1]))
        own, prefix = tmp_path / f"own{case}", chance.choice(["plain", "indexed"])
        wanted = chance.sample(made.ids, chance.randrange(1, len(made.ids)))
        proxy.rule = lambda request: None
        if chance.random() < 0.3:  # something is noted and here already
            assert reader(own, prefix, made).missing(wanted[:1]) == []
        proxy.forget()
        proxy.listings.update(OLD_LISTINGS)
        proxy.rule = drawn_rule(chance)
        folder = reader(own, prefix, made)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            lacking = folder.missing(wanted)
        longest = max(longest, time.perf_counter() - start)
        for warning in told:
            text = str(warning.message)
            assert warning.category is StoreWarning and NAMED.search(text) and "secret" not in text, text
            said["left out" if "left out" in text else "passed over"] += 1
        injected.update(fault for _, fault in proxy.faults)

        present = sorted(set(wanted) - set(lacking))
        assert set(lacking) <= set(wanted)
        assert np.array_equal(folder.read(present), np.array([rows[id] for id in present]).reshape(-1, 300))
        with folder.writer((300,), "float16", {"backend": "numpy"}) as out:  # what an extraction would do
            if lacking:
                out.add(lacking, np.array([rows[id] for id in lacking]))
        assert FeatureStore(own, shared=[]).folder(made.folder.key).missing(wanted) == []
        assert np.array_equal(folder.read(wanted), np.array([rows[id] for id in wanted]))
        assert FeatureStore(own, shared=[]).verify().damaged == []
        assert not list(own.rglob(".partial-*"))
        fetched, computed = fetched + len(present), computed + len(lacking)

        # What was noted on a bad day does no harm on a good one.
        proxy.rule = lambda request: None
        shutil.rmtree(own / "features")
        folder = reader(own, prefix, made)
        lacking = folder.missing(wanted)
        later += len(lacking)
        present = sorted(set(wanted) - set(lacking))
        assert np.array_equal(folder.read(present), np.array([rows[id] for id in present]).reshape(-1, 300))
        flips = any(fault == "flip" and ".safetensors" in request.path for request, fault in proxy.faults)
        assert not lacking or flips, "only ids that a bit was flipped in on their way"
        shutil.rmtree(own)
        case += 1
    print(
        f"\n{case} cases, {injected.total()} faults {dict(injected)}; {fetched} rows fetched, {computed} "
        f"computed, {later} not found afterwards; warnings {dict(said)}; the longest case took {longest:.1f} s"
    )
