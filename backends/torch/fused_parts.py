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
from collections.abc import Callable, Mapping
from typing import Any

import torch

from headstart.backends.torch.devices import LOW, autocast
from headstart.backends.torch.emit import Network, given_to
from headstart.backends.torch.fused import CACHE_NBYTES, LEAST_ROWS, available
from headstart.backends.torch.trace import Part, sharing
from headstart.backends.torch.woven import Woven
from headstart.common.log import LOG
from headstart.contract.recipe import Place
from headstart.graph import Graph
from headstart.graph.fuse import allowed

TRIED_ROWS = 2
NEAR = 1e-4
"""how far apart two ways to compute a network may be, as a share of its output's length"""


class FusedPart:
    """Runs a network with parts of a user's module in it, which stays as it is."""

    def __init__(self, network: Network, place: Place) -> None:
        self.network, self.place = network, place
        self.dtype = LOW.get(place.arithmetic, torch.float32)
        self._by_shape: dict[torch.Size, Callable[[Any], dict[str, torch.Tensor]]] = {}

    def __call__(self, x: Any) -> dict[str, torch.Tensor]:
        with autocast(self.place):
            return self._form(x)(x)

    def _form(self, x: Any) -> Callable[[Any], dict[str, torch.Tensor]]:
        if not isinstance(x, torch.Tensor) or x.ndim != 4:
            return self.network
        shape = x.shape[1:]
        if shape not in self._by_shape:
            # Of so few finding a faster form takes longer. It rounds at other places, which shows in halves of
            # numbers, so there all batches take the same.
            if len(x) <= TRIED_ROWS and self.dtype == torch.float32:
                return self.network
            self._by_shape[shape] = self._chosen(x[:TRIED_ROWS])
        return self._by_shape[shape]

    def _chosen(self, few: torch.Tensor) -> Callable[[Any], dict[str, torch.Tensor]]:
        expected = exact = self.network(few)
        if self.dtype != torch.float32:
            with torch.autocast("cpu", enabled=False):
                exact = self.network(few)
        for form in (_Woven, _ChannelsLast):
            try:
                faster = form(self.network, few, self.dtype)
                if _is_near(exact, expected, faster(few)):
                    return faster
                reason = "it computes something else"
            except Exception as error:  # whatever a user's code may raise on another layout
                reason = f"{type(error).__name__}: {error}"
            LOG.debug("torch %s: a wrapped trunk does without %s: %s", torch.__version__, form.__name__, reason)
        return self.network


def _is_near(
    exact: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> bool:
    """Whether what was found is as near to what float32 gives as the module's own numbers are."""
    for name, y in expected.items():
        other = found[name]
        if y.shape != other.shape or y.dtype != other.dtype or not (y.isfinite().all() and other.isfinite().all()):
            return False
        own, off = (float((values.float() - exact[name]).norm()) for values in (y, other))
        if not off <= max(NEAR * float(exact[name].norm()), 2 * own):
            return False
    return True


class _ChannelsLast:
    """With maps in another order in memory."""

    def __init__(self, network: Network, few: torch.Tensor, dtype: torch.dtype) -> None:
        self.network = sharing(network)
        assert isinstance(self.network, Network)
        self.network.keeps_layout = True

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = self.network(x.contiguous(memory_format=torch.channels_last))
        return outputs


class _Woven(_ChannelsLast):
    """With fused calls as well."""

    def __init__(self, network: Network, few: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__(network, few, dtype)
        self.woven: dict[str, Woven] = {}
        parts = [node.name for node in network.graph.nodes if node.op == "native"]
        taken = given_to(self.network, parts, few.contiguous(memory_format=torch.channels_last))
        largest = few[0].numel()
        for name in parts:
            part = self.network.get_submodule(name)
            if not isinstance(part, Part):
                raise TypeError("a part has no graph")
            self.woven[name] = woven = Woven(part, taken[name], dtype)
            part.run[False] = lambda _, *batch, run=woven.module: run(*batch)
            largest = max(largest, woven.largest)
        self._rows = max(LEAST_ROWS, CACHE_NBYTES // (dtype.itemsize * largest))

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        run = super().__call__
        outputs = [run(rows) for rows in x.chunk(math.ceil(len(x) / self._rows))]
        if len(outputs) == 1:
            return outputs[0]
        return {name: torch.cat([of[name] for of in outputs]) for name in outputs[0]}


def fused_parts(network: Network, place: Place) -> FusedPart | None:
    """A faster form of a network that has parts of a user's module; None where there is none."""
    graph: Graph = network.graph
    parts = [node.attrs["part"] for node in graph.nodes if node.op == "native"]
    can = place.kind == "cpu" and allowed() and available(LOW.get(place.arithmetic, torch.float32))
    steady = not any(part.volatile for part in parts) if parts else False
    return FusedPart(network, place) if can and steady else None
