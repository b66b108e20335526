"""torch's frozen trunks by fused kernels: the numbers are those of layer by layer, and nothing that is wanted is
overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract.recipe import Place
from headstart.features.inference import frozen
from headstart.graph import Builder, Graph, Node
from headstart.models import architecture
from headstart.testing.reference import random_params

pytestmark = pytest.mark.of("torch")

# residual blocks, inverted ones with relu6 and padding by side, squeeze and excitation with silu, concatenation,
# layer norms on maps, and on tokens
SIZES = {
    "resnet18_half": 64,
    "efficientnet_lite0": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "convnext_tiny": 64,
    "vit_tiny_patch16_224": 64,
}


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


@pytest.mark.parametrize("name", ["resnet18_half", "mobilenet_v2", "densenet121"])
def test_maps_of_one_pixel(name: str) -> None:
    """torch 2.11's oneDNN refuses sums of them where the summand is needed again."""
    import torch

    model = hs.model(name, classes=5, size=32)
    outputs = [node.name for node in model.graph.nodes[1:]][-40:]
    network, made = networks(*frozen(model.graph, model.params, outputs), outputs)
    for n in (1, 3):
        x = images(32, n)
        with torch.no_grad():
            expected, found = network(x), made(x)
        assert any(tuple(y.shape[2:]) == (1, 1) for y in expected.values())
        for node in outputs:
            scale = expected[node].abs().max()
            np.testing.assert_allclose(found[node] / scale, expected[node] / scale, atol=2e-5, err_msg=node)


def test_padding_by_side_is_part_of_a_depthwise_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are copied for it only where channels are mixed, which a larger kernel would take longer for."""
    torch = pytest.importorskip("torch")
    from headstart.backends.torch import fused
    from headstart.backends.torch.emit import PaddedConv2d
    from headstart.graph.fuse import Step

    if not fused.available(torch.float32):
        pytest.skip("this torch has no such kernels")
    step, padded = Step(Node("trial", "relu", ("x",)), ("x",), "y"), []
    own = torch.nn.functional.pad

    def noted(groups: int, *given: Any) -> Any:
        padded.append(groups)
        return own(*given)

    for pads in ((0, 1, 0, 1), (2, 0, 1, 4)):
        for groups in (6, 1):
            layer = PaddedConv2d(6, 6, (3, 5), (2, 1), groups=groups)
            layer.pads = pads
            x = torch.randn(2, 6, 9, 7, generator=torch.Generator().manual_seed(0))
            with torch.no_grad(), monkeypatch.context() as patch:
                expected, call = layer(x), fused._conv(step, layer)
                patch.setattr(torch.nn.functional, "pad", partial(noted, groups))
                np.testing.assert_allclose(call(x), expected, rtol=1e-4, atol=1e-5)
    assert padded == [1, 1]


class Faulty:
    """oneDNN's operators, of which the sum is at fault where the predicate says so of what it is given."""

    def __init__(self, own: Any, fault: Any, how: str) -> None:
        self.own, self.fault, self.how, self.calls = own, fault, how, 0

    def __getattr__(self, name: str) -> Any:
        return self if name == "_convolution_pointwise" else getattr(self.own, name)

    def binary(self, x: Any, other: Any, *rest: Any) -> Any:
        self.calls += 1
        if not self.fault(x):
            return self.own._convolution_pointwise.binary(x, other, *rest)
        if self.how == "refused":
            raise RuntimeError("could not create a memory")
        return self.own._convolution_pointwise.binary(x, other, *rest) + 1

    def __call__(self, *given: Any) -> Any:
        return self.own._convolution_pointwise(*given)


@pytest.mark.parametrize("how", ["refused", "wrong"])
def test_a_form_that_does_not_work_is_computed_layer_by_layer(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That form only, whichever it is: here a sum in maps of one pixel, or in larger ones."""
    import torch

    from headstart.backends.torch import fused

    model = hs.model("resnet18_half", classes=5, size=64)
    outputs = [node.name for node in model.graph.nodes if node.op in ("add", "relu")]
    network, _ = networks(*frozen(model.graph, model.params, outputs), outputs)
    # of the four sums whose summand is needed again: in larger maps at both sizes, and in maps of one pixel
    for fault, made_so in ((lambda x: x.shape[2] == 1, [{3}, {4}]), (lambda x: x.shape[2] > 1, [{0, 1}, {0}])):
        fused.works.cache_clear()
        try:
            with monkeypatch.context() as patch, torch.no_grad():
                ops = Faulty(fused.ONEDNN, fault, how)
                patch.setattr(fused, "ONEDNN", ops)
                made = fused.FusedNetwork(network, torch.float32)
                for size, possible in zip((32, 64), made_so, strict=True):
                    x = images(size)
                    expected = network(x)
                    made(x)  # tries
                    ops.calls = 0
                    for node, y in made(x).items():
                        np.testing.assert_allclose(y, expected[node], rtol=1e-3, atol=1e-5, err_msg=node)
                    assert ops.calls in possible
        finally:
            fused.works.cache_clear()


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


def residual() -> Graph:
    b = Builder()
    x = b.conv("stem", "input", 3, 8, 3, pad=1)
    x = b.add("sum", "add", b.conv("conv", x, 8, 8, 3, pad=1), x)
    return b.graph(b.linear("fc", b.add("norm", "layer_norm", x, channels=8, epsilon=1e-6), 8, 8))


BETWEEN_NORMS = {
    "residual": residual,
    "convnext": lambda: architecture("convnext_tiny").graph(5, size=56).upto("features.3.2"),
    "dinov2": lambda: architecture("vit_small_patch14_dinov2").graph(5, size=56).upto("blocks.3"),
}


@pytest.mark.parametrize("name", BETWEEN_NORMS)
def test_bfloat16_between_layer_norms_is_nearer_than_autocast(name: str) -> None:
    """Products are bfloat16. What a sum carries through the network is not, nor what a norm gives to more than
    products."""
    import torch

    graph = BETWEEN_NORMS[name]()
    sums, norms, products = (
        [node.name for node in graph.nodes if node.op in ops]
        for ops in (("add", "position"), ("layer_norm",), ("conv", "linear"))
    )
    outputs = [norms[0], products[0], *sums]
    network, made = networks(*frozen(graph, random_params(graph, 0), outputs), outputs, "bfloat16")
    x = images(56)
    with torch.no_grad():
        before, expected, found = x.clone(), network(x), made(x)
        with torch.autocast("cpu", torch.bfloat16):
            usual = network(x)
    assert torch.equal(x, before)
    assert found[products[0]].dtype == torch.bfloat16
    assert {found[node].dtype for node in [norms[0], *sums]} == {torch.float32}
    for node in outputs:
        own, autocast = ((y[node].float() - expected[node]).norm() / expected[node].norm() for y in (found, usual))
        assert 1e-4 < own < min(1.02 * autocast, 2e-2), node


def test_it_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.contract.registry import load

    backend = load("torch")
    model = hs.model("lenet", classes=3)
    places = [Place("cpu", "float32")] * 2
    made = []
    for value, place in zip(("0", "1"), places, strict=True):
        monkeypatch.setenv("HEADSTART_FUSED", value)
        made.append(backend.trunk(model.graph, model.params, ["fc1"], place))
    assert made[0].faster is None
    x = np.random.default_rng(0).standard_normal((2, *model.input_shape), np.float32)
    np.testing.assert_allclose(made[0].run(x)["fc1"], made[1].run(x)["fc1"], atol=1e-5)
