"""What is trained on standardised features: the same history as by a plain loop on scikit-learn's, cached and
behind a frozen trunk, and in the end a plain layer for features as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scalers import scaler_of
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart.data import Dataset
from headstart.data.order import epoch_order
from headstart.data.preprocess import Preprocess
from headstart.features.feature_set import FeatureSet
from headstart.graph import Builder
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.training.feature_feeds import Pools, Streamed
from headstart.training.job import initial
from headstart.training.modes import mode_of
from headstart.training.moments import Moments
from headstart.training.standardizing import Standardization, readers

CLASSES = ("dim", "red", "green")
BATCH, EPOCHS, RATE, CHANNELS = 8, 3, 0.05, 12
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "optimizer": hs.SGD(lr=RATE, momentum=0.0),
    "schedule": "constant",
    "warmup": 0.0,
    "monitor": None,
}
SCALES = {
    "as they are": (1.0, 0.0),
    "times 0.001": (0.001, 0.0),
    "times 100": (100.0, 0.0),
    "plus 10": (1.0, 10.0),
}


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (60, 16, 16, 3), np.uint8)
    labels = np.arange(60) % 3
    for k in (1, 2):
        images[labels == k, :, :, k - 1] += 60
    return hs.data.arrays(images, labels, classes=list(CLASSES)).split(0.7, by="position")


def small(
    scale: float = 1.0, shift: float = 0.0, fresh: bool = False, outputs: int = 3, bias: bool = True
) -> Model:
    """A convolution and a batch norm, whose `bn` gives features of any scale, a pooling and a linear layer."""
    b = Builder()
    x = b.add("bn", "batch_norm", b.conv("conv", "input", 3, CHANNELS, 3, 2, 1), channels=CHANNELS)
    x = b.add("avgpool", "global_avg_pool", x)
    graph = b.graph(b.add("fc", "linear", x, in_features=CHANNELS, out_features=outputs, bias=bias))
    params = initial_params(graph, 0)
    wild = np.linspace(0.2, 3, CHANNELS)
    params["bn.weight"] = np.float32(scale * wild)
    params["bn.bias"] = np.float32(scale * (wild[::-1] - 1) + shift)
    return Model(
        "small",
        graph,
        params,
        Preprocess(16, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        CLASSES if outputs == 3 else tuple(map(str, range(outputs))),
        fresh=frozenset({"fc.weight", "fc.bias"} if fresh else ()),
        cut="avgpool",
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fit(data: tuple[Dataset, Dataset], backend: str, cache: Path) -> Callable[..., Any]:
    def call(model: Model, *sets: Any, **settings: Any) -> Any:
        return hs.fit(model, *(sets or data), backend=backend, cache=cache, **{**SETTINGS, **settings})

    return call


@pytest.fixture(scope="module")
def features(
    backend: str, cache: Path, data: tuple[Dataset, Dataset]
) -> Callable[..., tuple[FeatureSet, FeatureSet]]:
    def call(model: Model, cut: str = "avgpool") -> tuple[FeatureSet, FeatureSet]:
        settings: dict[str, Any] = {"backend": backend, "device": "cpu", "dtype": "float32", "cache": cache}
        train, val = (hs.extract(model, part, cut, **settings) for part in data)
        return train, val

    return call


def losses(run: Any) -> np.ndarray:
    return np.array([record.step_losses for record in run.history])


def started(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias as a training begins with them, float64."""
    params = initial(model, mode_of("cached"), "avgpool", 0)
    return params["fc.weight"].astype(np.float64), params["fc.bias"].astype(np.float64)


def plain_loop(
    rows: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, epochs: int = EPOCHS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax regression by plain gradient descent, in float64: losses `(epochs, steps)`, weight and bias."""
    history = []
    for epoch in range(epochs):
        for batch in epoch_order(len(rows), BATCH, 0, epoch):
            x = rows[batch].astype(np.float64)
            logits = x @ weight.T + bias
            logits -= logits.max(1, keepdims=True)
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            history.append(-np.log(p[np.arange(len(batch)), labels[batch]]).mean())
            gradient = (p - np.eye(len(bias))[labels[batch]]) / len(batch)
            weight, bias = weight - RATE * gradient.T @ x, bias - RATE * gradient.sum(0)
    return np.array(history).reshape(epochs, -1), weight, bias


@pytest.mark.parametrize("fresh", [False, True], ids=["pretrained", "fresh"])
@pytest.mark.parametrize("cut", [pytest.param("avgpool", marks=pytest.mark.slow("keras", "jax")), "bn"])
def test_the_history_and_the_layer_are_a_plain_loops(
    fit: Callable[..., Any], features: Any, cut: str, fresh: bool
) -> None:
    model = small(*SCALES["plus 10"], fresh=fresh)
    train, val = features(model, cut)
    rows = [features.numpy(cut).reshape(len(features), -1, CHANNELS).mean(1) for features in (train, val)]
    scaler = scaler_of(rows[0])
    run = fit(model, cut=cut)
    weight, bias = started(model)
    if not fresh:  # one that was trained before goes on from what it does
        weight, bias = weight * scaler.scale_, bias + weight @ scaler.mean_
    expected, weight, bias = plain_loop(scaler.transform(rows[0]), train.labels, weight, bias)
    np.testing.assert_allclose(losses(run), expected, rtol=2e-4)
    plain = weight / scaler.scale_, bias - (weight / scaler.scale_) @ scaler.mean_
    np.testing.assert_allclose(run.model.params["fc.weight"], plain[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run.model.params["fc.bias"], plain[1], rtol=1e-3, atol=1e-3)
    assert np.array_equal(features(model, cut)[0].numpy(cut), train.numpy(cut)), "the store has them as they are"
    again = fit(model, train, val, cut=cut)  # from features that are at hand
    np.testing.assert_array_equal(losses(again), losses(run))


def test_without_it_features_are_trained_on_as_they_are(fit: Callable[..., Any], features: Any) -> None:
    model = small()
    train, _ = features(model)
    run = fit(model, standardize=False)
    expected, weight, bias = plain_loop(train.numpy(), train.labels, *started(model))
    np.testing.assert_allclose(losses(run), expected, rtol=1e-4)
    np.testing.assert_allclose(run.model.params["fc.weight"], weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run.model.params["fc.bias"], bias, rtol=1e-3, atol=1e-5)
    assert run.settings["standardize"] is False


ONE_SCALE = [name if name == "plus 10" else pytest.param(name, marks=pytest.mark.of("torch")) for name in SCALES]
"""what core maps at each scale is the same for every backend: elsewhere the one that has a shift, too"""


@pytest.mark.slow("keras", "jax")  # the suite and zoo compare the two
@pytest.mark.parametrize("name", ONE_SCALE)
def test_frozen_is_cached_whatever_the_features_scale(fit: Callable[..., Any], name: str) -> None:
    model = small(*SCALES[name], fresh=True)
    cached, frozen = (fit(model, mode=mode, cut="bn") for mode in ("cached", "frozen"))
    np.testing.assert_allclose(losses(frozen), losses(cached), rtol=1e-4)
    np.testing.assert_allclose(frozen.history["val_loss"], cached.history["val_loss"], rtol=1e-4)
    scale = np.abs(cached.model.params["fc.weight"]).max()
    for one in ("fc.weight", "fc.bias"):
        bar = 1e-3 * scale * (1 + SCALES[name][1] if one == "fc.bias" else 1)
        np.testing.assert_allclose(frozen.model.params[one], cached.model.params[one], rtol=1e-3, atol=bar)
    plain = fit(small(fresh=True), cut="bn")
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-3, err_msg="the scale makes no difference")
    assert plain.history[-1].loss < 0.9 * plain.history[0].loss


@pytest.mark.parametrize(
    "mode",
    ["frozen", *(pytest.param(mode, marks=pytest.mark.slow("keras", "jax")) for mode in ("cached", "staged"))],
)
def test_what_was_trained_takes_features_as_they_are(
    fit: Callable[..., Any], data: tuple[Dataset, Dataset], mode: str
) -> None:
    model, val = small(*SCALES["plus 10"]), data[1]
    only_head = {"head_epochs": 2, "epochs": 1, "lr": 1e-9} if mode == "staged" else {}
    run = fit(model, mode=mode, **only_head)
    record = run.history[-1]
    assert run.evaluate(val, device="cpu").loss == pytest.approx(record.val_loss, rel=1e-4)
    predicted = run.predict(val, device="cpu")
    images = model.preprocess.normalise(np.stack([np.asarray(val.load(i)[0]) for i in range(len(val))]))
    native = hs.forward(run.model, images, backend=run.backend, device="cpu")["logits"]
    np.testing.assert_allclose(native, predicted, atol=1e-4)
    if mode == "staged":
        first, second = run.head_history[-1].val_loss, run.history[0].val_loss
        assert second == pytest.approx(first, rel=1e-4), "the second stage begins where the first one ended"


def regression(outputs: int = 1) -> tuple[Dataset, Dataset]:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 250, (60, 16, 16, 3), np.uint8)
    numbers = 1900 + 40 * images.mean((1, 2))[:, :outputs].astype(np.float32)
    names = [str(k) for k in range(outputs)]
    return hs.data.arrays(images, numbers, classes=names, task="regression").split(0.7, by="position")


@pytest.mark.slow("keras", "jax")  # the suite has going on from a state
@pytest.mark.parametrize("task", ["single", "regression"])
def test_a_run_goes_on_where_it_stopped(fit: Callable[..., Any], data: tuple[Dataset, Dataset], task: str) -> None:
    """The map is taken off the layer, and of numbers their scale, when it is trained again."""
    sets, model = data, small(*SCALES["plus 10"], fresh=True)
    if task == "regression":
        sets, model = regression(), small(*SCALES["plus 10"], fresh=True, outputs=1)
    run = fit(model, *sets)
    assert run.history[-1].loss < run.history[0].loss
    again = fit(run.model, *sets, epochs=1, lr=1e-9)
    assert again.history[0].val_loss == pytest.approx(run.history[-1].val_loss, rel=1e-4)
    assert run.evaluate(sets[1], device="cpu").loss == pytest.approx(run.history[-1].val_loss, rel=1e-4)
    for name, value in run.model.params.items():
        np.testing.assert_allclose(again.model.params[name], value, rtol=1e-4, atol=1e-3)


def test_numbers_are_a_plain_loops(fit: Callable[..., Any], features: Any, backend: str, cache: Path) -> None:
    """Where the first layer is the last one too, both scales go into it."""
    train, val = regression()
    model = small(*SCALES["plus 10"], fresh=True, outputs=1)
    rows = hs.extract(model, train, "avgpool", backend=backend, device="cpu", dtype="float32", cache=cache).numpy()
    run = fit(model, train, val)
    scaler, aim = (
        scaler_of(rows),
        StandardScaler().fit(train.labels.astype(np.float64)),
    )
    x, y = scaler.transform(rows), aim.transform(train.labels)
    weight, bias = started(model)
    for epoch in range(EPOCHS):
        for batch in epoch_order(len(rows), BATCH, 0, epoch):
            error = (x[batch] @ weight.T + bias - y[batch]) / len(batch)
            weight, bias = weight - RATE * 2 * error.T @ x[batch], bias - RATE * 2 * error.sum(0)
    plain = weight * aim.scale_ / scaler.scale_
    np.testing.assert_allclose(run.model.params["fc.weight"], plain, rtol=2e-3, atol=1e-2)
    expected = bias * aim.scale_ + aim.mean_ - plain @ scaler.mean_
    np.testing.assert_allclose(run.model.params["fc.bias"], expected, rtol=1e-3)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_layer_without_a_bias(fit: Callable[..., Any], data: tuple[Dataset, Dataset]) -> None:
    model = small(100.0, fresh=False, bias=False)
    cached, frozen = (fit(model, mode=mode) for mode in ("cached", "frozen"))
    np.testing.assert_allclose(losses(frozen), losses(cached), rtol=1e-4)
    assert cached.evaluate(data[1], device="cpu").loss == pytest.approx(cached.history[-1].val_loss, rel=1e-4)


@pytest.mark.slow("keras", "jax")  # the suite trains on such features
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_half_precision(fit: Callable[..., Any], data: tuple[Dataset, Dataset], dtype: str) -> None:
    model = small(fresh=True)
    half, full = fit(model, dtype=dtype), fit(model)
    np.testing.assert_allclose(losses(half), losses(full), rtol=0.05 if dtype == "bfloat16" else 5e-3)
    bar = 0.03 if dtype == "bfloat16" else 5e-3
    assert half.evaluate(data[1], device="cpu").loss == pytest.approx(half.history[-1].val_loss, rel=bar)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_it_is_for_linear_heads(fit: Callable[..., Any]) -> None:
    """What convolutions read, and networks that are trained as a whole, are as without it."""
    for settings in ({"cut": "layer4.0", "mode": "cached"}, {"mode": "full"}):
        model = hs.model("resnet18_half", weights=None, classes=CLASSES, size=32)
        with_it, without = (fit(model, epochs=1, standardize=on, **settings) for on in (True, False))
        np.testing.assert_array_equal(losses(with_it), losses(without))


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_debugging_changes_nothing(fit: Callable[..., Any]) -> None:
    for mode in ("cached", "frozen"):
        watched, plain = (fit(small(*SCALES["plus 10"]), mode=mode, debug_nans=on) for on in (True, False))
        np.testing.assert_allclose(losses(watched), losses(plain), rtol=1e-5)
        for name, value in plain.model.params.items():
            np.testing.assert_allclose(watched.model.params[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_what_is_streamed_is_mapped_once(features: Any, in_memory: bool) -> None:
    model = small(*SCALES["plus 10"])
    train, _ = features(model)
    raw, fed = train.numpy(), []

    class Spy:
        def put(self, rows: np.ndarray) -> np.ndarray:
            return rows

        def epoch(self, rows: np.ndarray, *_: Any) -> tuple[np.ndarray, int]:
            fed.append(rows.copy())
            return np.zeros((1, 1)), 0

    feed = Streamed(train, "avgpool", Pools(BATCH, (CHANNELS,), np.dtype(np.float32)), BATCH, in_memory)
    moments, linear = Moments(False), readers(model.graph.after("avgpool", model.input_shape))
    assert linear is not None
    for block, weights in feed.stored():
        moments.add(block, weights)
    by = Standardization.of(moments, linear)
    scaler = scaler_of(raw)
    np.testing.assert_allclose(by.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(by.deviation, scaler.scale_, rtol=1e-5)
    feed.standardize(by)
    for epoch in range(2):
        fed.clear()
        order = feed.order(BATCH, 0, epoch)
        feed.train(Spy(), order, np.zeros(len(order)), epoch)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.concatenate(fed), scaler.transform(raw)[order.reshape(-1)], atol=1e-4)


def test_streamed_and_resident_begin_alike(fit: Callable[..., Any]) -> None:
    model = small(*SCALES["plus 10"])
    first = [
        fit(model, lr=1e-9, epochs=1, **settings).history[0] for settings in ({}, {"memory": 59 * 4 * CHANNELS})
    ]
    assert first[0].val_loss == pytest.approx(first[1].val_loss, rel=1e-5)
    assert first[0].loss == pytest.approx(first[1].loss, rel=0.05)


@pytest.mark.slow("keras", "jax")  # the suite has them side by side and alone
def test_heads_side_by_side_and_alone(
    fit: Callable[..., Any], data: tuple[Dataset, Dataset], backend: str
) -> None:
    for model in (small(*SCALES["plus 10"]), small(*SCALES["times 0.001"], fresh=True)):
        settings = {**SETTINGS, "backend": backend}
        found = hs.sweep(model, *data, grid={"lr": [0.01, 0.05]}, **settings)
        assert found.at_once == 2
        for run, point in zip(found.runs, found.points, strict=True):
            alone = fit(model, lr=point["lr"])
            np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-4)
            for name, value in alone.model.params.items():
                bar = 1e-3 * np.abs(value).max()
                np.testing.assert_allclose(run.model.params[name], value, rtol=1e-3, atol=bar)


def test_features_of_rounding_alone_are_told(data: tuple[Dataset, Dataset], backend: str) -> None:
    """Divided by their deviations, they would look like any others."""
    train, val = data
    for mode in ("cached", "frozen"):
        with pytest.warns(hs.errors.DataWarning, match="are the same for all samples but for rounding"):
            hs.fit(small(1e-9, 10.0), train, val, mode=mode, backend=backend, **SETTINGS)
