"""Batch norms in users' own modules on batches of one sample: of one value a channel there is no variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError
from headstart.training.job import job_of
from headstart.training.settings import Settings

ROWS = np.random.default_rng(0).standard_normal((6, 4, 3)).astype("f")
FRESH: dict[str, Any] = {"example": ROWS, "head": "linear", "classes": 2, "name": "it"}


def torch_module(places: bool, frozen: bool = False) -> Any:
    from torch import nn

    class Kept(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    norm = (Kept if frozen else nn.BatchNorm1d)(4 if places else 12)
    return nn.Sequential(norm) if places else nn.Sequential(nn.Flatten(), norm)


def keras_module(places: bool, frozen: bool = False) -> Any:
    import keras

    flat = [] if places else [keras.layers.Flatten()]
    norm = keras.layers.BatchNormalization(name="norm", trainable=not frozen)
    return keras.Sequential([keras.Input((4, 3)), *flat, keras.Sequential([norm])])


def jax_module(places: bool, frozen: bool = False) -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.norm = nnx.BatchNorm(3 if places else 12, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            x = x if places else x.reshape(len(x), -1)
            return self.norm(x, use_running_average=True) if frozen else self.norm(x)

    return Net()


MODULES = {"torch": torch_module, "keras": keras_module, "jax": jax_module}


def job(module: Any, backend: str, **settings: Any) -> None:
    data = hs.data.arrays(ROWS, np.arange(6) % 2)
    settings = {"mode": "full", "batch_norm": "train", "batch_size": 1, **settings}
    job_of(hs.wrap(module, "its end", **FRESH), data, None, Settings(backend=backend, device="cpu", **settings))


def test_a_batch_norm_of_one_value_a_channel_is_refused(backend: str) -> None:
    if backend not in MODULES:
        pytest.skip("no backend of ours")
    made = MODULES[backend]
    with pytest.raises(SettingError, match=r"batches of 1, of which the batch norm 'trunk\..*' has one value"):
        job(made(False), backend)
    job(made(True), backend)
    job(made(False), backend, batch_norm="frozen")
    job(made(False), backend, batch_size=2)
    job(made(False), backend, mode="cached")
    job(made(False, frozen=True), backend)


@pytest.mark.of("jax")
def test_one_of_linens(backend: str) -> None:
    import jax
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            return nn.BatchNorm(use_running_average=not train, name="norm")(x.reshape(len(x), -1))

    module = Net()
    model = hs.wrap(module, "its end", params=module.init(jax.random.key(0), ROWS), **FRESH)
    data = hs.data.arrays(ROWS, np.arange(6) % 2)
    settings = Settings(mode="full", batch_norm="train", batch_size=1, backend="jax", device="cpu")
    with pytest.raises(SettingError, match=r"batch norm 'trunk\.norm' has one value a channel"):
        job_of(model, data, None, settings)
