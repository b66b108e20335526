"""What a training works towards: the loss of the labels' task, the targets as a trainer takes them, and what a
trained model's outputs mean.

Numbers (regression) are standardised while they are trained on, by the training data's mean and deviation: so a
learning rate means the same whether the targets are years or metres. Afterwards the scale goes into the last
layer, so that a trained model gives the user's own units wherever it is taken: `predict`, the framework's own
model, a weight file.

Invariant: trainers and their losses see targets as they are standardised; scores, files and people see units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DataError, SettingError, UnknownNameError
from headstart.common.slices import slices
from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError, per_sample
from headstart.data import Dataset
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.features.feature_set import FeatureSet
from headstart.graph import Node
from headstart.graph.ops import INERT
from headstart.models import Model
from headstart.training.sample_weights import BALANCED
from headstart.training.scores.multi import THRESHOLD, best_threshold
from headstart.training.scores.regression import headline_errors
from headstart.training.settings import Settings

BEST = "best"
FARTHEST = np.float32(1e18)
"""of a standardised target: a sample of weight 0 may have any, and its squared error is to be finite, as 0 times
infinity is no number"""
OF_ONE_TASK = {
    **dict.fromkeys(("label_smoothing", "class_weights"), SINGLE),
    **dict.fromkeys(("pos_weight", "threshold"), MULTI),
    "huber": REGRESSION,
}
INSTEAD = {
    MULTI: ", where labels that are rare count more with pos_weight",
    REGRESSION: ", where samples count by the data's weights",
    SINGLE: ", where classes count by class_weights",
}
COUNTING = ("class_weights", "pos_weight")


@dataclass(frozen=True)
class Scale:
    """How the targets of a regression are standardised: (label - mean) / deviation."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """above 0"""

    def standardised(self, labels: np.ndarray) -> NDArray[np.float32]:
        """`labels`: float `(n, d)` in units."""
        return np.asarray((labels - np.array(self.mean)) / np.array(self.deviation), np.float32)

    def in_units(self, outputs: np.ndarray) -> NDArray[np.float32]:
        """The inverse: `outputs` float `(n, d)`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(outputs * np.array(self.deviation) + np.array(self.mean), np.float32)

    def as_dict(self) -> dict[str, list[float]]:
        """JSON-able."""
        return {"mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], targets: int) -> Scale:
        """The inverse of `as_dict`, of so many targets. ValueError for what is no scale of them."""
        scale = cls(tuple(map(float, saved["mean"])), tuple(map(float, saved["deviation"])))
        numbers = np.array([*scale.mean, *scale.deviation])
        if not len(scale.mean) == len(scale.deviation) == targets:
            raise ValueError(f"settings.targets are not of the {targets} that the model has")
        if not np.isfinite(numbers).all() or min(scale.deviation) <= 0:
            raise ValueError("settings.targets are not finite, or a deviation is not above 0")
        return scale


@dataclass(frozen=True)
class Objective:
    """What is minimised on which targets, and what becomes of outputs."""

    task: str
    loss: Loss
    scale: Scale | None = None
    """of a regression's targets"""
    threshold: float | str = THRESHOLD
    """of the task "multi": the probability above which a label is predicted, or "best" """
    log_odds: tuple[float, ...] | None = None
    """of the task "multi": what a fresh output layer gives for each label before it has learnt
    anything: by how often the training data have the label, and what it counts"""

    def targets(self, data: Dataset | FeatureSet) -> np.ndarray:
        """The labels as the loss takes them, see `headstart.contract.losses`."""
        if self.scale is None:
            return data.labels
        with np.errstate(over="ignore"):
            return self.scale.standardised(data.labels).clip(-FARTHEST, FARTHEST)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """A trainer's outputs `(n, k)` as people see them: logits, or numbers in their units."""
        return outputs if self.scale is None else self.scale.in_units(outputs)

    @property
    def plain(self) -> Loss:
        """The loss of validation: without what only training weighs, smoothing and `pos_weight`."""
        if self.task == REGRESSION:
            return self.loss
        return Softmax() if self.task == SINGLE else Sigmoid()

    def validation_losses(self, outputs: np.ndarray, targets: np.ndarray) -> NDArray[np.float64]:
        """float64 `(n,)`, of each sample. `outputs`: of a trainer."""
        return per_sample(self.plain, outputs, targets)

    def errors(self, predictions: np.ndarray, labels: np.ndarray) -> NDArray[np.float64]:
        """float64 `(n,)`: what each sample adds to the headline score of numbers, see `headline_errors`."""
        return headline_errors(predictions, labels, self.deviation)

    @property
    def deviation(self) -> tuple[float, ...] | None:
        """Of a regression's targets, by the training data: what one unit of each is worth beside the others."""
        return None if self.scale is None else self.scale.deviation

    def decided(self, predictions: np.ndarray, data: Dataset | FeatureSet | None) -> float:
        """The threshold as a number: the best one is that of the validation data."""
        if not isinstance(self.threshold, str):
            return self.threshold
        return THRESHOLD if data is None else best_threshold(predictions, data.labels, data.weights)

    def before(self, model: Model, scratch: bool) -> Model:
        """`model` as training begins with it: a last layer that was trained before gives units, and is to give
        standardised targets. One that is drawn does so from the start. SettingError for a model of which the
        units cannot be taken off."""
        if self.scale is None:
            return model
        layers = list(last_layers(model))
        known = [node for node in layers if not scratch and not node.param_shapes().keys() <= model.fresh]
        of, centre = np.array(self.scale.deviation), np.array(self.scale.mean)
        return replace(model, params={**model.params, **_rescaled(known, model.params, 1 / of, -centre / of)})

    def trained(self, model: Model, threshold: float = THRESHOLD) -> Model:
        """`model` after training: what its outputs mean is said, and they are in units."""
        params = model.params
        if self.scale is not None:
            of, centre = np.array(self.scale.deviation), np.array(self.scale.mean)
            params = {**params, **_rescaled(last_layers(model), params, of, centre)}
        return replace(model, params=params, task=self.task, threshold=threshold)


def objective_of(settings: Settings, model: Model, train: Dataset | FeatureSet) -> Objective:
    """For labels as `train` has them. SettingError for an option that goes with another task, UnknownNameError for
    a label in `pos_weight` that the data have not, DataError for a target that does not vary."""
    for name, task in OF_ONE_TASK.items():
        if getattr(settings, name) and task != train.task:
            raise SettingError(
                f"{name}={getattr(settings, name)!r} goes with the task {task!r}, and the labels of "
                f"{train.name!r} are of the task {train.task!r}{INSTEAD[train.task] if name in COUNTING else ''}"
            )
    if train.task == SINGLE:
        return Objective(SINGLE, Softmax(settings.label_smoothing))
    if train.task == MULTI:
        threshold = THRESHOLD if settings.threshold is None else settings.threshold
        counting = pos_weights(train, settings.pos_weight)
        return Objective(MULTI, Sigmoid(counting), threshold=threshold, log_odds=log_odds(train, counting))
    centred = all(node.attrs.get("bias", True) for node in last_layers(model))
    loss = SquaredError() if settings.huber is None else Huber(settings.huber)
    return Objective(REGRESSION, loss, scale_of(train, centred))


def scale_of(train: Dataset | FeatureSet, centred: bool = True) -> Scale:
    """By the training data, in which a sample counts by its weight: one of weight 2 is there twice, one of weight
    0 not at all. `centred`: whether a last layer can add the mean again; else only the spread around 0 is taken
    off. DataError for a target that does not vary."""
    labels, weights = train.labels.astype(np.float64), train.weights
    if weights is not None and weights.any():
        labels, weights = labels[weights > 0], weights[weights > 0].astype(np.float64)
    else:
        weights = None  # that none counts is found where the weights are taken
    if (same := np.flatnonzero(labels.min(0) == labels.max(0))).size:
        raise DataError(
            f"all {len(labels)} training samples{'' if weights is None else ' that count'} have the same "
            f"{train.classes[same[0]]!r}, {labels[0, same[0]]:g}, as 32 bits hold it; there is nothing to learn"
        )
    centre = np.average(labels, 0, weights) if centred else np.zeros(labels.shape[1])
    deviation = np.sqrt(np.average((labels - centre) ** 2, 0, weights))
    return Scale(tuple(centre.tolist()), tuple(deviation.tolist()))


def pos_weights(train: Dataset | FeatureSet, asked: Any) -> tuple[float, ...] | None:
    """Of each label. "balanced": samples without it over samples with it, by their weights where the data have
    such, so that both count alike. What a label that no sample has would count is of no matter."""
    if asked is None:
        return None
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in train.classes:
                raise UnknownNameError("label", name, train.classes)
        return tuple(float(asked.get(name, 1.0)) for name in train.classes)
    assert asked == BALANCED
    there, count = _labelled(train)
    ratios = (count - there) / np.where(there > 0, there, 1)
    return tuple(ratios.clip(1 / len(train)).tolist())  # of a label that all have, above 0


def log_odds(train: Dataset | FeatureSet, counting: tuple[float, ...] | None) -> tuple[float, ...]:
    """Of each label: the log of what the samples that have it count, by their weights and by `counting` (see
    `pos_weights`), over what the others do; with half a sample more on either side, so that it is finite of a
    label that all have or none."""
    there, count = _labelled(train)
    share = there / count if count > 0 else np.full(len(there), 0.5)  # that none counts is found later
    having, lacking = share * len(train) + 0.5, (1 - share) * len(train) + 0.5
    return tuple(np.log(having / lacking * (1.0 if counting is None else np.array(counting))).tolist())


def _labelled(train: Dataset | FeatureSet) -> tuple[NDArray[np.float64], float]:
    """float64 `(labels,)`: how many samples have each label, and how many there are, by their weights where the
    data have such."""
    if train.weights is None:
        return train.annotations.counts().astype(np.float64), float(len(train))
    weights = train.weights.astype(np.float64)
    there = np.zeros(len(train.classes))
    for part in slices(len(train), 8 * len(there)):
        there += weights[part] @ train.labels[part]
    return there, float(weights.sum())


def last_layers(model: Model) -> Iterator[Node]:
    """The linear layer that each output comes from. SettingError where one comes from something else."""
    for output in model.graph.outputs:
        node = model.graph[output]
        while node.op in INERT:
            node = model.graph[node.inputs[0]]
        if node.op != "linear":
            mend = (
                "take a model that ends in one"
                if model.home is None
                else "pass head='linear', or hidden widths such as [256], to hs.wrap; what is in front of its "
                "cut= stays as the module has it"
            )
            raise SettingError(
                f"{model.name} ends in {_kind(node)}; numbers (task 'regression') are learned by a linear layer "
                f"at the end, into which their scale goes: {mend}"
            )
        yield node


def unscaled(model: Model) -> tuple[Model, Scale]:
    """`model`, which gives numbers, with their size taken off its last layer, and the scale that puts it on again.
    For half precision: in bfloat16 years are multiples of 8, in float16 100,000 is infinite."""
    model = model.without_auxiliary()
    (layer,) = last_layers(model)
    size = np.abs(model.params[f"{layer.name}.weight"]).max(1).astype(np.float64)
    size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    bias = model.params.get(f"{layer.name}.bias", np.zeros(len(size))).astype(np.float64)
    params = {**model.params, **_rescaled([layer], model.params, 1 / size, -bias / size)}
    return replace(model, params=params), Scale(tuple(bias.tolist()), tuple(size.tolist()))


def _kind(node: Node) -> str:
    return "a head of its own" if node.op == "native" else f"{node.name!r}, {node.op}"


def _rescaled(
    layers: Any, params: Mapping[str, np.ndarray], factor: np.ndarray, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """The parameters of these layers, their outputs times `factor` `(d,)`, plus `shift` `(d,)`."""
    changed = {}
    for node in layers:
        weight, bias = f"{node.name}.weight", f"{node.name}.bias"
        changed[weight] = (params[weight].astype(np.float64) * factor[:, None]).astype(np.float32)
        if bias in node.param_shapes():
            changed[bias] = (params[bias].astype(np.float64) * factor + shift).astype(np.float32)
    return changed


def objective_of_run(model: Model, settings: Mapping[str, Any]) -> Objective:
    """The objective of a finished run, from its record, for other data than it was trained on. ValueError and its
    kin for a record that does not say it."""
    if model.task == SINGLE:
        return Objective(SINGLE, Softmax())
    if model.task == MULTI:
        return Objective(MULTI, Sigmoid(), threshold=model.threshold)
    huber, saved = settings.get("huber"), settings.get("targets")
    if saved is None:
        raise ValueError("settings.targets are missing: by what the targets were standardised")
    loss = SquaredError() if huber is None else Huber(float(huber))
    return Objective(REGRESSION, loss, Scale.from_dict(saved, len(model.classes)))
