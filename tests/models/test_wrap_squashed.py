"""Modules that bound what they give by a `tanh`: some classifiers end so, and more encoders. The name of the layer
in front of it tells, in all frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 5)).astype("f")


def torch_module(name: str, looks: bool = False) -> tuple[Any, Any]:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Linear(5, 6)
            # as MONAI's vision transformers have it
            self.add_module(name, torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Tanh()))

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                x = x * 2
            return getattr(self, name)(self.body(x).relu())

    module = Net().eval()
    return module, lambda x: module.body(torch.from_numpy(x)).relu().detach().numpy()


def jax_module(name: str) -> tuple[Any, Any]:
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.body = nnx.Linear(5, 6, rngs=rngs)
            setattr(self, name, nnx.Linear(6, 3, rngs=rngs))

        def __call__(self, x: Any) -> Any:
            return jax.nn.tanh(getattr(self, name)(nnx.relu(self.body(x))))

    module = Net()
    return module, lambda x: np.asarray(nnx.relu(module.body(x)))


def keras_module(name: str) -> tuple[Any, Any]:
    import keras

    keras.utils.set_random_seed(0)
    entry = keras.Input((5,))
    rows = keras.layers.Dense(6, activation="relu")(entry)
    body = keras.Model(entry, rows)
    given = keras.layers.Dense(3, activation="tanh", name=name)(rows)
    return keras.Model(entry, given), lambda x: keras.ops.convert_to_numpy(body(x))


@pytest.fixture(params=["", pytest.param("untraced", marks=pytest.mark.of("torch"))])
def made(request: Any, backend: str) -> Any:
    if backend == "torch":
        return lambda name: torch_module(name, bool(request.param))
    return {"jax": jax_module, "keras": keras_module}[backend]


@pytest.mark.parametrize("name", ["classifier", "classification_head", "logits"])
def test_bounded_numbers_of_classes_are_no_features(made: Any, name: str) -> None:
    module, body = made(name)
    features = hs.forward(hs.wrap(module, example=X, head="linear", classes=2, name="it"), X, "trunk")["trunk"]
    assert relative_error(features, body(X)) < 1e-5


@pytest.mark.parametrize("name", ["pooler", "fc", "proj_head"])
def test_bounded_features_stay_features(made: Any, name: str) -> None:
    module, _ = made(name)
    model = hs.wrap(module, example=X, head="linear", classes=2, name="it")
    assert hs.forward(model, X, "trunk")["trunk"].shape == (4, 3)
