"""What a module or a traced graph computes, told as JSON for the keys of features.

Invariant: whatever runs when the module is called is told: classes, settings, replaced functions, hooks, and the
contents of tensors and modules that are held beside the parameters.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch import registered
from headstart.backends.torch.arrays import batch_of, exact_numpy
from headstart.backends.torch.ending import OWN
from headstart.backends.torch.stopped import ByName, Reading, Stopping, Until
from headstart.backends.torch.trace import Call, Part, attribute
from headstart.backends.torch.writing import Apart
from headstart.models.hidden import array_digest
from headstart.models.lookups import Replaceable
from headstart.models.running import watched
from headstart.models.structure import Structure
from headstart.models.teller import Teller

LIBRARIES = ("torch", "_operator")
# what nn.Module keeps for itself, none of which says what a module computes
INTERNAL = frozenset(vars(nn.Module())) | {"forward"}
CHANGING = {"training", "_forward_hooks", "_forward_pre_hooks"}
"""of these, what its owner may change, and what decides what it computes"""
KINDS = torch.dtype | torch.device | torch.Size | torch.layout | torch.memory_format | torch.qscheme
OUR_HOOKS = (Apart, Reading, Stopping, *OWN)
# which of the hooks are called otherwise than they usually are
MANNERS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def told(source: nn.Module, tell: Callable[[Teller], Any]) -> tuple[Structure | None, str]:
    """A digest of what is told, or None and the reason."""
    paths = {id(tensor): name for name, tensor in tensors(source).items()}
    inside = {id(module) for module in source.modules()}
    telling: list[int] = []
    known: dict[int, int] = {}  # parameters and buffers that were told, by number

    def special(value: Any) -> Any:
        if isinstance(value, nn.Module):
            if id(value) in telling:  # a function of the module that holds it
                return ["module around", len(telling) - telling.index(id(value))]
            telling.append(id(value))
            try:
                about = _module(teller, value, known)
            finally:
                telling.pop()
            if id(value) in inside:
                return about
            # none of the module's own: no parameter of it stands in the key otherwise
            return [*about, [[name, _content(t)] for name, t in tensors(value).items()]]
        if isinstance(value, torch.Tensor):
            return ["parameter", paths[id(value)]] if id(value) in paths else _content(value)
        if isinstance(value, KINDS):
            return [type(value).__name__, str(value)]
        return registered.told(teller, value)

    teller = Teller(LIBRARIES, special, _inside, registered.is_programs, registered.finding())
    # its code calls any of them, by names that need not be in it
    teller.lookups.append(Replaceable(torch.Tensor, dir(torch.Tensor), teller.is_programs))
    return Structure.told_by(teller, tell, type(source).__name__)


def told_whole(
    source: nn.Module, call: Call, graph: fx.Graph | None, example: Any
) -> tuple[Structure | None, str]:
    """Of a module that runs as it is: by its graph, where it has one. Then of its code only that counts which the
    graph runs."""
    if graph is None:
        return told(source, lambda teller: [call.by_name, teller.value(source)])
    structure, reason = told(source, lambda teller: describe(teller, source, graph))
    if structure is not None:
        part = Part(source, {False: graph}, call.names if call.by_name else ()).eval()
        with torch.no_grad(), watched(()) as ran:
            part(batch_of(example))
        structure = structure.with_what_ran(ran)
    return structure, reason


def _content(tensor: torch.Tensor) -> list[Any]:
    if tensor.is_meta:
        return ["meta", str(tensor.dtype), list(tensor.shape)]
    return array_digest(exact_numpy(tensor))


def _inside(value: Any) -> dict[str, Any] | None:
    """What of a module or a tensor may be changed in place."""
    if isinstance(value, torch.Tensor):
        return {} if value.is_meta else {"": exact_numpy(value)}
    if not isinstance(value, nn.Module):
        return None
    settings = {
        f"{path}.{name}": setting
        for path, module in value.named_modules()
        for name, setting in vars(module).items()
        if name not in INTERNAL - CHANGING
    }
    return settings | tensors(value)


def _module(teller: Teller, module: nn.Module, known: dict[int, int]) -> Any:
    """A module that runs whole: its class, its settings, its submodules, and what was put on it from outside.
    `known`: the parameters and buffers that were told before, by number."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    hooks = [hook for hook in hooks if not isinstance(hook, OUR_HOOKS)]
    settings = {name: value for name, value in vars(module).items() if name not in INTERNAL}
    library = type(module).__module__.partition(".")[0] == "torch"
    forward = _forward(module)
    about = [
        "module",
        teller.code(type(module)),
        module.extra_repr(),
        teller.attributes(settings, library),
        [[name, teller.value(child)] for name, child in module._modules.items() if child is not None],
        [teller.value(hook) for hook in hooks],
        sorted(name for name, tensor in module._parameters.items() if tensor is not None),
    ]
    if isinstance(module, fx.GraphModule):
        about.append(["graph", describe(teller, module, module.graph)])
    held = [(name, t) for name, t in (*module._parameters.items(), *module._buffers.items()) if t is not None]
    # One that stands elsewhere, too: as all of its names but one are left out of the key's weights.
    if again := [[name, known[id(tensor)]] for name, tensor in held if id(tensor) in known]:
        about.append(["again", again])
    for _, tensor in held:
        known.setdefault(id(tensor), len(known))
    if forward is not None:
        about.append(["forward", teller.value(forward)])
    # a library's private attributes are left out, so those that were put on by whoever put on code are told here
    private = _attributes_of([*hooks, forward]) & settings.keys() if library else set()
    if private := {name for name in private if name.startswith("_")}:
        about.append(["private", teller.attributes({name: settings[name] for name in private}, False)])
    if library:
        teller.may_look_up(type(module).__name__, module, {n: v for n, v in settings.items() if n.startswith("_")})
    manners = {name: list(getattr(module, name, {}).values()) for name in MANNERS}
    if hooks and any(manners.values()):
        about.append(["manners", len(module._forward_pre_hooks), [[name, kept] for name, kept in manners.items()]])
    return about


def _forward(module: nn.Module) -> Any:
    """What was put in the place of its class's forward; None: nothing."""
    forward = vars(module).get("forward")
    while isinstance(forward, Until | ByName):
        forward = forward.forward
    return None if getattr(forward, "__func__", None) is type(module).forward else forward


def _attributes_of(functions: list[Any]) -> set[str]:
    """The names of attributes that functions may look up."""
    names: set[str] = set()
    for function in functions:
        while isinstance(function, functools.partial):
            function = function.func
        function = getattr(function, "function", getattr(function, "__func__", function))
        names.update(_names(code)) if (code := getattr(function, "__code__", None)) else None
    return names


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def describe(teller: Teller, source: nn.Module, graph: fx.Graph) -> list[Any]:
    """A graph as JSON: what every node does, and what it takes, by number."""
    number: dict[fx.Node, int] = {}
    steps = []
    state = tensors(source)
    called: dict[Any, Any] = {}

    def argument(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ["node", number[value]]
        if isinstance(value, list | tuple):
            return ["list", *map(argument, value)]
        if isinstance(value, dict):
            return ["dict", [[key, argument(entry)] for key, entry in sorted(value.items())]]
        if isinstance(value, slice):
            return ["slice", *map(argument, (value.start, value.stop, value.step))]
        return teller.value(value)

    for node in graph.nodes:
        number[node] = len(number)
        if node.op == "call_module":
            if node.target not in called:
                called[node.target] = teller.value(source.get_submodule(node.target))
            target = [node.target, called[node.target]]
        elif node.op == "get_attr":
            target = [node.target if node.target in state else teller.value(attribute(source, node.target))]
        elif node.op == "call_function":
            target = [teller.value(node.target)]
        else:
            target = [node.target if node.op == "call_method" else ""]
        steps.append([node.op, target, argument(node.args), argument(node.kwargs)])
    return steps
