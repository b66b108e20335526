"""Modules that end in a hidden layer, since somebody has taken the classifier off: `vgg.classifier[:-1]`. Numbers
below 0 are none there, and there are as many as the layer reads, or more."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 5)).astype("f")


def torch_module(widths: tuple[int, int], end: str, looks: bool = False) -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            ends = {"relu": [nn.ReLU()], "dropped": [nn.ReLU(), nn.Dropout()], "silu": [nn.SiLU()], "": []}[end]
            self.body = nn.Sequential(nn.Linear(5, widths[0]), nn.ReLU())
            self.classifier = nn.Sequential(nn.Linear(*widths), *ends)

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                x = x * 2
            return self.classifier(self.body(x))

    module = Net().eval()
    return module, lambda part, x: part(torch.from_numpy(x)).detach().numpy()


def jax_module(widths: tuple[int, int], end: str) -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            drop = nnx.Dropout(0.5, rngs=rngs)
            ends = {"relu": [nnx.relu], "dropped": [nnx.relu, drop], "silu": [nnx.silu], "": []}[end]
            self.body = nnx.Sequential(nnx.Linear(5, widths[0], rngs=rngs), nnx.relu)
            self.classifier = nnx.Sequential(nnx.Linear(*widths, rngs=rngs), *ends)

        def __call__(self, x: Any) -> Any:
            return self.classifier(self.body(x))

    module = Net()
    module.eval()
    return module, lambda part, x: np.asarray(part(x))


def keras_module(widths: tuple[int, int], end: str) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    entry = keras.Input((5,))
    rows = layers.Dense(widths[0], activation="relu")(entry)
    given = layers.Dense(widths[1], activation=end.replace("dropped", "relu") or None)(rows)
    given = layers.Dropout(0.5)(given) if end == "dropped" else given
    module = keras.Model(entry, given)
    module.body = keras.Model(entry, rows)
    return module, lambda part, x: keras.ops.convert_to_numpy(part(x, training=False))


@pytest.fixture(params=["", pytest.param("untraced", marks=pytest.mark.of("torch"))])
def made(request: Any, backend: str) -> Any:
    if backend == "torch":
        return lambda widths, end: torch_module(widths, end, bool(request.param))
    return {"jax": jax_module, "keras": keras_module}[backend]


@pytest.mark.parametrize("end", ["relu", "dropped", "silu"])
@pytest.mark.parametrize("widths", [(6, 6), (6, 9)])
def test_a_hidden_layer_at_the_end_gives_features(made: Any, widths: tuple[int, int], end: str) -> None:
    module, run = made(widths, end)
    model = hs.wrap(module, example=X, head="linear", classes=2, name="it")
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], run(module, X)) < 1e-5


@pytest.mark.parametrize(("widths", "end"), [((6, 3), "relu"), ((6, 3), ""), ((6, 9), "")])
def test_numbers_of_classes_are_no_features(made: Any, widths: tuple[int, int], end: str) -> None:
    """Few, as of what is counted; or of any sign."""
    module, run = made(widths, end)
    model = hs.wrap(module, example=X, head="linear", classes=2, name="it")
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], run(module.body, X)) < 1e-5


@pytest.mark.parametrize(
    ("widths", "end", "cut", "said"),
    [
        ((6, 3), "relu", None, True),
        ((6, 3), "", None, False),
        ((6, 9), "relu", None, False),
        ((6, 3), "relu", "its end", False),
    ],
)
def test_it_is_said_what_a_few_numbers_were_taken_for(
    made: Any, widths: tuple[int, int], end: str, cut: str | None, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    module, run = made(widths, end)
    with caplog.at_level(logging.INFO, "headstart"):
        model = hs.wrap(module, cut, example=X, head="linear", classes=2, name="it")
    assert ("if they are features, cut='its end' takes them" in caplog.text) is said
    whole = hs.wrap(module, "its end", example=X, head="linear", classes=2, name="it")
    assert relative_error(hs.forward(whole, X, "trunk")["trunk"], run(module, X)) < 1e-5
    assert (model.module_cut == "its end") is (not said and end == "relu")


@pytest.mark.of("torch")
def test_nothing_is_said_of_a_classifier_that_begins_at_zero(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    module, _ = made((6, 3), "")
    torch.nn.init.zeros_(module.classifier[0].weight)
    torch.nn.init.zeros_(module.classifier[0].bias)
    with caplog.at_level(logging.INFO, "headstart"):
        hs.wrap(module, example=X, head="linear", classes=2, name="it")
    assert "below 0" not in caplog.text
