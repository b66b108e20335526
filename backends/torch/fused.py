"""A frozen graph on a CPU by oneDNN's fused kernels: a convolution or linear layer, the addition behind it and the
activation behind that are one call, so that no map is written and read again in between; weights are cast and laid
out once and not for every batch; and a batch goes through a few images at a time, so that maps stay in the cache.

In bfloat16 a network without layer norms is of that type throughout. In one with them only products are: nodes
that carry a sum through the whole network would round it at every step, and the norms enlarge what was lost.

The operators are those that torch's own compiler emits for frozen graphs. They are not among those that torch
promises to keep, and releases differ in what they take: torch 2.11 refuses sums of maps of one pixel. So each form
in which a call comes is tried on a few numbers before it is used (`works`), and where it fails or computes
something else, that call is made layer by layer.

Invariant: what comes out is what `emit.Network` computes, within rounding, and what is given is not written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from headstart.backends.torch.devices import LOW
from headstart.backends.torch.emit import FUNCTIONS, MODULES, LastLinear, Network, PaddedConv2d
from headstart.backends.torch.products import prefers_onednn
from headstart.common.log import LOG
from headstart.contract.recipe import Place
from headstart.graph import Graph, Node
from headstart.graph.fuse import Step, allowed, fused_steps, run_steps

# op -> oneDNN's name of it, its numbers, and which form of it
ACTIVATIONS: Mapping[str, tuple[str, list[float], str]] = {
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "sigmoid": ("sigmoid", [], ""),
    "silu": ("swish", [], ""),
    "hard_swish": ("hardswish", [], ""),
    "gelu": ("gelu", [], "none"),
}
PLAIN: tuple[str, list[float], str] = ("none", [], "")
COSTLY = ("gelu",)
"""those that take so long by themselves that a linear layer is oneDNN's for them, also where MKL is as good"""
PRODUCTS = ("conv", "linear")
WIDE = ("add", "batch_norm", "class_token", "layer_norm", "position", "scale")
"""what is computed in float32 where only products are in bfloat16"""
CACHE_NBYTES = 16 << 20
"""of the largest map of the images that go through together: about what a few cores share"""
ONEDNN: Any = torch.ops.mkldnn
LEAST_ROWS = 8
"""that go through together however large they are: weights are read anew for each few"""


def steps(graph: Graph, outputs: Sequence[str], linear: bool, mixed: bool = False) -> tuple[Step, ...]:
    """The calls that compute `outputs`. `linear`: whether linear layers are oneDNN's with any activation or none.
    `mixed`: whether sums are of another type than what is added to them, and so are calls of their own."""
    behind = {"conv": tuple(ACTIVATIONS), "linear": tuple(ACTIVATIONS) if linear else COSTLY}
    return fused_steps(graph, outputs, behind, None if mixed else ["relu"])


def is_mixed(graph: Graph, dtype: torch.dtype) -> bool:
    """Whether only products are of this type, and what is between them is float32, as under autocast."""
    return dtype != torch.float32 and any(node.op == "layer_norm" for node in graph.nodes)


class FusedNetwork:
    """Runs the graph of a network, which stays as it is, up to its outputs; `dtype` is float32 or bfloat16."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.graph, self.outputs, self.dtype = network.graph, network.outputs, dtype
        linear = dtype == torch.bfloat16 or prefers_onednn()
        self.mixed = is_mixed(self.graph, dtype)
        products = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        others = network if self.mixed else products
        planned = steps(self.graph, self.outputs, linear, self.mixed)
        self.calls: list[tuple[Step, Callable[..., torch.Tensor]]] = []
        for step in planned:
            node = step.node
            if node.op == "normalize":  # of pixels: exact, and rounded only then
                call = _rounded(network.get_submodule(node.name), dtype)
            elif node.op in PRODUCTS:
                call = products.get_submodule(node.name)
                plain = node.op == "linear" and step.activation is None and not linear
                call = call if plain else tried_call(step, call, dtype)
                call = _in(dtype, call) if self.mixed else call
            else:
                call = others.get_submodule(node.name) if node.op in MODULES else FUNCTIONS[node.op](node.attrs)
                wide = self.mixed and node.op in WIDE and not _rounds_itself(step, planned, self.outputs)
                call = _in(torch.float32, call) if wide else call
            self.calls.append((step, call))
        self._rows: dict[torch.Size, int] = {}

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(n, c, h, w)`, or `(n, ...)` where the graph takes features -> node name -> its output."""
        parts = [self._run(rows) for rows in x.chunk(math.ceil(len(x) / self._rows_at_once(x.shape[1:])))]
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in self.outputs}

    def _run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {self.graph.input: x.to(self.dtype) if x.is_floating_point() and not self.mixed else x}
        return run_steps(self.calls, values, self.outputs)

    def _rows_at_once(self, shape: torch.Size) -> int:
        if shape not in self._rows:
            given = (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)
            largest = max(math.prod(sides) for sides in self.graph.shapes(given).values())
            self._rows[shape] = max(LEAST_ROWS, CACHE_NBYTES // (largest * self.dtype.itemsize))
        return self._rows[shape]


@dataclass(frozen=True)
class Form:
    """What may make a difference to whether a call is possible, with sizes cut down to those that tell."""

    op: str
    shape: tuple[int, ...]
    """of what it is given: `(n, c, h, w)`, or `(n, ..., c)` of a linear layer on anything but maps"""
    width: int
    """output channels"""
    window: tuple[Any, ...]
    """kernel, stride, padding, dilation and groups of a convolution"""
    pads: tuple[int, ...]
    """of a convolution whose padding differs by side"""
    bias: bool
    activation: str | None
    added: bool
    in_place: bool
    dtype: torch.dtype


def form_of(step: Step, layer: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> Form:
    """The form of a step's call on an input of this shape."""
    tail = (step.activation, step.other is not None, step.in_place, dtype)
    rows = min(shape[0], 2)
    if isinstance(layer, nn.Linear):
        inputs, width = min(layer.in_features, 4), min(layer.out_features, 4)
        sides = tuple(min(side, 2) for side in shape[1:])
        sides = (inputs, *sides[1:]) if len(shape) == 4 else (*sides[:-1], inputs)
        return Form("linear", (rows, *sides), width, (), (), layer.bias is not None, *tail)
    assert isinstance(layer, nn.Conv2d)
    groups, pads = min(layer.groups, 4), layer.pads if isinstance(layer, PaddedConv2d) else ()
    padding = [2 * pad for pad in layer.padding] if not pads else [pads[2] + pads[3], pads[0] + pads[1]]
    # Two windows tell as much as many do; one does not.
    sides = tuple(
        min(side, max(1, d * (k - 1) + 1 - pad) + stride)
        for side, k, d, pad, stride in zip(
            shape[2:], layer.kernel_size, layer.dilation, padding, layer.stride, strict=True
        )
    )
    window = (layer.kernel_size, layer.stride, tuple(layer.padding), layer.dilation, groups)
    channels, width = (groups * min(count // layer.groups, 4) for count in (layer.in_channels, layer.out_channels))
    return Form("conv", (rows, channels, *sides), width, window, pads, layer.bias is not None, *tail)


@cache
def works(form: Form) -> bool:
    """Whether this torch makes calls of this form on this processor, and they compute what they should."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # layers draw weights
        layer: nn.Module
        if form.op == "linear":
            maps = len(form.shape) == 4
            layer = LastLinear(form.shape[1 if maps else -1], form.width, form.bias)
        else:
            kernel, stride, padding, dilation, groups = form.window
            kind = PaddedConv2d if form.pads else nn.Conv2d
            sizes = (form.shape[1], form.width, kernel, stride, padding, dilation, groups, form.bias)
            layer = kind(*sizes).to(memory_format=torch.channels_last)
            if isinstance(layer, PaddedConv2d):
                layer.pads = tuple(form.pads)  # type: ignore[assignment]
        for parameter in layer.parameters():
            parameter.copy_(numbers(*parameter.shape) - 0.4)
        layer = layer.to(form.dtype)
        x = numbers(*form.shape).to(form.dtype)
        x = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
        node = Node("trial", "relu", ("x",))  # of a step, only what follows its node matters to the call
        step = Step(node, ("x",), "y", "other" if form.added else None, form.activation, (), form.in_place)
        y = layer(x)
        # what is overwritten is a call's own
        others = [torch.full_like(y, 0.25, memory_format=torch.preserve_format) for _ in range(2 * form.added)]
        expected = _by_layers(step, layer)(x, *others[:1])
        try:
            result = (_conv if form.op == "conv" else _linear)(step, layer)(x, *others[1:])
        except (AttributeError, RuntimeError, TypeError) as error:
            LOG.debug("torch %s makes no call of %s: %s", torch.__version__, form, error)
            return False
        near = 1e-4 if form.dtype == torch.float32 else 0.05
        scale = expected.abs().max().clamp(min=1).float()
        right = result.shape == expected.shape and bool(((result - expected).float().abs() <= near * scale).all())
        if not right:
            LOG.debug("torch %s computes something else by the call of %s", torch.__version__, form)
        return right


def tried_call(step: Step, layer: nn.Module, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """One call where that is possible, which the shape decides; else layer by layer."""
    quick, slow = (_linear if isinstance(layer, nn.Linear) else _conv)(step, layer), _by_layers(step, layer)
    by_shape: dict[torch.Size, Callable[..., torch.Tensor]] = {}

    def call(x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        if x.shape not in by_shape:
            by_shape[x.shape] = quick if works(form_of(step, layer, x.shape, dtype)) else slow
        return by_shape[x.shape](x, *other)

    return call


def _by_layers(step: Step, layer: nn.Module) -> Callable[..., torch.Tensor]:
    activation = None if step.activation is None else FUNCTIONS[step.activation]({})

    def call(x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = layer(x)
        for summand in other:
            y = y + summand
        return y if activation is None else activation(y)

    return call


def _conv(step: Step, layer: nn.Module) -> Callable[..., torch.Tensor]:
    assert isinstance(layer, nn.Conv2d)
    weight, bias, padding = layer.weight, layer.bias, layer.padding
    pads = layer.pads if isinstance(layer, PaddedConv2d) else None
    if pads is not None and layer.groups == layer.in_channels and layer.dilation == (1, 1):
        weight, padding, pads = *_widened(weight, pads), None
    window = list(padding), list(layer.stride), list(layer.dilation), layer.groups
    name, numbers, form = PLAIN if step.activation is None else ACTIVATIONS[step.activation]

    def alone(x: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        y: torch.Tensor = ONEDNN._convolution_pointwise(x, weight, bias, *window, name, numbers, form)
        return y

    def added(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        tail = (weight, bias, *window, "add", 1.0, None if name == "none" else name, numbers, form)
        y: torch.Tensor = (
            ONEDNN._convolution_pointwise_.binary(other, x, *tail)
            if step.in_place
            else ONEDNN._convolution_pointwise.binary(x, other, *tail)
        )
        return y

    return added if step.other else alone


def _widened(weight: torch.Tensor, pads: Sequence[int]) -> tuple[torch.Tensor, tuple[int, int]]:
    """A kernel with zeros around it and a padding that is the same on both sides, which compute together what this
    kernel does between these pads: a few products by zero of a depthwise convolution take a fraction of the time
    that a padded copy of its maps does."""
    left, right, top, bottom = pads
    across, down = max(left, right), max(top, bottom)
    # A window that begins so much earlier has its own weights so much later.
    zeros = across - left, across - right, down - top, down - bottom
    return F.pad(weight, zeros).contiguous(memory_format=torch.channels_last), (down, across)


def _linear(step: Step, layer: nn.Module) -> Callable[..., torch.Tensor]:
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight, layer.bias
    activation = PLAIN if step.activation is None else ACTIVATIONS[step.activation]

    def product(x: torch.Tensor) -> torch.Tensor:
        maps = x.ndim == 4
        x = x.permute(0, 2, 3, 1) if maps else x
        y: torch.Tensor = ONEDNN._linear_pointwise(x, weight, bias, *activation)
        return y.permute(0, 3, 1, 2) if maps else y

    return product


def _rounds_itself(step: Step, planned: Sequence[Step], outputs: Sequence[str]) -> bool:
    """Whether it is a layer norm for products alone: torch's takes bfloat16, computes in float32 and rounds what
    it writes, which the products would do anyway."""
    users = [other.node.op for other in planned if step.output in other.inputs]
    return step.node.op == "layer_norm" and step.output not in outputs and {*users} <= {*PRODUCTS}


def _in(dtype: torch.dtype, call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *xs: call(*(x.to(dtype) for x in xs))


def _rounded(layer: nn.Module, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    return lambda x: layer(x).to(dtype)


def fused(network: Network, place: Place) -> FusedNetwork | None:
    """The network's faster form at this place; None where there is none."""
    ops = {node.op for node in network.graph.nodes}
    dtype = LOW.get(place.arithmetic, torch.float32)
    if dtype == torch.float16 or not allowed() or place.kind != "cpu" or "native" in ops or not available(dtype):
        return None
    return FusedNetwork(network, dtype)


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN, for this type on this processor; which calls it takes, `works` says."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return dtype != torch.bfloat16 or bool(ONEDNN._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError, TypeError):
        return False
