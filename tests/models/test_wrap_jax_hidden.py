"""Classifiers at the end of JAX modules that are hard to see, and submodules that are called more than once: they
are found, or said, so that no fresh head stands behind old logits without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import fit

import headstart as hs
from headstart.common.errors import CutError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
ROWS = np.random.default_rng(1).standard_normal((4, 6)).astype("f")
FRESH: dict[str, Any] = {"example": ROWS, "head": "linear", "classes": 3, "name": "it"}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax_hidden

    return own_jax_hidden


def variables(module: Any) -> Any:
    import jax

    return module.init(jax.random.key(0), ROWS)


@pytest.mark.parametrize(
    "how", ["Compiled", "ByJax", "Flagged", "Own", "Doubled", "Ensemble", "bd,dc->bc", "...d,cd->...c"]
)
def test_a_classifier_is_found(own: Any, how: str) -> None:
    """Where the call is compiled by itself, and where it is a product."""
    sides = (5, 3) if how.endswith("bc") else (3, 5)
    last = own.einsum(how, *sides) if "->" in how else getattr(own, how)()
    module = last if isinstance(last, own.Net) else own.Net(last)
    model = hs.wrap(module, **FRESH)
    assert model.weights == "its own, cut before fc"
    assert relative_error(hs.forward(model, ROWS, "trunk")["trunk"], np.asarray(module.features(ROWS))) < 1e-5


@pytest.mark.parametrize("how", ["Gated", "Residual"])
def test_a_layer_of_ones_own_that_is_no_linear_one(own: Any, how: str) -> None:
    assert hs.wrap(own.Net(getattr(own, how)()), **FRESH).weights == "its own, cut at its end"


@pytest.mark.parametrize("equation", ["bd,bdc->bc", "bd,dc->cb", "bd,cb->cd", "bd,de->bef", "d,dd->d"])
def test_a_product_that_is_no_linear_layer(own: Any, equation: str) -> None:
    from headstart.models.endings import is_product

    assert not is_product(equation)


@pytest.mark.parametrize("how", ["Again", "Inside", "compiled_linen"])
def test_a_classifier_that_cannot_be_cut_off_is_told(own: Any, how: str) -> None:
    module = getattr(own, how)()
    settings = {"params": variables(module)} if how == "compiled_linen" else {}
    with pytest.raises(
        CutError, match=r"ends in a classifier, 'fc', inside of what JAX transforms.*cut='its end'"
    ):
        hs.wrap(module, **settings, **FRESH)
    assert hs.wrap(module, "its end", **settings, **FRESH).weights == "its own, cut at its end"


@pytest.mark.parametrize("how", ["plain", "compiled", "linen"])
def test_a_classifier_in_no_submodule_is_told(own: Any, how: str) -> None:
    """Nothing can be cut off before it, so a fresh head would stand behind what it gives."""
    module = own.LinenItself() if how == "linen" else own.Itself(how == "compiled")
    settings = {"params": variables(module)} if how == "linen" else {}
    with pytest.raises(CutError, match=r"ends in a product of its own with '(params\.)?w'.*cut='its end'"):
        hs.wrap(module, **settings, **FRESH)
    for cut in ("its end", "mid"):
        assert hs.wrap(module, cut, **settings, **FRESH).weights == f"its own, cut at {cut}"


def test_a_projection_in_no_submodule_is_an_end(own: Any) -> None:
    module = own.Itself(False, "text_projection")
    assert hs.wrap(module, **FRESH).weights == "its own, cut at its end"


@pytest.mark.parametrize("how", ["Twice", "Linen"])
def test_what_is_called_twice_is_no_cut(own: Any, how: str) -> None:
    module = getattr(own, how)()
    settings = {"params": variables(module)} if how == "Linen" else {}
    for cut in ("mid", "before mid"):
        with pytest.raises(CutError, match="'mid' is called 2 times, so it cannot be cut at; cut outside of it"):
            hs.wrap(module, cut, **settings, **FRESH)
    assert hs.wrap(module, **settings, **FRESH).weights == "its own, cut before fc"


@pytest.mark.parametrize(
    ("stem", "down", "deep"),
    [("stem", "fc", True), ("fc", "fc2", True), ("head", "down", False), ("head", "re", True)],
)
def test_a_row_of_residual_blocks_ends_in_no_classifier(own: Any, stem: str, down: str, deep: bool) -> None:
    """However its layers are called; numbers of classes that are refined begin in one."""
    module = own.Blocks(stem, down, deep)
    model = hs.wrap(module, **FRESH)
    assert model.module_cut == ("before head" if down == "re" else "its end")
    if down == "re":
        assert relative_error(hs.forward(model, ROWS, "trunk")["trunk"], np.asarray(module.features(ROWS))) < 1e-5


@pytest.mark.parametrize("how", ["relu", "scaled", "leaky", "norm", "turned", "frames"])
def test_what_probabilities_are_made_of_is_no_feature(own: Any, how: str) -> None:
    """Whatever is done to each number before."""
    module = own.Frames() if how == "frames" else own.Active(how)
    trunk = hs.forward(hs.wrap(module, **FRESH), ROWS, "trunk")["trunk"]
    assert relative_error(trunk, np.asarray(module.features(ROWS))) < 1e-5


def test_what_stands_before_a_softmax_in_a_row_or_in_linen(own: Any) -> None:
    assert hs.wrap(own.active_row(), **FRESH).module_cut == "layers.1"
    module = own.ActiveLinen()
    assert hs.wrap(module, params=variables(module), **FRESH).module_cut == "before proj"


@pytest.mark.parametrize("how", ["gelu", "left leaky", "codes", "turned back"])
def test_what_was_active_last_is_a_feature(own: Any, how: str) -> None:
    assert hs.wrap(own.Active(how), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("normed", [True, False])
def test_a_long_row_of_residual_blocks(own: Any, normed: bool) -> None:
    from headstart.backends.jax.classifier import classifier_of, watched

    module = own.Row(400, normed)
    assert classifier_of(lambda x: watched(module, lambda clone: clone(x)), ROWS).paths == ()


@pytest.mark.parametrize(
    "how", ["sum", "max", "pooled", "one", "masked", "soft", "shared", "mean", "average", "smooth"]
)
def test_a_classifier_of_each_token(own: Any, how: str) -> None:
    """Of whose numbers the sum is taken, or the greatest, or probabilities are made."""
    module = own.Tokens(how)
    pooled = hs.forward(hs.wrap(module, **FRESH), ROWS, "pool")["pool"]
    tokens = np.asarray(module.features(ROWS))
    assert relative_error(pooled, tokens[:, 0] if how == "one" else tokens.mean(1)) < 1e-5


@pytest.mark.parametrize("how", ["hidden", "hidden sum", "attended"])
def test_what_is_joined_of_tokens_may_be_features(own: Any, how: str) -> None:
    assert hs.wrap(own.Tokens(how), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("how", ["both", "maps", "logs"])
def test_what_several_classifiers_read_stands_side_by_side(own: Any, how: str) -> None:
    module = own.Tokens(how)
    tokens = np.asarray(module.features(ROWS))
    expected = np.concatenate([tokens[:, 0], tokens.mean(1) if how == "maps" else tokens[:, 1]], 1)
    model = hs.wrap(module, **FRESH)
    assert model.module_cut == "before head, dist"
    assert relative_error(hs.forward(model, ROWS, "trunk")["trunk"], expected) < 1e-5
    assert not [name for name in model.params if name.startswith(("trunk.head", "trunk.dist"))]
    again = hs.wrap(module, model.module_cut, **FRESH)
    assert again.graph["trunk"].attrs["part"].structure == model.graph["trunk"].attrs["part"].structure


def test_several_classifiers_of_linens(own: Any, tmp_path: Path) -> None:
    module = own.LinenTokens("both")
    made = variables(module)
    model = hs.wrap(module, params=made, **FRESH)
    assert model.module_cut == "before head, dist"
    tokens = module.apply(made, ROWS, capture_intermediates=True)[1]["intermediates"]["norm"]["__call__"][0]
    assert relative_error(hs.forward(model, ROWS, "trunk")["trunk"], np.asarray(tokens)) < 1e-5
    rows = np.random.default_rng(2).standard_normal((8, 6)).astype("f")
    data = hs.data.arrays(rows, np.arange(8) % 3).split(0.5, seed=0)
    after = fit(model, data, tmp_path, mode="full", batch_norm="train", epochs=1).model.params
    moved = {name for name in after if (after[name] != model.params[name]).any()}
    assert {"trunk.batch_stats.norm.mean", "trunk.params.first.kernel"} <= moved
    assert hs.wrap(own.LinenTokens("max"), params=made, **FRESH).module_cut == "before head"


def test_classifiers_that_cannot_be_cut_off_are_told(own: Any) -> None:
    with pytest.raises(CutError, match="'head' is called 2 times, so it cannot be cut at"):
        hs.wrap(own.Tokens("again"), **FRESH)
    with pytest.raises(CutError, match="'head', 'whole', read arrays of their own"):
        hs.wrap(own.Tokens("input"), **FRESH)
