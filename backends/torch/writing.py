"""Modules that write to what they are given, as an activation with `inplace=True` does at the front of a head: to
images, features or a caller's arrays, which others read after them.

Invariant: nobody but the module sees what it writes there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from headstart.backends.torch.shapes import found_by


class Apart:
    """A forward pre-hook: the module takes a copy."""

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, args)


def versions(batch: Any) -> list[int]:
    """How often each tensor of a batch was written to."""
    return [tensor._version for tensor in pytree.tree_leaves(batch)]


def writes_in_training(module: nn.Module, example: Any) -> bool:
    """Whether the module writes to the example when it is trained on it."""

    def look(shell: nn.Module, batch: Any) -> bool:
        before = versions(batch)
        try:
            shell.train()(batch)
        except Exception:
            if versions(batch) == before:
                raise
        return versions(batch) != before

    try:
        return found_by(look, module, example)
    except Exception:  # in training it may want what the example does not hold, such as more samples
        return False
