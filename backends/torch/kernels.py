"""A frozen graph on a device of its own: weights in the type that is computed with, made once; pixels normalised
in one pass; on a CUDA device a convolution, the sum behind it and the rectifier behind that are one call of
cuDNN's, a product and the gelu behind it one of cuBLAS's.

Those calls are among torch's operators, and not among those that it promises to keep. So a network is tried on a
few of the first images before it is used, beside the plain one, which stays where it fails or computes something
else.

Invariant: what comes out is what `emit.Network` computes, within the rounding of the type that is computed with.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from headstart.backends.torch.devices import LOW, autocast, synchronize
from headstart.backends.torch.emit import FUNCTIONS, MODULES, Network, Normalize, PaddedConv2d
from headstart.common.log import LOG
from headstart.contract.recipe import Place
from headstart.graph.fuse import Step, allowed, fused_steps, run_steps

Call = Callable[..., torch.Tensor]
TRIED_ROWS = 2
NEAR = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""How far outputs of two ways to compute a whole network may be apart, as a share of their length."""
FEW_CHANNELS = 16
"""Of inputs, below which cuDNN's fused calls may be slower than its plain ones: the first layer's."""


class DeviceNetwork:
    """Runs the graph of a network, which stays as it is, up to its outputs."""

    def __init__(self, network: Network, place: Place) -> None:
        self.graph, self.outputs = network.graph, network.outputs
        self.dtype = LOW.get(place.arithmetic, torch.float32)
        layers = network if self.dtype == torch.float32 else deepcopy(network).to(self.dtype)
        fusing = {"conv": ("relu",), "linear": ("gelu",)} if place.kind == "cuda" else {}
        if self.dtype == torch.float32:  # in which cuBLAS's approximation of a gelu would be seen
            fusing.pop("linear", None)
        steps = fused_steps(self.graph, self.outputs, fusing, ["relu"])
        self.calls = [(step, _call(step, network, layers, self.dtype)) for step in steps]
        for place_of_sum, place_of_summand in _joined(steps, self.outputs):
            self._join_biases(place_of_sum, place_of_summand, layers)

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(n, c, h, w)`, or `(n, ...)` where the graph takes features -> node name -> its output."""
        values = {self.graph.input: x.to(self.dtype) if x.is_floating_point() and self._plain else x}
        return run_steps(self.calls, values, self.outputs)

    def _join_biases(self, at: int, before: int, layers: nn.Module) -> None:
        """Let a sum's call add the bias of both its convolutions: by itself it takes a pass over a map."""
        (step, _), (summand, _) = self.calls[at], self.calls[before]
        layer, other = (layers.get_submodule(convolution.node.name) for convolution in (step, summand))
        assert isinstance(layer, nn.Conv2d) and isinstance(other, nn.Conv2d)
        if layer.groups > 1 or layer.bias is None or other.bias is None or isinstance(other, PaddedConv2d):
            return
        both = (layer.bias.float() + other.bias.float()).to(layer.bias.dtype)
        window = other.stride, other.padding, other.dilation, other.groups
        weight = other.weight
        self.calls[before] = summand, lambda x: F.conv2d(x, weight, None, *window)
        self.calls[at] = step, _fused(step, layer, both)

    @property
    def _plain(self) -> bool:
        """Whether inputs are what the layers compute with, and not pixels."""
        return all(step.node.op != "normalize" for step, _ in self.calls[:1])


def _joined(steps: Sequence[Step], outputs: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The places of calls that are a convolution, a sum and an activation, each with that of the other summand,
    where that is a convolution alone, and needed nowhere else."""
    made = {step.output: place for place, step in enumerate(steps)}
    users = Counter(name for step in steps for name in (*step.inputs, *filter(None, [step.other])))
    for place, step in enumerate(steps):
        if step.other is None or step.activation is None or step.other not in made:
            continue
        summand = steps[made[step.other]]
        alone = summand.node.op == "conv" and summand.other is None and summand.activation is None
        if alone and users[step.other] == 1 and step.other not in outputs:
            yield place, made[step.other]


def _call(step: Step, network: Network, layers: nn.Module, dtype: torch.dtype) -> Call:
    node = step.node
    if node.op == "normalize":
        return _normalizing(network.get_submodule(node.name), dtype)
    if node.op not in MODULES:
        return FUNCTIONS[node.op](node.attrs)
    layer = layers.get_submodule(node.name)
    if step.other is None and step.activation is None:
        return layer
    if node.op == "linear":
        return _with_gelu(layer)
    assert isinstance(layer, nn.Conv2d)
    plain = _by_layers(step, layer)
    if step.activation is None or layer.groups > 1 or layer.bias is None:
        return plain
    fused = _fused(step, layer)
    return Faster(fused, plain) if layer.in_channels < FEW_CHANNELS else fused


def _normalizing(layer: nn.Module, dtype: torch.dtype) -> Call:
    """In one pass over the pixels: what is between them and the result lies in registers."""
    assert isinstance(layer, Normalize)
    scale, shift = layer.scale, layer.shift

    def call(x: torch.Tensor) -> torch.Tensor:
        x = x.flip(1) if layer.reverse else x
        y = torch.empty_like(x, dtype=dtype, memory_format=torch.preserve_format)
        return torch.addcmul(shift, x, scale, out=y)

    return call


def _with_gelu(layer: nn.Module) -> Call:
    """By the hyperbolic tangent, at most 5e-4 off, which is less than half of a step of the types that take less
    than 32 bits."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.T
    bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias

    def call(x: torch.Tensor) -> torch.Tensor:
        rows = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        flat = rows.reshape(-1, rows.shape[-1])
        y = torch._addmm_activation(bias, flat, weight, use_gelu=True).view(*rows.shape[:-1], len(bias))
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y

    return call


def _by_layers(step: Step, layer: nn.Conv2d) -> Call:
    """What follows is done where the convolution has written."""
    activation = step.activation

    def call(x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = layer(x)
        for summand in other:
            y = y.add_(summand)
        return y if activation is None else y.relu_()

    return call


def _fused(step: Step, layer: nn.Conv2d, bias: torch.Tensor | None = None) -> Call:
    weight, bias = layer.weight, layer.bias if bias is None else bias
    pads = layer.pads if isinstance(layer, PaddedConv2d) else None
    window = list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups

    def alone(x: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        return torch.cudnn_convolution_relu(x, weight, bias, *window)

    def added(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        x = x if pads is None else F.pad(x, pads)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *window)

    return added if step.other else alone


class Faster:
    """The faster of two calls that do the same, found out once for each shape."""

    def __init__(self, *calls: Call) -> None:
        self.calls = calls
        self.by_shape: dict[torch.Size, Call] = {}

    def __call__(self, x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        if x.shape not in self.by_shape:
            self.by_shape[x.shape] = min(self.calls, key=lambda call: _seconds(call, x, *other))
        return self.by_shape[x.shape](x, *other)


def _seconds(call: Call, *tensors: torch.Tensor) -> float:
    for times in (1, 5):  # once for what is set up at the first time
        synchronize(tensors[0].device)
        start = time.perf_counter()
        for _ in range(times):
            call(*tensors)
        synchronize(tensors[0].device)
    return time.perf_counter() - start


class Tried:
    """A network's faster form, from the first batch on that it has been right on."""

    def __init__(self, network: Network, place: Place) -> None:
        self.network, self.place = network, place
        self.faster: DeviceNetwork | None = None
        self.is_tried = not allowed() or any(node.op == "native" for node in network.graph.nodes)

    def __call__(self, x: Any) -> dict[str, torch.Tensor]:
        if not self.is_tried:
            self.is_tried = True
            self._try(x[:TRIED_ROWS])
        return self.plain(x) if self.faster is None else self.faster(x)

    def plain(self, x: Any) -> dict[str, torch.Tensor]:
        with autocast(self.place):
            outputs: dict[str, torch.Tensor] = self.network(x)
        return outputs

    def _try(self, x: torch.Tensor) -> None:
        try:
            faster = DeviceNetwork(self.network, self.place)
            if (wrong := differing(self.plain(x), faster(x), faster.dtype)) is None:
                self.faster = faster
                return
            reason = f"it computes {wrong[0]} {wrong[1]:.2%} off"
        except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        LOG.warning(
            "torch %s: a trunk runs layer by layer on %s: %s", torch.__version__, self.place.device, reason
        )


def differing(expected: Any, results: Any, dtype: torch.dtype) -> tuple[str, float] | None:
    """The first output that is farther off than the type explains, and how far."""
    for name, y in expected.items():
        y, result = y.float(), results[name].float()
        if y.shape != result.shape or not torch.equal(y.isfinite(), result.isfinite()):
            return name, float("inf")
        y, result = y.nan_to_num(0, 0, 0), result.nan_to_num(0, 0, 0)
        far = float((y - result).norm() / y.norm().clamp(min=1e-20))
        if not far <= NEAR[dtype]:
            return name, far
    return None
