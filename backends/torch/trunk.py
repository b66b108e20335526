"""Extraction: a frozen graph, channels-last, without autograd.

`no_grad` and not `inference_mode`: a head is trained on what comes out, and inference tensors refuse that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch import behind_door
from headstart.backends.torch.arrays import exact_numpy, from_native, to_native
from headstart.backends.torch.devices import autocast, computing, device_of, synchronize
from headstart.backends.torch.emit import Network
from headstart.backends.torch.fused import fused
from headstart.contract.recipe import Place
from headstart.graph import Graph


@behind_door("__init__", "run", "params")
class TorchTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.place, self.device = place, device_of(place)
        self.network = Network(graph, params, outputs).eval().to(self.device).requires_grad_(False)
        self.fused = fused(self.network, place)

    def run(self, images: Any) -> dict[str, torch.Tensor]:
        x = to_native(images, self.device)
        with torch.no_grad(), computing(self.place), nullcontext() if self.fused else autocast(self.place):
            outputs = (self.fused or self.network)(x)
        synchronize(self.device)
        return {name: from_native(y.float()) for name, y in outputs.items()}

    def params(self) -> dict[str, np.ndarray]:
        tensors = self.network.tensors()
        return {name: exact_numpy(tensors[name]) for name in self.network.graph.param_shapes()}
