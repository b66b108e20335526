"""Trainers of all of a model, as mode "full" has them, a step at a time."""

from __future__ import annotations

from typing import Any

from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import Optimizer
from headstart.contract.recipe import Place, Recipe
from headstart.features.inference import fed
from headstart.models import Model


def trainer_of(model: Model, backend: str, optimizer: Optimizer, statistics: bool = True) -> Any:
    """On the CPU in float32, fed with pixels. `statistics`: whether batch norms use the batch's."""
    graph = fed(model.graph, model)
    params = {name: model.params[name] for name in graph.param_shapes()}
    recipe = Recipe(optimizer, Softmax(), statistics, 0)
    return registry.load(backend).trainer(graph, params, recipe, Place("cpu", "float32"))
