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

Layer = Callable[..., torch.Tensor]


class Normalize(nn.Module):
    def __init__(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * self.scale + self.shift


def _padded(
    a: Mapping[str, Any], value: float, layer: Callable[[tuple[int, int]], Layer]
) -> tuple[Layer, nn.Module | None]:
    """The layer with symmetric padding inside it, or with any other padding before it."""
    (top, bottom), (left, right) = a["padding"]
    if top == bottom and left == right:
        made = layer((top, left))
        return made, made if isinstance(made, nn.Module) else None
    made = layer((0, 0))
    pads = (left, right, top, bottom)
    return lambda x: made(F.pad(x, pads, value=value)), made if isinstance(made, nn.Module) else None


def _conv(a: Mapping[str, Any]) -> tuple[Layer, nn.Module | None]:
    return _padded(
        a,
        0.0,
        lambda padding: nn.Conv2d(
            a["in_channels"], a["out_channels"], a["kernel"], a["stride"], padding, 1, a["groups"], a["bias"]
        ),
    )


def _max_pool(a: Mapping[str, Any]) -> tuple[Layer, nn.Module | None]:
    return _padded(
        a,
        -torch.inf,
        lambda padding: lambda x: F.max_pool2d(x, a["kernel"], a["stride"], padding),
    )


def _module(module: nn.Module) -> tuple[Layer, nn.Module]:
    return module, module


# op -> attributes -> (what to call, the module that holds its state or None)
EMIT: Mapping[str, Callable[[Mapping[str, Any]], tuple[Layer, nn.Module | None]]] = {
    "normalize": lambda a: _module(Normalize(a["scale"], a["shift"])),
    "conv": _conv,
    "batch_norm": lambda a: _module(nn.BatchNorm2d(a["channels"], a["epsilon"], a["momentum"])),
    "relu": lambda a: (F.relu, None),
    "max_pool": _max_pool,
    "global_avg_pool": lambda a: (lambda x: x.mean((2, 3)), None),
    "add": lambda a: (torch.add, None),
    "flatten": lambda a: (lambda x: x.flatten(1), None),
    "linear": lambda a: _module(nn.Linear(a["in_features"], a["out_features"], a["bias"])),
    "dropout": lambda a: _module(nn.Dropout(a["rate"])),
}


class Network(nn.Module):
    """A graph as a torch module: `(n, c, h, w)` in, `(n, c, h, w)` or `(n, c)` out, uint8 or float as the
    graph's first node has it. With `outputs` it returns a dict of those nodes instead of the output."""

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.graph = graph
        self.outputs = tuple(outputs)
        self._calls: dict[str, Layer] = {}
        for node in graph.nodes[1:]:
            if node.op not in EMIT:
                raise UnsupportedOpError(f"the torch backend has no layer for op {node.op!r} ({node.name!r})")
            self._calls[node.name], module = EMIT[node.op](node.attrs)
            if module is not None:
                self._attach(node, module)
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
        values = {self.graph.input: x}
        for node in self.graph.nodes[1:]:
            values[node.name] = self._calls[node.name](*(values[name] for name in node.inputs))
        if self.outputs:
            return {name: values[name] for name in self.outputs}
        return values[self.graph.output]
