"""What torch.fx makes of a user's module: a graph with names for what is in it, and its slices as modules.

Submodules that cannot be traced stay whole; where the module's own forward cannot be, there is no graph. Slices
share the submodules and parameters of the module that they are of, under the same names.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import operator
import sys
import types
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from headstart.backends.doors.torch import AUTOCAST
from headstart.backends.torch.chance import drawn, undrawn
from headstart.backends.torch.derivatives import in_own_derivative
from headstart.backends.torch.operations import ENDINGS, IN_PLACE, RESHAPING, function_name, spelled
from headstart.common.errors import CutError
from headstart.graph.cuts import Paths, distinct_names, ends_beside
from headstart.models.several import Entry, by_name


def sharing(module: nn.Module, buffers: bool = True) -> nn.Module:
    """A copy with the very same parameters and, if it is said so, buffers."""
    shared = [*module.parameters(), *(module.buffers() if buffers else ())]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


@dataclass(frozen=True)
class Place:
    """Where in a module a value can be looked at."""

    path: str
    """of the submodule that gives it; "": the module itself"""
    call: int
    """the how-manieth of its calls; -1: the last"""


@dataclass(frozen=True)
class Call:
    """How a module's forward is given a batch."""

    names: tuple[str, ...]
    """of a dict's arrays; (): one array"""
    by_name: bool
    """whether forward's own arguments have these names; else it takes the array, or the dict"""
    row: Entry = ()
    """which of several tensors that it gives is taken as its end, where no name tells"""

    @classmethod
    def of(cls, module: nn.Module, example: Any) -> Call:
        if not isinstance(example, dict):
            return cls((), False)
        arguments = inspect.signature(module.forward).parameters
        return cls(tuple(sorted(example)), by_name(arguments, example))

    def __call__(self, forward: Callable[..., Any], batch: Any) -> Any:
        return forward(**batch) if self.by_name else forward(batch)


@dataclass(frozen=True)
class Activation:
    """What makes probabilities of logits at a module's end."""

    name: str
    """as `headstart.models.endings` has it"""
    node: fx.Node


TRACED = "headstart_traced"


def is_changed(module: nn.Module) -> bool:
    """Whether its call does more than the forward of its class."""
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return bool(changed) or type(module).__call__ is not nn.Module.__call__


def _calling(kind: type, call: Call) -> type:
    """The same kind of module, with a function to trace that calls it as its user does."""
    scope: dict[str, Any] = {}
    parameters = list(call.names) if call.by_name else ["given"]
    passed = [f"{name}={name}" for name in parameters] if call.by_name else parameters
    exec(f"def {TRACED}(self, {', '.join(parameters)}):\n    return self({', '.join(passed)})", scope)
    return type(kind)(kind.__name__, (kind,), {TRACED: scope[TRACED], "__module__": kind.__module__})


def writes(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node of a graph of this module changes the first thing that it takes."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = function_name(node)
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or node.target in IN_PLACE or node.kwargs.get("inplace") is True


class Untraceable(Exception):  # noqa: N818 - it is always caught
    """A trace would not hold what the code does."""


UNGRADED = "headstart_ungraded"
"""in a node's meta: it was made under torch.no_grad(), of which a trace knows nothing"""


class Tracer(fx.Tracer):
    """Symbolic tracing that leaves whole what it cannot trace, and remembers where a value was made."""

    def __init__(self, draws: bool = False, whole: Collection[str] = ()) -> None:
        """`draws`: the code is known to draw random numbers by itself, which a trace would take for constants; so
        whatever module does it is left whole. `whole`: submodules that are left whole in any case."""
        super().__init__()
        self.draws, self.whole = draws, whole
        self.drew = False
        """whether any were drawn, apart from those in modules that are left whole"""
        self.proxy_buffer_attributes = True
        self.paths: list[str] = []
        self.made_in: dict[fx.Node, str] = {}
        self.places: dict[fx.Node, tuple[str, str, str, int]] = {}
        """node -> the submodule and the operation, and the line of code that asked for it"""
        self.results: dict[str, fx.Node] = {}
        """submodule -> what its last call gave"""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        if not path:  # the module itself, which is called where its call does more than its class's forward
            return False
        # A batch norm of any kind changes its buffers as it runs, which a trace would leave out.
        return path in self.whole or isinstance(module, _BatchNorm) or super().is_leaf_module(module, path)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if any(torch.is_autocast_enabled(device) for device in AUTOCAST):
            raise Untraceable("a trace does not hold autocast")
        if in_own_derivative():
            raise Untraceable("a trace does not hold derivatives that code gives itself")
        node = super().create_node(*args, **kwargs)
        if not torch.is_grad_enabled():
            node.meta[UNGRADED] = True
        self.made_in[node] = self.paths[-1] if self.paths else ""
        self.places[node] = (self.made_in[node], f"{node.op} {node.target}", *_line())
        return node

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            path = self.path_of_module(module)
        except NameError:
            if not isinstance(module, nn.Sequential):
                raise
            return forward(*args, **kwargs)  # made as the code ran, as `layers[:-1]` is: what it holds is known
        before = len(self.graph.nodes)
        running = list(self.module_stack.items())
        self.paths.append(path)
        try:
            with contextlib.ExitStack() as stack:
                if self.draws:
                    stack.enter_context(undrawn(1))
                    random = drawn(module)
                value = super().call_module(module, forward, args, kwargs)
                if self.draws and path and drawn(module) != random:
                    raise Untraceable("a trace takes what is drawn for a constant")
        except Exception:
            if not path or self.is_leaf_module(module, path):
                raise
            # fx leaves there what raised, and would then refuse all modules around it
            self.module_stack.clear()
            self.module_stack.update(running)
            for node in reversed(list(self.graph.nodes)[before:]):
                if node.op != "get_attr":  # which fx keeps for whoever takes the same parameter next
                    self.graph.erase_node(node)
            value = self.create_proxy("call_module", path, args, kwargs)
        finally:
            self.paths.pop()
        if path and isinstance(value, fx.Proxy):
            self.results[path] = value.node
        return value


def _line() -> tuple[str, int]:
    """Where the code stands that is being traced: the nearest that is neither torch's nor ours."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("torch.", "headstart.")):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


class Traced:
    """A traced module: its graph, and names for what is in it."""

    def __init__(self, tracer: Tracer, graph: fx.Graph, call: Call) -> None:
        self.tracer, self.graph = tracer, graph
        self.inputs = [n for n in graph.nodes if n.op == "placeholder" and _wanted(n, call)]
        if call.by_name:
            self.inputs.sort(key=lambda node: node.target)
        else:
            self.inputs = self.inputs[:1]
        self.output = next(node for node in graph.nodes if node.op == "output")
        entries = _entries(self.output.args[0])
        self.beside: Set[str] = frozenset()
        """the names under which it gives other things than the logits, as transformers' classifiers do"""
        self.scores = False
        """whether it calls logits what it gives"""
        if call.row:
            entries = _entry(entries, call.row)
        elif isinstance(entries, dict) and isinstance(logits := entries.get("logits"), fx.Node):
            self.beside, entries, self.scores = entries.keys() - {"logits"}, logits, True
        self.output.args = (entries,)
        self.names = self._named()
        self.nodes = {name: node for node, name in self.names.items()}

    @classmethod
    def of(
        cls, source: nn.Module, call: Call, training: bool = False, whole: Collection[str] = ()
    ) -> Traced | None:
        """None where the module's own forward cannot be traced: it looks at values, it sets autocast, in training
        it draws numbers that a trace would take for constants, or is itself among what is to be left `whole`."""
        if "" in whole:
            return None
        with undrawn(1):
            tracer = Tracer(whole=whole)
            traced = cls._of(source, call, training, tracer)
            # In inference it can have no bearing, or a comparison with the module itself will show it.
            if training and tracer.drew:
                tracer = Tracer(draws=True, whole=whole)
                traced = cls._of(source, call, training, tracer)
                return None if tracer.drew else traced
            return traced

    @classmethod
    def _of(cls, source: nn.Module, call: Call, training: bool, tracer: Tracer) -> Traced | None:
        # Traced with the same parameters but other buffers and attributes: forward may write to them.
        shell = sharing(source, buffers=False).train(training)
        arguments = list(inspect.signature(shell.forward).parameters.values())
        fixed = {}
        for place, argument in enumerate(arguments):
            given = argument.name in call.names if call.by_name else place == 0
            if not given and argument.default is not argument.empty:
                fixed[argument.name] = argument.default
        if is_changed(shell):
            fixed = {}
            shell.__class__ = _calling(type(shell), call)
            tracer.traced_func_name = TRACED
        try:
            with warnings.catch_warnings(action="ignore"):  # of arguments that are fixed to their defaults
                random = drawn(shell)
                graph = tracer.trace(shell, fixed or None)
                tracer.drew = drawn(shell) != random
        except Exception:  # whatever a proxy may raise in the user's code
            return None
        for node in graph.nodes:  # tensors that forward made, which hang on the copy
            if node.op == "get_attr" and not _has(source, str(node.target)):
                constant, node.target = attribute(shell, str(node.target)), f"{node.target}_{training}"
                setattr(source, node.target, constant)
        traced = cls(tracer, graph, call)
        return traced if traced.inputs else None

    def _named(self) -> dict[fx.Node, str]:
        """Every node that depends on the input, with a name: of the submodule, or of the operation in it, and a
        number from its second occurrence on. What a submodule is called means the submodule, also beside an
        operation of that name."""
        found: dict[fx.Node, str] = {}
        for node in self.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if any(given in found or given in self.inputs for given in node.all_input_nodes):
                found[node] = str(node.target) if node.op == "call_module" else self._called(node)
        order = sorted(found, key=lambda node: node.op != "call_module")
        whole = {str(node.target) for node in order if node.op == "call_module"}
        names = distinct_names([found[node] for node in order], self.tracer.results.keys() - whole)
        named = dict(zip(order, names, strict=True))
        return {node: named[node] for node in found}

    def _called(self, node: fx.Node) -> str:
        """A name for an operation: of the submodule that it was done in, and its own."""
        path = self.tracer.made_in[node]
        what = (spelled(node) or "call").strip("_")
        return f"{path}.{what}" if path else what

    @property
    def paths(self) -> Paths:
        """For the question where it may be cut."""
        first, last = ends_beside(self.names.values())
        taken = {first: ()} | {name: self._taken(node, first) for node, name in self.names.items()}
        given = self._taken(self.output, first)
        if self.result is None:
            taken[last] = given
        aliases = {node.name: name for node, name in self.names.items()}
        aliases |= {path: self.names[node] for path, node in self.tracer.results.items() if node in self.names}
        return Paths(
            taken,
            last if self.result is None else given[0],
            {alias: name for alias, name in aliases.items() if alias not in taken},
        )

    def place(self, cut: str) -> Place | None:
        """Where the value of a cut can be looked at in the module itself; None for an operation in between."""
        node = self.nodes[cut]
        if node.op == "call_module":
            calls = [n for n in self.graph.nodes if n.op == "call_module" and n.target == node.target]
            return Place(str(node.target), calls.index(node))
        paths = [path for path, result in self.tracer.results.items() if result is node]
        return Place(paths[0], -1) if paths else None

    def _taken(self, node: fx.Node, first: str) -> tuple[str, ...]:
        """The names of what a node takes. `first`: what the input is called."""
        found = [first if n in self.inputs else self.names.get(n) for n in node.all_input_nodes]
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def add(self, name: str, function: Callable[..., Any], nodes: Sequence[fx.Node], *arguments: Any) -> None:
        """Put in a node that gives what the function makes of what others give; by that name it may be cut at."""
        order = list(self.graph.nodes)
        with self.graph.inserting_after(max(nodes, key=order.index)):
            node = self.graph.call_function(function, (list(nodes), *arguments))
        self.names[node], self.nodes[name] = name, node
        self.tracer.places[node] = ("", name, "", 0)

    def activation(self, stop: fx.Node) -> Activation | None:
        """What makes probabilities of logits at the end, behind which only the shape changes; None: nothing."""
        node: fx.Node | None = stop
        while node is not None:
            operation = self._operation(node)
            if operation in ENDINGS:
                return Activation(ENDINGS[operation], node)
            if operation not in RESHAPING:
                return None
            node = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        return None

    def _operation(self, node: fx.Node) -> str:
        """A name for what a node does; "" where it is no operation of torch's own."""
        if node.op == "call_module":
            module = self.tracer.root.get_submodule(str(node.target))
            own = type(module).__module__.startswith("torch.nn.modules")
            return type(module).__name__ if own and not is_changed(module) else ""
        return function_name(node)

    def slice(self, start: fx.Node | None, stop: fx.Node, activation: Activation | None = None) -> fx.Graph:
        """What computes `stop`, from the inputs or from `start`; without `activation`, where there is one."""
        needed = self.needed(stop, start)
        if start is not None and (missed := [n for n in self.inputs if n in needed]):
            raise CutError(f"{self.names[stop]!r} takes {missed[0]} directly, past the cut")
        graph = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}
        for node in self.inputs if start is None else [start]:
            made[node] = graph.placeholder(node.name)
        for node in self.graph.nodes:
            if node in needed and node not in made:
                if node.op == "placeholder":
                    raise CutError(f"{self.names[stop]!r} takes {node}, which the example does not hold")
                if activation is not None and node is activation.node:
                    made[node] = made[node.all_input_nodes[0]]
                else:
                    made[node] = graph.node_copy(node, lambda n: made[n])
        graph.output(made[stop])
        return graph

    def needed(self, stop: fx.Node, start: fx.Node | None = None) -> set[fx.Node]:
        """What `stop` is computed from, until `start`: also what is written to such a value on the way, of which
        nothing else may be taken."""
        order = list(self.graph.nodes)
        upto = order[: order.index(stop) + 1]
        writing = [node for node in upto if node is not start and writes(self.tracer.root, node)]
        needed, before = {stop}, 0
        while len(needed) != before:
            before = len(needed)
            for node in reversed(upto):
                if node in needed and node is not start:
                    needed.update(node.all_input_nodes)
            needed.update(node for node in writing if node.all_input_nodes and node.all_input_nodes[0] in needed)
        return needed

    @property
    def result(self) -> fx.Node | None:
        """The node with the output, where the output is one tensor."""
        (result,) = self.output.args
        return result if isinstance(result, fx.Node) else None


def _entries(given: Any) -> Any:
    """What a module gives by names, as a dict: fx makes calls of dataclasses and of named tuples."""
    kind: Any = given.target if isinstance(given, fx.Node) and given.op == "call_function" else None
    if dataclasses.is_dataclass(kind):
        return dict(given.kwargs)
    return dict(zip(kind._fields, given.args, strict=True)) if hasattr(kind, "_fields") else given


def _entry(given: Any, row: Entry) -> Any:
    """What stands there in what a module gives; all of it where a submodule gives it that was left whole."""
    value = given
    try:
        for key in row:
            value = _entries(value)[key]
    except (KeyError, IndexError, TypeError):
        return given
    return value if isinstance(value, fx.Node) else given


def _wanted(node: fx.Node, call: Call) -> bool:
    return not str(node.target).startswith("*") and (not call.by_name or node.target in call.names)


class Known:
    """A graph that copies of a part share: nobody changes it."""

    __slots__ = ("graph",)

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph

    def __deepcopy__(self, memo: Any) -> Known:
        return self


class Part(nn.Module):
    """A slice of a traced module. It runs one graph in inference, and in training the one that was traced in
    training mode, on the same submodules and parameters."""

    def __init__(self, source: nn.Module, graphs: Mapping[bool, fx.Graph], names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        nodes = [node for graph in graphs.values() for node in graph.nodes]
        targets = {str(node.target) for node in nodes if node.op in ("call_module", "get_attr")}
        for target in sorted(targets, key=lambda path: (path.count("."), path)):
            _graft(source, self, target.split("."))
        self.run = {training: _compiled(graph) for training, graph in graphs.items()}
        self.known = Known(graphs[False])

    def forward(self, x: Any) -> Any:
        batch = tuple(x[name] for name in self.names) if self.names else (x,)
        return self.run[self.training and True in self.run](self, *batch)


def _graft(source: nn.Module, target: nn.Module, path: Sequence[str]) -> None:
    """Give `target` what `source` has at `path`, the very object."""
    first, *rest = path
    value = getattr(source, first)
    if rest:
        if first not in target._modules:
            target.add_module(first, nn.Module())
        if target._modules[first] is not value:
            _graft(value, target._modules[first], rest)
    elif isinstance(value, nn.Module):
        target.add_module(first, value)
    elif isinstance(value, nn.Parameter):
        target.register_parameter(first, value)
    elif isinstance(value, torch.Tensor):
        target.register_buffer(first, value)
    else:
        setattr(target, first, value)


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = _with_grad_modes(graph).python_code("self")
    scope: dict[str, Any] = dict(code.globals)
    exec(code.src, scope)
    return scope["forward"]


def _with_grad_modes(graph: fx.Graph) -> fx.Graph:
    """The graph, in which no gradient goes through what was made under torch.no_grad()."""
    if not any(node.meta.get(UNGRADED) for node in graph.nodes):
        return graph
    made: dict[fx.Node, fx.Node] = {}
    changed = fx.Graph()
    for node in graph.nodes:
        made[node] = changed.node_copy(node, lambda n: made[n])
        if node.meta.get(UNGRADED) and node.op.startswith("call_"):
            made[node] = changed.call_function(detached, (made[node],))
    return changed


def detached(value: Any) -> Any:
    """Tensors, in whatever holds them, without a gradient."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, value)


def attribute(module: nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(module)


def _has(module: nn.Module, path: str) -> bool:
    try:
        attribute(module, path)
    except AttributeError:
        return False
    return True
