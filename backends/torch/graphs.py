"""Modules that are graphs of torch.fx: torchvision's feature extractors, what `torch.export` and torch's
quantization give. A deep copy of one has neither the hooks on it nor a forward that was put on it, and may be in
another mode.

Invariant: a copy is in the same mode, and has the hooks that are somebody's own; those of torch, which check what
an exported module is given, concern its owner.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from headstart.backends.torch.chance import held_by

HOOKS = ("_forward_pre_hooks", "_forward_hooks")
MANNERS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


class Library(types.ModuleType):
    """A module of Python's, or a namespace of torch's operations, that a network holds: these cannot be copied,
    and need not be."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        vars(self)["__wrapped__"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["__wrapped__"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Library:
        return self


def keep_libraries(module: nn.Module, memo: dict[int, Any]) -> None:
    """Put into `memo`, of a deep copy of the module that is to be made, what stands for modules of Python's."""
    memo.update({id(held): Library(held) for held in held_by(module, types.ModuleType)})


def copy_graphs(module: nn.Module, memo: dict[int, Any]) -> None:
    """Put into `memo`, of a deep copy of the module that is to be made, copies of the graphs in it, of which
    copies keep their hooks, too."""
    graphs = [inner for inner in module.modules() if isinstance(inner, fx.GraphModule)]
    for graph in reversed(graphs):  # those inside of others first
        memo[id(graph)] = _copied(graph, memo)


def _copied(graph: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    ways = (vars(kind).get("__deepcopy__") for kind in type(graph).__mro__)
    made: Any = next(way for way in ways if way not in (None, _copied))(graph, memo)
    memo[id(graph)] = made
    made.train(graph.training)
    for name, inner in made.named_modules():
        inner.training = graph.get_submodule(name).training
    for name in (*HOOKS, *MANNERS):
        for key, hook in vars(graph)[name].items():
            if name in MANNERS or not _is_torchs(hook):
                vars(made)[name][key] = copy.deepcopy(hook, memo)
    for name in MANNERS:  # of hooks that were left out
        kept = {key for hooks in HOOKS for key in vars(made)[hooks]}
        for key in vars(made)[name].keys() - kept:
            del vars(made)[name][key]
    if "forward" in vars(graph):
        vars(made)["forward"] = copy.deepcopy(vars(graph)["forward"], memo)
    type(made).__deepcopy__ = _copied  # a class of its own, as each of these has
    return made


def _is_torchs(hook: Callable[..., Any]) -> bool:
    hook = getattr(hook, "func", hook)
    return str(getattr(hook, "__module__", type(hook).__module__)).partition(".")[0] == "torch"
