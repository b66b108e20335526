"""What is minimised: plain data that a backend translates, and what each means, in numpy.

Invariant: a sample has one loss, whatever the task, and a batch has the mean of its samples' losses, weighted
where samples have weights: `sum(w * loss) / sum(w)`. So a weight of 2 is a sample that is there twice. Of a batch
whose weights are all 0 the loss is 0, and so are its gradients.

With weights that are a class's this is the mean of torch.nn.CrossEntropyLoss(weight=...) and of scikit-learn's
log_loss(sample_weight=...). With label smoothing as well torch weights each class's share of the target by that
class's weight; here the sample's own weight counts for the whole of its loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError
from headstart.common.slices import slices


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy of one class a sample: targets int64 `(n,)`, outputs `(n, classes)`."""

    smoothing: float = 0.0
    """the share of the target that all classes have alike, 0 to 1"""


@dataclass(frozen=True)
class Sigmoid:
    """Cross-entropy of labels that are there or not, each by itself; a sample's loss is the mean over its labels.
    Targets uint8 `(n, labels)` of 0 and 1, outputs `(n, labels)`."""

    pos_weight: tuple[float, ...] | None = None
    """of each label, how much its being there counts more than its not being there; None: 1"""


@dataclass(frozen=True)
class SquaredError:
    """The mean over a sample's targets of the squared difference: targets float32 `(n, d)`, outputs `(n, d)`."""


@dataclass(frozen=True)
class Huber:
    """As the squared error, halved, up to a difference of `delta`, and from there on linear: a few targets that
    are far off do not rule the rest. Targets float32 `(n, d)`, outputs `(n, d)`.
    https://doi.org/10.1214/aoms/1177703732"""

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < np.inf:
            raise SettingError(f"delta is {self.delta!r}; expected a number above 0, e.g. 1.0")


Loss = Softmax | Sigmoid | SquaredError | Huber


def per_sample(loss: Loss, outputs: np.ndarray, targets: np.ndarray) -> NDArray[np.float64]:
    """float64 `(n,)`: each sample's loss. `outputs`: float `(n, k)`. NaN where an output is."""
    losses = np.empty(len(outputs))
    for part in slices(len(outputs), 8 * outputs.shape[1]):
        with np.errstate(invalid="ignore", over="ignore"):
            losses[part] = _of_slice(loss, outputs[part].astype(np.float64), targets[part])
    return losses


def _of_slice(loss: Loss, z: NDArray[np.float64], targets: np.ndarray) -> NDArray[np.float64]:
    match loss:
        case Softmax(smoothing):
            z -= z.max(1, keepdims=True)
            total = np.log(np.exp(z).sum(1))
            losses = total - z[np.arange(len(z)), targets]
            smoothed = (1 - smoothing) * losses + smoothing * (total - z.mean(1)) if smoothing else losses
            return np.asarray(smoothed, np.float64)
        case Sigmoid(pos_weight):
            # log(1 + exp(-z)) and log(1 + exp(z)), without overflow
            there, absent = np.logaddexp(0, -z), np.logaddexp(0, z)
            weight = 1.0 if pos_weight is None else np.array(pos_weight)
            each = targets * weight * there + (1 - targets.astype(np.float64)) * absent
        case SquaredError():
            each = (z - targets) ** 2
        case Huber(delta):
            off = np.abs(z - targets)
            each = np.where(off <= delta, off**2 / 2, delta * (off - delta / 2))
    return np.asarray(each.mean(1), np.float64)


def mean(losses: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Of samples' losses `(n,)`, weighted by `weights` `(n,)`; 0 where all weights are 0."""
    if weights is None:
        return float(losses.mean(dtype=np.float64))
    total = float(weights.sum(dtype=np.float64))
    return float((losses * weights).sum(dtype=np.float64)) / total if total else 0.0


def right(loss: Loss, outputs: np.ndarray, targets: np.ndarray) -> NDArray[np.bool_]:
    """bool `(n,)`: whether a sample is classified right: its class has the largest output, or just those of its
    labels that are there have outputs above 0. Never where its outputs name nothing, being NaN, or the largest
    infinite; never of a regression."""
    match loss:
        case Softmax():
            return np.asarray((outputs.argmax(1) == targets) & np.isfinite(outputs.max(1)))
        case Sigmoid():
            return np.asarray(((outputs > 0) == targets.astype(bool)).all(1) & ~np.isnan(outputs).any(1))
        case _:
            return np.zeros(len(outputs), bool)
