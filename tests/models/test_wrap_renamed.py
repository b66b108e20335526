"""Functions of libraries in the place of other functions of libraries are in the key of features."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.models.renamed import renamed
from headstart.models.structure import Structure

X = np.random.default_rng(0).standard_normal((4, 6)).astype("f")


def places(backend: str) -> list[tuple[Any, str, Any]]:
    """A library's module, a name there, and what is put there."""
    if backend == "torch":
        import torch
        import torch.nn.functional as F

        return [
            (F, "gelu", F.silu),
            (F, "gelu", torch.tanh),
            (torch, "tanh", torch.sigmoid),
            (F, "relu", F.leaky_relu),
        ]
    if backend == "jax":
        import jax
        import jax.numpy as jnp

        return [(jax.nn, "gelu", jax.nn.silu), (jnp, "tanh", jnp.sin), (jax.lax, "tanh", jax.lax.sin)]
    import keras

    return [(keras.ops, "gelu", keras.ops.silu), (keras.activations, "relu", keras.activations.silu)]


def module(backend: str, owner: Any, name: str) -> Any:
    """What looks a name up as it runs."""
    if backend == "torch":
        import torch

        class Looking(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body, self.end, self.act = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3), torch.nn.ReLU()

            def forward(self, x: Any) -> Any:
                if x.sum() > 1e9:  # so it is not traced
                    x = x * 2
                x = self.body(x)
                if name == "relu":
                    return self.end(self.act(x))
                return self.end(torch.nn.functional.gelu(x) if name == "gelu" else torch.tanh(x))

        return Looking().eval()
    if backend == "jax":
        import jax
        import jax.numpy as jnp
        from flax import nnx

        class Looks(nnx.Module):
            def __init__(self) -> None:
                rngs = nnx.Rngs(0)
                self.body, self.end = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                x = self.body(x)
                x = jax.nn.gelu(x) if name == "gelu" else jnp.tanh(x) if owner is jnp else jax.lax.tanh(x)
                return self.end(x)

        return Looks()
    import keras

    class Look(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.gelu(x) if name == "gelu" else keras.activations.relu(x)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(3)(Look()(keras.layers.Dense(5)(inputs))))


@pytest.mark.parametrize("number", range(4))
def test_a_librarys_function_in_the_place_of_another_one_is_in_the_key(
    backend: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number >= len(places(backend)):
        return
    owner, name, other = places(backend)[number]
    told: list[Any] = []
    extended = Structure.extended
    monkeypatch.setattr(Structure, "extended", lambda self, said: told.append(said) or extended(self, said))

    def digest() -> str:
        model = hs.wrap(module(backend, owner, name), head="linear", classes=["a", "b"], example=X)
        return key(model).digest

    before = digest()
    assert digest() == before
    assert not [said for said in told if said[0] == "renamed"]  # of what libraries call otherwise themselves
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, other)
        patched = digest()
        assert patched != before
        assert digest() == patched
    assert digest() == before


@pytest.mark.neutral
def test_what_a_librarys_text_says_is_no_matter() -> None:
    import numpy
    from scipy import special  # whose names come from elsewhere

    def looks() -> Any:
        return special.expit(numpy.abs(numpy.max([1.0]))), numpy.concatenate, numpy.linalg.norm

    def libraries(module: types.ModuleType) -> bool:
        return module.__name__.partition(".")[0] in ("numpy", "scipy")

    own = {"special": special, "numpy": numpy, "__name__": "none"}
    assert renamed([(looks.__code__, own, [])], libraries) == []
