"""Pictures in a bucket over a network that takes 50 ms for each answer: how many requests, and how fast."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from object_proxy import FAULTS, Request, proxied
from object_server import BUCKET, ObjectServer, environment, served
from PIL import Image

import headstart as hs
from headstart.common.errors import ImageError
from headstart.common.objects import open_objects
from headstart.data import Preprocess, batches, read_ahead

pytestmark = [
    pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines"),
    pytest.mark.of("torch"),
]

COUNT = 600
LATENCY = 50  # ms
SERVE = """
import json, sys
from snailmail import Fixed, ObjectStore
with ObjectStore(bucket=sys.argv[1]) as server:
    print(server.endpoint_url, flush=True)
    for line in sys.stdin:
        if line.strip() == "slow":
            server.set_latency(Fixed(float(sys.argv[2])))
        elif line.strip() == "reset":
            server.reset_counts()
        print(json.dumps(server.stats()), flush=True)
"""


class Store:
    """A server in a process of its own, so that it takes no time of the interpreter that is measured."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, BUCKET, str(LATENCY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()

    def tell(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def requests(self) -> int:
        return self.tell("stats")["n_requests"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    try:
        with patch.dict(os.environ, environment(store.endpoint)):
            yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def photos(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of photographs, and its copy in the bucket; from now on the server is slow."""
    root, url = tmp_path_factory.mktemp("photos"), f"s3://{BUCKET}/photos"
    objects = open_objects(url)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375))
        content = io.BytesIO()
        smooth.save(content, "JPEG", quality=90)
        path = root / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.getvalue())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda p: objects.put(p.relative_to(root).as_posix(), p.read_bytes()), root.rglob("*.jpg")))
    store.tell("slow")
    return root, url


def rate(data: Any, order: np.ndarray) -> float:
    start = time.perf_counter()
    for _ in batches(data, Preprocess(224, 256), order, 64):
        pass
    return len(order) / (time.perf_counter() - start)


def test_decoding_waits_for_no_network(
    store: Store, photos: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, url = photos
    here, there, order = hs.data.folder(root), hs.data.folder(url), np.arange(COUNT)
    rates: dict[str, list[float]] = {"local": [], "url": []}
    for _ in range(3):
        rates["local"].append(rate(here, order))
        rates["url"].append(rate(there, order))
    monkeypatch.setattr(read_ahead, "MOST_WAITING", -10_000)
    without = rate(there, order[:120])
    local, remote = max(rates["local"]), max(rates["url"])
    print(f"\n{local:.0f} images/s of files, {remote:.0f} of objects at {LATENCY} ms, {without:.0f} unread ahead")
    assert remote > 4 * without
    assert remote > 0.5 * local  # the server takes the same cores


def test_requests_for_an_image(store: Store, photos: tuple[Path, str]) -> None:
    _, url = photos
    model = hs.model("lenet", classes=("a", "b"))
    store.tell("reset")
    start = time.perf_counter()
    ids = hs.data.folder(url).ids
    hashed = store.requests()
    print(f"\n{COUNT} ids in {time.perf_counter() - start:.1f} s, {hashed} requests")
    assert hashed == COUNT + 1
    data = hs.data.folder(url)
    hs.extract(model, data)
    extracted = store.requests() - hashed
    print(f"{extracted / COUNT:.3f} requests an image to extract")
    assert extracted <= COUNT + 8
    store.tell("reset")
    again = hs.data.folder(url)
    assert again.ids == ids
    assert hs.extract(model, again).stats.extracted == 0
    print(f"{store.requests()} requests to open and extract again")
    assert store.requests() <= 4


def test_faults_at_random(photos_in_memory: tuple[Path, ObjectServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever befalls requests, a picture is the right one or an error that names its URL."""
    root, server = photos_in_memory
    monkeypatch.setattr("headstart.common.objects.RETRIES", 1)
    url, ids, random = f"{server.url}/faults", hs.data.folder(root).ids, Random(0)
    kinds = [fault for fault in FAULTS if fault not in ("flip", "stale")]

    def rule(request: Request) -> str | None:
        return random.choice(kinds) if not request.is_listing and random.random() < 0.5 else None

    right = named = 0
    with proxied(server.endpoint, rule) as proxy:
        while len(proxy.faults) < 500:
            data = hs.data.folder(url)
            with suppress(ImageError):
                assert data.ids == ids
            for i in range(len(data)):
                try:
                    assert data.load(i)[1] == ids[i]
                    right += 1
                except ImageError as error:
                    assert error.source == data.source_name(i) and "\n" not in str(error)
                    named += 1
    print(f"\n500 faults: {right} right pictures, {named} errors that name one")
    assert right and named
    assert hs.data.folder(url).ids == ids


@pytest.fixture
def photos_in_memory(tmp_path: Path) -> Iterator[tuple[Path, ObjectServer]]:
    with served() as server:
        objects = open_objects(f"{server.url}/faults")
        for i in range(12):
            path = tmp_path / "here" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(path)
            objects.put(path.relative_to(tmp_path / "here").as_posix(), path.read_bytes())
        yield tmp_path / "here", server
