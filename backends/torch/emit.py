"""op -> torch layer. The network's parameters carry torchvision's names, so its state dict is one that
torchvision's own models load (counters of batch norms aside)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.backends.torch.arrays import from_numpy
from headstart.backends.torch.loose import carry
from headstart.backends.torch.parts import build
from headstart.common.errors import UnsupportedOpError
from headstart.data.rows import count, each
from headstart.graph import Graph, Node
from headstart.graph.ops import window_padding

Attributes = Mapping[str, Any]
Layer = Callable[..., torch.Tensor]


class Normalize(nn.Module):
    def __init__(self, scale: Sequence[float], shift: Sequence[float], reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flip(1) if self.reverse else x
        return x.float() * self.scale + self.shift


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding differs by side, which torch's own cannot have."""

    pads: tuple[int, int, int, int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.pads))


def _conv(a: Attributes) -> nn.Module:
    symmetric = _symmetric(a["padding"])
    layer = (nn.Conv2d if symmetric else PaddedConv2d)(
        a["in_channels"],
        a["out_channels"],
        a["kernel"],
        a["stride"],
        tuple(before for before, _ in a["padding"]) if symmetric else 0,
        groups=a["groups"],
        bias=a["bias"],
    )
    if not symmetric:
        layer.pads = _outside(a["padding"])
    return layer


def _symmetric(padding: Any) -> bool:
    return all(before == after for before, after in padding)


def _outside(padding: Any) -> tuple[int, int, int, int]:
    """The op table's padding in the order of `F.pad`."""
    (top, bottom), (left, right) = padding
    return left, right, top, bottom


def _max_pool(a: Attributes) -> Layer:
    kernel, stride = a["kernel"], a["stride"]
    if _symmetric(a["padding"]):
        pads = tuple(before for before, _ in a["padding"])
        return lambda x: F.max_pool2d(x, kernel, stride, pads, ceil_mode=a["ceil"])
    outside = _outside(window_padding(a))
    return lambda x: F.max_pool2d(F.pad(x, outside, value=-torch.inf), kernel, stride)


def _avg_pool(a: Attributes) -> Layer:
    kernel, stride = a["kernel"], a["stride"]
    if _symmetric(a["padding"]):
        pads = tuple(before for before, _ in a["padding"])
        reaches_out = a["ceil"] or any(pads)

        def pool_evenly(x: torch.Tensor) -> torch.Tensor:
            # torch 2.11's backward for channels-last memory on a GPU is wrong, without a word, where windows reach
            # over the edge: seen off by half on an H100. For contiguous memory it is right.
            if reaches_out and torch.is_grad_enabled() and x.device.type != "cpu":
                x = x.contiguous()
            return F.avg_pool2d(x, kernel, stride, pads, a["ceil"], a["count_padding"])

        return pool_evenly
    outside, counted = _outside(window_padding(a)), _outside(a["padding"])

    def pool(x: torch.Tensor) -> torch.Tensor:
        mask = F.pad(torch.ones_like(x[:1, :1]), counted, value=float(a["count_padding"]))
        mask = F.pad(mask, [o - c for o, c in zip(outside, counted, strict=True)])
        return F.avg_pool2d(F.pad(x, outside), kernel, stride) / F.avg_pool2d(mask, kernel, stride)

    return pool


class LastLinear(nn.Linear):
    """Over the last axis of the op table's shapes, which torch's maps have second."""

    product: Callable[..., torch.Tensor] = staticmethod(F.linear)
    """how a trainer has it computed; a module that users take away computes as torch does"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 2:
            return self.product(x, self.weight, self.bias)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if x.ndim == 4 else super().forward(x)


SMALLEST = 1e-38
"""An epsilon that changes no variance: torch refuses 0 in training, and torch 2.11 in inference too."""


class BatchNorm(nn.BatchNorm2d):
    """By channel, of maps and of vectors alike."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.ndim not in (2, 4):
            super()._check_input_dim(input)

    def _get_name(self) -> str:
        return "BatchNorm2d"


class LastNorm(nn.LayerNorm):
    """Over the last axis, as `LastLinear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if x.ndim == 4 else super().forward(x)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.weight[:, None, None] if x.ndim == 4 else self.weight)


class ClassToken(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.weight.expand(x.shape[0], 1, -1).to(x.dtype), x), 1)


class Position(nn.Module):
    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382), a sample at a time."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x.new_ones(len(x), *[1] * (x.ndim - 1))
        return x * F.dropout(kept, self.rate, self.training)


def _attention(a: Attributes) -> Layer:
    def attend(x: torch.Tensor) -> torch.Tensor:
        n, tokens, channels = x.shape
        qkv = x.view(n, tokens, 3, a["heads"], channels // (3 * a["heads"])).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(n, tokens, channels // 3)

    return attend


# layers with state: attributes -> module
MODULES: Mapping[str, Callable[[Attributes], nn.Module]] = {
    "normalize": lambda a: Normalize(a["scale"], a["shift"], a["reverse"]),
    "conv": _conv,
    "batch_norm": lambda a: BatchNorm(a["channels"], max(a["epsilon"], SMALLEST), a["momentum"]),
    "layer_norm": lambda a: LastNorm(a["channels"], a["epsilon"]),
    "linear": lambda a: LastLinear(a["in_features"], a["out_features"], a["bias"]),
    "scale": lambda a: Scale(a["channels"]),
    "class_token": lambda a: ClassToken(a["channels"]),
    "position": lambda a: Position(a["tokens"], a["channels"]),
    "dropout": lambda a: nn.Dropout(a["rate"]),
    "drop_path": lambda a: DropPath(a["rate"]),
    "native": lambda a: build(a["part"]),
}
DRAWN = ("conv", "linear")
"""those whose making draws all of their weights"""
# layers without: attributes -> function
FUNCTIONS: Mapping[str, Callable[[Attributes], Layer]] = {
    "relu": lambda a: F.relu,
    "relu6": lambda a: F.relu6,
    "silu": lambda a: F.silu,
    "sigmoid": lambda a: torch.sigmoid,
    "gelu": lambda a: F.gelu,
    "hard_swish": lambda a: F.hardswish,
    "quick_gelu": lambda a: lambda x: x * torch.sigmoid(1.702 * x),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": lambda a: lambda x: F.adaptive_avg_pool2d(x, a["size"]),
    "global_avg_pool": lambda a: lambda x: x.mean((2, 3)),
    "add": lambda a: torch.add,
    "multiply": lambda a: torch.mul,
    "concat": lambda a: lambda *xs: torch.cat(xs, 2 if xs[0].ndim == 3 else 1),
    "flatten": lambda a: lambda x: x.flatten(1),
    "tokens": lambda a: lambda x: x.flatten(2).transpose(1, 2),
    "attention": _attention,
    "first_token": lambda a: lambda x: x[:, 0],
    "mean_tokens": lambda a: lambda x: x.mean(1),
}


def _layer(node: Node) -> nn.Module:
    """The layer of a node, whose parameters are yet to be given their values. Drawing what is replaced at once
    would take longer than all else that a large layer needs. Not by `to_empty`: torch imports sympy for it."""
    if node.op not in DRAWN:
        return MODULES[node.op](node.attrs)
    with torch.device("meta"):
        layer = MODULES[node.op](node.attrs)
    return layer._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


def _is_lone(node: Node, x: Any) -> bool:
    """Whether it is a single sample, which would lose its axis."""
    return node.op == "native" and node.attrs["part"].lone and count(x) == 1


def _alone(layer: nn.Module, x: Any) -> torch.Tensor:
    return layer(each(lambda tensor: torch.cat((tensor, tensor)), x))[:1]


def _as_features(x: torch.Tensor) -> torch.Tensor:
    """What a user's module gives in another precision, as what comes behind it expects it."""
    low = x.dtype is not torch.float32 and not torch.is_autocast_enabled(x.device.type)
    return x.float() if low else x


class Network(nn.Module):
    """A graph as a torch module: `(n, c, h, w)` in, `(n, c, h, w)`, `(n, t, c)` or `(n, c)` out, uint8 or float
    as the graph's first node has it; a dict of tensors where a native part takes one. With `outputs` it returns a
    dict of those nodes instead of the output; in training, with auxiliary outputs, a tuple of the output and
    them."""

    keeps_layout = False
    """whether a user's module is given maps as they lie in memory; else as torch has them unless it is told"""

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.graph = graph
        self.outputs = tuple(outputs)
        with torch.random.fork_rng(devices=[]):  # a user's module may draw weights, which are replaced at once
            for node in graph.nodes[1:]:
                if node.op in MODULES:
                    layer = _layer(node)
                    if node.op != "native":  # a user's may rely on the layout of what it computes, as `view` does
                        layer = layer.to(memory_format=torch.channels_last)
                    self.attach(node, layer)
                elif node.op not in FUNCTIONS:
                    raise UnsupportedOpError(f"the torch backend has no layer for op {node.op!r} ({node.name!r})")
        tensors = self.tensors()
        with torch.no_grad():
            for name in graph.param_shapes():
                value = from_numpy(np.asarray(params[name]))
                assert tensors[name].shape == value.shape, name  # copy_ would repeat it
                tensors[name].copy_(value)

    def attach(self, node: Node, module: nn.Module) -> None:
        """Compute the node with this module from now on."""
        parent: nn.Module = self
        *path, name = node.name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
        parent.add_module(name, module)

    def _apply(self, change: Any, recurse: bool = True) -> Network:
        """What `to` does. A user's module may compute with tensors that it has not registered."""
        super()._apply(change, recurse)
        for node in self.graph.nodes if recurse else ():
            if node.op == "native":
                carry(self.get_submodule(node.name), change)
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, x: Any) -> Any:
        # Looked up by name, and nothing callable kept, so that the module can be pickled and copied.
        graph = self.graph if self.training or self.outputs else self.graph.main
        values = {graph.input: x}
        for node, done in graph.steps(self.outputs):
            layer = self.get_submodule(node.name) if node.op in MODULES else FUNCTIONS[node.op](node.attrs)
            given = [values[name] for name in node.inputs]
            if node.op == "native" and isinstance(given[0], torch.Tensor):
                given[0] = given[0] if self.keeps_layout and given[0].ndim == 4 else given[0].contiguous()
            value = _alone(layer, given[0]) if _is_lone(node, given[0]) else layer(*given)
            values[node.name] = _as_features(value) if node.op == "native" else value
            for name in done:
                del values[name]
        if self.outputs:
            return {name: values[name] for name in self.outputs}
        results = tuple(values[name] for name in graph.outputs)
        return results if len(results) > 1 else results[0]


def given_to(network: Network, names: Sequence[str], x: Any) -> dict[str, torch.Tensor]:
    """What these submodules take when the network runs on `x`."""
    taken: dict[str, torch.Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            # before hooks of a user's own, which may change it; a copy, since the part may write to it
            lambda _, args, name=name: taken.update({name: args[0].clone()}),
            prepend=True,
        )
        for name in names
    ]
    network(x)
    for handle in handles:
        handle.remove()
    return taken
