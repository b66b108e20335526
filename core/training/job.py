"""What a call of `fit` or `sweep` is to do, checked before anything is computed.

Invariant: nothing of it changes while it trains. What becomes of the training is returned, stage by stage.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError
from headstart.contract import registry
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.data import Arrays, Dataset
from headstart.data.order import epoch_shape
from headstart.features.feature_set import FeatureSet
from headstart.features.trunk_keys import cut_of
from headstart.graph import Graph
from headstart.models import Model, check_model
from headstart.training.checks import check_sets
from headstart.training.modes import Mode
from headstart.training.objective import BEST, Objective, objective_of
from headstart.training.rates import check_modules
from headstart.training.sample_weights import check_learnable, sample_weights
from headstart.training.settings import Settings
from headstart.training.stage import Length
from headstart.training.stopping import Monitor, monitor_of


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and where."""

    model: Model
    """with the parameters that training begins with"""
    train: Dataset | FeatureSet
    val: Dataset | FeatureSet | None
    settings: Settings
    cut: str | None
    """the last node of the frozen trunk; None where everything is trained from the start"""
    backend: Backend
    place: Place
    objective: Objective
    """what it works towards: loss, targets, and what outputs mean"""
    monitor: Monitor | None = None
    """what decides which epoch is kept; None: the last one is"""
    weights: NDArray[np.float32] | None = None
    """`(n,)`: how much each training sample counts; None where all count alike"""
    lengths: Mapping[str, Length] = field(default_factory=dict)
    """stage -> how long it is, of one of several trainings"""

    @property
    def mode(self) -> Mode:
        return self.settings.training_mode

    @property
    def fresh(self) -> Collection[str]:
        """The parameters that are not pretrained."""
        return self.fresh_in(self.mode)

    def fresh_in(self, mode: Mode) -> Collection[str]:
        """The same in a mode."""
        return self.model.fresh if mode.pretrained else self.model.params.keys()

    @property
    def trained_params(self) -> Collection[str]:
        """The parameters that are trained, in one stage at least."""
        return trained_of(self.trained_graph)

    @cached_property
    def trained_graph(self) -> Graph:
        """What is trained, in one stage at least."""
        return self.graph_in(self.mode)

    def graph_in(self, mode: Mode) -> Graph:
        """The same in a mode."""
        if not mode.frozen or mode.then_all:
            return self.model.graph
        cut = self.cut or self.settings.cut or self.model.default_cut
        return self.model.graph.after(cut, self.model.input_shape)

    @property
    def batch_size(self) -> int:
        """As it is trained with: at most what was asked for, so that all batches of an epoch are of one size."""
        return epoch_shape(len(self.train), self.settings.batch_size)[1]


def job_of(model: Model, train: Any, val: Any, settings: Settings) -> TrainingJob:
    """Raises SettingError and its kin for what does not go together, DataError for data that cannot be trained
    on."""
    check_model(model)
    mode = settings.training_mode
    if settings.augmentation is not None and isinstance(model.preprocess, Arrays):
        raise SettingError(f"augment= crops and flips images, and the model takes {model.preprocess}")
    if mode.frozen and not mode.then_all:
        model = model.without_auxiliary()
    check_modules(model.params, settings.lr_scale)
    train, val, cut = check_sets(model, settings, train, val)
    model = named_after(model, train)
    objective = objective_of(settings, model, train)  # first: it knows which options the task has
    weights = sample_weights(train, settings.class_weights)
    check_learnable(train, weights)
    validated = val is not None or settings.folds is not None
    if objective.threshold == BEST and not validated:
        raise SettingError("threshold='best' is the best on validation data, and there are none; pass val=")
    monitor = None
    if settings.monitor is not None:  # a name that is none is an error without validation data too
        monitor = monitor_of(settings.monitor, train.task, settings.min_delta, outputs=len(train.classes))
    if settings.patience is not None and not validated:
        raise SettingError(
            f"patience={settings.patience} waits for epochs that are better on validation data, and there are "
            "none; pass val="
        )
    last = model.graph.check_cut(cut or model.default_cut) if mode.frozen else None
    if cut is not None and last is None:
        cut_of(model, cut)  # unused in these modes unless it is "input", but a typing error is one all the same
    backend = registry.load(registry.choose(settings.backend, model.home))
    place = backend.place(settings.device, settings.precision)
    model = objective.before(model, scratch=not mode.pretrained)
    start = replace(model, params=initial(model, mode, last, settings.seed, objective.log_odds))
    job = TrainingJob(
        start, train, val, settings, last, backend, place, objective, monitor if validated else None, weights
    )
    _check_norms(job)
    return job


def trained_of(graph: Graph) -> Collection[str]:
    """The parameters that are trained where a graph is."""
    return graph.param_shapes().keys() - graph.buffers()


def may_follow(graph: Graph) -> bool:
    """Whether there may be a batch norm in it: in a wrapped module wherever something is kept and not trained."""
    natives = [node.attrs["part"] for node in graph.nodes if node.op == "native"]
    return any(node.op == "batch_norm" for node in graph.nodes) or any(
        part.buffers - part.volatile for part in natives
    )


def named_after(model: Model, train: Dataset | FeatureSet) -> Model:
    """The model with outputs that are called as the classes, labels or targets of what it is trained on, where its
    own names are only numbers: so do predictions and files of it say what they mean, and whoever trains it further
    does not take them for others."""
    if model.named_classes or not train.named_classes or len(train.classes) != len(model.classes):
        return model
    return replace(model, classes=train.classes, named_classes=True)


def _check_norms(job: TrainingJob) -> None:
    """SettingError where a batch norm would follow batches of one value a channel: whatever that is, the norm
    gives its bias, and learns a variance of 0."""
    if job.batch_size > 1 or not job.settings.train_statistics:
        return
    values: dict[str, int] = {}
    if norms := [node.name for node in job.trained_graph.nodes if node.op == "batch_norm"]:
        shapes = job.model.graph.shapes(job.model.input_shape)
        values = {name: math.prod(shapes[name][:-1]) for name in norms}
    for node in job.trained_graph.nodes:
        if node.op == "native":
            values |= {f"{node.name}.{name}": count for name, count in node.attrs["part"].norms.items()}
    if single := [name for name, count in values.items() if count == 1]:
        raise SettingError(
            f"batches of 1, of which the batch norm {single[0]!r} has one value a channel: it has no variance to "
            "divide by, and nothing goes through. Take batch_size=2 or more, larger inputs, or batch_norm='frozen'"
        )


def initial(
    model: Model, mode: Mode, cut: str | None, seed: int, log_odds: Sequence[float] | None = None
) -> dict[str, np.ndarray]:
    """The parameters that a run starts from. A frozen trunk is the model's own, random or not; only the
    fresh part of what is trained comes from `seed`.

    A fresh output layer on a frozen trunk starts at zero, as in Kolesnikov et al. 2020 (BiT, arXiv:1912.11370):
    what is drawn at random is noise in the outputs that few samples never train away.

    `log_odds`, where outputs are labels that come independently: the biases of every fresh output layer, so that
    training begins with how often each label comes, as in Lin et al. 2017 (arXiv:1708.02002), which a bias that
    starts at 0 is a long way from and goes in steps as small as a weight's.
    """
    fresh = model.fresh if mode.pretrained else model.params.keys()
    params = model.reseeded(seed, everything=not mode.pretrained)
    if cut is not None:
        params |= {name: model.params[name] for name in model.graph.upto(cut).param_shapes()}
    if mode.frozen:
        output = output_layer(model.graph, model.graph.output)
        params |= {name: np.zeros_like(params[name]) for name in output & fresh}
    if log_odds is not None:
        for name in model.graph.outputs:
            if (bias := f"{name}.bias") in output_layer(model.graph, name) & fresh:
                params[bias] = np.asarray(log_odds, np.float32)
    return params


def output_layer(graph: Graph, output: str) -> set[str]:
    """The parameters of the linear layer that makes this output of the graph; none where something else does."""
    node = graph[output]
    return set(node.param_shapes()) if node.op == "linear" else set()
