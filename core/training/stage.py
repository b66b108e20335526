"""One stage of a training, as plain data: what is trained, how, and for how long. `loop` runs it.

What could make two modes or two backends differ without need (learning rates, order, how parameters are updated)
is decided here, once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from headstart.contract.optimizers import Optimizer, optimizer_of
from headstart.contract.recipe import Recipe
from headstart.contract.running import Trainer
from headstart.data.order import epoch_shape
from headstart.graph import Graph
from headstart.training.history import Record
from headstart.training.modes import default_optimizer
from headstart.training.objective import Objective
from headstart.training.rates import kept_by_owner, rate_multiples
from headstart.training.settings import Settings
from headstart.training.stopping import Monitor

HEAD_STAGE, ALL_STAGE = "head", "all"
"""the stages there are: only what follows the cut is trained, or the whole network"""


@dataclass(frozen=True)
class Stage:
    """What a stage trains, and how. All that its loop needs, beside the data."""

    name: str
    """HEAD_STAGE or ALL_STAGE"""
    graph: Graph
    """what is trained"""
    params: Mapping[str, np.ndarray]
    """of the graph, as it begins"""
    recipe: Recipe
    rates: np.ndarray
    """float `(epochs, steps)`: the learning rates"""
    batch_size: int
    """of every step"""
    seed: int
    """of the order of the samples"""
    objective: Objective
    """what it works towards"""
    monitor: Monitor | None = None
    """what decides which epoch is kept, and when the stage ends; None: all epochs are trained, the last is kept"""
    kept: frozenset[str] = frozenset()
    """parameters that a module's owner froze, and that training leaves alone"""

    @property
    def epochs(self) -> int:
        return len(self.rates)

    @property
    def optimizer(self) -> Optimizer:
        return self.recipe.optimizer


def stage_of(
    name: str,
    graph: Graph,
    params: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    objective: Objective,
    fresh: Collection[str],
    samples: int,
    epochs: int,
    monitor: Monitor | None,
) -> Stage:
    """A stage as `settings` have it. `params`: of the model; those of `graph` are trained. `fresh`: which of them
    are not pretrained. `samples`: how many the training data have."""
    optimizer = optimizer_of(settings.optimizer, default_optimizer(graph, name == ALL_STAGE), settings.lr)
    params = {name: params[name] for name in graph.param_shapes()}
    kept = kept_by_owner(graph, not settings.training_mode.pretrained)
    multiples = rate_multiples(params, fresh, settings.lr_scale, kept)
    steps, batch_size = epoch_shape(samples, settings.batch_size)
    return Stage(
        name,
        graph,
        params,
        Recipe(optimizer, objective.loss, settings.train_statistics, settings.seed, multiples),
        settings.rates.rates(optimizer.lr, epochs * steps).reshape(epochs, -1),
        batch_size,
        settings.seed,
        objective,
        monitor,
        kept,
    )


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch and its validation are over."""

    stage: Stage
    record: Record
    rates: np.ndarray
    """float `(steps,)`: the epoch's learning rates"""
    trainer: Trainer

    @cached_property
    def params(self) -> dict[str, np.ndarray]:
        """What is trained, as it is now: read from the device when somebody asks."""
        return self.trainer.params()
