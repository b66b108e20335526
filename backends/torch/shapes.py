"""Runs that are made for shapes, or to see which tensors are written to, and not for numbers: on torch's `meta`
device, whose tensors have none, such a run takes a fraction of a real one.

Invariant: what is found is what a real run would show. Where code needs numbers, a real run is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.chance import undrawn

T = TypeVar("T")
LONG = 0.1  # seconds of a run with numbers: one without takes about a millisecond for each operation
_spared: ContextVar[bool] = ContextVar("_spared", default=True)


@contextmanager
def sparing(seconds: float) -> Iterator[None]:
    """Inside, numbers are spared only where they are worth it. `seconds`: of a run of the module with them."""
    token = _spared.set(seconds >= LONG)
    try:
        yield
    finally:
        _spared.reset(token)


def found_by(look: Callable[[nn.Module, Any], T], module: nn.Module, example: Any) -> T:
    """What `look` finds with a copy of the module, which it may do with as it likes, and the example as a batch.
    It is called a second time, with numbers, where it raises without them."""
    with torch.no_grad(), undrawn(0):
        if _spared.get():
            with suppress(Exception):  # of code that looks at numbers, or brings some of its own
                batch = pytree.tree_map_only(torch.Tensor, _empty, batch_of(example))
                return look(_without_numbers(module), batch)
        trained = {id(p): p for p in module.parameters() if p.requires_grad}
        return look(copy.deepcopy(module, trained), batch_of(example))


def _without_numbers(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes alone."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = _empty(tensor.detach())
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="meta")
