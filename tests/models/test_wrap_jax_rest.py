"""NNX and linen modules cut at a submodule, with all that comes behind it as the head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.data import Dataset
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
STILL = hs.SGD(lr=1e-30)


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax_rest

    return own_jax_rest


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)


def heads(params: Mapping[str, Any]) -> set[str]:
    """The layers of which parameters are in the head."""
    return {name.split(".")[1] for name in params if name.startswith("head.")}


def test_it_trains_as_two_functions_do(own: Any, data: Any, tmp_path: Path) -> None:
    """That compute the same, and are cut by whoever wrote them."""
    module = own.Convolved()
    model = hs.wrap(module, "first", preprocess=P)
    pair = hs.wrap(own.PAIR, params=own.params_of(module), preprocess=P)
    assert heads(model.params) == {"second", "fc"}
    assert model.module_cut == "first"
    ours, theirs = (hs.forward(it, X, ["trunk", "logits"]) for it in (model, pair))
    assert all(relative_error(ours[name], theirs[name]) < 1e-6 for name in ours)
    for mode in ("cached", "full"):
        runs = [fit(it, data, tmp_path, mode=mode) for it in (model, pair)]
        np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-5)
        trained, reference = ({n.split(".", 1)[1]: v for n, v in run.model.params.items()} for run in runs)
        assert relative_error(trained["fc.kernel"], reference["fc.kernel"]) < 1e-5
        moved = not np.array_equal(trained["first.kernel"], model.params["trunk.first.kernel"])
        assert moved == (mode == "full")
    again = hs.load(runs[0].save(tmp_path / "run"), model=hs.wrap(module, "first", preprocess=P))
    assert np.array_equal(again.predict(data[1]), runs[0].predict(data[1]))
    assert runs[0].export(tmp_path / "it.stablehlo").verification.same == len(data[1])


def test_without_a_cut_the_classifier_is_trained_on(own: Any, data: Any, tmp_path: Path) -> None:
    """With the dropout before it, which draws anew in every step; nothing that stands before costs a step time."""
    model = hs.wrap(own.Dropped(), preprocess=P)
    assert model.weights == "its own, cut before drop"
    assert heads(model.params) == {"fc"}
    losses = [fit(model, data, tmp_path, mode=mode).history["loss"] for mode in ("cached", "frozen")]
    assert losses[0] == losses[1]

    import jax
    from flax import nnx

    part = next(node.attrs["part"] for node in model.graph.nodes if node.name == "head")
    rest, rows = nnx.clone(part.native.module), np.ones((3, 8), np.float32)
    assert np.array_equal(rest(rows), rest(rows))
    rest.train()
    assert not np.array_equal(rest(rows), rest(rows)), "other numbers are dropped in every step"
    arrays = jax.tree.leaves(nnx.state(rest, nnx.Param))
    assert sorted(array.shape for array in arrays) == [(8, 10), (10,)]
    assert part.native.convolutions == 0
    assert not part.norms, "the norms are in the trunk"


@pytest.mark.parametrize("kind", ["NNX", "linen"])
def test_statistics_move_behind_the_cut_alone(own: Any, kind: str, data: Any, tmp_path: Path) -> None:
    def wrapped() -> Any:
        if kind == "NNX":
            return hs.wrap(own.Normed(), "blocks.0", preprocess=P)
        module, variables = own.linen()
        return hs.wrap(module, "Block_0", params=variables, preprocess=P)

    model = wrapped()
    part = next(node.attrs["part"] for node in model.graph.nodes if node.name == "head")
    assert [*part.norms.values()] == [16], "numbers of a channel in a sample"
    still = {"optimizer": STILL, "epochs": 1, "batch_norm": "train"}
    run = fit(model, data, tmp_path, mode="cached", **still)
    moved = {n for n, value in model.params.items() if np.ptp(run.model.params[n] - value) > 1e-9}
    assert moved == model.graph.buffers() & {n for n in model.params if n.startswith("head.")}
    assert len(moved) == 2
    assert relative_error(hs.forward(wrapped(), X, "logits")["logits"], own.logits(kind, X)) < 1e-5
    if kind == "linen":
        return
    frozen = fit(model, data, tmp_path, mode="frozen", **still)
    for name in moved:
        assert relative_error(frozen.model.params[name], run.model.params[name]) < 1e-5
    kept = fit(model, data, tmp_path, mode="cached", batch_norm="frozen").model.params
    assert not {n for n in model.graph.buffers() if not np.array_equal(kept[n], model.params[n])}


@pytest.mark.parametrize("ending", ["softmax", "log_softmax", "sigmoid"])
def test_probabilities_are_taken_off_however_they_are_written(own: Any, ending: str) -> None:
    module = own.Ending(ending)
    model = hs.wrap(module, preprocess=P)
    assert relative_error(hs.forward(model, X, "logits")["logits"], module.logits(X)) < 1e-5


def test_where_it_is_cut_by_name_the_classifier_may_be_anything(own: Any) -> None:
    module = own.Contained()
    model = hs.wrap(module, "stem", preprocess=P)
    assert heads(model.params) == {"bn", "scales", "fc"}
    module.eval()
    assert relative_error(hs.forward(model, X, "logits")["logits"], np.asarray(module(X))) < 1e-5


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")  # people's modules do
def test_what_an_earlier_run_has_sown_is_no_state(own: Any) -> None:
    module = own.Sown()
    before = np.asarray(module(X))
    model = hs.wrap(module, preprocess=P)
    assert heads(model.params) == {"fc"}
    module.eval()
    expected = np.asarray(module(X))
    assert not np.array_equal(before, expected), "its statistics moved"
    assert relative_error(hs.forward(model, X, "logits")["logits"], expected) < 1e-5


def test_tokens_beside_a_mask(own: Any, data: Any, tmp_path: Path) -> None:
    """Inputs are a dict, of which the head is given none."""
    batch = own.tokens()
    data = hs.data.arrays(batch, (batch["ids"][:, 0] % 3).astype(int))
    model = hs.wrap(own.Sentences(), example=data)
    runs = [fit(model, data.split(0.8), tmp_path, mode=mode) for mode in ("frozen", "cached")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    with pytest.raises(CutError, match=r"'embed' is inside a branch.*cannot be cut at; the nearest.*'hidden'"):
        hs.wrap(own.Sentences(), "embed", example=data)


def test_what_has_no_rest(own: Any) -> None:
    for module, cut, kind, text in (
        (own.Residual(), "block.inner", CutError, "inside a branch.* the nearest.* 'stem' and 'block'"),
        (own.Tied(), "mix", CutError, "'mix.kernel' is used on both sides of the cut 'mix'"),
        (own.Twice(), "mix", CutError, "'mix' is called 2 times"),
        (own.Dropped(), "its end", CutError, "leaves nothing of Dropped to train"),
        (own.Dropped(), "fc", CutError, "leaves nothing of Dropped to train"),
        (own.Dropped(), "stm", CutError, "no node 'stm' to cut at; the nearest are stem"),
        (own.Two(), None, CutError, "classifiers at the end of Two, 'fc', 'other', have no one place before them"),
        (own.Contained(), None, CutError, "ends in a classifier, 'fc', inside of what JAX transforms"),
        (own.Encoder(), None, CutError, "ends in no linear layer.*cut=, a submodule; or pass head='linear'"),
        (own.Pair(), "stem", CutError, "what Pair gives at its end is not one array"),
        (own.Ending("temperature"), None, SettingError, "the head gives probabilities"),
    ):
        with pytest.raises(kind, match=text):
            hs.wrap(module, cut, preprocess=P)


def test_another_cut_is_another_head(own: Any) -> None:
    module = own.Convolved()
    digests = {key(hs.wrap(module, cut, preprocess=P)).digest for cut in (None, "first", "second")}
    assert len(digests) == 3
    inside = hs.wrap(own.sequential(), "layers.1.layers.1", preprocess=P)
    assert heads(inside.params) == {"layers"}
    assert relative_error(hs.forward(inside, X, "logits")["logits"], np.asarray(own.sequential()(X))) < 1e-5
