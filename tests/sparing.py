"""How tests in parity/ compile less, without comparing less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.contract.running import Trunk
from headstart.graph import Graph
from headstart.store import params_digest


@contextmanager
def hardly_optimised(hardly: bool = True) -> Iterator[None]:
    """JAX's programs that are compiled inside are hardly optimised, which takes half as long where they have
    many small convolutions. This environment is the one where XLA compiles as it does for users, emitters of
    fusions included; so this is for the second look at a network only, and something of each kind is always
    optimised."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", hardly or before)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


class Trunks:
    """A backend's frozen trunks up to `cut`, each made and compiled once: the one that has filled the cache runs
    in mode `frozen` too, and is given up then. That a trunk depends on nothing but these arguments is for the
    conformance suite to say."""

    def __init__(self, backend: Backend, cut: str) -> None:
        self.make, self.cut = backend.trunk, cut
        self.kept: dict[object, Trunk] = {}

    def trunk(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place) -> Trunk:
        key = (graph, params_digest(params), place)
        trunk = self.kept.pop(key, None)
        if trunk is None:
            trunk = self.make(graph, params, outputs, place)
            if list(outputs) == [self.cut]:
                self.kept[key] = trunk
        return trunk
