"""Tensors that a module holds beside its parameters and buffers: as plain attributes, in lists and dicts of them,
in what its hooks and functions hold. `module.to(device)` leaves them where they are, and a forward that computes
with them then fails.

Invariant: a tensor that is held twice is moved once, and held twice still.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from headstart.backends.torch.rebinding import Rebound

REGISTERED = frozenset(("_parameters", "_buffers", "_modules"))
Change = Callable[[torch.Tensor], torch.Tensor]


def carry(module: nn.Module, change: Change) -> None:
    """Put `change` of each of these tensors in its place."""
    known = {id(member): member for member in (*module.modules(), *module.parameters(), *module.buffers())}
    carrying = _Carrying(change, known)
    for submodule in module.modules():
        for name, value in list(vars(submodule).items()):
            if name not in REGISTERED:
                vars(submodule)[name] = carrying(value)


class _Carrying:
    def __init__(self, change: Change, known: dict[int, Any]) -> None:
        self.change: Change = lambda tensor: tensor if tensor.is_meta else change(tensor)
        """what is on the meta device has no numbers: of a module that lends its code to other parameters"""
        self.known = known
        """id of what was met -> what stands for it"""
        self.kept: list[Any] = []
        """what was met, since an id is its owner's as long as that lives"""

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor | nn.Module | Rebound | functools.partial | list | tuple | dict):
            return value
        if id(value) not in self.known:
            self.kept.append(value)
            self.known[id(value)] = value  # for what holds itself
            self.known[id(value)] = self._carried(value)
        return self.known[id(value)]

    def _carried(self, value: Any) -> Any:
        if isinstance(value, nn.Parameter):
            value.data = self.change(value.data)
        elif isinstance(value, torch.Tensor):
            return self.change(value)
        elif isinstance(value, nn.Module):
            value._apply(self.change)
            carry(value, self.change)
        elif isinstance(value, Rebound):
            value.hold({name: self(entry) for name, entry in value.held.items()})
        elif isinstance(value, functools.partial):
            function, *args = (self(entry) for entry in (value.func, *value.args))
            keywords = {name: self(entry) for name, entry in value.keywords.items()}
            before = [value.func, *value.args, *value.keywords.values()]
            if _differ(before, [function, *args, *keywords.values()]):
                return functools.partial(function, *args, **keywords)
        elif isinstance(value, list):
            if _differ(value, after := [self(entry) for entry in value]):
                value[:] = after
        elif isinstance(value, tuple):
            if _differ(value, after := [self(entry) for entry in value]):
                return type(value)(*after) if hasattr(value, "_fields") else type(value)(after)
        else:
            for name, entry in list(value.items()):
                if (after := self(entry)) is not entry:
                    value[name] = after
        return value


def _differ(before: Any, after: Any) -> bool:
    return any(old is not new for old, new in zip(before, after, strict=True))
