"""A user's torch.nn.Module as parts of a graph.

torch.fx traces it where it can: submodules that cannot be traced stay whole, and any value that all of the rest
passes through is a cut. Where the module's own forward cannot be traced, it is run as it is and stopped at a
submodule.

Invariants: the module is copied and never touched; a part computes what the module computes, in the order and
memory layout that it has there; parameters keep their names.
"""

from __future__ import annotations

import copy
import itertools
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from headstart.backend import Wrapping, WrapRequest
from headstart.backends.torch.arrays import exact_numpy, from_native, to_native, to_numpy
from headstart.backends.torch.original import Original
from headstart.backends.torch.trace import INPUT, OUTPUT, Call, Part, Place, Traced, attribute, sharing
from headstart.data import Arrays, Preprocess
from headstart.data.rows import each
from headstart.errors import CutError, SettingError
from headstart.graph import NativePart
from headstart.graph.cuts import Paths, listed
from headstart.models.structure import Teller, UnknownStructure, array_digest, digest

LIBRARIES = ("torch", "_operator")
# what nn.Module keeps for itself, none of which says what a module computes
INTERNAL = frozenset(vars(nn.Module())) | {"forward"}


def owns(native: Any) -> bool:
    return isinstance(native, nn.Module)


def inputs(native: nn.Module) -> Preprocess | None:
    """What timm says of its models."""
    settings = getattr(native, "pretrained_cfg", None)
    if not isinstance(settings, Mapping) or "input_size" not in settings:
        return None
    channels, height, width = settings["input_size"]
    crop_mode = settings.get("crop_mode") or "center"
    if channels != 3 or height != width or crop_mode != "center":
        raise SettingError(
            f"the module's pretrained_cfg asks for images of {height} x {width} x {channels} with crop_mode "
            f"{crop_mode!r}, which headstart does not make; pass preprocess="
        )
    resize = math.floor(height / (settings.get("crop_pct") or 1.0))
    interpolation = settings.get("interpolation") or "bilinear"
    return Preprocess(height, max(height, resize), interpolation, settings["mean"], settings["std"])


def wrap(request: WrapRequest) -> Wrapping:
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; a torch module holds its parameters itself")
    memo: dict[int, Any] = {}
    source = copied(request.native, memo)
    call = Call.of(source, request.example)
    original = Original(request.native, Call.of(request.native, request.example), memo)
    traced = Traced.of(source, call)
    place: Place | None
    if request.cut is None and not request.rest:
        wrapping = _whole(request, source, call, traced)
        place = Place("", -1)
    elif traced is None:
        wrapping = _stopped(request, source, call)
        place = Place(wrapping.cut, 0)
    else:
        wrapping = _split(request, source, call, traced)
        place = traced.place(wrapping.cut)
    return replace(wrapping, witness=original.witness(place, _as_core))


def _as_core(value: Any) -> torch.Tensor | None:
    """What a module gives, as the tensor that a part with the same end gives; None where there is none."""
    return value if isinstance(value, torch.Tensor) and value.ndim > 1 else None


def copied(native: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy on the CPU, in inference mode, all of whose parameters may be trained. `memo` is filled with the
    copies, by the ids of what they are copies of."""
    memo = {} if memo is None else memo
    # what a weight is computed from before every run, as weight_norm does it, hangs on its graph
    attributes = (value for module in native.modules() for value in vars(module).values())
    derived = (value for value in attributes if isinstance(value, torch.Tensor) and not value.is_leaf)
    for tensor in (*native.parameters(), *native.buffers(), *derived):
        if id(tensor) not in memo:
            own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            trained = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(own, own.is_floating_point()) if trained else own
    return copy.deepcopy(native, memo).eval()


def _by_name(self: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
    return type(self).forward(self, **batch)


# ---- stopping


class Stop(Exception):  # noqa: N818 - it carries a value, and is always caught
    def __init__(self, value: Any) -> None:
        self.value = value


def _raise(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    raise Stop(type(self).forward(self, *args, **kwargs))


def _until_stop(self: nn.Module, batch: Any) -> Any:
    try:
        type(self).forward(self, batch)
    except Stop as stop:
        return stop.value
    raise SettingError("the module ended without coming to its cut; it must come there with every input")


def _until_stop_by_name(self: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
    try:
        type(self).forward(self, **batch)
    except Stop as stop:
        return stop.value
    raise SettingError("the module ended without coming to its cut; it must come there with every input")


def _stopped(request: WrapRequest, source: nn.Module, call: Call) -> Wrapping:
    """A trunk that runs the module itself, and stops at a submodule."""
    kind = type(source).__name__
    if request.rest:
        raise CutError(
            f"torch.fx cannot trace {kind}, so the rest behind a cut cannot be had; pass head='linear', a list of "
            "hidden widths such as [256], or a module"
        )
    assert request.cut is not None
    submodules = {name: module for name, module in source.named_modules() if name}
    pristine = sharing(source)
    ran, entered = _watched(source, call, request.example, request.cut, submodules)
    if request.cut not in ran:
        if request.cut in submodules:
            raise CutError(f"{request.cut!r} is not called when {kind} runs; called are {listed(ran)}")
        chain = {name: (before,) for before, name in itertools.pairwise((INPUT, *ran, OUTPUT))}
        Paths({INPUT: (), **chain}, OUTPUT).check(request.cut)
    stop = submodules[request.cut]
    stop.forward = types.MethodType(_raise, stop)
    source.forward = types.MethodType(_until_stop_by_name if call.by_name else _until_stop, source)
    _prune(source, request, ran[: ran.index(request.cut) + 1], entered)
    structure, reason = _told(source, lambda teller: [request.cut, call.by_name, teller.value(source)])
    part = _part(request, request.example, source, structure, pristine)
    return Wrapping(request.cut, request.cut, part, _params(source, source), reason=reason)


def _watched(
    source: nn.Module, call: Call, example: Any, cut: str, submodules: Mapping[str, nn.Module]
) -> tuple[list[str], set[str]]:
    """The submodules in the order in which they finish, and those that are running when `cut` finishes."""
    ran: list[str] = []
    running: list[str] = []
    entered: set[str] = set()

    def before(name: str) -> Any:
        return lambda *_: running.append(name)

    def after(name: str) -> Any:
        def note(*_: Any) -> None:
            running.remove(name)
            if name not in ran:
                ran.append(name)
            if name == cut:
                entered.update(running)

        return note

    handles = [m.register_forward_pre_hook(before(name)) for name, m in submodules.items()]
    handles += [m.register_forward_hook(after(name)) for name, m in submodules.items()]
    try:
        with torch.no_grad():
            call(source, _batch(example))
    finally:
        for handle in handles:
            handle.remove()
    return ran, entered


def _prune(source: nn.Module, request: WrapRequest, ran: Collection[str], entered: Collection[str]) -> None:
    """Take away the submodules that the cut comes before. What is never called may yet be used, as the projection
    inside of nn.MultiheadAttention is: the gradient shows it."""
    parameters = dict(source.named_parameters())
    with torch.enable_grad():
        value = source(_batch(request.example))
        used: set[str] = set()
        if isinstance(value, torch.Tensor) and value.requires_grad:
            trained = {name: p for name, p in parameters.items() if p.requires_grad}
            gradients = torch.autograd.grad(value.sum(), list(trained.values()), allow_unused=True)
            used = {name for name, g in zip(trained, gradients, strict=True) if g is not None}
    kept = {*ran, *entered}

    def needed(name: str) -> bool:
        inside = any(name == one or name.startswith(f"{one}.") for one in ran)
        around = any(one == name or one.startswith(f"{name}.") for one in kept)
        return inside or around or any(p.startswith(f"{name}.") for p in used)

    for name in [name for name, _ in source.named_modules() if name and not needed(name)]:
        parent, _, last = name.rpartition(".")
        source.get_submodule(parent)._modules[last] = nn.Identity()


# ---- making parts


def _whole(request: WrapRequest, source: nn.Module, call: Call, traced: Traced | None) -> Wrapping:
    """All of the module as the trunk, run as it is."""
    pristine = sharing(source)

    def tell(teller: Teller) -> Any:
        if traced is not None and traced.result is not None:
            return _describe(teller, source, traced.slice(None, traced.result))
        return [call.by_name, teller.value(source)]

    structure, reason = _told(source, tell)
    if call.by_name:
        source.forward = types.MethodType(_by_name, source)
    part = _part(request, request.example, source, structure, pristine)
    return Wrapping("its end", "its end", part, _params(source, source), reason=reason)


def _split(request: WrapRequest, source: nn.Module, call: Call, traced: Traced) -> Wrapping:
    """Trunk, and rest if it is wanted, from the graphs that were traced."""
    paths = traced.paths
    cut = _before_classifier(source, traced, paths) if request.cut is None else _checked(paths, request)
    node = traced.nodes[cut]
    learning = Traced.of(source, call, training=True)
    trunk_graphs = {False: traced.slice(None, node)}
    head_graphs = {}
    if request.rest:
        if traced.result is None:
            raise SettingError(
                f"{type(source).__name__} does not give one tensor, so its rest is no head; head='linear' makes a "
                "fresh classifier behind the cut"
            )
        head_graphs[False] = traced.slice(node, traced.result)
    if learning is not None and cut in learning.nodes:
        there = learning.nodes[cut]
        try:
            trunk_graphs[True] = learning.slice(None, there)
            if request.rest and learning.result is not None:
                head_graphs[True] = learning.slice(there, learning.result)
        except CutError:  # in training it goes other ways, which are not followed
            trunk_graphs.pop(True, None)
    trunk = Part(source, trunk_graphs, call.names if call.by_name else ()).eval()
    structure, reason = _told(source, lambda teller: _describe(teller, source, trunk_graphs[False]))
    part = _part(request, request.example, trunk, structure, source)
    if not request.rest:
        return Wrapping(cut, cut, part, _params(trunk, source), reason=reason)
    head = Part(source, head_graphs).eval()
    _check_apart(trunk, head, cut)
    head_structure, _ = _told(source, lambda teller: _describe(teller, source, head_graphs[False]))
    features = _features(part, request.example)
    head_part = _part(request, features, head, head_structure, source)
    return Wrapping(cut, cut, part, _params(trunk, source), head_part, _params(head, source), reason)


def _checked(paths: Paths, request: WrapRequest) -> str:
    assert request.cut is not None
    if not request.rest and paths.resolve(request.cut) == paths.output and paths.output != OUTPUT:
        return paths.output
    return paths.check(request.cut)


def _before_classifier(source: nn.Module, traced: Traced, paths: Paths) -> str:
    """The last cut that has trained parameters behind it, before the dropout that may stand there."""
    parameters = dict(source.named_parameters())
    needing: set[str] = set()
    for node in traced.graph.nodes:
        own = [name for name in parameters if str(node.target) == name or name.startswith(f"{node.target}.")]
        if (node.op == "call_module" or node.op == "get_attr") and own:
            users = [node] if node.op == "call_module" else list(node.users)
            needing |= {traced.names[user] for user in users if user in traced.names}
    order = list(traced.nodes)
    last = max((order.index(name) for name in needing), default=-1)
    legal = [cut for cut in paths.cuts if order.index(cut) < last]
    if not legal:
        raise CutError(f"{type(source).__name__} has no place before its last layer where it can be cut")
    while len(legal) > 1 and _is_dropout(source, traced.nodes[legal[-1]]):
        legal.pop()
    return legal[-1]


def _is_dropout(source: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(source.get_submodule(str(node.target)), nn.modules.dropout._DropoutNd | nn.Identity)
    return "dropout" in getattr(node.target, "__name__", "")


def _check_apart(trunk: nn.Module, head: nn.Module, cut: str) -> None:
    ours = {id(p): name for name, p in trunk.named_parameters()}
    if shared := [name for name, p in head.named_parameters() if id(p) in ours]:
        raise CutError(
            f"parameter {shared[0]!r} is used on both sides of the cut {cut!r}, so it cannot be frozen on one and "
            "trained on the other; cut elsewhere"
        )


def _features(part: NativePart, example: Any) -> np.ndarray:
    """What the trunk gives for the example, as core has it."""
    return to_numpy(from_native(_run(part.native, example)).float())


def _batch(example: Any) -> Any:
    """The example as a module would get it from its user."""
    return each(lambda tensor: tensor.contiguous(), to_native(example))


def _run(module: nn.Module, example: Any) -> torch.Tensor:
    with torch.no_grad():
        value = module(_batch(example))
    if not isinstance(value, torch.Tensor):
        raise CutError(
            f"the part gives a {type(value).__name__} and not one tensor; cut it elsewhere, or wrap a module of "
            "yours that calls it and returns one tensor"
        )
    if value.ndim < 2 or len(value) != 2 or value.is_complex():
        raise CutError(
            f"the part gives {value.dtype} of shape {tuple(value.shape)} for two samples; expected real numbers, "
            "a row for each sample. Cut it elsewhere"
        )
    return value


def _part(request: WrapRequest, example: Any, module: nn.Module, structure: Any, source: nn.Module) -> NativePart:
    value = _run(module, example)
    tensors = _state(module, source)
    trained = {name for name, p in module.named_parameters() if p.is_floating_point()}
    return NativePart(
        "torch",
        module,
        Arrays.like(example).entries,
        tuple(from_native(value).shape[1:]),
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        frozenset(tensors.keys() - trained),
        structure,
        lambda seed: _initial(source, request.init, tensors.keys(), seed),
    )


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _state(module: nn.Module, source: nn.Module) -> dict[str, torch.Tensor]:
    """A part's parameters: those that the source has too, and no tensors which its code holds besides."""
    names = _tensors(source).keys()
    return {name: tensor for name, tensor in _tensors(module).items() if name in names}


def _params(module: nn.Module, source: nn.Module) -> dict[str, np.ndarray]:
    """The parameters as numpy arrays that share the module's memory; nobody writes to either."""
    found = {name: exact_numpy(tensor) for name, tensor in _state(module, source).items()}
    for array in found.values():
        array.flags.writeable = False
    return found


def build(part: NativePart) -> nn.Module:
    """A module of its own for a part, whose parameters are still to be given."""
    part.require("torch")
    return copy.deepcopy(part.native)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generators begin at `seed`, and are afterwards as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _initial(
    source: nn.Module, init: Callable[[int], Any] | None, names: Collection[str], seed: int
) -> dict[str, np.ndarray]:
    with seeded(seed):
        if init is not None:
            fresh = copied(init(seed))
        else:
            fresh = copy.deepcopy(source)
            for path in dict.fromkeys(name.rpartition(".")[0] for name in names):
                module = fresh.get_submodule(path)
                if not hasattr(module, "reset_parameters"):
                    raise SettingError(
                        f"mode 'scratch' draws every parameter anew, and {type(module).__name__} "
                        f"({path or 'the module itself'}) has no reset_parameters(); pass init= to hs.wrap, a "
                        "function from a seed to a module made anew"
                    )
                with torch.no_grad():
                    module.reset_parameters()
    found = _tensors(fresh)
    if missing := [name for name in names if name not in found]:
        raise SettingError(f"the module that init= has made lacks {', '.join(missing[:5])}")
    return {name: exact_numpy(found[name]) for name in names}


# ---- structure


def _told(source: nn.Module, tell: Callable[[Teller], Any]) -> tuple[str | None, str]:
    """A digest of what is told, or None and the reason."""
    paths = {id(tensor): name for name, tensor in _tensors(source).items()}

    def special(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return _module(teller, value)
        if isinstance(value, torch.Tensor):
            return ["parameter", paths[id(value)]] if id(value) in paths else array_digest(exact_numpy(value))
        if isinstance(value, torch.dtype | torch.device | torch.Size | torch.layout | torch.memory_format):
            return [type(value).__name__, str(value)]
        return None

    teller = Teller(LIBRARIES, special)
    try:
        return digest(tell(teller)), ""
    except UnknownStructure as error:
        return None, str(error)
    except RecursionError:
        return None, f"{type(source).__name__} refers to itself"


def _module(teller: Teller, module: nn.Module) -> Any:
    """A module that runs whole: its class, its settings, its submodules."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    settings = {name: value for name, value in vars(module).items() if name not in INTERNAL}
    return [
        "module",
        teller.code(type(module)),
        module.extra_repr(),
        teller.attributes(settings, type(module).__module__.partition(".")[0] == "torch"),
        [[name, _module(teller, child)] for name, child in module._modules.items() if child is not None],
        [teller.value(hook) for hook in hooks],
        sorted(name for name, tensor in module._parameters.items() if tensor is not None),
    ]


def _describe(teller: Teller, source: nn.Module, graph: fx.Graph) -> list[Any]:
    """A graph as JSON: what every node does, and what it takes, by number."""
    number: dict[fx.Node, int] = {}
    told = []
    state = _tensors(source)

    def argument(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ["node", number[value]]
        if isinstance(value, list | tuple):
            return ["list", *map(argument, value)]
        if isinstance(value, dict):
            return ["dict", [[key, argument(one)] for key, one in sorted(value.items())]]
        if isinstance(value, slice):
            return ["slice", *map(argument, (value.start, value.stop, value.step))]
        return teller.value(value)

    for node in graph.nodes:
        number[node] = len(number)
        if node.op == "call_module":
            target = [node.target, _module(teller, source.get_submodule(node.target))]
        elif node.op == "get_attr":
            target = [node.target if node.target in state else teller.value(attribute(source, node.target))]
        elif node.op == "call_function":
            target = [teller.value(node.target)]
        else:
            target = [node.target if node.op == "call_method" else ""]
        told.append([node.op, target, argument(node.args), argument(node.kwargs)])
    return told
