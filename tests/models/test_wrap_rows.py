"""Modules that give several arrays of which no name tells what they are: the only row for each sample is taken as
their end, in all frameworks, and is said."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from own import P, key
from own import X as IMAGES

import headstart as hs
from headstart.common.errors import CutError, HeadstartError
from headstart.models.several import row_of
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("f")
SAID = r"gives several arrays, and {!r}, the only one that is a row for each sample, is taken as its end"
# what a module makes of its map, the mean of that, and its logits; and what of these is its end
GIVEN: dict[str, tuple[Any, str]] = {
    "beside a map": (lambda lib, m, v, logits: (logits, m), "0"),
    "behind a map": (lambda lib, m, v, logits: (m, logits), "1"),
    "beside many": (lambda lib, m, v, logits: (logits, [m, m * 2]), "0"),
    "by a name": (lambda lib, m, v, logits: {"map": m, "scores": logits}, "scores"),
    "beside a table": (lambda lib, m, v, logits: (logits, m, lib.table(v)), "0"),
    "beside a loss": (lambda lib, m, v, logits: (logits, lib.mean(logits**2)), "0"),
    "probabilities": (lambda lib, m, v, logits: (lib.softmax(logits), m), "0"),
}
ROWS = {"features": (lambda lib, m, v, logits: (v, m), "0")}
UNTOLD: dict[str, Any] = {
    "two rows": lambda lib, m, v, logits: (logits, v, m),
    "a code that a map is made of": lambda lib, m, v, logits: (logits, lib.decoded(m, logits)),
    "weights of places": lambda lib, m, v, logits: (m, lib.weights(m)),
}
WAYS = {name: way for name, (way, _) in {**GIVEN, **ROWS}.items()} | UNTOLD


def torch_module(way: str, looks: bool = False) -> tuple[Any, Any]:
    """A module, which torch.fx cannot trace if it `looks` at values; and a function X -> map, its mean, logits."""
    import torch

    class Lib:
        mean, decoded = torch.mean, staticmethod(lambda m, z: m + z.sum(1)[:, None, None, None])
        softmax, weights = staticmethod(lambda x: x.softmax(1)), staticmethod(lambda m: m.flatten(2).mean(1))
        table = staticmethod(lambda v: v.mean() * torch.ones(2, 6))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 4)

        def parts(self, x: Any) -> Any:
            m = self.conv(x).relu()
            return m, m.mean((2, 3)), self.fc(m.mean((2, 3)))

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                x = x * 2
            return WAYS[way](Lib, *self.parts(x))

    module = Net().eval()

    def parts(x: np.ndarray) -> list[np.ndarray]:
        m, v, logits = (p.detach().numpy() for p in module.parts(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())))
        return [m.transpose(0, 2, 3, 1), v, logits]

    return module, parts


def jax_module(way: str) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Lib:
        mean, softmax = jnp.mean, jax.nn.softmax
        decoded = staticmethod(lambda m, z: m + z.sum(1)[:, None, None, None])
        weights = staticmethod(lambda m: m.reshape(len(m), 36, 6).mean(2))
        table = staticmethod(lambda v: v.mean() * jnp.ones((2, 6)))

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 6, (3, 3), padding="VALID", rngs=rngs)
            self.fc = nnx.Linear(6, 4, rngs=rngs)

        def parts(self, x: Any) -> Any:
            m = nnx.relu(self.conv(x))
            return m, m.mean((1, 2)), self.fc(m.mean((1, 2)))

        def __call__(self, x: Any) -> Any:
            return WAYS[way](Lib, *self.parts(x))

    module = Net()
    return module, lambda x: [*map(np.asarray, module.parts(x))]


def keras_module(way: str) -> tuple[Any, Any]:
    import keras
    from keras import layers, ops

    class Lib:
        mean, softmax = ops.mean, ops.softmax
        decoded = staticmethod(lambda m, z: m + ops.sum(z, 1)[:, None, None, None])
        weights = staticmethod(lambda m: ops.mean(ops.reshape(m, (-1, 36, 6)), 2))
        table = staticmethod(lambda v: ops.mean(v) * ops.ones((2, 6)))

    keras.utils.set_random_seed(0)
    entry = keras.Input((8, 8, 3))
    m = layers.Conv2D(6, 3, activation="relu", name="conv")(entry)
    v = layers.GlobalAveragePooling2D(name="pool")(m)
    logits = layers.Dense(4, name="fc")(v)
    all_of = keras.Model(entry, [m, v, logits])
    given = WAYS[way](Lib, m, v, logits)
    module = keras.Model(entry, [*given] if isinstance(given, tuple) else given)
    return module, lambda x: [keras.ops.convert_to_numpy(part) for part in all_of(x)]


def fresh(module: Any, cut: str | None = None) -> Any:
    return hs.wrap(module, cut, example=X, head="linear", classes=3, name="it")


@pytest.fixture(params=["", pytest.param("untraced", marks=pytest.mark.of("torch"))])
def made(request: Any, backend: str) -> Any:
    if backend == "torch":
        return lambda way: torch_module(way, bool(request.param))
    return {"jax": jax_module, "keras": keras_module}[backend]


@pytest.mark.parametrize("way", [*GIVEN])
def test_logits_beside_other_things_are_the_modules_end(made: Any, way: str, caplog: Any) -> None:
    """As they are where they are called so: a fresh classifier comes in the place of the module's own, and the
    module's own can be trained."""
    module, parts = made(way)
    _, mean, logits = parts(X)
    with caplog.at_level(logging.INFO, "headstart"):
        model = fresh(module)
    assert SAID.format(GIVEN[way][1]) in caplog.text
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], mean) < 1e-5
    again = fresh(module, model.module_cut)
    assert again.weights == model.weights
    rest = hs.forward(hs.wrap(module, example=X, name="it"), X, ["trunk", "logits"])
    assert relative_error(rest["trunk"], mean) < 1e-5
    assert relative_error(rest["logits"], logits) < 1e-5


def test_features_beside_other_things_are_taken(made: Any, caplog: Any) -> None:
    module, parts = made("features")
    with caplog.at_level(logging.INFO, "headstart"):
        model = fresh(module)
    assert SAID.format("0") in caplog.text
    assert "'1' (6, 6, 6) (shapes of a sample)" in caplog.text
    for wrapped in (model, fresh(module, model.module_cut), fresh(module, "its end")):
        assert relative_error(hs.forward(wrapped, X, "trunk")["trunk"], parts(X)[1]) < 1e-5
    with pytest.raises(HeadstartError, match=r"no place before its last|no linear layer|not end in a linear"):
        hs.wrap(module, example=X)


@pytest.mark.parametrize("way", [*UNTOLD])
def test_what_cannot_be_told_is_asked_for(made: Any, way: str) -> None:
    module, _ = made(way)
    with pytest.raises(CutError, match="which of them are the features"):
        fresh(module)
    with pytest.raises(HeadstartError):
        hs.wrap(module, example=X)


@pytest.mark.of("keras")
def test_logits_by_their_name_are_the_end_of_a_keras_model() -> None:
    """A fresh classifier once stood on them."""
    import keras
    from keras import layers

    entry = keras.Input((8, 8, 3))
    v = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(6, 3)(entry))
    logits = layers.Dense(4)(v)
    for others in ({"codes": v}, {"pooler_output": v}):
        module = keras.Model(entry, {"logits": logits, **others})
        model = fresh(module)
        assert model.module_cut == "mean"
        ours = hs.forward(hs.wrap(module, name="it"), X)["logits"]
        assert relative_error(ours, keras.ops.convert_to_numpy(module(X)["logits"])) < 1e-5


@pytest.mark.of("torch")
def test_a_key_holds_what_is_beside_logits() -> None:
    """Modules that differ there alone once had one key, and the second got the features of the first."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 4)

        def outputs(self, m: Any, factor: int, name: str = "map") -> Any:
            return {"logits": self.fc(m.mean((2, 3))), name: m * factor}

    class Twice(Net):
        def forward(self, x: Any) -> Any:
            return self.outputs(self.conv(x).relu(), 2)

    class Thrice(Net):
        def forward(self, x: Any) -> Any:
            return self.outputs(self.conv(x).relu(), 3)

    settings: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 3}
    first, second = (hs.wrap(kind().eval(), "map", **settings) for kind in (Twice, Thrice))
    features = [hs.forward(model, IMAGES, "trunk")["trunk"] for model in (first, second)]
    assert relative_error(features[0] * 1.5, features[1]) < 1e-5
    assert key(first).digest != key(second).digest


@pytest.mark.of("torch")
@pytest.mark.parametrize("layers", [1, 2])
def test_states_of_layers_are_no_rows(layers: int) -> None:
    """Of two layers, and two samples, they looked so."""
    import torch

    torch.manual_seed(0)
    rows = X[:, :, 0]
    module = torch.nn.GRU(3, 6, layers, batch_first=True)
    model = hs.wrap(module, example=rows, head="linear", classes=2)
    expected = module(torch.from_numpy(rows))[0].detach().numpy()
    assert relative_error(hs.forward(model, rows, "trunk")["trunk"], expected) < 1e-5


def test_by_which_shapes_it_is_told() -> None:
    row, tokens, maps = (2, 6), (2, 9, 6), (2, 4, 3, 8)
    assert row_of({(0,): row, (1,): tokens, (2,): maps}, 2) == (0,)
    assert row_of({(0,): row, (1, 0): tokens, (1, 1): (), (2,): (1, 2)}, 2) == (0,)
    assert row_of({(0,): tokens, ("codes",): row}, 2) == ("codes",)
    assert row_of({(): row}, 2) == row_of({}, 2) == ()
    assert row_of({(0,): row, (1,): row, (2,): maps}, 2) == (), "which of two"
    assert row_of({(0,): tokens, (1,): (2, 9)}, 2) == (), "a number for each token"
    assert row_of({(0,): maps, (1,): (2, 12)}, 2) == row_of({(0,): maps, (1,): (2, 24)}, 2) == (), "for each place"
    assert row_of({(0,): maps, (1,): (2, 1)}, 2) == (), "a number for each sample"
    assert row_of({(0,): maps, (1,): (3, 6)}, 2) == (), "a table"
    for name in ("logits", "pooler_output", "last_hidden_state", "out"):
        assert row_of({(name,): maps, ("codes",): row}, 2) == (), "names tell"


@pytest.mark.of("torch")
@pytest.mark.parametrize("sides", [(2, "one sample"), (1, "two samples"), (3, "two samples")])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_last_states_are_no_row_for_each_sample(sides: tuple[int, str], kind: str) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = getattr(torch.nn, kind)(3, 6, sides[0], batch_first=True)
            self.last = False

        def forward(self, x: Any) -> Any:
            states = self.layers(x)[1]
            states = states[0] if kind == "LSTM" else states
            return states[-1] if self.last else states

    module, x = Net(), X[:, 0]
    with pytest.raises(HeadstartError, match=f"{sides[1]}.*let the module end in states") as refused:
        hs.wrap(module, example=x, head="linear", classes=2)
    assert "deterministic" not in str(refused.value)
    module.last = True
    model = hs.wrap(module, example=x, head="linear", classes=2)
    assert (
        relative_error(hs.forward(model, x, "trunk")["trunk"], module(torch.from_numpy(x)).detach().numpy()) < 1e-5
    )
