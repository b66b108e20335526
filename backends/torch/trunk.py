"""Extraction: a frozen graph, channels-last, without autograd.

`no_grad` and not `inference_mode`: a head is trained on what comes out, and inference tensors refuse that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch import behind_door
from headstart.backends.torch.arrays import exact_numpy, from_native, to_native, to_numpy
from headstart.backends.torch.devices import autocast, computing, device_of, synchronize
from headstart.backends.torch.emit import Network
from headstart.backends.torch.fused import fused
from headstart.backends.torch.fused_parts import fused_parts
from headstart.backends.torch.kernels import Tried
from headstart.backends.torch.streaming import Streaming
from headstart.contract.recipe import Place
from headstart.contract.streams import Dtypes, one_by_one
from headstart.graph import Graph


@behind_door("__init__", "run", "params")
class TorchTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.place, self.device = place, device_of(place)
        self.network = Network(graph, params, outputs).eval().to(self.device).requires_grad_(False)
        faster: Callable[[Any], dict[str, torch.Tensor]] | None
        if place.kind != "cpu":
            faster = Tried(self.network, place)
        else:
            faster = fused(self.network, place) or fused_parts(self.network, place)
        self.faster = faster
        self._streaming: Streaming | None = None

    def run(self, images: Any) -> dict[str, torch.Tensor]:
        low = autocast(self.place) if self.faster is None else nullcontext()
        x = to_native(images, self.device)
        with torch.no_grad(), computing(self.place), low:
            outputs = (self.faster or self.network)(x)
        synchronize(self.device)
        return {name: from_native(y.float()) for name, y in outputs.items()}

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        steady = all(node.op != "native" for node in self.network.graph.nodes)
        if self.place.kind != "cuda":
            return one_by_one(self.run, to_numpy, batches, dtypes, reuses=not steady)
        if self._streaming is None:
            self._streaming = Streaming(self.faster or self.network, self.run, self.place, self.device, steady)
        return self._streaming(batches, dtypes)

    def params(self) -> dict[str, np.ndarray]:
        tensors = self.network.tensors()
        return {name: exact_numpy(tensors[name]) for name in self.network.graph.param_shapes()}
