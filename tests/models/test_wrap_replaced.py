"""Functions of a framework that a program has put its own in the place of, and that the framework's own layers
call: the key of features holds them."""

from __future__ import annotations

import colorsys
import functools
import importlib
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.common.errors import HeadstartError
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


def imported() -> float:
    import colorsys as other

    return other.rgb_to_yiq(1, 1, 1)[0]


def imported_from() -> float:
    from colorsys import rgb_to_yiq

    return rgb_to_yiq(1, 1, 1)[0]


def by_text() -> float:
    return float(getattr(colorsys, "rgb_to_yiq")(1, 1, 1)[0])  # noqa: B009 - what is looked for


def by_a_variable() -> float:
    library = colorsys
    return library.rgb_to_yiq(1, 1, 1)[0]


def scaling(backend: str, factor: Any) -> Any:
    """A module that multiplies by what a function gives."""
    if backend == "torch":
        import torch

        class Scaling(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body, self.factor = torch.nn.Linear(6, 5), factor

            def forward(self, x: Any) -> Any:
                if x.sum() > 1e9:  # so it is not traced
                    x = x * 2
                return self.body(x) * self.factor()

        return Scaling().eval()
    if backend == "jax":
        from flax import nnx

        class Scales(nnx.Module):
            def __init__(self) -> None:
                self.body, self.factor = nnx.Linear(6, 5, rngs=nnx.Rngs(0)), factor

            def __call__(self, x: Any) -> Any:
                return self.body(x) * self.factor()

        return Scales()
    import keras

    class Scale(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * factor()

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), Scale()])


@pytest.mark.parametrize("factor", [imported, imported_from, by_text, by_a_variable])
def test_what_code_finds_in_a_library_is_in_the_key(
    backend: str, factor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever way it comes to it; and a change afterwards is refused."""
    digests = []
    for scale in (2, 3, 2):
        with monkeypatch.context() as here:
            here.setattr(colorsys, "rgb_to_yiq", two if scale == 2 else three)
            model = hs.wrap(scaling(backend, factor), "its end", example=X, head="linear", classes=2)
            digests.append(key(model).digest)
        with pytest.raises(HeadstartError, match="rgb_to_yiq"):
            key(model)
    assert digests[0] == digests[2]
    assert digests[0] != digests[1]


def two(*_: int) -> tuple[float, ...]:
    return (2.0,)


def three(*_: int) -> tuple[float, ...]:
    return (3.0,)
