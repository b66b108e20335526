"""op -> torch layer. The network's parameters carry torchvision's names, so its state dict is one that
torchvision's own models load (counters of batch norms aside)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.backends.torch.arrays import from_numpy
from headstart.errors import UnsupportedOpError
from headstart.graph import Graph, Node

Attributes = Mapping[str, Any]
Layer = Callable[..., torch.Tensor]


class Normalize(nn.Module):
    def __init__(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * self.scale + self.shift


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding differs by side, which torch's own cannot have."""

    pads: tuple[int, int, int, int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.pads))


def _conv(a: Attributes) -> nn.Module:
    (top, bottom), (left, right) = a["padding"]
    symmetric = top == bottom and left == right
    layer = (nn.Conv2d if symmetric else PaddedConv2d)(
        a["in_channels"],
        a["out_channels"],
        a["kernel"],
        a["stride"],
        (top, left) if symmetric else 0,
        groups=a["groups"],
        bias=a["bias"],
    )
    if not symmetric:
        layer.pads = (left, right, top, bottom)
    return layer


def _max_pool(a: Attributes) -> Layer:
    (top, bottom), (left, right) = a["padding"]
    if top == bottom and left == right:
        return lambda x: F.max_pool2d(x, a["kernel"], a["stride"], (top, left))
    return lambda x: F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), a["kernel"], a["stride"])


# layers with state: attributes -> module
MODULES: Mapping[str, Callable[[Attributes], nn.Module]] = {
    "normalize": lambda a: Normalize(a["scale"], a["shift"]),
    "conv": _conv,
    "batch_norm": lambda a: nn.BatchNorm2d(a["channels"], a["epsilon"], a["momentum"]),
    "linear": lambda a: nn.Linear(a["in_features"], a["out_features"], a["bias"]),
    "dropout": lambda a: nn.Dropout(a["rate"]),
}
# layers without: attributes -> function
FUNCTIONS: Mapping[str, Callable[[Attributes], Layer]] = {
    "relu": lambda a: F.relu,
    "max_pool": _max_pool,
    "global_avg_pool": lambda a: lambda x: x.mean((2, 3)),
    "add": lambda a: torch.add,
    "flatten": lambda a: lambda x: x.flatten(1),
}


class Network(nn.Module):
    """A graph as a torch module: `(n, c, h, w)` in, `(n, c, h, w)` or `(n, c)` out, uint8 or float as the
    graph's first node has it. With `outputs` it returns a dict of those nodes instead of the output."""

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.graph = graph
        self.outputs = tuple(outputs)
        for node in graph.nodes[1:]:
            if node.op in MODULES:
                self._attach(node, MODULES[node.op](node.attrs))
            elif node.op not in FUNCTIONS:
                raise UnsupportedOpError(f"the torch backend has no layer for op {node.op!r} ({node.name!r})")
        tensors = self.tensors()
        with torch.no_grad():
            for name in graph.param_shapes():
                tensors[name].copy_(from_numpy(np.asarray(params[name])))
        self.to(memory_format=torch.channels_last)

    def _attach(self, node: Node, module: nn.Module) -> None:
        parent: nn.Module = self
        *path, name = node.name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
        parent.add_module(name, module)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, x: torch.Tensor) -> Any:
        # Looked up by name, and nothing callable kept, so that the module can be pickled and copied.
        values = {self.graph.input: x}
        for node, done in self.graph.steps(self.outputs):
            layer = self.get_submodule(node.name) if node.op in MODULES else FUNCTIONS[node.op](node.attrs)
            values[node.name] = layer(*(values[name] for name in node.inputs))
            for name in done:
                del values[name]
        if self.outputs:
            return {name: values[name] for name in self.outputs}
        return values[self.graph.output]
