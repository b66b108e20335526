"""Torch modules that are graphs: torchvision's feature extractors, exported modules, quantized ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from own import P, X, key

import headstart as hs
from headstart.common.errors import SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


def body(function: Any, hidden: bool = False) -> Any:
    """A small network with a function in it, a graph; torch.fx cannot trace it if it is `hidden` in a module that
    looks at values."""
    import torch
    from torch import fx, nn

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Any) -> Any:
            return function(self.conv(x))

    class Around(nn.Module):
        def __init__(self, graph: Any) -> None:
            super().__init__()
            self.graph, self.fc = graph, nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            if hidden and x.sum() > 1e9:
                x = x * 2
            return self.fc(self.graph(x).mean((2, 3)))

    torch.manual_seed(0)
    graph = fx.symbolic_trace(Body())
    return Around(graph).eval() if hidden else graph.eval()


def batch() -> Any:
    import torch

    return torch.from_numpy(X).permute(0, 3, 1, 2).contiguous()


def test_what_a_graph_computes_is_in_the_key() -> None:
    import torch

    same, again, other = (
        hs.wrap(body(function, True), preprocess=P, head="linear", classes=2)
        for function in (torch.relu, torch.relu, torch.tanh)
    )
    assert key(same) == key(again)
    assert key(same) != key(other)


def test_a_hook_on_a_graph_counts() -> None:
    """As a copy of one loses them."""
    import torch

    graph = body(torch.relu)
    graph.register_forward_hook(lambda _module, _args, value: value * 2 + 1)
    model = hs.wrap(graph, preprocess=P, head="linear", classes=2, layout="nchw")
    expected = graph(batch()).permute(0, 2, 3, 1).detach().numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert len(copy.deepcopy(graph)._forward_hooks) == 0  # its own class is as it was


def test_a_graph_that_trains_where_it_is_copied() -> None:
    """As torchvision's feature extractors do, which give a dict."""
    import torch
    from torch import fx, nn

    class Extractor(fx.GraphModule):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return fx.GraphModule.__deepcopy__(self, memo).train()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x: Any) -> Any:
            return {"rows": self.bn(self.conv(x)).mean((2, 3))}

    torch.manual_seed(0)
    net = Net().eval()
    extractor = Extractor(net, fx.symbolic_trace(net).graph).eval()
    model = hs.wrap(extractor, preprocess=P, head="linear", classes=2)
    expected = net(batch())["rows"].detach().numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert not net.bn.running_mean.any()


def test_tensors_that_hold_others_are_refused() -> None:
    import torch
    from torch.testing._internal.two_tensor import TwoTensor

    net = body(torch.relu, True)
    two = TwoTensor(net.fc.weight.detach().clone(), net.fc.weight.detach().clone())
    net.fc.weight = torch.nn.Parameter(two)
    with pytest.raises(SettingError, match=r"parameter 'fc\.weight' of Around is a TwoTensor"):
        hs.wrap(net, preprocess=P, head="linear", classes=2)


@pytest.mark.parametrize("head", ["rest", "linear"])
def test_the_classifier_of_an_exported_module(head: str) -> None:
    """Whose operations are ATen's, with other names."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop, self.fc = nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.fc(self.drop(self.conv(x).relu_().mean((2, 3))))

    torch.manual_seed(0)
    net, few = Net().eval(), torch.export.Dim("samples", min=1, max=64)
    exported = torch.export.export(net, (batch(),), dynamic_shapes=({0: few},)).module()
    model = hs.wrap(exported, preprocess=P, head=head, classes=2 if head == "linear" else None)
    with torch.no_grad():
        expected = net.conv(batch()).relu().mean((2, 3)).numpy()
        logits = net(batch()).numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    if head == "rest":
        assert relative_error(hs.forward(model, X, "logits")["logits"], logits) < 1e-5


def test_the_classifier_of_a_quantized_graph() -> None:
    """Behind which its numbers become floats."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.fc(self.conv(x).mean((2, 3))).dequantize()

    torch.manual_seed(0)
    net = Net().eval()
    model = hs.wrap(net, preprocess=P, head="linear", classes=2)
    with torch.no_grad():
        expected = net.conv(batch()).mean((2, 3)).numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5


def test_a_quantization_scheme_is_told() -> None:
    import torch

    net, other = body(torch.relu, True), body(torch.relu, True)
    net.scheme, other.scheme = torch.per_tensor_affine, torch.per_tensor_symmetric
    keys = [key(hs.wrap(each, preprocess=P, head="linear", classes=2)) for each in (net, other)]
    assert keys[0] != keys[1]
