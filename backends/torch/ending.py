"""What is done with what a module, or a part of it, gives until it is features as core has them: one tensor is
taken of several, quantized numbers become floats, padded tokens are left out of a mean, axes are ordered.

Invariant: what needs nothing done has no ending, and the structure that its key holds says nothing of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from headstart.models import several
from headstart.models.several import Entry, entry_of

ORDERS = {"nhwc": (0, 3, 1, 2), "ncl": (0, 2, 1)}
"""layout of a module's features -> how they are turned into what torch's layers take"""
BACK = {"nhwc": (0, 2, 3, 1), "ncl": (0, 2, 1)}


@dataclasses.dataclass(frozen=True)
class Ending:
    """A forward hook, which also can be asked what it makes of a value."""

    entry: Entry = ()
    """where in a dict, tuple or the like the tensor is"""
    dequantized: bool = False
    first: bool = False
    """of tokens, the first"""
    mask: str = ""
    """of tokens, the mean of those that this array of the batch counts"""
    layout: str = ""
    """of a module whose axes are in an order of its own"""

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], value: Any) -> torch.Tensor:
        return self.of(value, args[0] if args else None)

    def of(self, value: Any, batch: Any) -> torch.Tensor:
        """`batch`: what the module took; a dict where a mask is needed."""
        x: torch.Tensor = entry_of(value, self.entry)
        if self.dequantized:
            x = x.dequantize()
        if self.first:
            x = x[:, 0]
        if self.mask:
            x = x.transpose(1, 2) if self.layout == "ncl" else x
            counted = batch[self.mask].to(x).unsqueeze(-1)
            x = (x * counted).sum(1) / counted.sum(1).clamp(min=1)
        elif self.layout in ORDERS:
            x = x.permute(ORDERS[self.layout])
        return x

    def told(self) -> list[Any]:
        """For the structure; [] where nothing is done."""
        done = [[key, value] for key, value in dataclasses.asdict(self).items() if value]
        return [[key, list(value) if isinstance(value, tuple) else value] for key, value in done]


@dataclasses.dataclass(frozen=True)
class Turned:
    """A forward pre-hook of a head: its features in the order in which its trunk's module has them."""

    layout: str

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].permute(BACK[self.layout]), *args[1:])


@dataclasses.dataclass(frozen=True)
class Cast:
    """A forward pre-hook of a head: its features in the precision in which its trunk's module has them."""

    dtype: torch.dtype

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].to(self.dtype), *args[1:])


OWN = (Cast, Ending, Turned)


def at_end(value: Any, row: Entry = ()) -> torch.Tensor | None:
    """See `several.at_end`."""
    tensor: torch.Tensor | None = several.at_end(value, torch.Tensor, row)
    return tensor


def tensors(value: Any) -> Iterator[tuple[Entry, torch.Tensor]]:
    """Where tensors are in what a module gave."""
    return several.arrays(value, torch.Tensor)


def shapes_of(value: Any) -> dict[Entry, tuple[int, ...]]:
    """Of the tensors in what a module gave; () for those that are no features."""
    return {
        entry: tuple(x.shape) if x.is_floating_point() or x.is_quantized else () for entry, x in tensors(value)
    }


def has_class_token(module: nn.Module) -> bool:
    return any(several.is_class_token(name) for name, _ in module.named_parameters())
