"""What a user does with the native model of a run: copy it, keep it, train it on, in the framework's own ways. The
model has one block, of the layers that a residual network has."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.testing import relative_error, shaken, small_data, tiny_model


@pytest.fixture(scope="module")
def run(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.mktemp("cache")
    return hs.fit(shaken(tiny_model()), *small_data(), epochs=1, backend=backend, device="cpu", cache=cache)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Preprocessed, `(n, h, w, 3)`."""
    return np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)


@pytest.mark.of("torch")
def test_a_torch_module_can_be_copied_pickled_and_trained(run: Any, images: np.ndarray, tmp_path: Path) -> None:
    import torch

    module = run.native
    x = torch.tensor(images).permute(0, 3, 1, 2)
    expected = run.predict(images)
    copied = copy.deepcopy(module)
    loaded = pickle.loads(pickle.dumps(module))
    for other in (module, copied, loaded):
        with torch.no_grad():
            assert relative_error(other(x).numpy(), expected) < 1e-4
    with torch.no_grad():
        for value in copied.parameters():
            value.zero_()
        assert relative_error(module(x).numpy(), expected) < 1e-4, "a copy shares nothing"
    module.train()
    torch.nn.functional.cross_entropy(module(x), torch.tensor([0, 1, 2, 3])).backward()
    assert all(value.grad is not None for value in module.parameters())


@pytest.mark.of("keras")
def test_a_keras_model_can_be_saved_cut_and_trained(run: Any, images: np.ndarray, tmp_path: Path) -> None:
    import keras

    model = run.native
    expected = run.predict(images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert relative_error(loaded.predict_on_batch(images), expected) < 1e-4
    features = keras.Model(model.input, model.get_layer("avgpool").output)
    avgpool = hs.forward(run.model, images, "avgpool", backend="keras")["avgpool"]
    assert relative_error(features.predict_on_batch(images), avgpool) < 1e-4
    loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = loaded.get_weights()[0]
    loaded.train_on_batch(images, np.arange(4))
    assert not np.array_equal(loaded.get_weights()[0], before)


@pytest.mark.of("jax")
def test_a_flax_module_can_be_split_jitted_and_trained(run: Any, images: np.ndarray) -> None:
    import jax
    from flax import nnx

    module = run.native
    expected = run.predict(images)
    graphdef, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, pickle.loads(pickle.dumps(jax.tree.map(np.asarray, nnx.to_pure_dict(state)))))
    for other in (module, nnx.merge(graphdef, state), copy.deepcopy(module)):
        assert relative_error(np.asarray(nnx.jit(other)(images)), expected) < 1e-4
    gradients = nnx.grad(lambda m: m(images).sum())(module)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert len(jax.tree.leaves(gradients)) == len(jax.tree.leaves(nnx.state(module, nnx.Param)))
