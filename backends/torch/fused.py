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
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from headstart.backend import Place
from headstart.backends.torch.emit import FUNCTIONS, MODULES, Network, PaddedConv2d
from headstart.backends.torch.products import prefers_onednn
from headstart.graph import Graph, Node

# op -> oneDNN's name of it, its numbers, and which form of it
ACTIVATIONS: Mapping[str, tuple[str, list[float], str]] = {
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "sigmoid": ("sigmoid", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
}
PLAIN: tuple[str, list[float], str] = ("none", [], "")
IDENTITIES = ("dropout", "drop_path")  # at rest
# Nodes that carry a sum through the whole network round it at every step; layer norms then enlarge what was lost.
TOO_COARSE = ("layer_norm",)
CACHE_NBYTES = 16 << 20
"""of the largest map of the images that go through together: about what a few cores share"""
LEAST_ROWS = 8
"""that go through together however large they are: weights are read anew for each few"""


@dataclass(frozen=True)
class Step:
    """One call: a node, and what is done to its output on the way."""

    node: Node
    inputs: tuple[str, ...]
    output: str
    """the name of the last node that it computes"""
    done: tuple[str, ...]
    """whose outputs nobody needs afterwards"""
    other: str | None = None
    """what is added to a convolution"""
    in_place: bool = False
    """whether the sum may be written over `other`"""
    activation: tuple[str, list[float], str] = PLAIN


def plan(graph: Graph, outputs: Sequence[str], linear: bool) -> list[Step]:
    """The calls that compute `outputs`. `linear`: whether linear layers are fused as well."""
    kept = {*outputs, graph.output}
    alias: dict[str, str] = {graph.input: graph.input}
    for node in graph.nodes[1:]:
        same = node.op in IDENTITIES and node.name not in kept
        alias[node.name] = alias[node.inputs[0]] if same else node.name
    nodes = [node for node in graph.nodes[1:] if alias[node.name] == node.name]
    inputs = {node.name: tuple(alias[name] for name in node.inputs) for node in nodes}
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in inputs[node.name]:
            users.setdefault(name, []).append(node)
    place = {graph.input: -1} | {node.name: i for i, node in enumerate(nodes)}

    def follower(name: str) -> Node | None:
        """The only node that takes this one's output, which is wanted nowhere else."""
        found = users.get(name, [])
        return found[0] if len(found) == 1 and name not in kept else None

    steps: list[Step] = []
    swallowed: set[str] = set()
    for node in nodes:
        if node.name in swallowed:
            continue
        last, other, activation = node.name, None, PLAIN
        if node.op == "conv" or (linear and node.op == "linear"):
            after = follower(last)
            if node.op == "conv" and after is not None and after.op == "add":
                added = next((name for name in inputs[after.name] if name != last), None)
                if added is not None and place[added] < place[node.name]:  # else the later one swallows it
                    other, last = added, after.name
                    swallowed.add(last)
                    after = follower(last)
            # behind a sum no other activation is common enough to have been tried
            if after is not None and after.op in (ACTIVATIONS if other is None else ("relu",)):
                activation, last = ACTIVATIONS[after.op], after.name
                swallowed.add(last)
        steps.append(Step(node, inputs[node.name], last, (), other, False, activation))

    final: dict[str, int] = {}
    for i, step in enumerate(steps):
        for name in (*step.inputs, *([step.other] if step.other else [])):
            final[name] = i
        final.setdefault(step.output, i)
    made = {step.output for step in steps}
    result = []
    for i, step in enumerate(steps):
        done = tuple(name for name, at in final.items() if at == i and name not in kept)
        safe = step.other in done and step.other in made and step.other not in step.inputs
        result.append(replace(step, done=done, in_place=safe))
    return result


class FusedNetwork:
    """Runs the graph of a network, which stays as it is, up to its outputs; `dtype` is float32 or bfloat16."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.graph, self.outputs, self.dtype = network.graph, network.outputs, dtype
        linear = dtype == torch.bfloat16 or prefers_onednn()
        layers = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.calls: list[tuple[Step, Callable[..., torch.Tensor]]] = []
        for step in plan(self.graph, self.outputs, linear):
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
    name, numbers, form = step.activation
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

    def product(x: torch.Tensor) -> torch.Tensor:
        maps = x.ndim == 4
        x = x.permute(0, 2, 3, 1) if maps else x
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *step.activation)
        return y.permute(0, 3, 1, 2) if maps else y

    return product


def _rounded(layer: nn.Module, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    return lambda x: layer(x).to(dtype)


def fused(network: Network, place: Place) -> FusedNetwork | None:
    """The network's faster form at this place; None where there is none."""
    ops = {node.op for node in network.graph.nodes}
    dtype = torch.bfloat16 if place.precision == "bfloat16" else torch.float32
    if place.device != "cpu" or "native" in ops or not available(dtype):
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
