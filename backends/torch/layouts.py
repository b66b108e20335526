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
from headstart.backends.torch.emit import Network, given_to
from headstart.backends.torch.optimizers import FusedOptimizer
from headstart.backends.torch.trace import sharing
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
        if not self.open or count(rows) < ROWS:
            return
        self.open = False
        few = to_native(window(rows, 0, ROWS), CPU)
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
        network = sharing(self.network).eval()
        assert isinstance(network, Network)
        network.keeps_layout = True
        with torch.no_grad():
            taken = given_to(network, self.names, few)
        for name, given in taken.items():
            if given.ndim != 4:
                continue
            if not given.is_contiguous(memory_format=torch.channels_last):
                yield f"{name} is given maps in another order"
            module = self.network.get_submodule(name)
            turned = copy.deepcopy(module).to(memory_format=torch.channels_last)
            if not _are_near(_computed(copy.deepcopy(module), given.contiguous()), _computed(turned, given)):
                yield f"{name} computes something else"


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
    """What a module gives in inference and in training, and the derivatives of the sum of the latter's squares by
    each parameter."""

    inference: list[torch.Tensor]
    training: list[torch.Tensor]
    derivatives: list[torch.Tensor]


def _computed(module: nn.Module, x: torch.Tensor) -> Computed:
    """By a copy of a module that is told of training, which is used up."""

    def run(module: nn.Module) -> list[torch.Tensor]:
        with undrawn(0):
            return [y.float() for y in pytree.tree_leaves(module(x.clone())) if isinstance(y, torch.Tensor)]

    with torch.no_grad():
        inference = run(copy.deepcopy(module).eval())
    with torch.enable_grad():
        training = run(module)
        if learning := [y for y in training if y.requires_grad]:
            torch.stack([y.square().sum() for y in learning]).sum().backward()
    derivatives = [p.grad for p in module.parameters() if p.grad is not None]
    return Computed(inference, [y.detach() for y in training], derivatives)


def _are_near(one: Computed, other: Computed) -> bool:
    nothing = NOTHING * math.hypot(*map(_length, one.derivatives))
    nears = (NEAR_INFERENCE, 0.0), (NEAR_TRAINING, 0.0), (NEAR_DERIVATIVES, nothing)
    return all(
        # what is no number is near to nothing
        y.shape == z.shape and _length(y - z) <= share * _length(y) + least
        for ys, zs, (share, least) in zip(one, other, nears, strict=True)
        for y, z in zip(ys, zs, strict=True)
    )


def _length(tensor: torch.Tensor) -> float:
    return float(tensor.norm())
