"""Extraction: a frozen graph under one `jit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.jax.arrays import compiled, from_numpy
from headstart.backends.jax.door import behind_door
from headstart.backends.jax.emit import Network
from headstart.backends.jax.fused import fused
from headstart.contract.recipe import Place
from headstart.graph import Graph


@behind_door("__init__", "run", "params")
class JaxTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.place = place
        self.network = Network(graph, params, outputs, place)
        self.network.eval()
        self.fused = fused(self.network, place)
        graphdef, state = nnx.split(self.fused or self.network)
        self.state = from_numpy(state, place.device)

        def run(state: nnx.State, images: Any) -> dict[str, jax.Array]:
            return {k: y.astype(jnp.float32) for k, y in nnx.merge(graphdef, state)(images).items()}

        self._run = compiled(run, place)

    def run(self, images: Any) -> dict[str, jax.Array]:
        return jax.block_until_ready(self._run(self.state, from_numpy(images, self.place.device)))

    def params(self) -> dict[str, np.ndarray]:
        if self.fused is None:  # else the network's own are on the device
            nnx.update(self.network, self.state)
        return self.network.numpy_params()
