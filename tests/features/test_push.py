"""Extraction that writes each finished shard on to a store behind a URL, while it goes on."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dim_and_red import dim_and_red

import headstart as hs
from headstart.common.errors import (
    RemoteError,
    RemoteRefusedError,
    SettingError,
    StoreWarning,
    TransferInterrupted,
)
from headstart.common.objects import Objects
from headstart.data import Dataset
from headstart.store import FeatureStore
from headstart.store import writer as shard_writer
from headstart.store.moving import pusher

pytestmark = pytest.mark.of("torch")  # core does it for every backend in the same way

ROW_NBYTES = 84 * 4


@pytest.fixture
def data() -> Dataset:
    return dim_and_red()


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a store; what is extracted comes in shards of ten rows."""
    monkeypatch.setattr(shard_writer, "SHARD_NBYTES", 10 * ROW_NBYTES)
    monkeypatch.setattr(pusher, "_refused", set())
    return (tmp_path / "team").as_uri()


@pytest.fixture
def extract(data: Dataset, url: str) -> Callable[..., Any]:
    model = hs.model("lenet", classes=["dim", "red"])
    settings = {"device": "cpu", "dtype": "float32", "batch_size": 8, "push": url}
    return lambda **more: hs.extract(model, data, "relu4", **settings | more)


def files(root: Path) -> dict[str, bytes]:
    paths = [*root.glob("features/*/*.safetensors"), *root.glob("features/*/trunk.json")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def planted(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> list[str]:
    """What is put, by name; `before` is called first, and may raise."""
    put, names, lock = Objects.put, [], threading.Lock()

    def put_with_faults(self: Objects, name: str, content: bytes) -> None:
        with lock:
            names.append(name)
        before(name)
        put(self, name, content)

    monkeypatch.setattr(Objects, "put", put_with_faults)
    return names


def test_each_finished_shard_is_there_as_well(extract, url, tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", "headstart")
    names = planted(monkeypatch, lambda name: None)
    features = extract()
    own = files(FeatureStore().root)
    assert len(own) == 6 and files(tmp_path / "team") == own
    kinds = [Path(name).name if name.endswith(".json") else name.partition("/")[0] for name in names]
    assert kinds == ["trunk.json", *["features"] * 5, "indexes"]
    assert not [message for message in caplog.messages if "pushed" in message]
    extract()  # nothing is lacking
    assert len(names) == 7
    (told,) = [message for message in caplog.messages if "pushed" in message]
    assert "of 48 images were there before" in told
    assert f"`headstart cache push {features.key().digest[:12]} {url}`" in told
    pulled = hs.cache.pull(url, cache=tmp_path / "elsewhere")
    assert pulled.moved == 5
    again = extract(cache=tmp_path / "elsewhere", push=None)
    assert again.stats.extracted == 0
    assert np.array_equal(again.numpy(), features.numpy())


def test_what_an_extraction_would_find_there_is_explained(extract, data, url, tmp_path, monkeypatch) -> None:
    features = extract()
    model = hs.model("lenet", classes=["dim", "red"])
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "empty"))
    (there,) = hs.cache.at(url).explain(model, data, "relu4", dtype="float32")
    assert (there.key, there.present, there.lacking) == (features.key().digest, 48, 0)
    (here,) = hs.cache.explain(model, data, "relu4", dtype="float32")
    assert (here.present, here.lacking) == (0, 48)
    (other,) = hs.cache.explain(model, data, "relu4", dtype="float16", url=url)
    assert other.present == 0 and "dtype: float16 != float32" in str(other)
    assert not list((tmp_path / "empty").glob("features/*/*")), "no features are fetched"
    with pytest.raises(SettingError, match="cannot be opened"):
        hs.cache.explain(model, data, "relu4", url="ftp://host/x")


def test_it_waits_for_no_network_until_the_end(extract, tmp_path, monkeypatch) -> None:
    written, pushed = [], []
    write = shard_writer.write_shard

    def noted(*args: Any, **more: Any) -> Path:
        written.append(time.monotonic())
        return write(*args, **more)

    def slow(name: str) -> None:
        time.sleep(0.3)
        pushed.append(time.monotonic())

    monkeypatch.setattr(shard_writer, "write_shard", noted)
    planted(monkeypatch, slow)
    extract()
    assert sum(moment < pushed[1] for moment in written) == len(written) == 5, (
        "all were written before two were there"
    )
    assert files(tmp_path / "team") == files(FeatureStore().root)


def test_what_fails_is_told_once_and_mended_by_cache_push(extract, url, tmp_path, monkeypatch) -> None:
    failed: list[str] = []

    def fail(name: str) -> None:
        if name.startswith("features") and name.endswith(".safetensors") and len(failed) < 2:
            failed.append(name)
            raise RemoteError(f"{url}/{name}", "planted")

    with monkeypatch.context() as patch:
        planted(patch, fail)
        with pytest.warns(StoreWarning) as told:
            features = extract()
    assert features.stats.extracted == 48
    (text,) = [str(warning.message) for warning in told]
    key = features.key().digest
    assert f"{url}/{failed[0]}: planted (and 1 more like it)" in text or f"{url}/{failed[1]}: planted" in text
    assert text.startswith(f"not pushed to {url}: 2 shards: ")
    assert f"`headstart cache push {key[:12]} {url}` moves them" in text
    assert files(tmp_path / "team").keys() == files(FeatureStore().root).keys() - set(failed)
    assert hs.cache.push(url, key[:12]).moved == 2
    assert files(tmp_path / "team") == files(FeatureStore().root)


@pytest.mark.parametrize("error", [RemoteRefusedError, RemoteError])
def test_where_it_may_not_write_or_nobody_answers_it_is_not_tried_again(
    error, extract, url, tmp_path, monkeypatch
):
    def fail(name: str) -> None:
        time.sleep(0.02)
        raise error(f"{url}/{name}", "planted")

    monkeypatch.setattr(pusher, "GIVE_UP_AFTER", 2)
    names = planted(monkeypatch, fail)
    with pytest.warns(StoreWarning) as told:
        assert extract().stats.extracted == 48
    assert len(told) == 1 and "planted" in str(told[0].message) and "not tried" in str(told[0].message)
    asked = len(names)
    assert asked <= 3
    if error is RemoteRefusedError:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert extract(cache=tmp_path / "another").stats.extracted == 48
        assert len(names) == asked


def test_an_interrupt_while_it_waits_keeps_all_features(extract, url, monkeypatch) -> None:
    @contextlib.contextmanager
    def interrupted(what: str, nbytes: int) -> Iterator[Callable[[int], None]]:
        assert what == f"pushing to {url}" and nbytes > 4000
        raise KeyboardInterrupt
        yield

    planted(monkeypatch, lambda name: time.sleep(0.1))
    monkeypatch.setattr(pusher, "track", interrupted)
    with pytest.warns(StoreWarning, match="not tried"), pytest.raises(TransferInterrupted, match=url):
        extract()
    assert extract(push=None).stats.extracted == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("headstart-push")]


def test_fit_pushes_what_it_extracts(data, url, tmp_path, monkeypatch) -> None:
    model = hs.model("lenet", classes=["dim", "red"])
    train, val = data.split(0.75)
    run = hs.fit(model, train, val, mode="cached", device="cpu", dtype="float32", epochs=1, push=url)
    assert files(tmp_path / "team") == files(FeatureStore().root) != {}
    assert url not in str(run.settings)
    with pytest.raises(SettingError, match=r"push= is about features in the cache, which mode 'full'"):
        hs.fit(model, train, val, mode="full", device="cpu", epochs=1, push=url)
    with pytest.raises(SettingError, match=r"push='nowhere'; expected a URL"):
        hs.fit(model, train, val, mode="cached", device="cpu", epochs=1, push="nowhere")


def test_a_url_that_is_none_is_refused_before_anything_is_computed(extract) -> None:
    with pytest.raises(SettingError, match="ftp://host/x cannot be opened"):
        extract(push="ftp://host/x")
    with pytest.raises(SettingError, match="begins with"):
        extract(push="nowhere")
    assert not FeatureStore().root.exists()
