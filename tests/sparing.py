"""How tests in parity/ compile and initialise less, without comparing less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.contract.optimizers import Schedule
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
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


@contextmanager
def without_values() -> Iterator[None]:
    """torch's modules that are made inside, timm's too, have parameters without values. What initialises them
    would compute on nothing all the same, and takes up to ten times as long as the rest of making a network."""
    import timm.layers.weight_init
    import torch

    init, named = torch.nn.init, [name for name in dir(torch.nn.init) if name[0] != "_" and name[-1] == "_"]
    places = [*((init, name) for name in named), (timm.layers.weight_init, "_trunc_normal_")]
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name, _ in before:
            setattr(place, name, lambda tensor, *_, **__: tensor)
        with torch.device("meta"):
            yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


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


class Trainers:
    """A backend's trainers, each made and compiled once for several trainings, of which the later ones begin with
    the state that the first began with. That a trainer goes on from a state, and that nothing but the rates that
    come with the steps depends on the optimiser's, is for the conformance suite to say."""

    def __init__(self, backend: Backend, trainings: int) -> None:
        """`trainings`: of each trainer, which is given up then: it holds the parameters of a head twice."""
        self.make, self.trainings = backend.trainer, trainings
        self.kept: dict[object, tuple[Trainer, dict[str, np.ndarray], int]] = {}

    def trainer(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> Trainer:
        optimizer = replace(recipe.optimizer, lr=1.0)
        about = (recipe.loss, recipe.train_statistics, recipe.seed, tuple(sorted(recipe.rates.items())))
        key = (graph, params_digest(params), optimizer, about, place)
        if key not in self.kept:
            trainer: Any = self.make(graph, params, recipe, place)
            self.kept[key] = trainer, trainer.state(), self.trainings - 1
            return trainer
        trainer, state, more = self.kept.pop(key)
        trainer.load_state(state)
        if more > 1:
            self.kept[key] = trainer, state, more - 1
        return trainer


@dataclass(frozen=True)
class LastStepOnly(Schedule):
    """All steps are taken, as a program for so many has them, and none but the last moves anything."""

    def rates(self, lr: float, steps: int) -> np.ndarray:
        return np.where(np.arange(steps) < steps - 1, 0, lr).astype(np.float32)
