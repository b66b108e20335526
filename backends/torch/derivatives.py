"""Code that says itself what its derivatives are: a `torch.autograd.Function`, as memory-efficient activations,
straight-through estimators and reversed gradients are written, and `torch.utils.checkpoint`. A trace goes through
such a function's forward, where gradients are off, and does not take over its backward: what is before it would
not be trained.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import torch


def in_own_derivative() -> bool:
    """Whether the forward of a `torch.autograd.Function` is being run: what calls it need not be Python."""
    if torch.is_grad_enabled():  # they are off there
        return False
    forwards = {getattr(kind.forward, "__code__", None) for kind in _derived(torch.autograd.Function)}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in forwards:
        frame = frame.f_back
    return frame is not None


def _derived(kind: Any) -> Iterator[Any]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _derived(derived)
