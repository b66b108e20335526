"""Networks whose unused filters have decayed to next to nothing, which a CPU would take long for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.features.inference import frozen
from headstart.models import Model
from headstart.testing.samples import linear_graph, small_data, tiny_model


@pytest.fixture
def model() -> Model:
    """Its first convolution has a filter of denormal numbers."""
    made = tiny_model()
    weight = made.params["conv1.weight"].copy()
    weight[3] = 1e-40
    return made.with_params({**made.params, "conv1.weight": weight})


def test_they_are_not_computed_with() -> None:
    """1e-40 times 1e32 is 1e-8, which would show."""
    graph = linear_graph(features=3, classes=2)
    params = {name: np.ones(shape, np.float32) for name, shape in graph.param_shapes().items()}
    params["fc.weight"][0] = 1e-40
    params["fc.bias"][:] = 0
    backend = registry.load()
    place = backend.place("cpu", "float32")
    trunk = backend.trunk(*frozen(graph, params, ["fc"]), ["fc"], place)
    made = backend.numpy(trunk.run(np.full((2, 3), 1e32, np.float32))["fc"])
    assert (made[:, 0] == 0).all()
    np.testing.assert_allclose(made[:, 1], 3e32, rtol=1e-6)


@pytest.mark.of("torch")
def test_the_models_own_stay_as_they_are(model: Model, tmp_path: Path) -> None:
    train, val = small_data()
    run = hs.fit(model, train, val, mode="frozen", epochs=1)
    np.testing.assert_array_equal(
        run.model.params["conv1.weight"].view(np.uint32), model.params["conv1.weight"].view(np.uint32)
    )
    expected = hs.fit(_without(model), train, val, mode="frozen", epochs=1)
    np.testing.assert_allclose(run.history["val_loss"], expected.history["val_loss"], rtol=1e-6)


@pytest.mark.of("torch")
def test_whole_networks_learn_the_same(model: Model) -> None:
    train, val = small_data()
    settings = {"mode": "full", "epochs": 1, "optimizer": hs.SGD(), "lr": 0.01}
    run, expected = (hs.fit(m, train, val, **settings) for m in (model, _without(model)))
    np.testing.assert_allclose(run.history["loss"], expected.history["loss"], rtol=1e-6)


def _without(model: Model) -> Model:
    weight = model.params["conv1.weight"].copy()
    weight[3] = 0
    return replace(model, params={**model.params, "conv1.weight": weight})
