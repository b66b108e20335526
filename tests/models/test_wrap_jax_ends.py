"""Where the trunk of an NNX module ends under a fresh classifier: in the place of the old one, or at the end."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from own import P, X, key

import headstart as hs
from headstart.common.errors import CutError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 3, "name": "it"}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax

    return own_jax


def before_fc(own: Any) -> np.ndarray:
    from flax import nnx

    last = nnx.view(own.Deep(), use_running_average=True).blocks[1]
    return np.asarray(last(own.deep_features(own.Deep(), X))).mean((1, 2))


@pytest.mark.parametrize("how", ["plain", "softmax", "inside", "dropout", "scaled", "doubled", "tempered"])
def test_a_fresh_classifier_comes_in_the_place_of_the_old_one(own: Any, how: str) -> None:
    from flax import nnx

    made, cut = {
        "plain": (own.Deep, "fc"),
        "softmax": (lambda: own.Then(nnx.softmax), "inner.fc"),
        "inside": (lambda: nnx.Sequential(own.Then(nnx.log_softmax)), "layers.0.inner.fc"),
        "dropout": (lambda: own.Then(nnx.Dropout(0.1, rngs=nnx.Rngs(0))), "inner.fc"),
        "tempered": (own.Tempered, "inner.fc"),
        "doubled": (lambda: own.Then(lambda x: functools.reduce(lambda y, _: y + y, range(40), x)), "inner.fc"),
        "scaled": (lambda: own.Then(lambda x: x.reshape(-1, 10) / 2), "inner.fc"),
    }[how]
    model = hs.wrap(made(), **FRESH)
    assert model.weights == f"its own, cut before {cut}"
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], before_fc(own)) < 1e-5
    assert not [name for name in model.params if "fc" in name]


def test_codes_are_no_features(own: Any) -> None:
    with pytest.raises(CutError, match=r"gives int32 .* expected one array of floating-point numbers"):
        hs.wrap(own.Codes(), "codes", **FRESH)


def test_of_layers_in_a_row(own: Any) -> None:
    from flax import nnx

    net = own.small()
    model = hs.wrap(net, **FRESH)
    assert model.weights == "its own, cut at layers.6", "before the dropout"
    assert key(model).digest == key(hs.wrap(net, "layers.6", **FRESH)).digest
    head = nnx.Sequential(*net.layers[7:], nnx.softmax)
    assert hs.wrap(nnx.Sequential(*net.layers[:7], head), **FRESH).weights == "its own, cut at layers.6"
    assert hs.wrap(nnx.Sequential(*net.layers[:7]), **FRESH).weights == "its own, cut at its end"


@pytest.mark.parametrize("how", ["tanh", "norm", "unit", "proj", "added"])
def test_a_module_that_ends_in_no_classifier_is_taken_whole(own: Any, how: str) -> None:
    from flax import nnx

    module = {
        "tanh": lambda: own.Then(nnx.tanh),
        "norm": lambda: own.Then(nnx.LayerNorm(10, rngs=nnx.Rngs(0))),
        "unit": lambda: own.Then(lambda x: x / (x * x).sum(1, keepdims=True) ** 0.5),
        "proj": lambda: own.Then(lambda x: x, "projection"),
        "added": lambda: nnx.Sequential(own.Deep(), lambda x: x.at[:, 0].add(1)),
    }[how]()
    model = hs.wrap(module, **FRESH)
    assert model.weights == "its own, cut at its end"
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], own.logits(module, X)) < 1e-5


def test_the_end_is_a_cut_where_a_head_comes_behind_it(own: Any) -> None:
    from flax import nnx

    net = own.small()
    for head in ("linear", nnx.Linear(10, 3, rngs=nnx.Rngs(0))):
        model = hs.wrap(net, "layers.8", preprocess=P, head=head, classes=3)
        assert relative_error(hs.forward(model, X, "trunk")["trunk"], own.logits(net, X)) < 1e-5
    with pytest.raises(CutError, match="leaves nothing to train"):
        hs.wrap(net, "layers.8", preprocess=P)
    assert hs.wrap(own.Deep(), "fc", **FRESH).weights == "its own, cut at fc"


def test_of_several_classifiers_one_can_be_asked_for(own: Any) -> None:
    import jax
    from flax import nnx

    class Distilled(nnx.Module):
        def __init__(self, alike: bool) -> None:
            self.head, self.dist = (nnx.Linear(3, 4, rngs=nnx.Rngs(seed)) for seed in (0, 1))
            self.alike = alike

        def __call__(self, x: jax.Array) -> jax.Array:
            tokens = jax.numpy.tanh(x.reshape(len(x), -1, 3))
            first = tokens[:, 0]
            return (self.head(first) + self.dist(first if self.alike else tokens[:, 1])) / 2

    assert hs.wrap(Distilled(False), **FRESH).module_cut == "before head, dist"
    assert hs.wrap(Distilled(True), **FRESH).module_cut == "before head"
    first = hs.forward(hs.wrap(Distilled(False), "before head", **FRESH), X, "trunk")["trunk"]
    assert relative_error(first, np.tanh(X.reshape(len(X), -1, 3)[:, 0])) < 1e-5
