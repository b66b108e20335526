"""How maps lie in memory while parts of a user's module are trained on a CPU: channels-last, as oneDNN likes them,
where the part computes the same so.

Nothing promises that: a `view` fails on that order, and code may look at strides. So each part is tried on a few
of the first rows, in inference and in training with its gradients, beside itself on the order that torch has
unless it is told; where it fails or computes something else all of the network keeps that one.

Invariant: what is learned is what the module would learn, within rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from headstart.backends.torch.arrays import to_native
from headstart.backends.torch.chance import undrawn
from headstart.backends.torch.emit import Network
from headstart.backends.torch.optimizers import FusedOptimizer
from headstart.common.log import LOG
from headstart.contract.devices import CPU
from headstart.contract.recipe import Place
from headstart.data.rows import count, window
from headstart.graph.fuse import allowed

ROWS = 2
NEAR_INFERENCE, NEAR_TRAINING, NEAR_DERIVATIVES = 1e-4, 1e-2, 0.3
"""how far apart numbers may be, as a share of their length. Batch norms of so few rows make much of rounding: the
derivatives of a layer of a DenseNet or an Inception are off by a twelfth; what comes of numbers in the wrong order
is off by all of it"""
NOTHING = 1e-4
"""as a share of all derivatives: of a bias before a batch norm there are only roundings"""
PADDED = 16
"""channels that oneDNN computes at a time. The derivative of the weights of a convolution of 1 x 1 that leaves
out places and takes fewer channels, in float32 and channels-last, writes beyond its memory (torch 2.15): the
process ends, or goes on with other numbers"""
CONVOLUTIONS = 2
"""fewer, as in a vision transformer, gain nothing"""


class Layout:
    """Of a network that is trained: chosen once, before its first step on a batch of several rows."""

    def __init__(self, network: Network, optimizer: FusedOptimizer, place: Place) -> None:
        self.network, self.optimizer = network, optimizer
        nodes = [node for node in network.graph.nodes if node.op == "native"]
        self.names = [node.name for node in nodes]
        steady = not any(node.attrs["part"].volatile for node in nodes)
        parts = [network.get_submodule(name) for name in self.names]
        several = sum(p.ndim == 4 for part in parts for p in part.parameters()) >= CONVOLUTIONS
        safe = not any(map(_writes_beyond, parts))
        self.open = steady and place.kind == CPU and allowed() and several and safe

    def choose(self, rows: Any) -> None:
        """In training mode, of what the network is given next. `rows`: as core has them; a few are looked at."""
        if not self.open or (rows_there := count(rows)) < 2:
            return
        self.open = False
        few = to_native(window(rows, 0, min(rows_there, ROWS)), CPU)
        if not isinstance(few, torch.Tensor) or few.ndim != 4:
            return
        try:
            with torch.autocast(CPU, enabled=False), undrawn(0):
                reason = next(self._doubts(few), "")
        except Exception as error:  # whatever a user's code may raise on another layout
            reason = f"{type(error).__name__}: {error}"
        if reason:
            LOG.debug("torch %s: a wrapped network is trained as it lies: %s", torch.__version__, reason)
            return
        self.network.keeps_layout = True
        for name in self.names:
            self.network.get_submodule(name).to(memory_format=torch.channels_last)
        self.optimizer.follow()

    def _doubts(self, few: torch.Tensor) -> Iterator[str]:
        """Why it should not be."""
        for name, given in self._given(few).items():
            if given.ndim != 4:
                continue
            if not given.is_contiguous(memory_format=torch.channels_last):
                yield f"{name} is given maps in another order"
            module = self.network.get_submodule(name)
            turned = copy.deepcopy(module).to(memory_format=torch.channels_last)
            for training in (False, True):
                as_it_is = _computed(module, given.contiguous(), training)
                if not _are_near(as_it_is, _computed(turned, given, training), training):
                    yield f"{name} computes something else"

    def _given(self, few: torch.Tensor) -> dict[str, torch.Tensor]:
        """What each part takes when the network is given these rows."""
        network, taken = copy.deepcopy(self.network).eval(), dict[str, torch.Tensor]()
        network.keeps_layout = True
        for name in self.names:
            network.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: taken.update({name: args[0].clone()}), prepend=True
            )
        with torch.no_grad():
            network(few)
        return taken


def _writes_beyond(part: nn.Module) -> bool:
    """Whether a convolution may be one of which oneDNN's derivative does: a weight that is no layer's of torch's
    may be of any."""
    for module in part.modules():
        for weight in module.parameters(recurse=False):
            few = weight.ndim == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < PADDED
            if few and not (isinstance(module, nn.Conv2d) and set(module.stride) == {1}):
                return True
    return False


class Computed(NamedTuple):
    """What a module gives, and the derivatives of the sum of its squares by each parameter."""

    outputs: list[torch.Tensor]
    derivatives: list[torch.Tensor]


def _computed(module: nn.Module, x: torch.Tensor, training: bool) -> Computed:
    """By a copy of the module."""
    module = copy.deepcopy(module)
    if not training:
        module.eval()
    with undrawn(0), torch.set_grad_enabled(training):
        outputs = [y.float() for y in pytree.tree_leaves(module(x.clone())) if isinstance(y, torch.Tensor)]
        learning = [y for y in outputs if y.requires_grad]
        if learning:
            torch.stack([y.square().sum() for y in learning]).sum().backward()
    derivatives = [p.grad for p in module.parameters() if p.grad is not None]
    return Computed([y.detach() for y in outputs], derivatives)


def _are_near(one: Computed, other: Computed, training: bool) -> bool:
    all_of_them = math.hypot(*map(_length, one.derivatives))
    near = NEAR_TRAINING if training else NEAR_INFERENCE
    allowed_of = [
        *((y, z, near * _length(y)) for y, z in zip(one.outputs, other.outputs, strict=True)),
        *(
            (y, z, NEAR_DERIVATIVES * _length(y) + NOTHING * all_of_them)
            for y, z in zip(one.derivatives, other.derivatives, strict=True)
        ),
    ]
    # what is no number is near to nothing
    return all(y.shape == z.shape and _length(y - z) <= most for y, z, most in allowed_of)


def _length(tensor: torch.Tensor) -> float:
    return float(tensor.norm())
