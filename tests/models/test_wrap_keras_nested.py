"""Models that are layers of a Keras model: where they are cut by default, and cuts inside of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import CutError
from headstart.models.endings import ENDINGS
from headstart.testing import relative_error

pytestmark = pytest.mark.of("keras")
FRESH: dict[str, Any] = {"head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def nets(backend: str) -> Any:
    import own_keras_nested

    return own_keras_nested


def run(net: Any, x: np.ndarray = X) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(net(x, training=False))


@pytest.mark.parametrize("how", ["scaled", "augmented", "twice"])
def test_the_usual_recipe_is_cut_before_its_classifier(nets: Any, how: str) -> None:
    net = nets.model(how)
    made = hs.wrap(net, preprocess=P)
    assert made.weights == "its own, cut at pool"
    assert relative_error(hs.forward(made, X)["logits"], run(net)) < 1e-5


def test_a_classifier_inside_is_the_head(nets: Any) -> None:
    """Not all of a base that has its own classifier: that would leave nothing to cache."""
    net = nets.model("topped")
    made = hs.wrap(net, preprocess=P)
    assert made.weights == "its own, cut at base/inner_pool"
    outputs = hs.forward(made, X, ["trunk", "logits"])
    assert relative_error(ENDINGS["softmax"](outputs["logits"]), run(net)) < 1e-5
    assert relative_error(outputs["trunk"], nets.inside(net, "inner_pool", X)) < 1e-5
    assert hs.wrap(net, preprocess=P, **FRESH).weights == "its own, cut at base/inner_pool"


def test_cuts_inside(nets: Any) -> None:
    net = nets.model("scaled")
    before, expected = nets.state(net), run(net)
    for cut in ("base/add", "relu"):
        made = hs.wrap(net, cut, preprocess=P)
        outputs = hs.forward(made, X, ["trunk", "logits"])
        layer = cut.removeprefix("base/")
        assert made.weights == f"its own, cut at base/{layer}"
        assert relative_error(outputs["trunk"], nets.inside(net, layer, X)) < 1e-5
        assert relative_error(outputs["logits"], expected) < 1e-5
    branch = hs.wrap(net, "branch", preprocess=P, **FRESH)
    assert relative_error(hs.forward(branch, X, "trunk")["trunk"], nets.inside(net, "branch", X)) < 1e-5
    deep = nets.model("deep")
    assert (
        relative_error(hs.forward(hs.wrap(deep, "middle/base/add", preprocess=P), X)["logits"], run(deep)) < 1e-5
    )
    for one, other in zip(nets.state(net), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cut_inside_trains_and_is_loaded_again(nets: Any, tmp_path: Path) -> None:
    """What its owner froze stays, and features are found again."""
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    made, other = (hs.wrap(nets.model("augmented"), "base/add", preprocess=P) for _ in range(2))
    assert key(made).digest == key(other).digest != key(hs.wrap(nets.model("augmented"), preprocess=P)).digest
    fixed = {part: made.graph[part].attrs["part"].fixed for part in ("trunk", "head")}
    assert {part: len(names) for part, names in fixed.items()} == {"trunk": 6, "head": 2}
    trained = fit(made, data, tmp_path, epochs=1)
    moved = {name for name in made.params if not np.array_equal(trained.model.params[name], made.params[name])}
    assert {made.params[name].shape for name in moved} == {(6, 10), (10,)}
    saved = trained.save(tmp_path / "run")
    np.testing.assert_array_equal(hs.load(saved, model=other).predict(data[1]), trained.predict(data[1]))


def test_what_cannot_be_cut_inside_says_why(nets: Any) -> None:
    for how, cut, said in (
        ("scaled", "branch", "'branch' is inside a branch.* nearest legal cuts are 'base/relu' and 'base/add'"),
        ("scaled", "base/lst", "no node 'base/lst' to cut at; the nearest are base/last"),
        ("twice", "base/add", "'add' inside of 'base' is called more than once.* cut outside of 'base'"),
    ):
        with pytest.raises(CutError, match=said):
            hs.wrap(nets.model(how), cut, preprocess=P, **(FRESH if how == "twice" else {}))
