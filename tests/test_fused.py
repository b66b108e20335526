"""torch's frozen trunks by fused kernels: the numbers are those of layer by layer, and nothing that is wanted is
overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.backend import Place
from headstart.graph import Graph, Node
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


def conv(name: str, x: str, **attrs: Any) -> Node:
    window = {"kernel": (3, 3), "padding": ((1, 1), (1, 1)), "in_channels": 3, "out_channels": 3}
    return Node(name, "conv", (x,), {**window, **attrs})


def plan(nodes: Sequence[Node], *outputs: str) -> list[tuple[str, str | None, bool, str]]:
    pytest.importorskip("torch")
    from headstart.backends.torch import fused

    graph = Graph((Node("x", "input"), *nodes), nodes[-1].name)
    steps = fused.plan(graph, outputs or [graph.output], linear=True)
    return [(step.output, step.other, step.in_place, step.activation[0]) for step in steps]


def test_what_is_swallowed() -> None:
    body = [conv("a", "x"), Node("r", "relu", ("a",)), conv("b", "r")]
    block = [*body, Node("s", "add", ("b", "r")), Node("out", "relu", ("s",))]
    # `r` goes into the convolution whose output it is added to: the sum is not written over it
    assert plan(block) == [("r", None, False, "relu"), ("out", "r", False, "relu")]
    skip = [*body, conv("c", "r"), Node("s", "add", ("b", "c")), Node("out", "relu", ("s",))]
    assert plan(skip) == [
        ("r", None, False, "relu"),
        ("b", None, False, "none"),
        ("out", "b", True, "relu"),
    ]
    # what is wanted itself is neither swallowed nor written over
    assert plan(skip, "b", "out")[-1] == ("out", "b", False, "relu")
    assert plan(skip, "s", "out")[-2:] == [("s", "b", True, "none"), ("out", None, False, "none")]
    # nor the images
    assert plan([conv("a", "x"), Node("s", "add", ("x", "a"))]) == [("s", "x", False, "none")]
    assert plan([*body, Node("s", "add", ("b", "x"))])[-1] == ("s", "x", False, "none")
    # twice the same, and an activation that has another user
    assert plan([conv("a", "x"), Node("s", "add", ("a", "a"))])[-1] == ("s", None, False, "none")
    gate = [*body, Node("t", "sigmoid", ("a",)), Node("m", "multiply", ("b", "t"))]
    assert [step[0] for step in plan(gate)] == ["a", "r", "b", "t", "m"]
    # dropout at rest is nothing
    kept = [conv("a", "x"), Node("d", "dropout", ("a",), {"rate": 0.5}), Node("out", "relu", ("d",))]
    assert plan(kept) == [("out", None, False, "relu")]
