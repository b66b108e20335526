"""What Keras is spared: the copies of a user's module run themselves as long as nothing has changed their
parameters, and what runs on batches is traced once for batches of any size."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.models import Model
from headstart.testing import relative_error
from headstart.testing.samples import linear_graph
from headstart.testing.suite import recipe_of

pytestmark = pytest.mark.of("keras")
PLACE = Place("cpu", "float32")
X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def keras(backend: str) -> Any:
    registry.load(backend)
    return import_module("keras")


@pytest.fixture(scope="module")
def net(keras: Any) -> Any:
    x = keras.Input((5,))
    hidden = keras.layers.Dense(4, "relu", name="cut")(x)
    return keras.Model(x, keras.layers.Dense(3)(hidden))


@pytest.fixture(scope="module")
def model(net: Any) -> Model:
    return hs.wrap(net, "cut")


def trunk(model: Model, params: Any, output: str = "trunk", place: Place = PLACE) -> Any:
    graph = model.graph.upto(output)
    own = {name: params[name] for name in graph.param_shapes()}
    return registry.load("keras").trunk(graph, own, [output], place)


def test_a_copy_that_nobody_has_changed_runs_itself(model: Model) -> None:
    made = trunk(model, model.params)
    assert trunk(model, model.params).model is made.model
    for output, place in (("head", PLACE), ("trunk", Place("cpu", "bfloat16"))):
        assert trunk(model, model.params, output, place).model is not made.model


def test_what_has_other_parameters_is_a_copy_of_its_own(keras: Any, model: Model, net: Any) -> None:
    """And what is trained, of which the frozen trunks beside it see nothing."""
    expected = keras.ops.convert_to_numpy(net(X))
    first = trunk(model, model.params, "head")
    doubled = {name: value * 2 for name, value in model.params.items()}
    other = trunk(model, doubled, "head")
    trainer = registry.load("keras").trainer(model.graph, model.params, recipe_of(hs.AdamW()), PLACE)
    trainer.step(X, np.arange(6) % 3, 0.1)
    assert all(not np.array_equal(value, model.params[name]) for name, value in trainer.params().items())
    trained = trunk(model, trainer.params(), "head")
    again = trunk(model, model.params, "head")
    for runs, is_expected in ((first, True), (other, False), (trained, False), (again, True)):
        outputs = np.asarray(runs.run(X)["head"])
        assert (relative_error(outputs, expected) < 1e-5) == is_expected
    assert relative_error(keras.ops.convert_to_numpy(net(X)), expected) == 0


def test_a_number_of_rows_is_no_reason_to_trace_again(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other engines do not trace, or compile for each shape")
    calls: list[Any] = []
    call = keras.layers.Dense.call

    def counted(layer: Any, x: Any, **more: Any) -> Any:
        calls.append(tuple(x.shape))
        return call(layer, x, **more)

    monkeypatch.setattr(keras.layers.Dense, "call", counted)
    graph = linear_graph(5)
    params = {name: np.zeros(shape, np.float32) for name, shape in graph.param_shapes().items()}
    made = registry.load("keras").trunk(graph, params, [graph.output], PLACE)
    calls.clear()
    for count in (6, 1, 4):
        assert np.asarray(made.run(X[:count])[graph.output]).shape == (count, 4)
    assert calls == [(None, 5)]
