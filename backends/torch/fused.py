"""A frozen graph on a CPU by oneDNN's fused kernels: a convolution or linear layer, the addition behind it and the
activation behind that are one call, so that no map is written and read again in between; weights are cast and laid
out once and not for every batch; and a batch goes through a few images at a time, so that maps stay in the cache.

The operators are those that torch's own compiler emits for frozen graphs. They are not among those that torch
promises to keep: `available` tries them, and where they are not as they should be, a trunk runs layer by layer.

Invariant: what comes out is what `emit.Network` computes, within rounding, and what is given is not written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from headstart.backend import Place
from headstart.backends.torch.emit import FUNCTIONS, MODULES, Network, PaddedConv2d
from headstart.backends.torch.products import prefers_onednn
from headstart.graph import Graph
from headstart.graph.fuse import Step, allowed, fused_steps

# op -> oneDNN's name of it, its numbers, and which form of it
ACTIVATIONS: Mapping[str, tuple[str, list[float], str]] = {
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "sigmoid": ("sigmoid", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
}
PLAIN: tuple[str, list[float], str] = ("none", [], "")
# Nodes that carry a sum through the whole network round it at every step; layer norms then enlarge what was lost.
TOO_COARSE = ("layer_norm",)
CACHE_NBYTES = 16 << 20
"""of the largest map of the images that go through together: about what a few cores share"""
LEAST_ROWS = 8
"""that go through together however large they are: weights are read anew for each few"""


def steps(graph: Graph, outputs: Sequence[str], linear: bool) -> tuple[Step, ...]:
    """The calls that compute `outputs`. `linear`: whether linear layers are among those that are fused."""
    possible = {op: tuple(ACTIVATIONS) for op in (["conv", "linear"] if linear else ["conv"])}
    return fused_steps(graph, outputs, possible, ["relu"])


class FusedNetwork:
    """Runs the graph of a network, which stays as it is, up to its outputs; `dtype` is float32 or bfloat16."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.graph, self.outputs, self.dtype = network.graph, network.outputs, dtype
        linear = dtype == torch.bfloat16 or prefers_onednn()
        layers = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.calls: list[tuple[Step, Callable[..., torch.Tensor]]] = []
        for step in steps(self.graph, self.outputs, linear):
            node = step.node
            if node.op == "conv":
                call = _conv(step, layers.get_submodule(node.name))
            elif node.op == "linear" and linear:
                call = _linear(step, layers.get_submodule(node.name))
            elif node.op == "normalize":  # of pixels: exact, and rounded only then
                call = _rounded(network.get_submodule(node.name), dtype)
            else:
                call = layers.get_submodule(node.name) if node.op in MODULES else FUNCTIONS[node.op](node.attrs)
            self.calls.append((step, call))
        self._rows: dict[torch.Size, int] = {}

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(n, c, h, w)`, or `(n, ...)` where the graph takes features -> node name -> its output."""
        parts = [self._run(rows) for rows in x.chunk(math.ceil(len(x) / self._rows_at_once(x.shape[1:])))]
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in self.outputs}

    def _run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {self.graph.input: x.to(self.dtype) if x.is_floating_point() else x}
        for step, call in self.calls:
            given = [values[name] for name in step.inputs]
            values[step.output] = call(*given, values[step.other]) if step.other else call(*given)
            for name in step.done:
                del values[name]
        return {name: values[name] for name in self.outputs}

    def _rows_at_once(self, shape: torch.Size) -> int:
        if shape not in self._rows:
            given = (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)
            largest = max(math.prod(one) for one in self.graph.shapes(given).values())
            self._rows[shape] = max(LEAST_ROWS, CACHE_NBYTES // (largest * self.dtype.itemsize))
        return self._rows[shape]


def _conv(step: Step, layer: nn.Module) -> Callable[..., torch.Tensor]:
    assert isinstance(layer, nn.Conv2d)
    weight, bias = layer.weight, layer.bias
    pads = layer.pads if isinstance(layer, PaddedConv2d) else None
    window = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    name, numbers, form = PLAIN if step.activation is None else ACTIVATIONS[step.activation]
    ops = torch.ops.mkldnn

    def alone(x: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        y: torch.Tensor = ops._convolution_pointwise(x, weight, bias, *window, name, numbers, form)
        return y

    def added(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        tail = (weight, bias, *window, "add", 1.0, None if name == "none" else name, numbers, form)
        y: torch.Tensor = (
            ops._convolution_pointwise_.binary(other, x, *tail)
            if step.in_place
            else ops._convolution_pointwise.binary(x, other, *tail)
        )
        return y

    return added if step.other else alone


def _linear(step: Step, layer: nn.Module) -> Callable[..., torch.Tensor]:
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight, layer.bias
    activation = PLAIN if step.activation is None else ACTIVATIONS[step.activation]

    def product(x: torch.Tensor) -> torch.Tensor:
        maps = x.ndim == 4
        x = x.permute(0, 2, 3, 1) if maps else x
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)
        return y.permute(0, 3, 1, 2) if maps else y

    return product


def _rounded(layer: nn.Module, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    return lambda x: layer(x).to(dtype)


def fused(network: Network, place: Place) -> FusedNetwork | None:
    """The network's faster form at this place; None where there is none."""
    ops = {node.op for node in network.graph.nodes}
    dtype = torch.bfloat16 if place.precision == "bfloat16" else torch.float32
    if not allowed() or place.device != "cpu" or "native" in ops or not available(dtype):
        return None
    if dtype == torch.bfloat16 and not ops.isdisjoint(TOO_COARSE):
        return None
    return FusedNetwork(network, dtype)


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, for this type on this processor, as they are used here."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        with torch.no_grad():
            x = torch.ones(1, 2, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
            weight, bias = torch.full((2, 2, 1, 1), 2, dtype=dtype), torch.ones(2, dtype=dtype)
            window = [0, 0], [1, 1], [1, 1], 1
            five = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *window, *ACTIVATIONS["relu"])
            tail = (weight, bias, *window, "add", 1.0, *ACTIVATIONS["relu"])
            ten = torch.ops.mkldnn._convolution_pointwise.binary(x, five, *tail)
            same = torch.ops.mkldnn._convolution_pointwise_.binary(five, x, *tail)
            product = torch.ops.mkldnn._linear_pointwise(x[:, :, 0, 0], weight[:, :, 0, 0], bias, *PLAIN)
        return bool((ten == 10).all() and (five == 10).all() and (same == 10).all() and (product == 5).all())
    except (AttributeError, RuntimeError, TypeError):
        return False
