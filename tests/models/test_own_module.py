"""`hs.native`: the framework's own module of a model, whose nodes are what `hs.forward` gives, and through which
gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import CutError
from headstart.contract import registry
from headstart.models import Model
from headstart.testing import relative_error

CUTS = ["layer1", "layer3.0.conv1", "avgpool"]


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("resnet18_half", "tinyimagenet", 10, size=32)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def given(x: np.ndarray, backend: str) -> Any:
    if backend == "torch":
        import torch

        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    return x


def test_nodes_are_those_of_forward(model: Model, backend: str) -> None:
    x = images()
    found = hs.native(model, CUTS, backend=backend)(given(x, backend))
    expected = hs.forward(model, x, CUTS, backend=backend, device="cpu")
    assert set(found) == {"layer1.1", "layer3.0.conv1", "avgpool"}
    for cut in CUTS:
        value = found[model.graph.resolve(cut)]
        value = np.asarray(value.detach() if backend == "torch" else value)
        if backend == "torch" and value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        assert relative_error(value, expected[cut]) < 1e-4
    assert list(hs.native(model, "layer2", backend=backend)(given(x, backend))) == ["layer2.1"]


def test_without_cuts_it_gives_logits(model: Model, backend: str) -> None:
    x = images()
    module = hs.native(model, backend=backend)
    expected = hs.forward(model, x, backend=backend, device="cpu")["logits"]
    assert relative_error(registry.load(backend).call(module, x), expected) < 1e-4


def test_nothing_behind_the_last_cut_is_there(model: Model, backend: str) -> None:
    """Its parameters are those up to the cut."""
    module = hs.native(model, ["layer2"], backend=backend)
    expected = sum(model.params[name].size for name in model.graph.upto("layer2.1").param_shapes())
    if backend == "torch":
        tensors = (*module.parameters(), *module.buffers())
        count = sum(
            value.numel() for value in tensors if value.is_floating_point()
        )  # batch norms count their batches
    elif backend == "keras":
        count = module.count_params()
    else:
        import jax
        from flax import nnx

        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, (nnx.Param, nnx.BatchStat))))
    assert count == expected


@pytest.mark.of("torch")
def test_gradients_reach_the_image(model: Model) -> None:
    x = given(images(), "torch").requires_grad_()
    hs.native(model, ["layer2"], backend="torch")(x)["layer2.1"].square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min(0).values.max()) > 0


def test_a_wrong_name(model: Model, backend: str) -> None:
    with pytest.raises(CutError, match="layer9"):
        hs.native(model, ["layer9"], backend=backend)
