"""Extraction and training through a shared cache behind a URL: what is there is not computed, and whatever is
wrong there, they give what they give without it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dim_and_red import dim_and_red
from faults.damage import flip
from object_proxy import ObjectProxy, Request

import headstart as hs
from headstart.common.errors import FeatureDriftError, StoreWarning
from headstart.common.objects import open_objects
from headstart.data import Dataset
from headstart.features.coverage import explain
from headstart.models import Model
from headstart.store import FeatureStore, open_shard
from headstart.store import writer as shard_writer
from headstart.store.remote import shared as remotes
from headstart.store.shard import row_checksums, write_shard

pytestmark = pytest.mark.of("torch")

CUT = "relu4"
SETTINGS: dict[str, Any] = {"backend": "torch", "device": "cpu", "dtype": "float32"}


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "_away", set())
    monkeypatch.setattr(remotes, "_said", set())
    monkeypatch.setattr("headstart.common.objects.RETRIES", 0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dim_and_red()


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=["dim", "red"])


@pytest.fixture(scope="module")
def made(data: Dataset, model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A team's cache, in shards of ten rows, and the rows."""
    root = tmp_path_factory.mktemp("made") / "team"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "SHARD_NBYTES", 10 * 84 * 4)
        return root, hs.extract(model, data, CUT, cache=root, **SETTINGS).numpy()


@pytest.fixture
def rows(made: tuple[Path, np.ndarray]) -> np.ndarray:
    return made[1]


@pytest.fixture
def team(made: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as `file://`."""
    root = tmp_path / "team"
    shutil.copytree(made[0], root)
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", root.as_uri())
    return root


@pytest.fixture
def bucket(
    proxy: ObjectProxy, made: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectProxy:
    """The same in a bucket."""
    proxy.rule = lambda request: None
    objects = open_objects(f"s3://photos/{tmp_path.name}")
    for path in made[0].glob("features/*/*.*"):
        objects.put(path.relative_to(made[0]).as_posix(), path)
    proxy.forget()
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", objects.url)
    return proxy


def forge(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Other rows in every shard, under right checksums and right names."""
    for path in root.glob("features/*/*.safetensors"):
        old = open_shard(path)
        stored = np.empty((len(old), *old.row_shape), old.dtype)
        assert old.read_into(stored, np.arange(len(old)), np.arange(len(old))).all()
        stored = np.ascontiguousarray(change(stored))
        path.unlink()
        write_shard(
            path.parent,
            key_digest=old.key_digest,
            ids=old.ids,
            checksums=row_checksums(stored.reshape(len(stored), -1).view(np.uint8)),
            blocks=[stored],
            provenance=old.provenance,
        )


def one_nan(stored: np.ndarray) -> np.ndarray:
    stored[0, 5] = np.nan
    return stored


def rot(root: Path) -> None:
    for path in root.glob("features/*/*.safetensors"):
        flip(path, 8 * open_shard(path).data_start + 77)


def test_an_extraction_takes_what_is_in_a_bucket(
    bucket: ObjectProxy, data: Dataset, model: Model, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (coverage,) = explain(model, data, CUT, dtype="float32")
    assert coverage.lacking == 0 and FeatureStore(shared=[]).infos() == [], "looking brings nothing"
    features = hs.extract(model, data, CUT, **SETTINGS)
    assert (features.stats.extracted, features.stats.reused) == (0, 48)
    assert np.array_equal(features.numpy(), rows)
    (info,) = FeatureStore(shared=[]).infos()
    assert (info.rows, info.shards) == (48, 5)
    bucket.forget()
    assert np.array_equal(hs.extract(model, data, CUT, **SETTINGS).numpy(), rows)
    assert bucket.requests == []
    secrets = [os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")]
    for path in FeatureStore().root.rglob("*"):
        assert not path.is_file() or not any(secret.encode() in path.read_bytes() for secret in secrets)


def test_a_run_trains_on_it(bucket: ObjectProxy, data: Dataset, model: Model, tmp_path: Path) -> None:
    train, val = data.split(0.75)
    settings = SETTINGS | {"mode": "cached", "cut": CUT, "epochs": 2, "batch_size": 8}
    run = hs.fit(model, train, val, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE_SHARED", "")
        expected = hs.fit(model, train, val, **settings, cache=tmp_path / "alone")
    losses = [record.step_losses for record in run.history]
    np.testing.assert_allclose(losses, [record.step_losses for record in expected.history], rtol=1e-4)
    assert FeatureStore(shared=[]).infos()[0].rows == 48
    assert "test-secret-value" not in json.dumps(run.settings, default=str)


def test_what_is_lacking_there_is_computed(team: Path, data: Dataset, model: Model, rows: np.ndarray) -> None:
    gone = sorted(team.glob("features/*/*.safetensors"))[1]
    count = len(open_shard(gone))
    gone.unlink()
    features = hs.extract(model, data, CUT, **SETTINGS)
    assert (features.stats.extracted, features.stats.reused) == (count, 48 - count)
    assert np.allclose(features.numpy(), rows, rtol=1e-5, atol=1e-6)


AT_REST: dict[str, Callable[[Path], Any]] = {
    "bits": rot,
    "gone": shutil.rmtree,
    "another shape": lambda root: forge(root, lambda stored: stored[:, :21].reshape(-1, 7, 3)),
    "another dtype": lambda root: forge(root, lambda stored: stored.astype(np.float16)),
    "NaN": lambda root: forge(root, one_nan),
    "exchanged rows": lambda root: forge(root, lambda stored: np.roll(stored, 1, axis=0)),
    "another trunk": lambda root: next(root.glob("features/*/trunk.json")).write_text('{"digest": "0"}'),
}


@pytest.mark.parametrize("fault", AT_REST)
def test_what_is_wrong_there_is_computed(
    fault: str, team: Path, data: Dataset, model: Model, rows: np.ndarray
) -> None:
    AT_REST[fault](team)
    if fault == "gone":  # a folder that is not there holds nothing
        features = hs.extract(model, data, CUT, **SETTINGS)
    else:
        with pytest.warns(StoreWarning) as said:
            features = hs.extract(model, data, CUT, **SETTINGS)
        named = [str(warning.message) for warning in said]
        assert all(".safetensors" in text or "trunk.json" in text for text in named), named
        assert len(named) == len(set(named))
    assert features.stats.extracted == 48
    assert np.allclose(features.numpy(), rows, rtol=1e-5, atol=1e-6)
    again = hs.extract(model, data, CUT, **SETTINGS)  # without a warning: warnings are errors here
    assert again.stats.extracted == 0 and np.array_equal(again.numpy(), features.numpy())
    assert not FeatureStore(shared=[]).verify().damaged


def test_wrong_rows_of_the_own_cache_are_still_an_error(
    team: Path, data: Dataset, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    hs.extract(model, data, CUT, **SETTINGS)
    cache = FeatureStore(shared=[])
    forge(cache.root, lambda stored: np.roll(stored, 1, axis=0))  # shards of other names: they never came
    monkeypatch.setattr(
        "headstart.features.batch_features.__version__", "0.0.1"
    )  # what was made by another one is checked
    with pytest.raises(FeatureDriftError, match="Extract into another cache"):
        hs.extract(model, data, CUT, **SETTINGS)


@pytest.mark.parametrize("fault", ["drop", "cut", "500", "403", "short", "flip", "gone"])
def test_whatever_the_server_does(
    fault: str, bucket: ObjectProxy, data: Dataset, model: Model, rows: np.ndarray
) -> None:
    chance = np.random.default_rng(len(fault))

    def rule(request: Request) -> str | None:
        return fault if chance.random() < 0.4 else None

    bucket.rule = rule
    with pytest.warns(StoreWarning) as said:
        features = hs.extract(model, data, CUT, **SETTINGS)
    assert np.allclose(features.numpy(), rows, rtol=1e-5, atol=1e-6)
    assert all(os.environ["HEADSTART_CACHE_SHARED"] in str(warning.message) for warning in said)
    assert not any("test-secret-value" in str(warning.message) for warning in said)
