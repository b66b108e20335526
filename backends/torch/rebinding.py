"""Functions that were put on a module from outside and hold modules or tensors: a hook around a LoRA layer, a
`forward` that is a lambda over the module itself. A copy of the module would go on using what the function holds,
as functions are never copied. Here they become objects that are.

Invariant: a copy of a module uses nothing of what it was copied from.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from headstart.models.reflection import lookups


class Rebound:
    """A function with what it finds outside of itself, which a deep copy copies."""

    def __init__(self, function: types.FunctionType, held: Mapping[str, Any]) -> None:
        self.function = function
        self.hold(held)
        self.__signature__ = inspect.signature(function)
        self.__name__ = function.__name__

    def hold(self, held: Mapping[str, Any]) -> None:
        """Let the function find these."""
        self.held = dict(held)
        """name of a global, free variable or default -> value"""
        self.function = _with(self.function, self.held)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rebound:
        return Rebound(self.function, copy.deepcopy(self.held, memo))


def rebind(module: nn.Module, memo: dict[int, Any]) -> list[nn.Parameter]:
    """Give the functions on a module and its submodules copies of the modules and tensors that they hold. `memo`:
    of the deep copy that made the module, id of an original -> its copy. Returns the copies of trained parameters
    that functions alone hold, so that nobody would train them."""
    inside = [*module.modules(), *module.parameters(), *module.buffers()]
    memo |= {id(member): member for member in inside}  # what is a copy already stays
    holders: list[Any] = []

    def copied(value: Any) -> Any:
        own = _rebound(value, {})
        if own is value:
            return value
        own = copy.deepcopy(own, memo)
        holders.append(own.func if isinstance(own, functools.partial) else own)
        return own

    for submodule in module.modules():
        for name, value in list(vars(submodule).items()):
            vars(submodule)[name] = copied(value)
        for hooks in (submodule._forward_pre_hooks, submodule._forward_hooks):
            for key, hook in list(hooks.items()):
                hooks[key] = copied(hook)
    mine = {id(member) for member in inside}
    held = [value for holder in holders for value in getattr(holder, "held", {}).values()]
    beside = [parameter for value in held if isinstance(value, nn.Module) for parameter in value.parameters()]
    beside += [value for value in held if isinstance(value, nn.Parameter)]
    return [parameter for parameter in beside if parameter.requires_grad and id(parameter) not in mine]


def _rebound(value: Any, known: dict[int, Any]) -> Any:
    """The same, or what does the same and can be copied. `known`: what was asked for already."""
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value  # of functions that call each other the first answer stands
    if isinstance(value, types.MethodType):
        function = _rebound(value.__func__, known)
        return value if function is value.__func__ else functools.partial(function, value.__self__)
    if isinstance(value, functools.partial):
        function = _rebound(value.func, known)
        return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
    if not isinstance(value, types.FunctionType) or _is_librarys(value):
        return value
    held = {name: _rebound(inner, known) for name, inner in _held(value).items()}
    kept = {name: inner for name, inner in held.items() if _holds(inner)}
    known[id(value)] = Rebound(value, kept) if kept else value
    return known[id(value)]


def _is_librarys(function: Callable[..., Any]) -> bool:
    return (getattr(function, "__module__", None) or "").partition(".")[0] in ("torch", "headstart")


def _holds(value: Any) -> bool:
    """Whether a copy of it is another thing than itself, as far as modules and tensors go."""
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_holds, value))
    if isinstance(value, functools.partial):
        return _holds([value.func, value.args, value.keywords])
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, nn.Module)
    return isinstance(value, nn.Module | torch.Tensor | Rebound)


def _held(function: types.FunctionType) -> dict[str, Any]:
    """What it finds outside: free variables, globals, and defaults by their place."""
    held: dict[str, Any] = {}
    for path in lookups(function.__code__):
        if path[0] in function.__globals__:
            held[path[0]] = function.__globals__[path[0]]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    held |= {f"={place}": value for place, value in enumerate(function.__defaults__ or ())}
    held |= {f"={name}": value for name, value in (function.__kwdefaults__ or {}).items()}
    held.pop("__class__", None)  # of super()
    return {name: value for name, value in held.items() if value is not function}


def _with(function: types.FunctionType, held: Mapping[str, Any]) -> types.FunctionType:
    """The same code, that finds these."""
    free = function.__code__.co_freevars
    cells = tuple(
        types.CellType(held[name]) if name in held else cell
        for name, cell in zip(free, function.__closure__ or (), strict=True)
    )
    names = {name: value for name, value in held.items() if name not in free and not name.startswith("=")}
    scope = {**function.__globals__, **names} if names else function.__globals__
    defaults = tuple(held.get(f"={place}", value) for place, value in enumerate(function.__defaults__ or ()))
    made = types.FunctionType(function.__code__, scope, function.__name__, defaults or None, cells)
    made.__kwdefaults__ = {n: held.get(f"={n}", v) for n, v in (function.__kwdefaults__ or {}).items()} or None
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made
