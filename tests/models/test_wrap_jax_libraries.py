"""What JAX libraries do in their modules: layers in a scan or under remat, general layers, undecided flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax_libraries

    return own_jax_libraries


@pytest.fixture(scope="module")
def data() -> Any:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)


def trunk(model: Any) -> np.ndarray:
    return hs.forward(model, X, "trunk")["trunk"]


def variables(module: Any, **settings: Any) -> Any:
    import jax

    return module.init(jax.random.key(0), X, **settings)


def test_layers_in_a_scan(own: Any) -> None:
    """They are one thing: what comes behind them can be cut at, and what lies inside cannot."""
    net = own.Scanned()
    for cut in (None, "norm"):
        assert relative_error(trunk(hs.wrap(net, cut, **FRESH)), np.asarray(net.features(X))) < 1e-5
    for cut in ("layers", "layers.up"):
        with pytest.raises(CutError, match=r"inside of what JAX transforms as one thing \(jit, remat, scan"):
            hs.wrap(net, cut, **FRESH)


@pytest.mark.parametrize("how", ["adapted", "adapter", "general"])
def test_a_classifier_that_is_no_plain_linear_layer(own: Any, how: str) -> None:
    net = own.Ending(own.lasts()[how])
    model = hs.wrap(net, **FRESH)
    assert model.weights == "its own, cut before last"
    assert relative_error(trunk(model), np.asarray(net.features(X))) < 1e-5


def test_a_module_that_looks_at_its_classifier(own: Any) -> None:
    """What is not computed with may be asked for its shape."""
    net = own.Careful(own.lasts()["general"])
    model = hs.wrap(net, **FRESH)
    assert model.weights == "its own, cut before last"
    assert relative_error(trunk(model), np.asarray(net.features(X))) < 1e-5


def test_a_flag_whose_default_is_none(own: Any, data: Any, tmp_path: Path) -> None:
    module = own.Merged()
    made = variables(module, deterministic=True)
    told = own.Merged(deterministic=True)
    for model, moves in (
        (hs.wrap(own.Undecided(), **FRESH), True),
        (hs.wrap(module, params=made, **FRESH), True),
        (hs.wrap(told, params=made, **FRESH), False),
    ):
        after = fit(model, data, tmp_path, mode="full", epochs=1, batch_norm="train").model.params
        name = next(name for name in after if name.endswith(".mean"))
        assert np.array_equal(after[name], model.params[name]) is not moves


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_sown_is_no_variable(own: Any, data: Any, tmp_path: Path, frozen: bool) -> None:
    """A collection grows by it in every call. Variables may be frozen as a dict is, too."""
    from flax.core import freeze

    module = own.Merged()
    made = variables(module, deterministic=True)
    assert "losses" in made
    model = hs.wrap(module, params=freeze(made) if frozen else made, **FRESH)
    after = fit(model, data, tmp_path, mode="full", epochs=1, batch_norm="train").model.params
    assert not np.array_equal(*(of["trunk.batch_stats.BatchNorm_0.mean"] for of in (after, model.params)))


def test_linen_under_remat(own: Any) -> None:
    module = own.Again()
    made = variables(module)
    model = hs.wrap(module, params=made, **FRESH)
    assert model.weights == "its own, cut before fc"
    plain = own.Block().apply({"params": made["params"]["block"]}, X.mean((1, 2)))
    assert relative_error(trunk(model), np.asarray(plain)) < 1e-5
    with pytest.raises(CutError, match="Cut before or behind it; or pass the module made without it"):
        hs.wrap(module, "block", params=made, **FRESH)


def test_a_linen_module_that_is_bound(own: Any, data: Any, tmp_path: Path) -> None:
    """It brings its variables, so it can be a head, too."""
    import jax

    module = own.Again()
    bound = module.bind(variables(module))
    alike = (hs.wrap(bound, **FRESH), hs.wrap(module, params=bound.variables, **FRESH))
    assert np.array_equal(*map(trunk, alike))
    ranks = own.Ranks()
    head = ranks.bind(ranks.init(jax.random.key(1), bound(X)))
    model = hs.wrap(bound, "fc", preprocess=P, head=head)
    assert relative_error(hs.forward(model, X, "logits")["logits"], np.asarray(head(bound(X)))) < 1e-5
    assert np.ptp(fit(model, data, tmp_path, mode="cached").model.params["head.params.Dense_0.bias"]) > 0
    with pytest.raises(SettingError, match=r"Ranks is a flax.linen.*as a head, too: module.bind\("):
        hs.wrap(bound, "fc", preprocess=P, head=ranks)


def test_a_module_without_a_call_is_told_the_way(own: Any) -> None:
    with pytest.raises(SettingError, match=r"Methods has no __call__, only methods\. Wrap a module of yours"):
        hs.wrap(own.Methods(), **FRESH)
    module = own.Encodes()
    made = variables(module, method="encode")
    with pytest.raises(SettingError, match=r"Encodes has no.*module\.apply\(p, x, method='encode'\), None\)"):
        hs.wrap(module, params=made, **FRESH)
    pair = (lambda p, x: module.apply(p, x, method="encode"), None)
    model = hs.wrap(pair, params=(made, None), name="it", **FRESH)
    assert relative_error(trunk(model), np.asarray(module.apply(made, X, method="encode"))) < 1e-5


def test_what_runs_on_shapes_alone(own: Any) -> None:
    with pytest.raises(
        SettingError, match=r"Needs fails as it runs on two.*ValueError: no mesh is set\..*as a mesh"
    ):
        hs.wrap(own.Needs(), **FRESH)
