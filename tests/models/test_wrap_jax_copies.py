"""NNX modules and functions beside their copies: what makes probabilities at the end comes off, and what a copy
would not compute is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import SettingError
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.models.endings import ENDINGS
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")


def layers(*more: Any, kind: Any = None, **settings: Any) -> Any:
    from flax import nnx

    rngs = nnx.Rngs(0)
    first, last = nnx.Conv(3, 4, (3, 3), rngs=rngs, **settings), nnx.Linear(4, 10, rngs=rngs, **settings)
    return (kind or nnx.Sequential)(first, nnx.relu, lambda x: x.mean((1, 2)), last, *more)


def test_a_softmax_at_the_end_comes_off() -> None:
    import jax
    from flax import nnx

    functions = {
        "softmax": (jax.nn.softmax, partial(nnx.softmax, axis=-1)),
        "log_softmax": (jax.nn.log_softmax,),
        "sigmoid": (jax.nn.sigmoid,),
    }
    for name, kinds in functions.items():
        for function in kinds:
            module = layers(function)
            logits = hs.forward(hs.wrap(module, preprocess=P), X)["logits"]
            assert relative_error(ENDINGS[name](logits), np.asarray(module(X))) < 1e-5
    with pytest.raises(SettingError, match="the head gives probabilities"):
        hs.wrap(layers(lambda x: jax.nn.softmax(x)), preprocess=P)


def test_a_call_of_its_own_is_compared() -> None:
    from flax import nnx

    class Doubled(nnx.Sequential):
        def __call__(self, x: Any) -> Any:
            return 2 * super().__call__(x)

    with pytest.raises(SettingError, match="at its end they differ"):
        hs.wrap(layers(kind=Doubled), preprocess=P)


def test_a_method_that_was_set_is_refused() -> None:
    module, other = layers(), layers()
    module.layers[0].shown = other.layers[3].__call__
    with pytest.raises(SettingError, match=r"layers\.0\.shown is a method that was set on an object"):
        hs.wrap(module, preprocess=P)


def test_half_precision(tmp_path: Path) -> None:
    import jax.numpy as jnp

    module = layers(dtype=jnp.float16, param_dtype=jnp.float16)
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    run = fit(hs.wrap(module, preprocess=P), data, tmp_path, epochs=1)
    assert np.isfinite(run.history["loss"]).all()
    assert {value.dtype for value in run.model.params.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_low_precision_of_the_arithmetic_alone(kind: str) -> None:
    """As flax's layers have it with `dtype=`: parameters are float32, and what is compiled rounds elsewhere."""
    from flax import nnx

    rngs = nnx.Rngs(0)
    first, norm = nnx.Conv(3, 8, (3, 3), dtype=kind, rngs=rngs), nnx.BatchNorm(8, dtype=kind, rngs=rngs)
    module = nnx.Sequential(first, norm, nnx.gelu, lambda x: x.mean((1, 2)), nnx.Linear(8, 5, rngs=rngs))
    module.eval()
    model = hs.wrap(module, preprocess=P, head="linear", classes=5)
    expected = np.asarray(nnx.Sequential(*module.layers[:4])(X), np.float32)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 0.02


def test_a_single_sample_is_rounded_elsewhere() -> None:
    """Compiled for another shape, a sum of bfloat16 is another in its last places."""
    import jax.numpy as jnp

    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7)), jnp.bfloat16)

    def trunk(params: Any, x: Any) -> Any:
        return (x.astype(jnp.bfloat16) @ params).mean((1, 2))

    x = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype("f")
    large = hs.Preprocess(32, 32)
    model = hs.wrap((trunk, None), params=(weights, None), preprocess=large, head="linear", classes=5)
    expected = np.asarray(trunk(weights, x), np.float32)
    assert relative_error(hs.forward(model, x, "trunk")["trunk"], expected) < 0.02


def test_functions_some_of_whose_arguments_are_given() -> None:
    """As `functools.partial(module.apply, train=False)` of linen's; what was given is part of what is computed."""
    import jax
    from flax import linen

    class Trunk(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = linen.BatchNorm(use_running_average=not train)(linen.Conv(8, (3, 3))(x))
            return x.mean((1, 2))

    module = Trunk()
    params = module.init(jax.random.key(0), X, train=False)
    kinds = {"params": (params, None), "preprocess": P, "head": "linear", "classes": 5}
    model = hs.wrap((partial(module.apply, train=False), None), **kinds)
    expected = np.asarray(module.apply(params, X, train=False))
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    keys = []
    for factor in (1.0, 1.0, 2.0):
        scaled = partial(lambda params, x, factor: x.mean((1, 2)) * factor, factor=factor)
        keys.append(key(hs.wrap((scaled, None), **{**kinds, "params": ({}, None)})))
    assert keys[0] == keys[1] != keys[2]


def test_statistics_of_the_users_own_stay_and_what_a_step_leaves_is_let_go(tmp_path: Path) -> None:
    import own_jax

    module = own_jax.small(first=own_jax.Statistics)
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    module(X)  # which leaves what it gave
    model = hs.wrap(module, preprocess=P)
    (name,) = [name for name in model.params if name.endswith("0.mean")]
    for batch_norm, moves in (("frozen", False), ("train", True)):
        run = fit(model, data, tmp_path, mode="full", epochs=1, batch_norm=batch_norm)
        assert np.array_equal(run.model.params[name], model.params[name]) != moves, batch_norm


def test_a_step_goes_on_from_what_a_module_writes_to_its_parameters() -> None:
    """As flax's own loops do: its weight norm leaves the normalised weights in the layer."""
    import optax
    from flax import nnx

    rngs, rng = nnx.Rngs(0), np.random.default_rng(0)
    norm = nnx.WeightNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)
    net = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), norm, nnx.Linear(4, 3, rngs=rngs))
    x, y = rng.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 3
    made = hs.wrap(net, "layers.0", example=x)
    recipe = Recipe(hs.SGD(lr=0.1, momentum=0), Softmax(), True, 0, {})
    trainer = registry.load("jax").trainer(made.graph, made.params, recipe, Place("cpu", "float32"))
    loop, begun = nnx.clone(net), np.asarray(nnx.clone(net)(x))
    optimizer = nnx.Optimizer(loop, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda m: loss(m(x), y).mean())(model))

    loss = optax.softmax_cross_entropy_with_integer_labels
    for _ in range(3):
        trainer.step(x, y, 0.1)
        step(loop, optimizer)
    expected = np.asarray(loop(x))
    assert np.abs(trainer.logits(x, 0, 8) - expected).max() < 1e-3 * np.abs(begun - expected).max()


def test_a_branch_on_values_is_named() -> None:
    import jax.numpy as jnp
    from flax import nnx

    def branch(x: Any) -> Any:
        return x if x.mean() > 0 else -x

    for look in (branch, lambda x: jnp.asarray(np.asarray(x)), lambda x: x[: int(x.sum())], lambda x: x[x > 0]):
        net = nnx.Sequential(look, *layers().layers)
        with pytest.raises(
            SettingError, match=r"looks at the values of its batch in .*, test_wrap_jax_copies"
        ) as told:
            hs.wrap(net, preprocess=P, name="it")
        assert "preprocess" not in str(told.value)
