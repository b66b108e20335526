"""torch's frozen trunks by fused kernels: the numbers are those of layer by layer, and nothing that is wanted is
overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.backend import Place
from headstart.graph import Graph
from headstart.inference import frozen

pytestmark = pytest.mark.of("torch")

# residual blocks, inverted ones with relu6, squeeze and excitation with silu, concatenation, layer norms on maps
SIZES = {"resnet18_half": 64, "mobilenet_v2": 64, "efficientnet_b0": 64, "densenet121": 64, "convnext_tiny": 64}


def networks(graph: Graph, params: Any, outputs: Sequence[str], precision: str = "float32") -> tuple[Any, Any]:
    """Layer by layer, and fused."""
    pytest.importorskip("torch")
    from headstart.backends.torch.emit import Network
    from headstart.backends.torch.fused import fused

    network = Network(graph, params, outputs).eval().requires_grad_(False)
    made = fused(network, Place("cpu", precision))
    if made is None:
        pytest.skip("this torch has no such kernels, or this processor none for the precision")
    return network, made


def images(size: int, n: int = 3) -> Any:
    import torch

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((n, size, size, 3), np.float32))
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", SIZES)
def test_every_node_is_what_it_is_layer_by_layer(name: str) -> None:
    import torch

    model = hs.model(name, classes=5, size=SIZES[name])
    x = images(SIZES[name])
    wanted = [cut for cut in model.graph.cuts() if cut in model.graph][-12:]
    for outputs in (wanted[-1:], wanted, [node.name for node in model.graph.nodes[1:]]):
        graph, params = frozen(model.graph, model.params, outputs)
        network, made = networks(graph, params, outputs)
        with torch.no_grad():
            before, expected, found = x.clone(), network(x), made(x)
        assert torch.equal(x, before)
        assert list(found) == list(outputs)
        for node in outputs:
            scale = expected[node].abs().max()
            np.testing.assert_allclose(found[node] / scale, expected[node] / scale, atol=2e-5, err_msg=node)


def test_a_batch_goes_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from headstart.backends.torch import fused

    model = hs.model("resnet18_half", classes=5, size=64)
    monkeypatch.setattr(fused, "CACHE_NBYTES", 1)
    monkeypatch.setattr(fused, "LEAST_ROWS", 2)
    outputs = ["layer2.1", "avgpool"]
    network, made = networks(*frozen(model.graph, model.params, outputs), outputs)
    sizes: list[int] = []
    monkeypatch.setattr(made, "_run", lambda x, own=made._run: sizes.append(len(x)) or own(x))
    x = images(64, 7)
    with torch.no_grad():
        expected, found = network(x), made(x)
    assert sizes == [2, 2, 2, 1]
    for node in outputs:
        np.testing.assert_allclose(found[node], expected[node], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    import torch

    model = hs.model("resnet18_half", weights="tinyimagenet", classes=5)
    graph, params = frozen(model.graph, model.params, ["avgpool"])
    network, made = networks(graph, params, ["avgpool"], "bfloat16")
    x = images(96)
    with torch.no_grad():
        a, b = network(x)["avgpool"], made(x)["avgpool"].float()
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.9999
    assert not torch.equal(a, b)  # else it has not been computed in that


def test_it_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backend import load

    backend = load("torch")
    model = hs.model("lenet", classes=3)
    places = [Place("cpu", "float32")] * 2
    made = []
    for value, place in zip(("0", "1"), places, strict=True):
        monkeypatch.setenv("HEADSTART_FUSED", value)
        made.append(backend.trunk(model.graph, model.params, ["fc1"], place))
    assert made[0].fused is None
    x = np.random.default_rng(0).standard_normal((2, *model.input_shape), np.float32)
    np.testing.assert_allclose(made[0].run(x)["fc1"], made[1].run(x)["fc1"], atol=1e-5)
