"""What a fresh classifier gets of tokens: what the module's own classifier of every token is read at, in all
frameworks."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DataWarning
from headstart.models.tokens import FIRST, MEAN, OTHER, pooling
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 5, 3)).astype("f")
FRESH: dict[str, Any] = {"example": X, "head": "linear", "classes": 2, "name": "it"}
WAYS = {
    "mean": lambda x: x.mean(1),
    "first": lambda x: x[:, 0],
    "kept": lambda x: x[:, :1].squeeze(1),
    "last": lambda x: x[:, -1],
    "all": lambda x: x,
    "selected": lambda x: x.select(1, 0) if hasattr(x, "select") else x.take(0, axis=1),
}


def torch_module(way: str) -> tuple[Any, Any]:
    """A module that makes logits of all tokens, and a function X -> these tokens."""
    import torch

    torch.manual_seed(0)

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            return WAYS[way](self.head(self.body(x)))

    module = Tagger().eval()
    return module, lambda x: module.body(torch.from_numpy(x)).detach().numpy()


def jax_module(way: str) -> tuple[Any, Any]:
    from flax import nnx

    class Tagger(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.body, self.head = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return WAYS[way](self.head(self.body(x)))

    module = Tagger()
    return module, lambda x: np.asarray(module.body(x))


def keras_module(way: str) -> tuple[Any, Any]:
    import keras

    entry = keras.Input((5, 3))
    tokens = keras.layers.Dense(6, name="body")(entry)
    logits = keras.layers.Dense(2, name="head")(tokens)
    ways = {
        **WAYS,
        "mean": lambda x: keras.ops.mean(x, 1),
        "selected": lambda x: keras.ops.take(x, 0, axis=1),
        "kept": lambda x: keras.ops.squeeze(x[:, :1], 1),
        "cropped": lambda x: keras.layers.Flatten()(keras.layers.Cropping1D((0, 4))(x)),
    }
    body = keras.Model(entry, tokens)
    return keras.Model(entry, ways[way](logits)), lambda x: keras.ops.convert_to_numpy(body(x))


@pytest.fixture
def made(backend: str) -> Any:
    return {"torch": torch_module, "jax": jax_module, "keras": keras_module}[backend]


@pytest.mark.parametrize(
    ("way", "word"),
    [
        ("mean", "the mean"),
        ("first", "the first"),
        ("selected", "the first"),
        ("kept", "the first"),
        ("all", "the mean"),
        pytest.param("cropped", "the first", marks=pytest.mark.of("keras")),
    ],
)
def test_the_token_that_the_module_takes(made: Any, way: str, word: str, caplog: Any) -> None:
    module, tokens = made(way)
    with caplog.at_level(logging.INFO, "headstart"):
        model = hs.wrap(module, **FRESH)
    assert f"a fresh classifier gets {word} of the 5 tokens" in caplog.text
    expected = WAYS["first" if word == "the first" else "mean"](tokens(X))
    assert relative_error(hs.forward(model, X, "pool")["pool"], expected) < 1e-5
    again = hs.wrap(module, model.module_cut, **FRESH)
    assert again.graph["pool"].op == model.graph["pool"].op


def test_what_no_fresh_classifier_gets_is_told(made: Any) -> None:
    module, tokens = made("last")
    with pytest.raises(DataWarning, match=r"gets the mean of the 5 tokens .* one that is not the first"):
        hs.wrap(module, **FRESH)
    with warnings.catch_warnings(action="ignore"):
        model = hs.wrap(module, **FRESH)
    assert relative_error(hs.forward(model, X, "pool")["pool"], tokens(X).mean(1)) < 1e-5


def test_by_which_numbers_it_is_told() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 5, 3))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert pooling(logits, logits.mean(1)) == pooling(logits, shares.mean(1)) == MEAN
    assert pooling(logits, logits[:, 0]) == pooling(logits, shares[:, 0]) == FIRST
    assert pooling(logits, logits[:, 1]) == pooling(logits, logits[[0, 1], [3, 0]]) == OTHER
    assert pooling(logits, logits.sum(1)) == pooling(logits, logits.max(1)) == ""
    assert pooling(np.zeros((2, 5, 3)), np.zeros((2, 3))) == MEAN


@pytest.mark.of("torch")
@pytest.mark.parametrize(
    ("way", "op"), [("log_softmax, first", FIRST), ("first, softmax", FIRST), ("mean, sigmoid", MEAN)]
)
def test_probabilities_of_a_module_that_cannot_be_traced(way: str, op: str) -> None:
    """The fresh classifier once stood on the module's own log-probabilities, and nothing was said."""
    import torch

    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            logits = self.head(self.body(x if x.sum() < 1e9 else x * 2))
            if way == "log_softmax, first":
                return logits.log_softmax(-1)[:, 0]
            return logits[:, 0].softmax(-1) if way == "first, softmax" else logits.mean(1).sigmoid()

    torch.manual_seed(0)
    module = Looking().eval()
    model = hs.wrap(module, **FRESH)
    assert (model.module_cut, model.graph["pool"].op) == ("before head", op)
    tokens = module.body(torch.from_numpy(X)).detach().numpy()
    expected = WAYS["first" if op == FIRST else "mean"](tokens)
    assert relative_error(hs.forward(model, X, "pool")["pool"], expected) < 1e-5


@pytest.mark.of("torch")
@pytest.mark.parametrize(("name", "warns"), [("lengths", True), ("rate", False)])
def test_lengths_are_not_looked_at_which_is_a_warning(name: str, warns: bool) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 6)

        def forward(self, given: Any) -> Any:
            return self.layer(given["x"]) * (given[name][:, None, None] > 0)

    example = {"x": np.ones((4, 5, 3), np.float32), name: np.array([5, 3, 2, 1])}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        hs.wrap(Net(), "its end", example=example, head="linear", classes=2, layout="nlc")
    about = [warning for warning in said if "'lengths' is not looked at" in str(warning.message)]
    assert bool(about) is warns
    assert all(warning.filename == __file__ for warning in about)
