"""Modules that compute something else in larger batches than `wrap` has looked at: no row of theirs is kept, no
prediction given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError

X = np.random.default_rng(0).standard_normal((80, 6)).astype("f")
Y = np.arange(80) % 2
TEXT = "depends on what else is in its batch"

CHANGES: dict[str, Callable[[Any], Any]] = {
    "few": lambda count: count < 4,
    "some": lambda count: count > 8,
    "many": lambda count: count > 32,
    "odd": lambda count: (count > 1) & (count % 2 == 1),
}


def module(backend: str, doubles: Callable[[Any], Any]) -> Any:
    """A layer whose numbers are doubled in batches of some sizes."""
    if backend == "torch":
        import torch

        class Doubling(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body, self.end, self.doubles = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3), doubles

            def forward(self, x: Any) -> Any:
                return self.end(self.body(x) * (2 if self.doubles(len(x)) else 1))

        return Doubling().eval()
    if backend == "jax":
        from flax import nnx

        class Doubles(nnx.Module):
            def __init__(self) -> None:
                rngs = nnx.Rngs(0)
                self.body, self.end = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
                self.doubles = doubles

            def __call__(self, x: Any) -> Any:
                return self.end(self.body(x) * (2 if self.doubles(len(x)) else 1))

        return Doubles()
    import keras

    class Double(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * keras.ops.where(doubles(keras.ops.shape(x)[0]), 2.0, 1.0)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(3)(Double()(keras.layers.Dense(5)(inputs))))


def wrapped(backend: str, doubles: Callable[[Any], Any], head: str = "linear") -> Any:
    settings: dict[str, Any] = (
        {"example": X[:2], "classes": ["a", "b"]} if head == "linear" else {"example": X[:2]}
    )
    return hs.wrap(module(backend, doubles), head=head, name="doubling", **settings)


@pytest.mark.parametrize("change", ["few", "some", "many"])
def test_no_features_that_depend_on_the_number_of_samples(backend: str, change: str, tmp_path: Path) -> None:
    data = hs.data.arrays(X, Y, classes=["a", "b"])
    with pytest.raises(SettingError, match=TEXT):
        hs.extract(wrapped(backend, CHANGES[change]), data, cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_no_epoch_on_rows_that_depend_on_the_number_of_samples(backend: str, mode: str, tmp_path: Path) -> None:
    train, val = hs.data.arrays(X, Y, classes=["a", "b"]).split(0.5, seed=0)
    with pytest.raises(SettingError, match=TEXT):
        hs.fit(wrapped(backend, CHANGES["few"]), train, val, mode=mode, epochs=1, cache=tmp_path)


def test_no_prediction_that_depends_on_the_number_of_samples(backend: str) -> None:
    model = wrapped(backend, CHANGES["odd"])
    hs.predict(model, X[:4])
    with pytest.raises(SettingError, match=TEXT):
        hs.predict(model, X[:7])
    with pytest.raises(SettingError, match=TEXT):
        hs.forward(model, X[:7], "trunk")
    rest = wrapped(backend, CHANGES["many"], head="rest")
    for _ in range(2):  # what was refused once is not taken for right
        with pytest.raises(SettingError, match=TEXT):
            hs.predict(rest, X)
    assert hs.predict(rest, X, batch_size=16).shape == (80, 3)


def test_sizes_are_looked_at_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.contract.sizes_of_batches import Sizes

    checked: list[int] = []
    check = Sizes.check
    monkeypatch.setattr(
        Sizes, "check", lambda self, size, *others: checked.append(size) or check(self, size, *others)
    )
    model = wrapped(backend, lambda _: False)
    for _ in range(2):
        hs.predict(model, X[:7])
        hs.predict(model, X)
        hs.predict(model, X[:1])
    assert checked == [7, 64]


def centred(backend: str, of_ids: bool) -> Any:
    """What takes the mean of a batch away. `of_ids`: of embeddings."""
    if backend == "torch":
        import torch

        class Centred(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = torch.nn.Embedding(9, 5) if of_ids else torch.nn.Linear(6, 5)
                self.end = torch.nn.Linear(5, 3)

            def forward(self, x: Any) -> Any:
                x = self.body(x).mean(1) if of_ids else self.body(x)
                return self.end(x - x.mean(0))

        return Centred().eval()
    if backend == "jax":
        from flax import nnx

        class Centres(nnx.Module):
            def __init__(self) -> None:
                rngs = nnx.Rngs(0)
                self.body = nnx.Embed(9, 5, rngs=rngs) if of_ids else nnx.Linear(6, 5, rngs=rngs)
                self.end = nnx.Linear(5, 3, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                x = self.body(x).mean(1) if of_ids else self.body(x)
                return self.end(x - x.mean(0))

        return Centres()
    import keras

    class Centre(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x - keras.ops.mean(x, axis=0)

    inputs = keras.Input((6,), dtype="int32" if of_ids else "float32")
    x = keras.layers.Embedding(9, 5)(inputs) if of_ids else keras.layers.Dense(5)(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x) if of_ids else x
    return keras.Model(inputs, keras.layers.Dense(3)(Centre()(x)))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_statistics_of_the_batch_are_seen_where_an_example_is_of_equal_rows(
    backend: str, rows: int, value: int, kind: str
) -> None:
    example = np.full((rows, 6), value, kind)
    with pytest.raises(SettingError, match="not deterministic in inference mode"):
        hs.wrap(centred(backend, kind == "int32"), example=example, name="centred")


@pytest.mark.of("torch")
def test_an_example_of_the_only_number_that_is_taken_will_do(backend: str) -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Embedding(1, 5), torch.nn.Flatten(), torch.nn.Linear(30, 3)).eval()
    assert hs.predict(hs.wrap(net, example=np.zeros((1, 6), np.int64)), np.zeros((2, 6), np.int64)).shape == (2, 3)
