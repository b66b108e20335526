"""Modules that end in a product with weights which may be a classifier and may be none: a fresh head takes what
they give, and the log says so, in all frameworks."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import headstart as hs

X = np.random.default_rng(0).standard_normal((4, 5)).astype("f")
NAMED, CUT = "say so by its name, as in 'classifier', or pass cut=", "makes, pass cut="


def said(module: Any, caplog: pytest.LogCaptureFixture) -> str:
    """What is said of the end of a module that is taken whole."""
    with caplog.at_level(logging.INFO, "headstart"):
        assert hs.wrap(module, example=X, head="linear", classes=2, name="it").module_cut == "its end"
    lines = [message for message in caplog.messages if message.startswith("a fresh head gets what")]
    assert len(lines) < 2
    return "".join(lines)


def torch_module(how: str, looks: bool) -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Linear(5, 12)
            self.weights, self.pair = nn.Parameter(torch.randn(4, 12, 3)), nn.Bilinear(12, 12, 3)
            self.out = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
            self.wide, self.last, self.proj = nn.Sequential(nn.Linear(12, 20)), nn.Linear(12, 3), nn.Linear(12, 3)
            self.rnn = nn.GRU(12, 3, batch_first=True)

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:  # so it is not traced
                x = x * 2
            x = self.body(x).relu()
            match how:
                case "heads":
                    return torch.bmm(x.expand(4, -1, -1), self.weights).mean(0)
                case "own":
                    return (x.unsqueeze(1) * self.weights[0].T).sum(-1)
                case "bilinear":
                    return self.pair(x, x)
                case "numbered":
                    return self.out(x).tanh()
                case "wide":
                    return self.wide(x).tanh()
                case "rectified":
                    return torch.bmm(x.expand(4, -1, -1), self.weights).mean(0).relu()
                case "recurrent":
                    return self.rnn(x.unsqueeze(1))[1][0]
                case "called":
                    return self.last(x).tanh()
            return self.proj(x).tanh()

    return Net().eval()


@pytest.mark.of("torch")
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("heads", f"parameter 'weights' {CUT}"),
        ("own", f"parameter 'weights' {CUT}"),
        ("bilinear", f"parameter 'pair.weight' {CUT}"),
        ("numbered", f"layer 'out.2' makes, {NAMED}"),
        *[(features, "") for features in ("wide", "rectified", "recurrent", "called", "projected")],
    ],
)
def test_torch(how: str, what: str, looks: bool, caplog: pytest.LogCaptureFixture) -> None:
    told = said(torch_module(how, looks), caplog)
    assert what in told
    assert bool(what) == bool(told)


@pytest.mark.of("torch")
def test_frozen_weights_are_seen_and_stay_frozen(caplog: pytest.LogCaptureFixture) -> None:
    module = torch_module("heads", False).requires_grad_(False)
    assert "parameter 'weights'" in said(module, caplog)
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.of("torch")
def test_a_torch_sequential_of_layers_without_names(caplog: pytest.LogCaptureFixture) -> None:
    from torch import nn

    assert f"layer '2' makes, {NAMED}" in said(
        nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3), nn.Tanh()).eval(), caplog
    )


@pytest.mark.of("jax")
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("heads", f"parameter 'heads.weights' {CUT}"),
        ("numbered", f"layer 'out.layers.2' makes, {NAMED}"),
        *[(features, "") for features in ("rectified", "called", "projected")],
    ],
)
def test_jax(how: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Heads(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.weights = nnx.Param(jax.random.normal(rngs.params(), (4, 12, 3)))

        def __call__(self, x: Any) -> Any:
            return jnp.einsum("nd,kdc->nkc", x, self.weights[...]).mean(1)

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.body, self.heads = nnx.Linear(5, 12, rngs=rngs), Heads(rngs)
            layers = nnx.Linear(12, 12, rngs=rngs), nnx.relu, nnx.Linear(12, 3, rngs=rngs)
            self.out, self.last = nnx.Sequential(*layers), nnx.Linear(12, 3, rngs=rngs)
            self.proj = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.body(x))
            match how:
                case "heads":
                    return self.heads(x)
                case "numbered":
                    return jnp.tanh(self.out(x))
                case "rectified":
                    return nnx.relu(self.heads(x))
                case "called":
                    return jnp.tanh(self.last(x))
            return jnp.tanh(self.proj(x))

    told = said(Net(), caplog)
    assert what in told
    assert bool(what) == bool(told)


@pytest.mark.of("jax")
def test_linen_names_layers_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    import jax
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.tanh(linen.Dense(3)(linen.relu(linen.Dense(12)(x))))

    module = Net().bind(Net().init(jax.random.key(0), X))
    assert f"layer 'Dense_0' makes, {NAMED}" in said(module, caplog)


@pytest.mark.of("keras")
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("heads", f"layer 'mine' {CUT}"),
        ("einsum", f"layer 'mine' {CUT}"),
        *[(features, "") for features in ("wide", "rectified", "proj")],
    ],
)
def test_keras(how: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    import keras
    from keras import layers, ops

    class Heads(layers.Layer):
        def __init__(self, width: int, **settings: Any) -> None:
            super().__init__(**settings)
            self.width = width

        def build(self, shape: Any) -> None:
            self.weight = self.add_weight(shape=(4, shape[-1], self.width))

        def call(self, x: Any) -> Any:
            return ops.mean(ops.einsum("nd,kdc->nkc", x, self.weight), 1)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "width": self.width}

    entry = keras.Input((5,))
    x = layers.Dense(12, activation="relu", name="body")(entry)
    if how == "einsum":
        made = layers.EinsumDense("nd,dkc->nkc", output_shape=(4, 3), name="mine")(x)
        x = layers.GlobalAveragePooling1D()(made)
    else:
        x = Heads(20 if how == "wide" else 3, name="proj" if how == "proj" else "mine")(x)
    x = layers.Activation("gelu")(x) if how == "rectified" else x
    told = said(keras.Model(entry, x), caplog)
    assert what in told
    assert bool(what) == bool(told)
