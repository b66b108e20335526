"""What the caller has set in Keras changes nothing of what headstart computes, and is not changed by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import fit

import headstart as hs

pytestmark = pytest.mark.of("keras")
X = np.random.default_rng(0).standard_normal((32, 5)).astype(np.float32)
DATA = hs.data.arrays(X, np.arange(32) % 3)


def settings() -> list[Any]:
    import tensorflow as tf
    from keras import config

    floatx, policy, axes = config.floatx(), config.dtype_policy().name, config.image_data_format()
    return [floatx, policy, axes, config.epsilon(), tf.config.functions_run_eagerly()]


def put(values: list[Any]) -> None:
    import tensorflow as tf
    from keras import config

    setters = (
        config.set_floatx, config.set_dtype_policy, config.set_image_data_format, config.set_epsilon,
        tf.config.run_functions_eagerly,
    )  # fmt: skip
    for setter, value in zip(setters, values, strict=True):
        setter(value)


def results(own: Any, net: Any, cache: Path) -> dict[str, np.ndarray]:
    """What comes out of each door."""
    model = hs.wrap(net, own.MLP_END, example=X, head=[4], classes=3, init=lambda seed: own.mlp(5, 4, seed))
    found = {"features": hs.extract(model, DATA, cache=cache, device="cpu").numpy("trunk")}
    run = fit(model, (DATA, None), cache, mode="scratch", epochs=1)
    found |= {**run.model.params, "predictions": run.predict(X)}
    zoo = hs.model("lenet", classes=10, size=32)
    digits = hs.data.digits().subset(np.arange(16))
    found["zoo"] = fit(zoo, (digits, None), cache, mode="cached", cut="conv1", epochs=1, backend="keras").predict(
        digits
    )
    return found


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_keras

    return own_keras


@pytest.fixture(scope="module")
def expected(own: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return results(own, own.mlp(5, 4), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "changed",
    [
        ["float64", "mixed_float16", "channels_first", 1e-3, True],
        pytest.param(["float16", "float16", "channels_last", 1e-7, False], marks=pytest.mark.slow),
    ],
)
def test_what_the_caller_has_set_changes_nothing(
    own: Any, expected: dict[str, np.ndarray], changed: list[Any], tmp_path: Path
) -> None:
    net, before = own.mlp(5, 4), settings()
    put(changed)
    try:
        found = results(own, net, tmp_path)
        assert settings() == changed
    finally:
        put(before)
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        np.testing.assert_allclose(found[what], value, rtol=1e-6, atol=1e-7, err_msg=f"{what} under {changed}")


@contextmanager
def engine_changed() -> Iterator[Any]:
    """What a caller may have set in JAX or torch below Keras; yields a function that says what is set."""
    import keras

    with ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
            stack.enter_context(jax.numpy_rank_promotion("raise"))
            stack.enter_context(jax.transfer_guard("disallow"))
            yield lambda: (jax.config.jax_enable_x64, jax.config.jax_numpy_rank_promotion)
        else:
            import torch

            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            stack.enter_context(torch.device("meta"))
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
            yield lambda: (torch.is_inference_mode_enabled(), torch.get_default_dtype())


def test_what_the_caller_has_set_in_the_engine_changes_nothing(
    own: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import keras

    if keras.backend.backend() == "tensorflow":
        pytest.skip("has no such settings")
    net = own.mlp(5, 4)
    with engine_changed() as told:
        before = told()
        found = results(own, net, tmp_path)
        assert told() == before
    for what, value in expected.items():
        np.testing.assert_allclose(found[what], value, rtol=1e-6, atol=1e-7, err_msg=what)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "float64"])
def test_a_model_of_other_numbers_trains(own: Any, policy: str, tmp_path: Path) -> None:
    import keras

    before = settings()
    keras.config.set_dtype_policy(policy)
    try:
        model = hs.wrap(own.mlp(5, 3), example=X, init=lambda seed: own.mlp(5, 3, seed))
    finally:
        put(before)
    run = fit(model, (DATA, None), tmp_path, mode="full", epochs=1, lr=1e-3)
    assert np.isfinite(run.history["loss"]).all()
    kind = np.dtype(policy.replace("mixed_float16", "float32"))
    assert {value.dtype for value in run.model.params.values()} == {kind}
    moved = [np.array_equal(value, model.params[name]) for name, value in run.model.params.items()]
    assert not any(moved)
    assert run.predict(X).dtype == np.float32


def test_engines_keep_to_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backends.keras import backend as module
    from headstart.common.machine import Cpus

    said = {"NPROC": "1", "TF_NUM_INTEROP_THREADS": "9", "MKL_NUM_THREADS": "2"}
    for limited, told in ((False, {}), (True, {"TF_NUM_INTRAOP_THREADS": "3"})):
        environment = dict(said)
        monkeypatch.setattr(module.os, "environ", environment)
        monkeypatch.setattr(module, "cpus_allowed", lambda limited=limited: Cpus(3, limited))
        module.keep_to_quota()
        monkeypatch.undo()
        assert environment == said | told
