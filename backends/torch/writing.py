"""Modules that write to what they are given, as an activation with `inplace=True` does at the front of a head: to
images, features or a caller's arrays, which others read after them.

Invariant: nobody but the module sees what it writes there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.chance import undrawn
from headstart.backends.torch.trace import sharing


class Apart:
    """A forward pre-hook: the module takes a copy."""

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, args)


def keep_apart(module: nn.Module, example: Any) -> None:
    """Let the module take copies if it writes to the example, in inference or in training."""
    if any(_writes(module, example, training) for training in (False, True)):
        module.register_forward_pre_hook(Apart(), prepend=True)


def _writes(module: nn.Module, example: Any, training: bool) -> bool:
    batch = batch_of(example)
    before = [tensor._version for tensor in pytree.tree_leaves(batch)]
    with torch.no_grad(), undrawn(0):
        try:
            sharing(module, buffers=False).train(training)(batch)
        except Exception:
            if not training:
                raise
            # in training it may want what the example does not hold, such as more samples
    return [tensor._version for tensor in pytree.tree_leaves(batch)] != before
