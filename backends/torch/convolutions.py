"""Convolutions of users' modules as layers of their own: whatever class theirs have, what is around them and how
their weights are computed, in inference they come to one of torch's with zeros at its sides.

Invariant: a user's weights are copied and never written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from headstart.backends.torch.arrays import from_numpy, to_numpy
from headstart.backends.torch.emit import PaddedConv2d
from headstart.graph.rounding import of_few_maps

SHAPES = (torch.Tensor.size, torch.Tensor.dim, torch.Tensor.shape.__get__, torch.Tensor.ndim.__get__)
"""what asks for no more of a tensor"""
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
NAMES: Mapping[Any, tuple[str, ...]] = {F.pad: ("input", "pad", "mode", "value"), F.conv2d: CONVOLUTION}


def layer_of(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    pads: Sequence[int] = (0, 0, 0, 0),
) -> nn.Conv2d | None:
    """With a copy of these numbers, channels-last; None where they are not float32, or something is cut off.
    `pads`: left, right, top and bottom, besides the padding."""
    if weight.dtype != torch.float32 or (bias is not None and bias.dtype != torch.float32) or min(pads) < 0:
        return None
    kernel = tuple(weight.shape[2:])
    down, across = _margins(padding, kernel, dilation)
    pads = across[0] + pads[0], across[1] + pads[1], down[0] + pads[2], down[1] + pads[3]
    even = pads[0] == pads[1] and pads[2] == pads[3]
    layer = (nn.Conv2d if even else PaddedConv2d)(
        weight.shape[1] * groups, weight.shape[0], kernel, _pair(stride), (pads[2], pads[0]) if even else 0,
        _pair(dilation), groups, bias is not None, device="meta",
    )  # fmt: skip
    if isinstance(layer, PaddedConv2d):
        layer.pads = pads
    own = weight.detach().clone(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(own, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _margins(padding: Any, kernel: Sequence[int], dilation: Any) -> list[tuple[int, int]]:
    """Above and below, and on the left and on the right."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        spans = [step * (side - 1) for step, side in zip(_pair(dilation), kernel, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    return [(side, side) for side in _pair(padding)]


def _pair(numbers: Any) -> tuple[int, ...]:
    both = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    return both * 2 if len(both) == 1 else both


@dataclass(frozen=True)
class _Called:
    function: Any
    given: dict[str, Any]
    made: Any


class _Watch(TorchFunctionMode):
    """What is called with a tensor, or with what has come of it, but to ask for its shape."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.calls: list[_Called] = []
        self._known = [x]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        known = any(value is one for value in tree_leaves((args, kwargs)) for one in self._known)
        if known and func not in SHAPES:
            self.calls.append(_Called(func, dict(zip(NAMES.get(func, ()), args, strict=False)) | kwargs, made))
            self._known += [value for value in tree_leaves(made) if isinstance(value, torch.Tensor)]
        return made


def found_in(layer: nn.Conv2d, shape: tuple[int, ...]) -> nn.Conv2d | None:
    """The convolution that a layer comes to on inputs of this shape, whatever its class does: one with zeros
    around the input, whose weights may be computed of others. None where it is anything else."""
    value = torch.zeros(shape)
    with _Watch(value) as watch:
        y = layer(value)
    if [call.function for call in watch.calls] not in ([F.conv2d], [F.pad, F.conv2d]):
        return None
    pads: tuple[int, ...] = (0, 0, 0, 0)
    for call in watch.calls:
        if call.given.pop("input") is not value:
            return None
        value = call.made
        if call.function is F.pad:
            pads = tuple(call.given.pop("pad"))
            if len(pads) != 4 or call.given.get("mode", "constant") != "constant" or call.given.get("value"):
                return None
    return layer_of(**watch.calls[-1].given, pads=pads) if y is value else None


def affine(
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """By what a batch norm multiplies each channel, and what it adds, in float64."""
    if mean is None or variance is None:  # it takes those of the batch
        return None
    scale = 1 / (variance.detach().double() + eps).sqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    return scale, shift if bias is None else shift + bias.detach().double()


def folded(layer: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> nn.Conv2d:
    """The layer with what `affine` gives behind it."""
    bias = shift if layer.bias is None else shift + layer.bias.double() * scale
    weight = (layer.weight.double() * scale.view(-1, 1, 1, 1)).float()
    window = layer.stride, layer.padding, layer.dilation, layer.groups
    pads = layer.pads if isinstance(layer, PaddedConv2d) else (0, 0, 0, 0)
    made = layer_of(weight, bias.float(), *window, pads)
    assert made is not None
    return made


def rounded(layer: nn.Conv2d, dtype: torch.dtype) -> nn.Conv2d:
    """The layer itself, in this dtype."""
    if dtype == torch.bfloat16:
        layer.weight.copy_(from_numpy(of_few_maps(to_numpy(layer.weight))))
    return layer.to(dtype)
