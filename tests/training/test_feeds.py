"""What training reads: augmented views, decoded images, features that are streamed, features without images. Each
is held to a run that needs none of it: augmented epochs, plain ones, features in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dim_and_red import dim_and_red

import headstart as hs
from headstart.common.errors import CutError, DamagedShardError, DataError, DataWarning, SettingError
from headstart.common.machine import available_memory
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Recipe
from headstart.data import Dataset
from headstart.data.order import block_order, epoch_shape
from headstart.features import batch_features
from headstart.features.feature_set import FeatureSet
from headstart.models import Model
from headstart.store import FeatureStore
from headstart.store import writer as shard_writer
from headstart.store.shard import Shard
from headstart.training import placement as placing
from headstart.training.feature_feeds import Resident, Streamed
from headstart.training.feeds import counted
from headstart.training.placement import Placement, feeds_of, place_features
from headstart.training.settings import Settings

CUT = "relu4"
ROW_NBYTES = 84 * 4  # of float32 features there
BATCH = 3
LITTLE = 48 * ROW_NBYTES  # of 60 rows; pools of 6, two batches
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "epochs": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """Pictures larger than the model's, so that crops differ; of two classes that can be told apart."""
    return dim_and_red(60, 40, 44).split(0.7, by="position")


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=["dim", "red"])


@pytest.fixture
def fit(model: Model, data: tuple[Dataset, Dataset], backend: str) -> Callable[..., Any]:
    def call(*sets: Any, **settings: Any) -> Any:
        return hs.fit(model, *(sets or data), backend=backend, **{**SETTINGS, **settings})

    return call


@pytest.fixture
def features(model: Model, data: tuple[Dataset, Dataset], backend: str, monkeypatch: Any) -> list[FeatureSet]:
    """In shards of ten rows each."""
    monkeypatch.setattr(shard_writer, "SHARD_NBYTES", 10 * ROW_NBYTES)
    return [hs.extract(model, part, CUT, backend=backend, device="cpu", dtype="float32") for part in data]


def losses(run: Any) -> np.ndarray:
    return np.array([record.step_losses for record in run.history])


def placed(features: list[FeatureSet], **settings: Any) -> Placement:
    return place_features(features, CUT, BATCH, settings.get("memory"), settings.get("device_free"))


# --- views


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_views_are_what_an_augmented_run_draws(fit: Callable[..., Any]) -> None:
    uncached = fit(mode="frozen", cut=CUT, augment="flip,crop", epochs=4)
    cached = fit(mode="cached", cut=CUT, augment="flip,crop", views=4, epochs=4)
    np.testing.assert_allclose(losses(cached), losses(uncached), rtol=1e-3)
    assert cached.extraction.extracted == 4 * 42 + 18
    plain = fit(mode="cached", cut=CUT, epochs=4)
    assert np.abs(losses(cached) / losses(plain) - 1).max() > 0.01, "nothing was augmented"


def test_the_views_come_in_turn(model: Model, data: Any, features: Any, backend: str) -> None:
    views = hs.extract(
        model, data[0], CUT, backend=backend, device="cpu", dtype="float32", augment="flip", views=2, seed=3
    )
    assert (views.views, views.stats.extracted) == (2, 84)
    fed: list[np.ndarray] = []

    class Spy:
        def put(self, rows: np.ndarray) -> np.ndarray:
            return rows

        def epoch(self, rows: np.ndarray, *_: Any) -> tuple[np.ndarray, int]:
            fed.append(rows)
            return np.zeros((1, 1)), 0

    feed, spy = Resident(views, CUT), Spy()
    for epoch in range(3):
        feed.train(spy, feed.order(8, 0, epoch), np.zeros(5), epoch)  # type: ignore[arg-type]
    assert np.array_equal(fed[0], views.numpy(CUT, 0)) and np.array_equal(fed[1], views.numpy(CUT, 1))
    assert np.array_equal(fed[2], fed[0]) and not np.array_equal(fed[1], fed[0])


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_more_views_keep_the_first_ones(model: Model, data: Any, backend: str) -> None:
    def extract(views: int, **settings: Any) -> Any:
        settings = {"augment": "flip,crop", "device": "cpu", **settings}
        return hs.extract(model, data[1], CUT, backend=backend, views=views, **settings).stats.extracted

    assert extract(2) == 36
    assert extract(4) == 36
    assert extract(4) == 0
    assert extract(1, augment="crop") == 18
    assert extract(1, seed=1) == 18
    assert extract(1, augment=None) == 18


def test_views_that_make_no_sense_are_refused(model: Model, data: Any, backend: str) -> None:
    for settings, message in (
        ({"views": 2}, "views=2 without augmentation"),
        ({"views": 0, "augment": "flip"}, "views=0"),
        ({"views": True, "augment": "flip"}, "views=True"),
    ):
        with pytest.raises(SettingError, match=message):
            hs.extract(model, data[0], CUT, backend=backend, **settings)
    for settings, message in (
        ({"augment": "flip"}, "frozen into the cache; pass views="),
        ({"views": 2}, "views=2 without augmentation"),
        ({"views": 2, "augment": "flip", "mode": "frozen"}, "views= is about features in the cache"),
        ({"mode": "full", "cut": "input", "augment": "flip"}, "cut 'input': what is cached"),
        ({"mode": "full", "memory": "1GB"}, "memory= is about features in the cache"),
        ({"memory": "much"}, "'much' is no size"),
        ({"memory": 0}, "memory=0"),
        ({"cut": "input"}, "no trunk before it"),
        ({"cut": "input", "mode": "frozen"}, "no trunk before it"),
    ):
        with pytest.raises(SettingError, match=message):
            Settings(**settings)
    Settings(mode="staged", augment="flip")
    Settings(mode="staged", augment="flip", views=2)
    Settings(mode="scratch", cut="input", augment="flip", views=2, memory="1GB")


# --- decoded images


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_training_on_decoded_images_is_training_on_images(fit: Callable[..., Any]) -> None:
    plain = fit(mode="full", epochs=2)
    cached = fit(mode="full", epochs=2, cut="input")
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-3)
    assert cached.history[-1].val_loss == pytest.approx(plain.history[-1].val_loss, rel=1e-3)
    assert cached.extraction.extracted == 60 and cached.extraction.made_by == ("pillow",)
    assert cached.settings["feature_dtype"] == "uint8"


def test_decoded_images_are_the_pixels_and_shared_by_models(
    model: Model, data: Any, backend: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(batch_features, "pixel_trunk", None)  # none is needed
    train = data[0]
    stored = hs.extract(model, train, "input", backend=backend)
    expected = np.stack([model.preprocess.apply(train.load(i)[0]) for i in range(len(train))])
    assert stored.numpy().dtype == np.uint8
    assert np.array_equal(stored.numpy(), expected)
    other = hs.model("lenet", classes=2, head=[16])
    assert hs.extract(other, train, "input", backend=backend, dtype="float32").stats.reused == len(train)
    larger = hs.model("resnet18_half", weights="tinyimagenet", size=48)
    assert hs.extract(larger, train, "input", backend=backend).stats.extracted == len(train)
    for how in ({"squash": True}, {"floor": True}):
        another = replace(model, preprocess=replace(model.preprocess, **how))
        assert hs.extract(another, train, "input", backend=backend).stats.extracted == len(train)


def test_inputs_that_are_no_images_have_no_cut_input(backend: str) -> None:
    if backend != "torch":
        pytest.skip("a wrapped module of one framework says as much as three")
    from torch import nn

    x = np.zeros((4, 5), np.float32)
    wrapped = hs.wrap(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), cut="0", example=x)
    with pytest.raises(CutError, match="keeps decoded images"):
        hs.extract(wrapped, hs.data.arrays(x, [0, 1, 0, 1]), "input", backend=backend)


# --- streaming


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize(("block", "pool", "batch"), [(1, 8, 8), (5, 32, 16), (64, 64, 1), (3, 96, 32)])
def test_a_block_order_reads_whole_blocks(count: int, block: int, pool: int, batch: int) -> None:
    on_disk = np.random.default_rng(0).permutation(count)
    order = block_order(on_disk, block, pool, batch, 0, 0)
    steps, size = epoch_shape(count, batch)
    assert order.shape == (steps, size)
    visited = order.reshape(-1)
    assert set(visited.tolist()) == set(range(count))
    again = block_order(on_disk, block, pool, batch, 0, 0)
    assert np.array_equal(order, again)
    if count == 1000:
        assert not np.array_equal(order, block_order(on_disk, block, pool, batch, 0, 1))
        assert not np.array_equal(order, block_order(on_disk, block, pool, batch, 1, 0))
        rank = np.argsort(on_disk)
        for start in range(0, len(visited), pool):
            lies = np.unique(rank[visited[start : start + pool]])
            runs = 1 + np.count_nonzero(np.diff(lies) > 1)
            # whole blocks, but for the two that straddle the pool's ends, neighbours that met by chance, and
            # those that fill the last batch
            assert runs <= pool // block + 2 + (steps * size - count if start + pool >= len(visited) else 0)


def trainer_of(model: Model, backend: str) -> Any:
    graph = model.graph.after(CUT, model.input_shape)
    params = {name: model.params[name] for name in graph.param_shapes()}
    chosen = registry.load(backend)
    return chosen.trainer(graph, params, Recipe(SGD(lr=0.05), Softmax(), False, 0), chosen.place("cpu", "float32"))


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_a_streamed_epoch_is_the_same_epoch_in_memory(
    model: Model, features: Any, backend: str, weighted: bool
) -> None:
    placement = placed(features, memory=LITTLE)
    assert (placement.where, placement.pool_nbytes) == ("disk", 6 * ROW_NBYTES)
    weights = np.random.default_rng(0).uniform(0, 3, len(features[0])).astype(np.float32) if weighted else None
    train, val = feeds_of(features, CUT, placement, weights)
    assert isinstance(train, Streamed) and isinstance(val, Streamed)
    whole = Resident(features[0], CUT, weights), Resident(features[1], CUT)
    mine, theirs = trainer_of(model, backend), trainer_of(model, backend)
    for epoch in range(2):
        order = train.order(BATCH, 0, epoch)
        rates = np.linspace(0.05, 0.01, len(order))
        streamed, resident = train.train(mine, order, rates, epoch), whole[0].train(theirs, order, rates, epoch)
        np.testing.assert_allclose(streamed.losses, resident.losses, rtol=1e-4)
        assert streamed.accuracy == resident.accuracy
    np.testing.assert_allclose(val.logits(mine)[0], whole[1].logits(theirs)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_features_of_two_dtypes_are_streamed(model: Model, data: Any, features: Any, backend: str) -> None:
    """As saved by two people: each set in its own."""
    halves = hs.extract(model, data[1], CUT, backend=backend, device="cpu", dtype="float16")
    for sets in ([features[0], halves], [halves, features[0]]):
        feeds = feeds_of(sets, CUT, placed(sets, memory=LITTLE))
        trainer = trainer_of(model, backend)
        for feed, of in zip(feeds, sets, strict=True):
            assert isinstance(feed, Streamed)
            expected, _ = Resident(of, CUT).logits(trainer)
            np.testing.assert_allclose(feed.logits(trainer)[0], expected, rtol=1e-5, atol=1e-6)
        order = feeds[0].order(BATCH, 0, 0)
        expected = Resident(sets[0], CUT).train(trainer_of(model, backend), order, np.full(len(order), 0.05), 0)
        streamed = feeds[0].train(trainer, order, np.full(len(order), 0.05), 0)
        np.testing.assert_allclose(streamed.losses, expected.losses, rtol=1e-4)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_what_the_page_cache_cannot_hold_is_read_past_it(features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes, past = 60 * ROW_NBYTES, []
    read_into = Shard.read_into

    def noting(shard: Shard, out: Any, places: Any, rows: Any, past_cache: bool = False) -> Any:
        past.append(past_cache)
        return read_into(shard, out, places, rows, past_cache)

    monkeypatch.setattr(Shard, "read_into", noting)
    for left, share in ((nbytes + LITTLE, 1.0), (nbytes // 2 + LITTLE, 0.5), (LITTLE, 0.0), (0, 0.0)):
        monkeypatch.setattr(placing, "available_memory", lambda left=left: left)
        placement = placed(features, memory=LITTLE)
        assert placement.cached_share == share
        assert "cached_share" not in placement.as_dict()
        past.clear()
        train, _ = feeds_of(features, CUT, placement)
        for _ in train.stored():
            pass
        assert any(past) == (share < 1) and all(past) == (share == 0)


@pytest.mark.parametrize("memory", [None, LITTLE // 2])
def test_parts_are_evaluated_as_the_whole(model: Model, features: Any, backend: str, memory: int | None) -> None:
    """In whichever order they are asked for; of the last rows, too, before which a window has to begin."""
    (feed,) = feeds_of(features[:1], CUT, placed(features[:1], memory=memory))
    assert isinstance(feed, Resident if memory is None else Streamed)
    trainer = trainer_of(model, backend)
    whole, _ = feed.logits(trainer)
    parts = [slice(30, len(whole)), slice(0, 7), slice(7, 30)]
    results, _ = feed.logits_of(trainer, parts, [None] * 3)
    for part, logits in zip(parts, results, strict=True):
        np.testing.assert_allclose(logits, whole[part], rtol=1e-5, atol=1e-6)


def test_features_larger_than_the_memory_allowed_are_streamed(fit: Callable[..., Any]) -> None:
    here = fit(cut=CUT, batch_size=BATCH)
    streamed = fit(cut=CUT, batch_size=BATCH, memory=LITTLE)
    assert here.settings["features"]["where"] == "device"
    assert here.settings["features"]["nbytes"] == 60 * ROW_NBYTES
    assert streamed.settings["features"]["where"] == "disk"
    assert streamed.extraction.extracted == 0
    assert losses(streamed).shape == losses(here).shape
    assert not np.array_equal(losses(streamed), losses(here)), "another order is expected"
    assert streamed.history[-1].loss == pytest.approx(here.history[-1].loss, rel=0.2)
    with pytest.raises(SettingError, match="is too little for batches of 7 x"):
        fit(cut=CUT, memory=LITTLE)


def test_where_features_are_put(features: Any) -> None:
    nbytes = 60 * ROW_NBYTES
    for settings, where in (
        ({}, "device"),
        ({"memory": nbytes}, "device"),
        ({"memory": nbytes - 1}, "disk"),
        ({"memory": nbytes, "device_free": 2 * nbytes}, "device"),
        ({"memory": nbytes, "device_free": nbytes}, "memory"),
        ({"memory": nbytes - 1, "device_free": nbytes}, "disk"),
    ):
        placement = placed(features, **settings)
        assert placement.where == where, settings
        assert 8 * placement.pool_nbytes <= min(placement.limit, settings.get("device_free", nbytes))
    assert available_memory() > 0


def test_what_does_not_fit_the_device_is_fed_from_memory(model: Model, features: Any, backend: str) -> None:
    train, val = feeds_of(features, CUT, placed(features, memory=60 * ROW_NBYTES, device_free=60 * ROW_NBYTES))
    whole = Resident(features[0], CUT)
    order = train.order(BATCH, 0, 0)
    assert np.array_equal(order, whole.order(BATCH, 0, 0)), "all of memory can be shuffled"
    rates = np.full(len(order), 0.05)
    mine, theirs = trainer_of(model, backend), trainer_of(model, backend)
    streamed, resident = train.train(mine, order, rates, 0), whole.train(theirs, order, rates, 0)
    np.testing.assert_allclose(streamed.losses, resident.losses, rtol=1e-4)
    np.testing.assert_allclose(
        val.logits(mine)[0], Resident(features[1], CUT).logits(theirs)[0], rtol=1e-3, atol=1e-5
    )


def test_damage_ends_a_streamed_epoch(model: Model, features: Any, backend: str) -> None:
    train, _ = feeds_of(features, CUT, placed(features, memory=LITTLE))
    order = train.order(BATCH, 0, 0)
    # All of them: the validation data's are shards of the same folder, and names say nothing of what is inside.
    paths = sorted(features[0].folder(CUT).path.glob("*.safetensors"))
    assert len(paths) > 1
    for path in paths:
        content = bytearray(path.read_bytes())
        content[4096 + 5] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedShardError, match="|".join(path.name for path in paths)):
        train.train(trainer_of(model, backend), order, np.full(len(order), 0.05), 0)


# --- features without images


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_features_train_like_the_data_that_they_are_of(
    fit: Callable[..., Any], features: Any, data: Any, model: Model, backend: str, tmp_path: Path
) -> None:
    expected = fit(cut=CUT)
    run = fit(*features)
    assert np.array_equal(losses(run), losses(expected))
    assert run.cut == CUT and run.extraction.extracted == 0
    logits = run.predict(features[1])
    np.testing.assert_allclose(logits, run.predict(data[1]), rtol=1e-3, atol=1e-5)
    result = run.evaluate(features[1])
    assert (result.samples, result.accuracy) == (18, run.history[-1].val_accuracy)
    assert result.loss == pytest.approx(run.history[-1].val_loss, rel=1e-3)
    assert run.evaluate(data[1]).loss == pytest.approx(result.loss, rel=1e-3)
    features[0].save(tmp_path / "saved")
    FeatureStore().gc(FeatureStore().gc_plan(0))
    elsewhere = fit(hs.load_features(tmp_path / "saved"))
    assert np.array_equal(losses(elsewhere), losses(expected))


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_what_features_that_are_there_do_not_read_is_refused(fit: Callable[..., Any], features: Any) -> None:
    for settings, message in (
        ({"extraction_batch": 4}, "extraction_batch= is about features that are extracted, and these are"),
        ({"push": "file:///features"}, "push= is about features that are extracted, and these are"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' with features that are stored as float32"),
    ):
        with pytest.raises(SettingError, match=message):
            fit(*features, **settings)
    run = fit(*features, epochs=1, dtype="float16")  # what it is where nobody says anything
    assert run.settings["feature_dtype"] == "float32"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_scores_of_augmented_pictures_are_told(
    fit: Callable[..., Any], model: Model, data: Any, features: Any, backend: str
) -> None:
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "dtype": "float32"}
    views = [hs.extract(model, part, CUT, **settings, augment="flip", views=2) for part in data]
    run = fit(views[0], features[1], epochs=1)  # as it is meant
    for what, score in (
        ("validation data", lambda: fit(*views, epochs=1)),
        ("folds that are held out", lambda: fit(views[0], folds=2, epochs=1)),
        ("given data", lambda: run.evaluate(views[1])),
    ):
        with pytest.warns(DataWarning, match=f"the features of the {what} are of augmented pictures"):
            score()
    with pytest.raises(SettingError, match=r"takes every sample once, and the features of .* have 2 augmented"):
        fit(views[0], features[1], solver="ridge", epochs=None)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_features_of_another_trunk_are_refused(
    fit: Callable[..., Any], features: Any, data: Any, model: Model, backend: str
) -> None:
    other = hs.model("lenet", classes=["dim", "red"], seed=1)
    with pytest.raises(SettingError, match=r"come from another trunk than the model's .*: weights: "):
        hs.fit(other, *features, backend=backend, cut=CUT)
    with pytest.raises(SettingError, match=r"are of relu4, not of 'relu3'"):
        fit(*features, cut="relu3")
    with pytest.raises(SettingError, match="only mode 'cached'"):
        fit(*features, mode="full")
    with pytest.raises(SettingError, match="leave out augment="):
        fit(*features, augment="flip", views=2)
    with pytest.raises(SettingError, match="expected data sets, or features of both"):
        fit(features[0], data[1])
    full = fit(mode="full", epochs=1)
    with pytest.raises(SettingError, match="another trunk"):
        full.predict(features[1])
    unlike = hs.model("lenet", classes=["a", "b"])
    with pytest.raises(DataError, match="Make the model with classes="):
        hs.fit(unlike, *features, backend=backend, cut=CUT)


def test_what_counts_for_a_head_alone_is_what_it_has_right_or_wrong() -> None:
    order = np.array([[3, 1], [0, 3]])
    weights = np.array([[1, 0, 0], [0, 2, 0], [9, 9, 9], [0.5, 0.5, 0]], np.float32)
    assert counted(None, order) == counted(weights[:, 0], order) == 4
    assert counted(weights, order).tolist() == [3, 3, 1]
