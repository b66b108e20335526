"""A trunk with a part of a user's module on a CPU, faster: its maps lie channels-last, as oneDNN likes them, and
where the part is known by its graph a convolution, the norm behind it, the sum behind that and the activation are
one call of `fused`, a few images at a time. What the graph holds besides is computed as it is.

Nothing is known of a user's code but its graph. So the shapes of everything are looked at on a few of the first
images, the faster form is tried on them beside the module itself, and where it fails or computes something else
the module itself goes on.

Invariant: what comes out is what the module computes, within rounding, and its parameters stay what they are.
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

from headstart.backends.torch.emit import Network
from headstart.backends.torch.fused import ACTIVATIONS, CACHE_NBYTES, LEAST_ROWS, available, tried_call
from headstart.backends.torch.trace import Part, attribute, is_changed, sharing, writes
from headstart.common.log import LOG
from headstart.contract.recipe import FLOAT32, Place
from headstart.graph import Graph, Node
from headstart.graph.fuse import Step, allowed

TRIED_ROWS = 2
NEAR = 1e-4
"""how far apart two ways to compute a network may be, as a share of its output's length"""
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
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class FusedPart:
    """Runs a network with parts of a user's module in it, which stays as it is."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._run: Callable[[Any], dict[str, torch.Tensor]] | None = None

    def __call__(self, x: Any) -> dict[str, torch.Tensor]:
        is_few = self._run is None and len(x) <= TRIED_ROWS  # of which finding a faster form takes longer
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or is_few:
            outputs: dict[str, torch.Tensor] = self.network(x)
            return outputs
        if self._run is None:
            self._run = self._chosen(x[:TRIED_ROWS])
        return self._run(x)

    def _chosen(self, few: torch.Tensor) -> Callable[[Any], dict[str, torch.Tensor]]:
        expected = self.network(few)
        for form in (_Woven, _ChannelsLast):
            try:
                faster = form(self.network, few)
                if _is_near(expected, faster(few)):
                    return faster
                reason = "it computes something else"
            except Exception as error:  # whatever a user's code may raise on another layout
                reason = f"{type(error).__name__}: {error}"
            LOG.debug("torch %s: a wrapped trunk does without %s: %s", torch.__version__, form.__name__, reason)
        return self.network


def _is_near(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> bool:
    for name, y in expected.items():
        other = found[name]
        if y.shape != other.shape or y.dtype != other.dtype or not (y.isfinite().all() and other.isfinite().all()):
            return False
        if not float((y - other).norm()) <= NEAR * float(y.norm()):
            return False
    return True


class _ChannelsLast:
    """With maps in another order in memory."""

    def __init__(self, network: Network, few: torch.Tensor) -> None:
        self.network = sharing(network)
        assert isinstance(self.network, Network)
        self.network.keeps_layout = True

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = self.network(x.contiguous(memory_format=torch.channels_last))
        return outputs


class _Woven(_ChannelsLast):
    """With fused calls as well."""

    def __init__(self, network: Network, few: torch.Tensor) -> None:
        super().__init__(network, few)
        self.woven: dict[str, Woven] = {}
        taken: dict[str, torch.Tensor] = {}
        parts = [node.name for node in network.graph.nodes if node.op == "native"]
        handles = [
            self.network.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: taken.update({name: args[0]})
            )
            for name in parts
        ]
        super().__call__(few)
        for handle in handles:
            handle.remove()
        largest = few[0].numel()
        for name in parts:
            part = self.network.get_submodule(name)
            if not isinstance(part, Part):
                raise TypeError("a part has no graph")
            self.woven[name] = woven = Woven(part, taken[name])
            part.run[False] = lambda _, *batch, run=woven.module: run(*batch)
            largest = max(largest, woven.largest)
        self._rows = max(LEAST_ROWS, CACHE_NBYTES // (4 * largest))

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        run = super().__call__
        outputs = [run(rows) for rows in x.chunk(math.ceil(len(x) / self._rows))]
        if len(outputs) == 1:
            return outputs[0]
        return {name: torch.cat([of[name] for of in outputs]) for name in outputs[0]}


class Woven:
    """The graph of a part in which calls take the place of convolutions and of what is behind them."""

    def __init__(self, part: Part, few: torch.Tensor) -> None:
        """`few`: what the part is given."""
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(part.known.graph, {}))
        self.module = fx.GraphModule(part, self.graph)
        self._open_norms()
        self._drop_identities()
        ShapeProp(self.module).propagate(few)
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
            layer = _folded(layer, *norm)
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
        self.module.add_submodule(name, _Call(tried_call(step, layer, torch.float32)))
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
        if not isinstance(taken, fx.Node) or _shape(taken) is None or len(_shape(taken) or ()) != 4:
            return None
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            plain = type(layer) is nn.Conv2d and not is_changed(layer) and len(node.args) == 1 and not node.kwargs
            if not plain or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                return None
            window = layer.stride, layer.padding, layer.dilation, layer.groups
            return _layer(layer.weight, layer.bias, *window)
        if node.op != "call_function" or node.target not in (F.conv2d, torch.conv2d):
            return None
        given = dict(zip(CONVOLUTION, node.args, strict=False)) | dict(node.kwargs)
        weight, bias = self._constant(given.get("weight")), self._constant(given.get("bias"))
        padding = given.get("padding", 0)
        if weight is None or (bias is None and given.get("bias") is not None) or isinstance(padding, str):
            return None
        numbers = [given.get("stride", 1), padding, given.get("dilation", 1), given.get("groups", 1)]
        return None if any(_holds_nodes(number) for number in numbers) else _layer(weight, bias, *numbers)

    def _constant(self, given: Any) -> torch.Tensor | None:
        if not isinstance(given, fx.Node) or given.op != "get_attr":
            return None
        value = attribute(self.module, str(given.target))
        return value if isinstance(value, torch.Tensor) else None

    def _norm(self, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor] | None:
        """By what a batch norm multiplies each channel, and what it adds."""
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            if not _is_torchs(layer) or layer.training:
                return None
            return _affine(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)
        if node.op != "call_function" or node.target is not F.batch_norm:
            return None
        given = dict(zip(NORM, node.args, strict=False)) | dict(node.kwargs)
        if given.get("training", False) is not False or _holds_nodes(given.get("eps", 1e-5)):
            return None
        found = [self._constant(given.get(name)) for name in NORM[1:5]]
        if any(
            value is None and given.get(name) is not None for name, value in zip(NORM[1:5], found, strict=True)
        ):
            return None
        mean, variance, weight, bias = found
        return _affine(mean, variance, weight, bias, given.get("eps", 1e-5))

    def _summand(self, node: fx.Node, one: fx.Node) -> fx.Node | None:
        """What a node adds to `one`, of the same shape."""
        by_function = node.op == "call_function" and node.target in SUMS
        by_method = node.op == "call_method" and node.target in SUM_METHODS
        if not (by_function or by_method) or len(node.args) != 2 or node.kwargs:
            return None
        first, second = node.args
        other = second if first is one else first
        if not isinstance(other, fx.Node) or other is one or _shape(other) != _shape(one):
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


class _Call(nn.Module):
    """A call as a module of the graph."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
        return self.call(x.contiguous(memory_format=torch.channels_last), *other)


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


def _layer(
    weight: torch.Tensor, bias: torch.Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> nn.Conv2d | None:
    if weight.dtype != torch.float32 or (bias is not None and bias.dtype != torch.float32):
        return None
    sizes = weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:])
    layer = nn.Conv2d(*sizes, stride, padding, dilation, groups, bias is not None, device="meta")
    own = weight.detach().clone(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(own, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _affine(
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if mean is None or variance is None:  # it takes those of the batch
        return None
    scale = 1 / (variance.detach().double() + eps).sqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    return scale, shift if bias is None else shift + bias.detach().double()


def _folded(layer: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> nn.Conv2d:
    bias = shift if layer.bias is None else shift + layer.bias.double() * scale
    weight = (layer.weight.double() * scale.view(-1, 1, 1, 1)).float()
    window = layer.stride, layer.padding, layer.dilation, layer.groups
    made = _layer(weight, bias.float(), *window)
    assert made is not None
    return made


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


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


def fused_parts(network: Network, place: Place) -> FusedPart | None:
    """A faster form of a network that has parts of a user's module; None where there is none."""
    graph: Graph = network.graph
    parts = [node.attrs["part"] for node in graph.nodes if node.op == "native"]
    is_plain = place.kind == "cpu" and place.arithmetic == FLOAT32 and allowed() and available(torch.float32)
    steady = not any(part.volatile for part in parts) if parts else False
    return FusedPart(network) if is_plain and steady else None
