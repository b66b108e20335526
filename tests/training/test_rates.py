"""Learning rates by part of the network, and auxiliary heads in training: what each backend does with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError
from headstart.contract import registry
from headstart.contract.recipe import Recipe
from headstart.graph import Builder, Graph
from headstart.models import googlenet
from headstart.models.initial import initial_params
from headstart.testing import linear_gradient, reference_update, small_data, small_model
from headstart.training.rates import check_modules, rate_multiples

PARAMS = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias", "layer1.1.conv1.weight", "fc.weight")


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (None, {}),
        (1, {}),
        (0.1, dict.fromkeys(PARAMS[:4], 0.1)),
        ({"pretrained": 0.1}, dict.fromkeys(PARAMS[:4], 0.1)),
        ({"layer1": 0.5}, dict.fromkeys(PARAMS[1:4], 0.5)),
        ({"layer1": 0.5, "layer1.0": 0.2}, {PARAMS[1]: 0.2, PARAMS[2]: 0.2, PARAMS[3]: 0.5}),
        (
            {"layer1": 0.5, "pretrained": 0.1, "layer1.0.bn1.bias": 1},
            {PARAMS[0]: 0.1, PARAMS[1]: 0.5, PARAMS[3]: 0.5},
        ),
        ({"fc": 3.0}, {"fc.weight": 3.0}),
    ],
)
def test_the_innermost_module_counts(scale: Any, expected: dict[str, float]) -> None:
    assert rate_multiples(PARAMS, {"fc.weight"}, scale) == expected


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), True, "0.1", {"fc": 0}, {"fc": None}])
def test_scales_that_cannot_be(scale: Any) -> None:
    with pytest.raises(SettingError, match=r"lr_scale.*expected a positive number"):
        hs.fit(small_model(), *small_data(), lr_scale=scale)


def test_an_unknown_module_suggests() -> None:
    with pytest.raises(SettingError, match=r"'layer11'.*layer1"):
        check_modules(PARAMS, {"layer11": 0.1})
    with pytest.raises(SettingError, match=r"'layer1\.0\.relu1'"):
        hs.fit(small_model(), *small_data(), lr_scale={"layer1.0.relu1": 0.1})


def two_layers() -> Graph:
    """Logits `b(a(x))` for `(7,)`: two linear layers and nothing between them."""
    b = Builder()
    graph = b.graph(b.linear("b", b.linear("a", "input", 7, 6), 6, 4))
    return replace(graph, nodes=(replace(graph.nodes[0], attrs={"shape": (7,)}), *graph.nodes[1:]))


@pytest.mark.parametrize(
    "optimizer",
    [hs.SGD(lr=0.1, momentum=0.9, weight_decay=0.01), hs.AdamW(lr=0.05, weight_decay=0.1)],
    ids=["sgd", "adamw"],
)
@pytest.mark.parametrize("resident", [True, False], ids=["epoch", "steps"])
def test_a_multiple_is_of_the_learning_rate_alone(backend: str, optimizer: Any, resident: bool) -> None:
    """The last layer's updates, by hand, where its rate is a tenth of the others'."""
    chosen = registry.load(backend)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 7)).astype(np.float32), rng.integers(0, 4, 24)
    graph = two_layers()
    start = initial_params(graph, 0)
    order = rng.permutation(24).reshape(3, 8)
    rates = hs.Schedule("cosine").rates(optimizer.lr, 3)
    recipe = Recipe(optimizer, 0.0, False, 0, {"b.weight": 0.1, "b.bias": 0.1})
    trainer = chosen.trainer(graph, start, recipe, chosen.place("cpu", "float32"))

    now = {name: value.astype(np.float64) for name, value in start.items()}
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in now}
    for i, batch in enumerate(order):
        inputs = x[batch].astype(np.float64)
        hidden = inputs @ now["a.weight"].T + now["a.bias"]
        _, dw, db = linear_gradient(now["b.weight"], now["b.bias"], hidden, y[batch], 0.0)
        logits = hidden @ now["b.weight"].T + now["b.bias"]
        z = np.exp(logits - logits.max(1, keepdims=True))
        error = z / z.sum(1, keepdims=True)
        error[np.arange(8), y[batch]] -= 1
        back = error @ now["b.weight"] / 8
        for name, gradient in (
            ("b.weight", dw),
            ("b.bias", db),
            ("a.weight", back.T @ inputs),
            ("a.bias", back.sum(0)),
        ):
            gradients[name].append(gradient)
        now = {
            name: reference_update(
                optimizer, gradients[name], rates[: i + 1] * (0.1 if name[0] == "b" else 1.0), start[name]
            )
            for name in now
        }
    if resident:
        trainer.epoch(trainer.put(x), y, order, rates)
    else:
        for batch, rate in zip(order, rates, strict=True):
            trainer.step(x[batch], y[batch], rate)
    for name, value in trainer.params().items():
        np.testing.assert_allclose(value, now[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_pretrained_layers_move_less(backend: str) -> None:
    """One step, so that a change is proportional to its rate."""
    train, _ = small_data(30)
    settings = {"mode": "full", "epochs": 1, "batch_size": 24, "optimizer": hs.SGD(0.01, momentum=0.0)}
    start = small_model().reseeded(0, everything=False)
    whole = hs.fit(small_model(), train, **settings, backend=backend, device="cpu").model.params
    scale = {"pretrained": 0.1, "layer4": 0.5}
    parts = hs.fit(small_model(), train, **settings, lr_scale=scale, backend=backend, device="cpu")
    assert parts.settings["lr_scale"] == scale
    for name, expected in (("conv1.weight", 0.1), ("layer3.1.bn2.bias", 0.1), ("layer4.0.conv1.weight", 0.5)):
        ratio = np.linalg.norm(parts.model.params[name] - start[name]) / np.linalg.norm(whole[name] - start[name])
        assert ratio == pytest.approx(expected, rel=1e-3), name
    np.testing.assert_allclose(parts.model.params["fc.weight"], whole["fc.weight"], atol=1e-7)


def branched() -> Graph:
    """A linear output and two auxiliary ones, all of `(5,)`."""
    b = Builder()
    for name in ("main", "one", "two"):
        b.linear(name, "input", 5, 3)
    graph = b.graph("main", (("one", 0.3), ("two", 0.5)))
    return replace(graph, nodes=(replace(graph.nodes[0], attrs={"shape": (5,)}), *graph.nodes[1:]))


@pytest.mark.parametrize("resident", [True, False], ids=["epoch", "steps"])
def test_auxiliary_losses_are_weighted_and_recorded(backend: str, resident: bool) -> None:
    chosen = registry.load(backend)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 5)).astype(np.float32), rng.integers(0, 3, 16)
    graph = branched()
    start = initial_params(graph, 0)
    place = chosen.place("cpu", "float32")
    trainer = chosen.trainer(graph, start, Recipe(hs.SGD(0.2, momentum=0.0), 0.1, False, 0), place)
    order = np.arange(16).reshape(1, 16)
    if resident:
        losses, correct = trainer.epoch(trainer.put(x), y, order, np.float32([0.2]))
        assert losses.shape == (1, 3)
        losses = losses[0]
    else:
        losses, correct = trainer.step(x, y, 0.2)
    after = trainer.params()
    for i, (name, weight) in enumerate((("main", 1.0), ("one", 0.3), ("two", 0.5))):
        loss, dw, db = linear_gradient(start[f"{name}.weight"], start[f"{name}.bias"], x, y, 0.1)
        assert losses[i] == pytest.approx(loss, rel=1e-5), name
        np.testing.assert_allclose(after[f"{name}.weight"], start[f"{name}.weight"] - 0.2 * weight * dw, atol=1e-5)
        np.testing.assert_allclose(after[f"{name}.bias"], start[f"{name}.bias"] - 0.2 * weight * db, atol=1e-5)
    logits = x @ start["main.weight"].T + start["main.bias"]
    assert correct == int((logits.argmax(1) == y).sum())
    expected = x @ after["main.weight"].T + after["main.bias"]
    np.testing.assert_allclose(trainer.logits(x, 0, 16), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return hs.data.arrays(rng.integers(0, 256, (20, 48, 48, 3), np.uint8), np.arange(20) % 2).split(0.8)


def test_auxiliary_heads_are_there_in_training_from_pixels_only(
    backend: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GoogLeNet of three blocks: all eleven take compilers most of a minute."""
    channels = (4, 4, 4, 4, 4, 4)
    blocks = {"inception3a": channels, "maxpool3": (3,), "inception4a": channels, "inception4d": channels}
    monkeypatch.setattr(googlenet, "BLOCKS", blocks)
    auxiliary = {"aux1": ("inception4a", 16, 0.3), "aux2": ("inception4d", 16, 0.3)}
    monkeypatch.setattr(googlenet, "AUXILIARY", auxiliary)
    model = hs.model("googlenet", classes=2, size=48)
    assert [name for name, _ in model.graph.auxiliary] == ["aux1.fc2", "aux2.fc2"]
    settings = {"epochs": 1, "batch_size": 8, "backend": backend, "device": "cpu"}
    full = hs.fit(model, *tiny, mode="scratch", lr=1e-3, **settings)
    assert len(full.history[0].auxiliary_losses) == 2
    assert all(0.3 < loss < 3 for loss in full.history[0].auxiliary_losses)
    assert not np.array_equal(full.model.params["aux1.fc2.weight"], model.params["aux1.fc2.weight"])
    folder = full.save(tmp_path / "run")
    again = hs.load(folder, backend=backend)
    assert again.history[0] == full.history[0]
    assert again.model.params.keys() == full.model.params.keys()
    for name, value in full.model.params.items():
        np.testing.assert_array_equal(again.model.params[name], value, name)
    images = model.preprocess.normalise(np.stack([model.preprocess.apply(tiny[1].load(0)[0])] * 2))
    native = registry.load(backend).call(full.native, images)
    np.testing.assert_allclose(native[0], full.predict(tiny[1])[0], rtol=1e-3, atol=1e-4)

    cached = hs.fit(model, *tiny, mode="cached", **settings)
    assert cached.history[0].auxiliary_losses == ()
    assert not cached.model.graph.auxiliary
    assert not any(name.startswith("aux") for name in cached.model.params)
    without = hs.fit(hs.model("googlenet", classes=2, size=48, auxiliary=False), *tiny, mode="cached", **settings)
    assert without.extraction is not None
    assert without.extraction.extracted == 0, "the key of a trunk does not know of auxiliary heads"
