"""What the caller has set in JAX changes nothing of what headstart computes, and is not changed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import fit

import headstart as hs

pytestmark = pytest.mark.of("jax")
X = np.random.default_rng(0).standard_normal((32, 5)).astype(np.float32)
DATA = hs.data.arrays(X, np.arange(32) % 3)


def settings() -> dict[str, Any]:
    import jax

    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion", "jax_transfer_guard")
    return {name: getattr(jax.config, name) for name in (*names, "jax_debug_infs", "jax_disable_jit")}


def results(own: Any, net: Any, cache: Path) -> dict[str, np.ndarray]:
    """What comes out of each door."""
    model = hs.wrap(net, own.MLP_END, example=X, head=[4], classes=3, init=lambda seed: own.mlp(5, 4, seed))
    found = {"features": hs.extract(model, DATA, cache=cache, device="cpu").numpy("trunk")}
    run = fit(model, (DATA, None), cache, mode="scratch", epochs=1)
    found |= {**run.model.params, "predictions": run.predict(X)}
    return found


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_jax

    return own_jax


@pytest.fixture(scope="module")
def expected(own: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return results(own, own.mlp(5, 4), tmp_path_factory.mktemp("plain"))


def test_what_the_caller_has_set_changes_nothing(
    own: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import jax

    net = own.mlp(5, 4)
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.transfer_guard("disallow"),
        jax.debug_infs(True),
    ):
        before = settings()
        found = results(own, net, tmp_path)
        assert settings() == before
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        np.testing.assert_array_equal(found[what], value, err_msg=what)


def test_a_module_of_64_bits_is_wrapped_with_32(own: Any, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    def module(wide: bool) -> nnx.Module:
        settings = {"param_dtype": jnp.float64, "dtype": jnp.float64} if wide else {}
        layers = [nnx.Linear(*sides, rngs=nnx.Rngs(0), **settings) for sides in ((5, 6), (6, 3))]
        return nnx.Sequential(layers[0], nnx.relu, layers[1])

    with jax.enable_x64(True):
        net = module(True)
        layer = net.layers[0]
        assert layer.bias[...].dtype == "float64" == layer.kernel[...].dtype
        model = hs.wrap(net, example=X)
        run = fit(model, (DATA, None), tmp_path, mode="full", epochs=1)
        assert layer.kernel[...].dtype == "float64", "the module stays what it is"
    assert {value.dtype for value in run.model.params.values()} == {np.dtype(np.float32)}
    assert np.isfinite(run.history["loss"]).all()
