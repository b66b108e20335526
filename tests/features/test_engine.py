"""Extraction by Ray's actors on one cluster of this machine: rows are those of a plain extraction, whoever dies;
none travels through Ray; and what is wrong is said as it is there."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import heeded_ctrl_c
from object_server import ObjectServer, served
from ray_clusters import actors_below, created_nbytes, gone, kill, make_photos

import headstart as hs
from headstart.common.objects import open_objects
from headstart.errors import (
    EngineError,
    ExtractionInterrupted,
    ImageError,
    RemoteRefusedError,
    SettingError,
    StoreWarning,
    UnderflowWarning,
)
from headstart.features.engines import ray_cluster, ray_engine
from headstart.models import Model
from headstart.store import FeatureStore

ray = pytest.importorskip("ray", reason="has no wheels for this Python")
pytestmark = pytest.mark.of("torch")
at_length = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")
"""Each test starts one to four actors, and each of these imports a framework: seconds of a core. One without this
mark goes by the cluster; deaths, interrupts and errors of any engine are in test_devices.py."""
COUNT, BATCH = 120, 8
ENGINE = hs.Ray(workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    with served() as there:
        yield there


@pytest.fixture(scope="module")
def nodes_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the environment of the cluster's nodes says that their cache is."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def cluster(server: ObjectServer, nodes_cache: Path) -> Iterator[None]:
    """One for all tests of this module; extractions find it and leave it as it is."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADSTART_CACHE", str(nodes_cache))
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=200e6,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
        )
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("resnet18_half", classes=4, size=64)


@pytest.fixture
def extract(photos: Path, model: Model, backend: str) -> Callable[..., Any]:
    def call(cache: str | None = None, data: Any = photos, **settings: Any) -> Any:
        opened = hs.data.folder(data) if isinstance(data, Path) else data
        settings = {"backend": backend, "device": "cpu", "dtype": "float32", "batch_size": BATCH, **settings}
        return hs.extract(
            settings.pop("model", model), opened, settings.pop("cuts", None), cache=cache, **settings
        )

    return call


@pytest.fixture(scope="module")
def plain(photos: Path, model: Model, backend: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed store's rows."""
    cache = tmp_path_factory.mktemp("plain")
    data = hs.data.folder(photos)
    settings = {"backend": backend, "device": "cpu", "dtype": "float32", "batch_size": BATCH}
    return hs.extract(model, data, cache=cache, **settings).numpy()


def rows_stored() -> int:
    return sum(info.rows for info in FeatureStore().infos())


def kill_one_soon(stop: threading.Event, killed: list[int]) -> None:
    """An actor, when there are more rows in the store."""
    before = rows_stored()
    while not stop.is_set():
        if rows_stored() > before and (actors := actors_below(os.getpid())):
            kill(actors[0])
            killed.append(actors[0])
            return
        time.sleep(0.02)


def test_rows_are_those_of_a_plain_extraction(
    cluster: None, extract: Any, plain: np.ndarray, caplog: Any, monkeypatch: Any
) -> None:
    """Bytes that go through Ray are the parameters and the paths; what is there is not computed again. Actors
    compute in their main threads, where memory is kept from batch to batch."""
    host = ray_engine.Host

    class Watched(host):  # type: ignore[misc, valid-type]
        def work(self, number: int, task: Any) -> Iterator[Any]:
            if threading.current_thread() is not threading.main_thread():
                raise EngineError("not in the main thread")
            yield from host.work(self, number, task)

    monkeypatch.setattr(ray_engine, "Host", Watched)
    before = created_nbytes()
    caplog.set_level("INFO", "headstart")
    features = extract(engine=ENGINE)
    nbytes = created_nbytes() - before
    assert features.stats.extracted == COUNT and np.array_equal(features.numpy(), plain)
    params = sum(array.nbytes for array in hs.model("resnet18_half", classes=4, size=64).params.values())
    assert params < nbytes < params + 200 * COUNT + 20_000
    assert "Ray: 2 workers of 1 CPU; 8 tasks" in caplog.text
    assert rows_stored() == COUNT
    assert gone(actors_below(os.getpid())) and ray.is_initialized()
    again = extract(engine=ENGINE)
    assert (again.stats.extracted, again.stats.reused) == (0, COUNT)


@at_length
def test_an_actor_that_dies_costs_its_task(
    cluster: None, extract: Any, photos: Path, tmp_path: Path, caplog: Any
) -> None:
    """Of several cuts and views, of which the store has some already, so that there are four tasks even for one
    actor. A row is in the store once."""
    views = {"augment": "flip", "views": 2}
    expected = extract(tmp_path / "plain", cuts=["layer4", "avgpool"], **views)
    data = hs.data.folder(photos)
    extract(data=data.subset(range(50)), cuts="layer4", **views)
    stop, killed = threading.Event(), []
    watcher = threading.Thread(target=kill_one_soon, args=(stop, killed))
    watcher.start()
    try:
        features = extract(engine=hs.Ray(workers=1), cuts=["layer4", "avgpool"], **views)
    finally:
        stop.set()
        watcher.join()
    assert len(killed) == 1 and f"process {killed[0]}) has died" in caplog.text, caplog.text
    for cut in ("layer4", "avgpool"):
        for view in range(2):
            assert np.array_equal(features.numpy(cut, view=view), expected.numpy(cut, view=view))
    assert rows_stored() == 2 * 2 * COUNT


@at_length
def test_ctrl_c_keeps_what_is_computed(cluster: None, extract: Any, plain: np.ndarray) -> None:
    """And no actor; the rest is computed without them."""
    stop, sent = threading.Event(), []

    def interrupt() -> None:
        while not stop.is_set():
            if rows_stored():
                sent.extend(actors_below(os.getpid()))
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=interrupt)
    with heeded_ctrl_c(), pytest.raises(ExtractionInterrupted) as caught:
        watcher.start()
        try:
            extract(engine=ENGINE)
        finally:
            stop.set()
            watcher.join()
    assert len(sent) == 2 and gone(sent) and ray.is_initialized()
    kept = rows_stored()
    assert 0 < kept < COUNT
    assert f"interrupted: the features of {kept} of {COUNT} images are kept" in str(caught.value)
    rest = extract()
    assert (rest.stats.reused, rest.stats.extracted) == (kept, COUNT - kept)
    assert np.array_equal(rest.numpy(), plain)


@at_length
def test_what_workers_say_is_said_here(cluster: None, extract: Any, model: Model) -> None:
    """Once, though each of them says it."""
    tiny = {name: value * np.float32(1e-5 if name in ("bn1.weight", "bn1.bias") else 1)
            for name, value in model.params.items()}  # fmt: skip
    with pytest.warns(UnderflowWarning, match="all features are below 6e-05") as caught:
        extract(engine=ENGINE, model=model.with_params(tiny), cuts="relu", dtype="float16")
    assert len(caught) == 1


@at_length
def test_a_picture_that_does_not_decode_is_the_error_that_it_always_is(
    cluster: None, extract: Any, tmp_path: Path
) -> None:
    """All others are kept, and computed once."""
    folder = make_photos(tmp_path / "photos", 60)
    broken = folder / "class1" / "00029.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    data = hs.data.folder(folder)
    with pytest.raises(ImageError, match=r"00029\.jpg"):
        extract(data=data, engine=ENGINE)
    assert gone(actors_below(os.getpid()))
    stored = rows_stored()
    with pytest.raises(ImageError, match=r"00029\.jpg"):
        extract(data=data, cache=tmp_path / "plain")
    rest = data.subset([i for i in range(60) if not data.source_name(i).endswith("00029.jpg")])
    assert extract(data=rest).stats.extracted == 59 - stored and rows_stored() == 59


@at_length
def test_an_actor_that_cannot_start_names_its_node(cluster: None, extract: Any, caplog: Any) -> None:
    with pytest.raises(
        EngineError, match=r"no worker of Ray's is left: on \S+ \(node \w+, process \d+\)"
    ) as caught:
        extract(engine=hs.Ray(workers=2, gpus_per_worker=0), device="cuda")
    assert "device 'cuda' was asked for, and torch finds no CUDA device" in str(caught.value)
    assert "\n" not in str(caught.value) and caplog.text.count("no worker starts") == 2
    assert gone(actors_below(os.getpid()))


@at_length
def test_a_node_without_headstart_is_named(cluster: None, extract: Any, monkeypatch: Any) -> None:
    """What can be imported there is the node's business: here its path leads elsewhere."""
    host = ray_engine.Host

    class Elsewhere(host):  # type: ignore[misc, valid-type]
        def start(self, *arguments: Any) -> Any:
            sys.path_hooks.clear()
            sys.path_importer_cache.clear()
            sys.meta_path.clear()
            return super().start(*arguments)

    monkeypatch.setattr(ray_engine, "Host", Elsewhere)
    with pytest.raises(EngineError, match="no worker starts: ModuleNotFoundError: No module named 'headstart"):
        extract(engine=ENGINE)


def test_samples_in_memory_do_not_travel(extract: Any, photos: Path, monkeypatch: Any) -> None:
    """Neither those that are known to be, nor those that are found where the data are to be sent."""
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a cluster was joined"))
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(SettingError, match="lie in this process's memory"):
        extract(data=hs.data.arrays(pixels, [0, 1, 2]), engine=ENGINE)
    monkeypatch.setattr(ray_engine, "MOST_NBYTES", 10)
    with pytest.raises(SettingError, match="bytes a sample, so it holds the samples themselves"):
        extract(engine=ENGINE)


@at_length
def test_a_store_that_a_node_does_not_see(cluster: None, extract: Any, monkeypatch: Any) -> None:
    """As each actor looks; what is asked of other machines before is in tests/machines."""
    monkeypatch.setattr(ray_cluster, "PARTIAL_PREFIX", "elsewhere/")
    monkeypatch.setattr(Path, "write_text", lambda *_: None)
    with pytest.raises(EngineError, match=r"does not see it; set HEADSTART_CACHE \(cache=\) to a folder"):
        extract(engine=ENGINE)


# ---- by a URL


@pytest.fixture
def unseen(cluster: None, monkeypatch: Any) -> None:
    """As where a node does not see the store; actors have a cache of their own in any case."""
    monkeypatch.setattr(ray_engine, "blind_nodes", lambda *_: ["another (node 0)"])


def shards_at(url: str) -> set[str]:
    return {Path(entry.name).name for entry in open_objects(url).entries("features") if "trunk" not in entry.name}


def shards_in(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("features/*/*.safetensors")}


@at_length
def test_features_come_by_a_url_where_a_node_does_not_see_the_store(
    unseen: None,
    extract: Any,
    plain: np.ndarray,
    server: ObjectServer,
    nodes_cache: Path,
    tmp_path: Path,
    caplog: Any,
) -> None:
    """Actors write into their own cache, and no feature goes through Ray; whoever reads the URL finds them."""
    url, before = f"{server.url}/all", created_nbytes()
    caplog.set_level("INFO", "headstart")
    with pytest.raises(EngineError, match=r"another \(node 0\) does not see it; .*HEADSTART_CACHE.* push='s3://"):
        extract(engine=ENGINE)
    views = {"augment": "flip", "views": 2, "cuts": ["layer4", "avgpool"]}
    features = extract(engine=ENGINE, push=url, **views)
    assert features.stats.extracted == 2 * COUNT
    expected = extract(tmp_path / "plain", **views)
    for cut in views["cuts"]:
        for view in range(2):
            assert np.array_equal(features.numpy(cut, view=view), expected.numpy(cut, view=view))
    assert f"features come by {url}, as {FeatureStore().root} is not seen by another (node 0)" in caplog.text
    own = shards_in(FeatureStore().root)
    assert len(own) > 4 and shards_at(url) == own <= shards_in(nodes_cache)
    assert len(list(open_objects(url).entries("indexes"))) == 4
    params = sum(array.nbytes for array in hs.model("resnet18_half", classes=4, size=64).params.values())
    assert created_nbytes() - before < params + 200 * COUNT + 20_000
    again = extract(tmp_path / "pulled", engine=ENGINE, push=url)
    assert np.array_equal(again.numpy(), plain)


@at_length
def test_an_actor_that_dies_costs_what_it_has_not_pushed(
    unseen: None, extract: Any, server: ObjectServer, tmp_path: Path, caplog: Any
) -> None:
    """Of several views, so that there are three tasks for one actor."""
    views = {"augment": "flip", "views": 3}
    expected = extract(tmp_path / "plain", **views)
    stop, killed = threading.Event(), []
    watcher = threading.Thread(target=kill_one_soon, args=(stop, killed))
    watcher.start()
    try:
        features = extract(engine=hs.Ray(workers=1), push=f"{server.url}/killed", **views)
    finally:
        stop.set()
        watcher.join()
    assert len(killed) == 1 and f"process {killed[0]}) has died" in caplog.text, caplog.text
    assert all(np.array_equal(features.numpy(view=view), expected.numpy(view=view)) for view in range(3))
    assert shards_in(FeatureStore().root) == shards_at(f"{server.url}/killed") and rows_stored() == 3 * COUNT


@at_length
def test_what_an_actor_has_pushed_before_it_died_is_found(
    unseen: None, extract: Any, plain: np.ndarray, server: ObjectServer, tmp_path: Path, monkeypatch: Any
) -> None:
    """By a listing: here all of it is there, and every actor dies before it computes."""
    url, host = f"{server.url}/found", ray_engine.Host
    extract(tmp_path / "pushed", push=url)

    class Dying(host):  # type: ignore[misc, valid-type]
        def work(self, number: int, task: Any) -> Any:
            yield os._exit(1)

    monkeypatch.setattr(ray_engine, "Host", Dying)
    features = extract(engine=hs.Ray(workers=1), push=url)
    assert np.array_equal(features.numpy(), plain)
    assert shards_in(FeatureStore().root) == shards_in(tmp_path / "pushed")


@at_length
def test_a_url_that_refuses_is_one_error(
    unseen: None, extract: Any, server: ObjectServer, monkeypatch: Any, recwarn: Any
) -> None:
    """That names the object and the reason."""
    import moto.settings

    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # it looks at credentials from now on
    with pytest.raises(RemoteRefusedError) as caught:
        extract(engine=hs.Ray(workers=1), push=f"{server.url}/refused")
    assert re.match(rf"{server.url}/refused/features/\w+/trunk.json: access was refused", str(caught.value))
    assert "\n" not in str(caught.value) and not rows_stored()
    assert not [warning for warning in recwarn if issubclass(warning.category, StoreWarning)]
    assert gone(actors_below(os.getpid()))


@at_length
def test_a_node_whose_cache_cannot_be_written_has_one_for_the_time_being(
    unseen: None, extract: Any, plain: np.ndarray, server: ObjectServer, tmp_path: Path, monkeypatch: Any
) -> None:
    """Which holds no features afterwards."""
    host, temporary, no_folder = ray_engine.Host, tmp_path / "temporary", tmp_path / "file"
    temporary.mkdir()
    no_folder.touch()

    class Elsewhere(host):  # type: ignore[misc, valid-type]
        def start(self, *arguments: Any) -> Any:
            os.environ |= {"HEADSTART_CACHE": str(no_folder), "TMPDIR": str(temporary)}
            return super().start(*arguments)

    monkeypatch.setattr(ray_engine, "Host", Elsewhere)
    features = extract(engine=ENGINE, push=f"{server.url}/temporary")
    assert np.array_equal(features.numpy(), plain)
    caches = list(temporary.glob("headstart-*"))
    assert len(caches) == 2 and not any(any(cache.iterdir()) for cache in caches)


@at_length
def test_shards_in_a_folder_that_all_see_are_pushed_on(
    cluster: None, extract: Any, photos: Path, model: Model, backend: str, server: ObjectServer, caplog: Any
) -> None:
    caplog.set_level("INFO", "headstart")
    url = f"{server.url}/shared"
    extract(engine=ENGINE, push=url)
    assert f"features come by the folder {FeatureStore().root}" in caplog.text
    assert len(shards_in(FeatureStore().root)) == 8 and shards_at(url) == shards_in(FeatureStore().root)
    data = hs.data.folder(photos)
    settings = {"backend": backend, "device": "cpu", "batch_size": BATCH, "dtype": "float16"}
    hs.fit(model, data, epochs=1, push=url, engine=ENGINE, **settings)
    assert len(shards_in(FeatureStore().root)) > 8 and shards_at(url) == shards_in(FeatureStore().root)


# ---- fit


@at_length
def test_fit_extracts_by_it(cluster: None, photos: Path, model: Model, backend: str, caplog: Any) -> None:
    data = hs.data.folder(photos)
    caplog.set_level("INFO", "headstart")
    run = hs.fit(model, data, epochs=1, backend=backend, device="cpu", batch_size=BATCH, engine=hs.Ray(workers=1))
    assert run.extraction is not None and run.extraction.extracted == COUNT
    assert caplog.text.count("Ray: 1 worker of 2 CPUs; 1 task;") == 1
    assert "engine" not in run.settings


def test_what_has_no_engine(photos: Path, model: Model, backend: str) -> None:
    data = hs.data.folder(photos)
    with pytest.raises(SettingError, match="engine= is about features in the cache"):
        hs.fit(model, data, mode="full", engine=ENGINE)
    with pytest.raises(SettingError, match="debug_nans looks at features where they are computed"):
        hs.fit(model, data, backend=backend, debug_nans=True, dtype="float32", engine=ENGINE)
