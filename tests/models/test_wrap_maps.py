"""Modules that give a map, as networks for segmentation do: a fresh classifier gets what a convolution of 1x1
makes the map of classes of, in all frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("f")
# what stands behind the convolution, what that is called, and its side
OF_CLASSES = {"nothing": ("mask", 1), "a sigmoid": ("mask", 1), "a softmax": ("mask", 1), "resizing": ("mask", 1)}
OF_FEATURES = {"a rectifier": ("mask", 1), "a mean": ("mask", 1), "nothing": ("project", 1), "": ("mask", 3)}


def torch_module(behind: str, name: str, side: int) -> tuple[Any, Any]:
    import torch
    from torch.nn import functional

    ways: dict[str, Any] = {
        "a sigmoid": torch.sigmoid,
        "a softmax": lambda x: x.softmax(1),
        "resizing": lambda x: functional.interpolate(x, scale_factor=2),
        "a rectifier": torch.relu,
        "a mean": lambda x: x.mean((2, 3)),
    }

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, last = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 2, side)
            setattr(self, name, last)

        def forward(self, x: Any) -> Any:
            x = getattr(self, name)(self.body(x))
            return ways[behind](x) if behind in ways else x

    module = Net().eval()

    def body(x: np.ndarray) -> np.ndarray:
        maps = module.body(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        return np.asarray(maps.detach().numpy().transpose(0, 2, 3, 1))

    return module, body


def jax_module(behind: str, name: str, side: int) -> tuple[Any, Any]:
    import jax
    from flax import nnx

    ways: dict[str, Any] = {
        "a sigmoid": jax.nn.sigmoid,
        "a softmax": jax.nn.softmax,
        "a rectifier": jax.nn.relu,
        "a mean": lambda x: x.mean((1, 2)),
    }

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.body = nnx.Conv(3, 6, (3, 3), padding="VALID", rngs=rngs)
            setattr(self, name, nnx.Conv(6, 2, (side, side), rngs=rngs))

        def __call__(self, x: Any) -> Any:
            x = getattr(self, name)(self.body(x))
            return ways[behind](x) if behind in ways else x

    module = Net()
    return module, lambda x: np.asarray(module.body(x))


def keras_module(behind: str, name: str, side: int) -> tuple[Any, Any]:
    import keras
    from keras import layers

    ways: dict[str, Any] = {
        "a softmax": layers.Softmax(),
        "resizing": layers.UpSampling2D(2),
        "a rectifier": layers.ReLU(),
        "a mean": layers.GlobalAveragePooling2D(),
    }
    keras.utils.set_random_seed(0)
    entry = keras.Input((8, 8, 3))
    maps = layers.Conv2D(6, 3, name="body")(entry)
    active = "sigmoid" if behind == "a sigmoid" else None
    x = layers.Conv2D(2, side, padding="same", activation=active, name=name)(maps)
    body = keras.Model(entry, maps)
    return keras.Model(entry, ways[behind](x) if behind in ways else x), lambda x: keras.ops.convert_to_numpy(
        body(x)
    )


@pytest.fixture
def made(backend: str) -> Any:
    return {"torch": torch_module, "jax": jax_module, "keras": keras_module}[backend]


def trunk(module: Any) -> np.ndarray:
    model = hs.wrap(module, example=X, head="linear", classes=3, name="it")
    features: np.ndarray = hs.forward(model, X, "trunk")["trunk"]
    return features


@pytest.mark.parametrize("behind", [*OF_CLASSES])
def test_a_map_of_classes_is_no_feature(made: Any, backend: str, behind: str) -> None:
    if backend == "jax" and behind == "resizing":
        return  # which JAX does by products with matrices
    module, body = made(behind, *OF_CLASSES[behind])
    assert relative_error(trunk(module), body(X)) < 1e-5


@pytest.mark.parametrize("behind", [*OF_FEATURES])
def test_other_ends_are_features(made: Any, behind: str) -> None:
    module, _ = made(behind, *OF_FEATURES[behind])
    assert trunk(module).shape[-1] == 2
