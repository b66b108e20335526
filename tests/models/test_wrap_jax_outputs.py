"""JAX modules whose call takes a flag or gives several arrays, and flax.linen modules with their variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax_outputs

    return own_jax_outputs


@pytest.fixture(scope="module")
def data() -> Any:
    return hs.data.digits().subset(np.arange(48)).split(0.75, seed=0)


def trunk(model: Any) -> np.ndarray:
    features: np.ndarray = hs.forward(model, X, "trunk")["trunk"]
    return features


def test_one_of_several_outputs(own: Any) -> None:
    module = own.Several()
    given = module(X)
    model = hs.wrap(module, **FRESH)
    assert model.weights == "its own, cut at pooler_output"
    assert relative_error(trunk(model), np.asarray(given["pooler_output"])) < 1e-5
    maps = hs.wrap(module, "maps.1", **FRESH)
    assert relative_error(trunk(maps), np.asarray(given["maps"][1])) < 1e-5
    assert key(maps).digest != key(model).digest
    assert hs.wrap(module, maps.module_cut, **FRESH).weights == maps.weights
    assert trunk(hs.wrap(own.Around(module), "inner.maps.0", **FRESH)).shape[1:] == (8, 8, 8)
    with pytest.raises(CutError, match=r"'inner' gives a dict .*no 'map' is in it; choose with cut=: 'maps.0'"):
        hs.wrap(own.Around(module), "inner.map", **FRESH)
    with pytest.raises(CutError, match=r"gives a tuple and not one array; which .* '0' \(8,\), '1' \(8,\)"):
        hs.wrap(own.Pair(), **FRESH)
    with pytest.raises(CutError, match="there is no node 'nowhere'"):
        hs.wrap(module, "nowhere", **FRESH)


def test_of_several_tasks_what_their_classifiers_read(own: Any) -> None:
    module = own.Tasks(False)
    model = hs.wrap(module, **FRESH)
    for made_again in (model, hs.wrap(module, model.module_cut, **FRESH)):
        assert relative_error(trunk(made_again), np.asarray(module.pooled(X))) < 1e-5
    with pytest.raises(CutError, match="which of them are the features"):
        hs.wrap(own.Tasks(True), **FRESH)


@pytest.mark.parametrize("with_token", [True, False])
def test_of_tokens_the_class_token_or_all(own: Any, with_token: bool) -> None:
    module = own.Tokens(with_token)
    tokens = np.asarray(module(X)["last_hidden_state"])
    expected = tokens[:, 0] if with_token else tokens
    model = hs.wrap(module, **FRESH)
    for made_again in (model, hs.wrap(module, model.module_cut, **FRESH)):
        assert relative_error(trunk(made_again), expected) < 1e-5


def test_integers_beside_features_are_no_choice(own: Any) -> None:
    assert hs.wrap(own.Coded(), **FRESH).weights == "its own, cut at features"


def test_a_flag_says_whether_it_trains(own: Any, data: Any, tmp_path: Path) -> None:
    """Its default is that of training; the frozen trunk does not train, and a trunk that is fine-tuned does."""
    module = own.Flagged()
    model = hs.wrap(module, **FRESH)
    assert model.weights == "its own, cut before fc"
    assert relative_error(trunk(model), np.asarray(module.features(X, train=False))) < 1e-5
    statistics = [name for name in model.params if name.endswith(("bn.mean", "bn.var"))]
    assert len(statistics) == 2
    for mode, moves in (("frozen", False), ("full", True)):
        after = fit(model, data, tmp_path, mode=mode, batch_norm="train" if moves else "auto").model.params
        assert all(np.array_equal(after[name], model.params[name]) is not moves for name in statistics)


def test_a_linen_module_with_its_variables(own: Any, data: Any, tmp_path: Path) -> None:
    module, variables, features = own.linen()
    model = hs.wrap(module, params=variables, **FRESH)
    assert model.weights == "its own, cut before Dense_0"
    assert relative_error(trunk(model), features["Dropout_0"]) < 1e-5
    inside = hs.wrap(module, "Block_0", params=variables, **FRESH)
    assert relative_error(trunk(inside), features["Block_0"]) < 1e-5
    assert not [name for name in inside.params if "Block_1" in name], "what comes behind is no part of it"
    mean = "trunk.batch_stats.Block_0.BatchNorm_0.mean"
    for wrapped in (model, inside):
        still = hs.SGD(lr=1e-30)
        run = fit(wrapped, data, tmp_path, mode="full", epochs=1, optimizer=still, batch_norm="train")
        moved = {name for name, value in wrapped.params.items() if np.ptp(run.model.params[name] - value) > 1e-9}
        assert mean in moved
        assert all("batch_stats" in name for name in moved), "statistics move by the batches alone"
    kept = fit(model, data, tmp_path, mode="cached")
    again = hs.load(kept.save(tmp_path / "run"), model=model)
    assert np.array_equal(again.predict(data[1]), kept.predict(data[1]))


def test_what_a_linen_module_lacks(own: Any) -> None:
    module, variables, _ = own.linen()
    with pytest.raises(SettingError, match=r"Net is a flax.linen module, which holds no parameters: pass params="):
        hs.wrap(module, **FRESH)
    with pytest.raises(SettingError, match=r"what init made.*received \['Block_0', 'Block_1', 'Dense_0'\]"):
        hs.wrap(module, params=variables["params"], **FRESH)
    with pytest.raises(CutError, match=r"there is no node 'Block_7'.*Block_1"):
        hs.wrap(module, "Block_7", params=variables, **FRESH)


def test_a_functions_statistics_get_no_gradient(own: Any, data: Any, tmp_path: Path) -> None:
    """Of a linen module's variables in a function, only those of `params` are parameters."""
    module, variables, _ = own.linen()

    def run(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, train=False)

    model = hs.wrap((run, None), params=(variables, None), name="it", **FRESH)
    after = fit(model, data, tmp_path, mode="full", epochs=1).model.params
    moved = {name for name, value in model.params.items() if (after[name] != value).any()}
    assert any(".params." in name for name in moved)
    assert not [name for name in moved if "batch_stats" in name]
