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
from headstart.backends.jax.frozen import FrozenNetwork, attends
from headstart.backends.jax.fused import fused
from headstart.common.log import LOG
from headstart.contract.devices import CPU, reason_of
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
        self.cudnn = attends(self.network, place)
        faster = self.fused if place.kind == CPU else FrozenNetwork(self.network, place, self.cudnn)
        self.held = faster is None  # whether the network's own parameters are those on the device
        graphdef, state = nnx.split(faster or self.network)
        self.state = from_numpy(state, place.device)
        self._run = compiled(_runs(graphdef), place)

    def run(self, images: Any) -> dict[str, jax.Array]:
        images = from_numpy(images, self.place.device)
        try:
            return jax.block_until_ready(self._run(self.state, images))
        except (RuntimeError, TypeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
            if not self.cudnn:
                raise
            LOG.debug("jax: attention is XLA's own, since cuDNN's does not run: %s", reason_of(error))
            self._without_cudnn()
        return jax.block_until_ready(self._run(self.state, images))

    def _without_cudnn(self) -> None:
        self.cudnn = False
        self._run = compiled(_runs(nnx.graphdef(FrozenNetwork(self.network, self.place, False))), self.place)

    def params(self) -> dict[str, np.ndarray]:
        if self.held:
            nnx.update(self.network, self.state)
        return self.network.numpy_params()


def _runs(graphdef: Any) -> Any:
    def run(state: nnx.State, images: Any) -> dict[str, jax.Array]:
        return {k: y.astype(jnp.float32) for k, y in nnx.merge(graphdef, state)(images).items()}

    return run
