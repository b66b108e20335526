"""The graph of a part of a user's module in which calls of `fused` take the place of convolutions and of what is
behind them.

Invariant: in inference it computes what the part does, within rounding, on inputs of the shape it was made for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.backends.torch.convolutions import CONVOLUTION, affine, folded, found_in, layer_of, rounded
from headstart.backends.torch.fused import ACTIVATIONS, tried_call
from headstart.backends.torch.trace import Part, attribute, is_changed, writes
from headstart.graph import Node
from headstart.graph.fuse import Step

MODULES: Mapping[type, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Hardswish: "hard_swish",
}
FUNCTIONS: Mapping[Any, str] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), "relu"),
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hard_swish",
    **dict.fromkeys((torch.sigmoid, F.sigmoid), "sigmoid"),
}
METHODS: Mapping[str, str] = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid"}
SUMS = (operator.add, operator.iadd, torch.add)
SUM_METHODS = ("add", "add_")
BEHIND_SUM = ("relu",)
LOOKING = (torch._assert, operator.eq, getattr)
"""what looks at a value and makes nothing of it"""
NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class Woven:
    """The graph of a part in which calls take the place of convolutions and of what is behind them."""

    def __init__(self, part: Part, few: torch.Tensor, dtype: torch.dtype) -> None:
        """`few`: what the part is given. `dtype`: of the convolutions."""
        self.dtype = dtype
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(part.known.graph, {}))
        self.module = fx.GraphModule(part, self.graph)
        self._open_norms()
        self._drop_identities()
        ShapeProp(self.module).propagate(few)
        self.constants = _constants(self.module)
        self.largest = max((_numbers(node) for node in self.graph.nodes), default=0)
        self.order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.made: set[fx.Node] = set()
        for node in list(self.graph.nodes):
            if (layer := self._convolution(node)) is not None:
                self._weave(node, layer)
        if not self.made:
            raise TypeError("a part has no convolution")
        self.module.recompile()

    def _open_norms(self) -> None:
        """Norms of other makes than torch's may have an activation in them (timm's have): their own graphs take
        the places of their calls."""
        for node in list(self.graph.nodes):
            layer = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
            own = isinstance(layer, _BatchNorm) and not _is_torchs(layer) and not is_changed(layer)
            if own and len(node.args) == 1:
                _inline(self.module, node, layer)

    def _drop_identities(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
                layer = self.module.get_submodule(str(node.target))
                if type(layer) in (nn.Identity, nn.Dropout, nn.Dropout2d) and not is_changed(layer):
                    node.replace_all_uses_with(node.args[0])
                    self.graph.erase_node(node)

    def _weave(self, node: fx.Node, layer: nn.Conv2d) -> None:
        """Have one call compute a convolution and what is behind it, as far as nothing else looks at what is
        between."""
        path, at = [node], node
        while (after := _only_user(path[-1])) is not None and (norm := self._norm(after)) is not None:
            layer = folded(layer, *norm)
            path.append(after)
        other = None
        if after is not None and (other := self._summand(after, path[-1])) is not None:
            if self._is_written(node.args[0], node, after):
                other = None
            else:
                path.append(after)
                at, after = after, _only_user(after)
        activation = None if after is None else self._activation(after)
        if after is not None and activation in (ACTIVATIONS if other is None else BEHIND_SUM):
            path.append(after)
        else:
            activation = None
        name = f"headstart_call_{len(self.made)}"
        in_place = other is not None and self._is_free(other, at)
        step = Step(
            Node(name, "relu", ("x",)), ("x",), name, None if other is None else "y", activation, (), in_place
        )
        self.module.add_submodule(
            name, _Call(tried_call(step, rounded(layer, self.dtype), self.dtype), self.dtype)
        )
        # What stands alone is computed where the convolution was, of what was there; a sum where both are there.
        with self.graph.inserting_before(at):
            made = self.graph.call_module(name, (node.args[0],) if other is None else (node.args[0], other))
        made.meta.update(path[-1].meta)
        self.made.add(made)
        self.order[made] = self.order[at]
        path[-1].replace_all_uses_with(made)
        for replaced in reversed(path):
            self.graph.erase_node(replaced)

    def _is_written(self, value: Any, start: fx.Node, stop: fx.Node) -> bool:
        """Whether what stands between changes the value."""
        node = start.next
        while node is not stop:
            if value in node.all_input_nodes[:1] and writes(self.module, node):
                return True
            node = node.next
        return False

    def _is_free(self, value: fx.Node, at: fx.Node) -> bool:
        """Whether a sum may be written over the value: a call of ours has made it, and who else took it is done
        and has made something of its own of it."""
        others = [user for user in value.users if user is not at]
        return value in self.made and all(
            user in self.made and self.order[user] < self.order[at] for user in others
        )

    def _convolution(self, node: fx.Node) -> nn.Conv2d | None:
        """A layer of its own for a convolution of maps."""
        taken = node.args[0] if node.args else None
        shape = _shape(taken) if isinstance(taken, fx.Node) else None
        if shape is None or len(shape) != 4 or _dtype(node) != self.dtype:
            return None
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            if not isinstance(layer, nn.Conv2d) or len(node.args) != 1 or node.kwargs:
                return None
            return found_in(layer, shape)
        if node.op != "call_function" or node.target is not F.conv2d:
            return None
        given = dict(zip(CONVOLUTION, node.args, strict=False)) | dict(node.kwargs)
        weight, bias = (self.constants.get(given.get(name)) for name in ("weight", "bias"))
        if weight is None or (bias is None and given.get("bias") is not None):
            return None
        numbers = {name: given[name] for name in CONVOLUTION[3:] if name in given}
        return None if _holds_nodes(numbers) else layer_of(weight, bias, **numbers)

    def _norm(self, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor] | None:
        """By what a batch norm multiplies each channel, and what it adds."""
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            if not _is_torchs(layer) or layer.training:
                return None
            return affine(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)
        if node.op != "call_function" or node.target is not F.batch_norm:
            return None
        given = dict(zip(NORM, node.args, strict=False)) | dict(node.kwargs)
        if given.get("training", False) is not False or _holds_nodes(given.get("eps", 1e-5)):
            return None
        found = [self.constants.get(given.get(name)) for name in NORM[1:5]]
        if any(
            value is None and given.get(name) is not None for name, value in zip(NORM[1:5], found, strict=True)
        ):
            return None
        mean, variance, weight, bias = found
        return affine(mean, variance, weight, bias, given.get("eps", 1e-5))

    def _summand(self, node: fx.Node, one: fx.Node) -> fx.Node | None:
        """What a node adds to `one`, of the same shape."""
        by_function = node.op == "call_function" and node.target in SUMS
        by_method = node.op == "call_method" and node.target in SUM_METHODS
        if not (by_function or by_method) or len(node.args) != 2 or node.kwargs:
            return None
        first, second = node.args
        other = second if first is one else first
        if not isinstance(other, fx.Node) or other is one:
            return None
        if (_shape(other), _dtype(other)) != (_shape(one), _dtype(one)):  # a sum in float32 stays one
            return None
        # what is added to in place may be looked at again
        return None if first is other and writes(self.module, node) and len(other.users) > 1 else other

    def _activation(self, node: fx.Node) -> str | None:
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            if type(layer) is nn.GELU and layer.approximate == "none" and not is_changed(layer):
                return "gelu"
            return None if is_changed(layer) else MODULES.get(type(layer))
        if len(node.args) != 1 or set(node.kwargs) - {"inplace"}:
            return None
        if node.op == "call_method":
            return METHODS.get(str(node.target))
        return "gelu" if node.target is F.gelu else FUNCTIONS.get(node.target)


def _is_torchs(layer: Any) -> bool:
    """Whether it is a norm that runs as torch's does, also one that is derived from it."""
    same = isinstance(layer, nn.BatchNorm2d) and type(layer).forward is nn.BatchNorm2d.forward
    return same and not is_changed(layer)


def _constants(module: fx.GraphModule) -> dict[Any, torch.Tensor]:
    """Tensors that are the same in every run: parameters, buffers, and what is computed of them alone."""
    found: dict[Any, torch.Tensor] = {}
    for node in module.graph.nodes:
        value: Any = None
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
        elif node.all_input_nodes and found.keys() >= {*node.all_input_nodes} and not writes(module, node):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda known: found[known])
            if node.op == "call_function":
                value = node.target(*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(args[0], node.target)(*args[1:], **kwargs)
        if isinstance(value, torch.Tensor):
            found[node] = value
    return found


class _Call(nn.Module):
    """A call as a module of the graph."""

    def __init__(self, call: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.call, self.dtype = call, dtype

    def forward(self, x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        return self.call(x.to(self.dtype, memory_format=torch.channels_last), *other)


def _inline(module: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Put the graph of a layer in the place of its call; nothing where it has none."""
    tracer = fx.Tracer()
    tracer.proxy_buffer_attributes = True
    try:
        inner = tracer.trace(layer)
    except Exception:  # whatever a proxy may raise in the layer's code
        return
    made: dict[fx.Node, fx.Node] = {}
    with module.graph.inserting_before(node):
        for part in inner.nodes:
            if part.op == "placeholder":
                made[part] = node.args[0]
            elif part.op == "output":
                node.replace_all_uses_with(made[part.args[0]])
            else:
                made[part] = module.graph.node_copy(part, lambda n: made[n])
                if part.op in ("call_module", "get_attr"):
                    made[part].target = f"{node.target}.{part.target}"
    module.graph.erase_node(node)
    for part in reversed(inner.nodes):  # what is asked of shapes has been answered
        copy = made.get(part)
        if part.op == "call_function" and copy is not None and not copy.users and part.target in LOOKING:
            module.graph.erase_node(copy)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _dtype(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta.get("tensor_meta"), "dtype", None)


def _numbers(node: fx.Node) -> int:
    """Of one sample in what a node gives."""
    shape = _shape(node)
    return math.prod(shape[1:]) if shape else 0


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _holds_nodes(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return bool(found)
