"""What is written in JAX: functions with their parameters, and NNX modules that are stopped at a submodule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key, sentences

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.data import Dataset
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax

    return own_jax


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)


def pair(own: Any, **settings: Any) -> Any:
    given = {
        "module": (own.trunk, own.head),
        "params": own.pair_params(),
        "preprocess": P,
        "init": own.pair_params,
    }
    return hs.wrap(**{**given, **settings})


def test_two_functions(own: Any, data: Any, tmp_path: Path) -> None:
    model = pair(own)
    params = own.pair_params()
    assert set(model.params) == {f"trunk.{n}" for n in ("convs.0", "convs.1", "scale")} | {"head.w", "head.b"}
    assert model.graph.buffers() == {"trunk.scale"}
    outputs = hs.forward(model, X, ["trunk", "logits"])
    expected = np.asarray(own.trunk(params[0], X))
    assert relative_error(outputs["trunk"], expected) < 1e-5
    assert relative_error(outputs["logits"], np.asarray(own.head(params[1], expected))) < 1e-5
    runs = {mode: fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached", "full", "scratch")}
    np.testing.assert_allclose(runs["frozen"].history["loss"], runs["cached"].history["loss"], rtol=1e-3)
    full = runs["full"].model.params
    assert {n for n in full if np.array_equal(full[n], model.params[n])} == {"trunk.scale"}
    assert full["trunk.scale"].dtype == np.int32
    loaded = hs.load(runs["full"].save(tmp_path / "run"), model=pair(own))
    assert np.array_equal(loaded.predict(data[1]), runs["full"].predict(data[1]))
    np.testing.assert_equal(own.pair_params(), params)


def test_a_function_is_told_by_its_source_and_what_it_holds(own: Any) -> None:
    functions = [
        own.trunk,
        own.scaled(1.0),
        own.scaled(2.0),
        lambda p, x: own.trunk(p, x),
        lambda p, x: own.trunk(p, -x),
    ]
    digests = [key(pair(own, module=(function, own.head))).digest for function in functions]
    assert len(set(digests)) == len(digests)
    import jax

    assert key(pair(own, module=(own.scaled(2.0), own.head))).digest == digests[2]
    assert pair(own, module=(jax.jit(own.trunk), own.head)).name == "trunk+head"
    scope: dict[str, Any] = {}
    exec("def hidden(params, x):\n    return x.mean((1, 2))", scope)
    with pytest.raises(SettingError, match=r"source of .*hidden cannot be found.*pass name="):
        pair(own, module=(scope["hidden"], None), head="linear", classes=2)


def test_a_function_of_a_dict(own: Any, tmp_path: Path) -> None:
    batch = sentences()
    embed = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    data = hs.data.arrays(batch, (batch["ids"] == 7).any(1).astype(int))
    model = hs.wrap((own.bag, None), params=({"embed": embed}, None), example=data, head="linear", classes=2)
    expected = np.asarray(own.bag({"embed": embed}, batch))
    assert relative_error(hs.forward(model, batch, "trunk")["trunk"], expected) < 1e-5
    runs = [fit(model, data.split(0.8), tmp_path, mode=mode) for mode in ("frozen", "cached")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)


def test_padded_tokens_are_not_averaged_in(own: Any) -> None:
    """Of functions nobody knows what they do with a mask."""

    def tokens(params: Any, batch: Any) -> Any:
        return params["embed"][batch["ids"]]

    embed, batch = np.ones((20, 6), np.float32), sentences()
    for mask in ("mask", "attention_mask", "padding_mask", "src_key_padding_mask"):
        with pytest.raises(
            SettingError, match=rf"tokens of shape \(12, 6\).* and '{mask}' says that some are pad"
        ):
            hs.wrap(
                (tokens, None),
                params=({"embed": embed}, None),
                example={"ids": batch["ids"], mask: batch["mask"]},
                head="linear",
                classes=2,
                name="t",
            )


def test_mistakes_with_functions(own: Any) -> None:
    for settings, kind, text in (
        ({"params": None}, SettingError, r"need params=\(trunk_params, head_params\)"),
        ({"cut": "layers.1"}, CutError, "two functions are cut between them"),
        ({"module": (own.trunk, None)}, SettingError, "no second function; head='linear'"),
        ({"module": own.small()}, SettingError, "an NNX module holds its parameters itself"),
        ({"init": None, "module": (own.trunk, "head")}, SettingError, "cannot wrap"),
    ):
        with pytest.raises(kind, match=text):
            pair(own, **settings)


def test_a_module_is_stopped_at_a_submodule(own: Any, data: Any, tmp_path: Path) -> None:
    from flax import nnx

    module = own.Deep()
    module.stem.bias = nnx.Param(module.stem.bias.get_value(), trainable=False)
    before = own.state(module)
    settings = {"preprocess": P, "head": "linear", "classes": 10, "init": own.Deep}
    model = hs.wrap(module, "blocks.0", **settings)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], own.deep_features(module, X)) < 1e-5
    trunk = {name.removeprefix("trunk.") for name in model.params if name.startswith("trunk.")}
    assert {name.rpartition(".")[0] for name in trunk} == {"stem", "blocks.0.conv", "blocks.0.bn"}
    runs = {mode: fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached", "full", "scratch")}
    np.testing.assert_allclose(runs["frozen"].history["loss"], runs["cached"].history["loss"], rtol=1e-3)
    assert not np.array_equal(runs["full"].model.params["trunk.stem.kernel"], model.params["trunk.stem.kernel"])
    kept = {mode: run.model.params["trunk.stem.bias"] for mode, run in runs.items()}
    assert np.array_equal(kept["full"], model.params["trunk.stem.bias"]), "its owner froze it"
    assert not np.array_equal(kept["scratch"], own.Deep(0).stem.bias.get_value())
    assert key(hs.wrap(module, "stem", **settings)).digest != key(model).digest
    for one, other in zip(own.state(module), before, strict=True):
        np.testing.assert_equal(one, other)
    with pytest.raises(CutError, match=r"'block.0' to cut at; the nearest are blocks\.0"):
        hs.wrap(module, "block.0", **settings)


def test_a_wrapped_trunk_runs_in_low_precision(own: Any) -> None:
    for model in (hs.wrap(own.small(), own.CUT, preprocess=P), pair(own)):
        low = hs.forward(model, X, "trunk", precision="bfloat16")["trunk"]
        full = hs.forward(model, X, "trunk")["trunk"]
        assert low.dtype == np.float32
        assert 1e-5 < relative_error(low, full) < 0.05


@pytest.mark.parametrize("tied", [False, True])
def test_which_of_its_layers_a_module_has_twice_is_in_the_key(own: Any, tied: bool) -> None:
    """Of its names for one variable, the key's weights have one."""

    def digest(again: int) -> str:
        return key(hs.wrap(own.repeating(again, tied), "its end", P, 2, "linear")).digest

    assert digest(0) == digest(0) != digest(1)


def test_a_module_that_a_function_holds_is_in_the_key(own: Any) -> None:
    digests = [key(hs.wrap(own.beside(f), "its end", P, 2, "linear")).digest for f in (1.0, 1.0, 1.001)]
    assert digests[0] == digests[1] != digests[2]
