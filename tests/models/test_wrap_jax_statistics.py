"""Running statistics that JAX modules and functions hold: no gradient makes nonsense of them, and they follow the
batches where `batch_norm` says so alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, fit

import headstart as hs
from headstart.common.errors import SettingError

pytestmark = pytest.mark.of("jax")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def data() -> Any:
    return hs.data.digits().subset(np.arange(32)).split(0.75, seed=0)


def moved(model: Any, data: Any, cache: Path, **settings: Any) -> set[str]:
    """What of a trunk's parameters an epoch has changed."""
    settings = {"mode": "full", "epochs": 1, "optimizer": hs.AdamW(lr=0.05, weight_decay=0.1), **settings}
    after = fit(model, data, cache, **settings).model.params
    return {n.removeprefix("trunk.") for n in after if n[:5] == "trunk" and (after[n] != model.params[n]).any()}


# ---- functions


def normed(x: Any, mean: Any, var: Any) -> Any:
    import jax.numpy as jnp

    return (x - mean) / jnp.sqrt(var + 1e-5)


def by_name(p: Any, x: Any) -> Any:
    return normed(x.mean((1, 2)) @ p["mean"], p["bn"]["mean"], p["bn"]["var"]) * p["bn"]["scale"]


def by_place(p: Any, x: Any) -> Any:
    return normed(x.mean((1, 2)) @ p[0], *p[1])


def weights(*sides: int) -> Any:
    return np.random.default_rng(0).normal(size=sides).astype("f")


def statistics() -> tuple[Any, Any]:
    return np.zeros(6, "f"), np.full(6, 1e-4, "f")  # a step of any size would make the variance negative


def wrapped(function: Callable[..., Any], params: Any) -> Any:
    return hs.wrap((function, None), params=(params, None), name="it", **FRESH)


def test_a_functions_statistics_are_told_by_their_names(data: Any, tmp_path: Path) -> None:
    """A matrix that is called as they are is none."""
    mean, var = statistics()
    norm = {"mean": mean, "var": var, "scale": np.ones(6, "f")}
    model = wrapped(by_name, {"mean": weights(3, 6), "bn": norm})
    assert moved(model, data, tmp_path) == {"mean", "bn.scale"}
    assert model.graph.buffers() == {"trunk.bn.mean", "trunk.bn.var"}


@pytest.mark.parametrize(
    "path",
    [
        ("batch_stats", "bn", 0),
        ("bn", "running_var"),
        ("bn", "moving_variance"),
        ("net/~/bn/~/mean_ema", "average"),  # Haiku's
        ("state", 3),
    ],
)
def test_names_of_statistics(path: tuple[Any, ...], backend: str) -> None:
    from headstart.backends.jax.statistics import is_statistic

    assert is_statistic(path, (6,))
    for parameter in (("mean_head", "kernel"), ("rnn", "state")):
        assert not is_statistic(parameter, (6,))


def test_a_variance_without_a_name_is_refused(data: Any, tmp_path: Path) -> None:
    """As in the state of an Equinox module; what is trained can be said."""
    import jax

    for function in (by_place, jax.jit(jax.vmap(lambda p, x: by_place(p, x[None])[0], (None, 0)))):
        with pytest.raises(SettingError, match=r"square root of '1\.1' of its params.*params=\{'params': \.\.\."):
            wrapped(function, (weights(3, 6), statistics()))
    told = wrapped(lambda p, x: by_place((p["params"], p["s"]), x), {"params": weights(3, 6), "s": statistics()})
    assert moved(told, data, tmp_path) == {"params"}


def test_what_no_gradient_reaches_stays(data: Any, tmp_path: Path) -> None:
    """Weight decay would shrink it."""
    import jax

    @jax.jit
    def stops(p: Any, x: Any) -> Any:
        return by_place((p["w"], jax.lax.stop_gradient(p["s"])), x) + p["b"]

    model = wrapped(stops, {"w": weights(3, 6), "s": statistics(), "b": np.ones(6, "f")})
    assert moved(model, data, tmp_path) == {"w", "b"}


# ---- modules


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax_norms

    return own_jax_norms


ROWS = np.random.default_rng(1).standard_normal((8, 6)).astype("f")
LABELS = np.arange(8) % 3


def stepped(model: Any, follow: bool, rate: float = 0.0) -> tuple[float, set[str]]:
    """The loss of one step, and which statistics it has moved."""
    from headstart.contract import registry
    from headstart.contract.losses import Softmax
    from headstart.contract.recipe import Place, Recipe

    recipe = Recipe(hs.SGD(lr=1, momentum=0), Softmax(), follow, 0, {})
    trainer = registry.load("jax").trainer(model.graph, model.params, recipe, Place("cpu", "float32"))
    (loss,), _ = trainer.step(ROWS, LABELS, rate)
    after = trainer.params()
    return float(loss), {n for n in model.graph.buffers() if (after[n] != model.params[n]).any()}


def loss_in_inference(model: Any) -> float:
    logits = hs.forward(model, ROWS, "logits")["logits"].astype(np.float64)
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), LABELS]))


def ranked(module: Any, **settings: Any) -> Any:
    """With a head that does not begin at zero, whose loss says something."""
    model = hs.wrap(module, "its end", example=ROWS, head=[4], classes=3, name="it", **settings)
    return dataclasses.replace(model, params={**model.params, "head.2.weight": weights(3, 4)})


@pytest.mark.parametrize("kind", ["nnx", "linen", "bridged"])
def test_however_batch_norms_are_told_of_training(own: Any, kind: str) -> None:
    """They keep their statistics and compute with them, or move every one."""
    layers = own.Layers()
    model = {
        "nnx": lambda: ranked(own.Told()),
        "linen": lambda: ranked(layers, params=own.linen(layers, ROWS)),
        "bridged": lambda: ranked(own.bridged(ROWS)),
    }[kind]()
    kept, moved = stepped(model, follow=False)
    assert (kept, moved) == (pytest.approx(loss_in_inference(model), rel=1e-4), set())
    followed, moved = stepped(model, follow=True)
    assert moved == model.graph.buffers()
    assert abs(followed - kept) > 1e-3


def test_what_drops_drops_while_statistics_are_kept(own: Any) -> None:
    module = own.Drops()
    model = ranked(module, params=own.linen(module, ROWS))
    kept, moved = stepped(model, follow=False)
    assert abs(kept - loss_in_inference(model)) > 1e-2
    assert not moved


def test_statistics_that_cannot_be_kept_are_told(own: Any) -> None:
    module = own.Alone()
    model = ranked(module, params=own.linen(module, ROWS))
    with pytest.raises(SettingError, match=r"Alone moves its statistics .* pass batch_norm='train', or let"):
        stepped(model, follow=False)
    assert stepped(model, follow=True)[1] == model.graph.buffers()


def test_a_bridge_without_variables_is_told(own: Any) -> None:
    from flax import nnx

    with pytest.raises(
        SettingError, match=r"Drops in nnx\.bridge\.ToNNX has no variables yet: lazy_init makes them"
    ):
        hs.wrap(nnx.bridge.ToNNX(own.Drops(), rngs=nnx.Rngs(0)), example=ROWS, head="linear", classes=3)


@pytest.mark.parametrize("kind", ["Both", "BothSet", "BothInLinen"])
def test_a_flag_that_says_of_statistics_and_of_dropout(own: Any, kind: str) -> None:
    """To keep the ones would end the other without a word."""
    module = getattr(own, kind)()
    settings = {"params": module.init(own.key(), ROWS)} if kind == "BothInLinen" else {}
    model = ranked(module, **settings)
    with pytest.raises(SettingError, match=rf"{kind} moves batch statistics and draws .* batch_norm='train', or"):
        stepped(model, follow=False)
    followed, moved = stepped(model, follow=True)
    assert moved == model.graph.buffers()
    assert abs(followed - loss_in_inference(model)) > 1e-2


def test_what_cannot_be_run_by_itself_is_told(own: Any) -> None:
    """Nobody sees whether it drops."""
    model = ranked(own.Counting())
    with pytest.raises(
        SettingError, match=r"Tied moves batch statistics, and its call cannot be looked at .*'train'"
    ):
        stepped(model, follow=False)
    assert "trunk.tied.mean" in stepped(model, follow=True)[1]


def test_what_drops_by_itself_in_what_holds_statistics(own: Any) -> None:
    model = ranked(own.Around())
    kept, moved = stepped(model, follow=False)
    assert (abs(kept - loss_in_inference(model)) > 1e-2, moved) == (True, set())


@pytest.mark.parametrize("anew", [False, True])
def test_statistics_that_no_flag_reaches(own: Any, anew: bool) -> None:
    model = ranked(own.Elsewhere(anew))
    with pytest.raises(SettingError, match=r"kept\.mean' is a batch statistic that is moved .*'train'"):
        stepped(model, follow=False)
    assert stepped(model, follow=True)[1] == model.graph.buffers()


def test_statistics_that_come_late(own: Any) -> None:
    model = ranked(own.Late())
    with pytest.raises(SettingError, match=r"mean' is made, a batch statistic that was not there"):
        stepped(model, follow=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("training", False), ("train", True), ("inference", True), ("linen", True), ("inside", False)),
        *(("listed", False), ("mapped", True)),
    ],
)
def test_a_setting_of_ones_own_says_that_it_trains(own: Any, name: str, value: bool) -> None:
    """Whatever it was when the module was wrapped."""
    module, settings = own.Set(name, value), {}
    arounds = {
        "linen": lambda inner: inner,
        "inside": own.Outer,
        "listed": lambda inner: own.Listed([inner]),
        "mapped": lambda inner: own.Listed([{"norm": inner}]),
    }
    if name in arounds:
        around = arounds[name]
        module = around(own.SetInLinen(value))
        settings = {"params": own.moved(around(own.SetInLinen(False)).init(own.key(), ROWS))}
    model = ranked(module, **settings)
    normed = (ROWS - 0.3) / np.sqrt((1.3 if settings else 1) + 1e-5)
    np.testing.assert_allclose(hs.forward(model, ROWS, "trunk")["trunk"], normed, rtol=1e-5, atol=1e-6)
    kept, moved = stepped(model, follow=False)
    assert (abs(kept - loss_in_inference(model)) > 1e-2, moved) == (True, set())
    assert stepped(model, follow=True)[1] == model.graph.buffers()
