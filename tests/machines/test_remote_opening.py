"""How many requests it takes to open a store behind a URL, counted by a server that is 20 ms away."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from faults.damage import Stored, store
from object_server import BUCKET, environment

import headstart as hs
from headstart.common.objects import open_objects
from headstart.store import FeatureStore, array_to_ids, open_shard
from headstart.store.remote.catalogue import write_index
from headstart.store.remote.index import index_digest, indexes_of
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")

TEAM = f"s3://{BUCKET}/team"
SHARDS = 1000
ROWS = 120
"""a shard, of 600 bytes each: it is too large to be read whole for its ids"""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    from snailmail import Fixed, ObjectStore

    with (
        ObjectStore(bucket=BUCKET, latency=Fixed(20)) as server,
        patch.dict(os.environ, environment(server.endpoint_url)),
    ):
        yield server


@pytest.fixture(scope="module")
def made(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A store of 1,000 shards, and 7 more that are not pushed yet."""
    made = store(tmp_path_factory.mktemp("made"), "float16", (300,), [ROWS] * (SHARDS + 7), 0)
    push(made, sorted(made.folder.path.glob("*.safetensors"))[:SHARDS])
    there(made).objects.put(there(made).description_name, made.folder.path / "trunk.json")
    return made


def there(made: Stored) -> RemoteFolder:
    return RemoteStore(open_objects(TEAM)).folder(made.folder.key.digest)


def push(made: Stored, paths: list[Path]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: there(made).objects.put(there(made).shard_name(path.stem), path), paths))


def opened(
    server: Any, made: Stored, own: Path, wanted: list[str], fetch: bool = False, url: str = TEAM
) -> tuple[list[str], int]:
    """(ids that are missing, requests), by what a new process does."""
    folder = FeatureStore(own, shared=[url]).folder(made.folder.key, (300,))
    server.reset_counts()
    start = time.perf_counter()
    missing = folder.missing(wanted, fetch=fetch)
    requests = server.stats()["n_requests"]
    print(f"{requests} requests, {time.perf_counter() - start:.2f} s, {len(missing)} missing")
    return missing, requests


def test_opening(server: Any, made: Stored, tmp_path: Path) -> None:
    own = tmp_path / "own"
    paths = sorted(made.folder.path.glob("*.safetensors"))
    pushed = [id for path in paths[:SHARDS] for id in array_to_ids(open_shard(path).ids)]
    later = [id for path in paths[SHARDS:] for id in array_to_ids(open_shard(path).ids)]
    missing, requests = opened(server, made, own, [*pushed, *later])
    assert sorted(missing) == sorted(later)
    assert requests <= 3 + SHARDS  # 1,001 objects are two pages
    assert opened(server, made, own, pushed) == ([], 0)
    missing, requests = opened(server, made, own, later)
    assert len(missing) == len(later) and requests <= 2, "warm"
    push(made, paths[SHARDS:])
    missing, requests = opened(server, made, own, later)
    assert missing == [] and requests <= 2 + 7, "warm, and seven shards are new"

    for number in range(12):  # as twelve pushes leave them
        some = {
            path.stem: (path.stat().st_size, open_shard(path).ids)
            for path in paths[number * (SHARDS + 7) // 12 : (number + 1) * (SHARDS + 7) // 12]
        }
        for index in indexes_of(made.folder.key.digest, some):
            content = index.to_bytes()
            there(made).objects.put(there(made).index_name(index_digest(content)), content)
    assert len(write_index(there(made), {}, None, lambda error: None)) == 1
    fresh = tmp_path / "fresh"
    missing, requests = opened(server, made, fresh, [*pushed, *later])
    assert missing == [] and requests <= 10
    missing, requests = opened(server, made, tmp_path / "another", later, fetch=True)
    assert missing == [] and requests <= 10 + 7, "trunk.json and seven shards came"


def test_a_push_spares_newcomers_the_looking(server: Any, made: Stored, tmp_path: Path) -> None:
    """What a push leaves there is opened by a few requests from an empty cache, with nothing asked for."""
    url = f"s3://{BUCKET}/pushed"
    server.reset_counts()
    assert hs.cache.push(url, cache=made.folder.path.parent.parent).moved == SHARDS + 7
    print(f"pushed by {server.stats()['n_requests']} requests")
    missing, requests = opened(server, made, tmp_path / "own", made.ids, url=url)
    assert missing == [] and requests <= 10


def test_a_hundred_thousand_shards_are_opened_by_a_few_requests(server: Any, tmp_path: Path) -> None:
    """Of most of them there is only what an index object says."""
    made = store(tmp_path / "made", "float16", (300,), [100] * 5, 3)
    folder = RemoteStore(open_objects(f"s3://{BUCKET}/large")).folder(made.folder.key.digest)
    chance = np.random.default_rng(1)
    shards = {
        name.tobytes().hex(): (70_000, ids)
        for name, ids in zip(
            chance.integers(0, 256, (100_000, 16), np.uint8),
            chance.integers(0, 256, (100_000, 100, 16), np.uint8),
            strict=True,
        )
    }
    for path in made.folder.path.glob("*.safetensors"):
        folder.objects.put(folder.shard_name(path.stem), path)
        shards[path.stem] = (path.stat().st_size, open_shard(path).ids)
    for index in indexes_of(made.folder.key.digest, shards):
        content = index.to_bytes()
        folder.objects.put(folder.index_name(index_digest(content)), content)
    print(f"the index has {len(content) >> 20} MiB")
    del shards, index, content
    cache = FeatureStore(tmp_path / "own", shared=[f"s3://{BUCKET}/large"])
    server.reset_counts()
    for what in ("cold", "warm"):
        start = time.process_time()
        reader = cache.folder(made.folder.key, (300,))
        assert reader.missing(made.ids, fetch=False) == []
        seconds = time.process_time() - start  # the server's, too
        print(f"{what}: {server.stats()['n_requests']} requests so far, {seconds:.1f} s of CPU")
        assert server.stats()["n_requests"] == 2
    assert reader.missing(made.ids) == []
    assert np.array_equal(reader.read(made.ids), made.rows)
    assert server.stats()["n_requests"] == 2 + 1 + 5
