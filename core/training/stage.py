"""One stage of a training, as plain data: what is trained, how, and for how long. `loop` runs it.

What could make two modes or two backends differ without need (learning rates, order, how parameters are updated)
is decided here, once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from headstart.contract.optimizers import Optimizer, Schedule, optimizer_of
from headstart.contract.recipe import Recipe
from headstart.contract.running import Trainer
from headstart.data.order import epoch_shape
from headstart.graph import Graph, without_denormals
from headstart.report.endings import Ending
from headstart.training.defaults import default_epochs, default_optimizer, default_patience, default_warmup
from headstart.training.history import History, Record
from headstart.training.objective import Objective
from headstart.training.rates import kept_by_owner, rate_multiples
from headstart.training.settings import Settings
from headstart.training.standardizing import Standardization
from headstart.training.stopping import Monitor

HEAD_STAGE, ALL_STAGE = "head", "all"
"""the stages there are: only what follows the cut is trained, or the whole network"""


@dataclass(frozen=True)
class Length:
    """How long a stage of one of several trainings is, all of which are to have the same epochs at the same
    rates."""

    samples: int | None = None
    """by how many samples the default number of epochs is decided; None: by those that are trained on"""
    end: int | None = None
    """the stage is over after so many epochs, wherever its rates are by then; None: its monitor says when"""


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
    schedule: Schedule = field(default_factory=Schedule)
    """that the rates follow"""
    standardization: Standardization | None = None
    """what the features are mapped by before they are fed"""
    scheduled: int | None = None
    """the number of epochs that the rates are made for, where the stage ends before; None: it does not"""

    def plain(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A trainer's parameters, for features as they are in the store."""
        return dict(params) if self.standardization is None else self.standardization.folded(params)

    @property
    def epochs(self) -> int:
        """At most."""
        return len(self.rates)

    @property
    def planned(self) -> int:
        """The number of epochs that the rates are made for."""
        return self.scheduled or self.epochs

    @property
    def shares(self) -> np.ndarray:
        """float `(epochs, steps)`: the rates as shares of the optimiser's."""
        steps = self.rates.shape[1]
        return self.schedule.rates(1.0, self.planned * steps).reshape(-1, steps)[: self.epochs]

    @property
    def optimizer(self) -> Optimizer:
        return self.recipe.optimizer

    def ending(self, history: History, name: str = "") -> Ending:
        """How it ended, once it has this history; `name`: what it is to be called."""
        decided = self.monitor is not None and self.monitor.better(history.best, None)
        monitor = self.monitor.name if self.monitor is not None and decided else None
        return Ending(len(history), history.best_epoch, self.epochs, monitor, name)

    def record(self) -> dict[str, Any]:
        """JSON-able: what the settings of a run leave open, as it was decided for this stage."""
        return {
            "max_epochs": self.planned,
            **({} if self.scheduled is None else {"ended_after": self.epochs}),
            "patience": None if self.monitor is None else self.monitor.patience,
            "schedule": asdict(self.schedule),
        }


def stage_of(
    name: str,
    graph: Graph,
    params: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    objective: Objective,
    fresh: Collection[str],
    samples: int,
    epochs: int | None,
    monitor: Monitor | None,
    standardization: Standardization | None = None,
    length: Length | None = None,
) -> Stage:
    """A stage as `settings` have it. `params`: of the model; those of `graph` are trained. `fresh`: which of them
    are not pretrained. `samples`: how many the training data have. `epochs`: just so many; None: by default.
    `standardization`: of the features that it is fed with. `length`: of one of several trainings."""
    length = length or Length()
    whole = name == ALL_STAGE
    optimizer = optimizer_of(settings.optimizer, default_optimizer(graph, whole), settings.lr)
    params = without_denormals(graph, params)
    if standardization is not None:
        params = standardization.unfolded(params, fresh)
    kept = kept_by_owner(graph, not settings.training_mode.pretrained)
    multiples = rate_multiples(params, fresh, settings.lr_scale, kept)
    steps, batch_size = epoch_shape(samples, settings.batch_size)
    length_steps, _ = epoch_shape(length.samples or samples, settings.batch_size)
    most = epochs or most_epochs(settings, graph, whole, length_steps, monitor is not None)
    if length.end is not None:
        monitor = None
    if monitor is not None and epochs is None:
        monitor = replace(monitor, patience=settings.patience or default_patience(most))
    schedule = settings.schedule_with(default_warmup(graph, whole))
    return Stage(
        name,
        graph,
        params,
        Recipe(optimizer, objective.loss, settings.train_statistics, settings.seed, multiples),
        schedule.rates(optimizer.lr, most * steps).reshape(most, -1)[: length.end],
        batch_size,
        settings.seed,
        objective,
        monitor,
        kept,
        schedule,
        standardization,
        most if length.end is not None and length.end < most else None,
    )


def most_epochs(settings: Settings, graph: Graph, whole: bool, steps: int, monitored: bool) -> int:
    """The number of epochs, of so many steps each, that a stage of which no number is asked for takes at most."""
    default = default_epochs(graph, whole, steps, monitored)
    if settings.max_epochs is None:
        return default
    return settings.max_epochs if monitored else min(default, settings.max_epochs)


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
