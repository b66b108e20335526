"""Functions of a framework that a program has put its own in the place of, and that the framework's own layers
call: the key of features holds them."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 6)).astype("f")
PLACES = {
    "torch": ("torch.nn.functional", "gelu"),
    "jax": ("flax.nnx.nn.normalization", "_normalize"),
    "keras": ("keras.src.ops", "matmul"),
}


def made(backend: str) -> Any:
    if backend == "torch":
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.GELU())
    if backend == "jax":
        from flax import nnx

        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Linear(6, 5, rngs=rngs), nnx.LayerNorm(5, rngs=rngs))
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])


def test_what_a_layer_of_the_framework_calls_is_in_the_key(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of before were served for those of after."""
    module = made(backend)

    def features() -> tuple[str, np.ndarray]:
        model = hs.wrap(module, "its end", example=X, head="linear", classes=2)
        return key(model).digest, hs.forward(model, X, "trunk")["trunk"]

    digest, before = features()
    place, name = PLACES[backend]
    library = importlib.import_module(place)
    original = getattr(library, name)
    digests = {digest}
    for factor in (2, 3):

        @functools.wraps(original)
        def scaled(*given: Any, **settings: Any) -> Any:
            return original(*given, **settings) * factor  # noqa: B023 - it is gone before the next

        with monkeypatch.context() as here:
            here.setattr(library, name, scaled)
            other, after = features()
        assert relative_error(after, before * factor) < 1e-5
        digests.add(other)
    assert len(digests) == 3
    assert features()[0] == digest
