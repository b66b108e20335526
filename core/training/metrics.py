"""What loss and accuracy mean, for every backend alike."""

from __future__ import annotations

import numpy as np

from headstart.contract.losses import Softmax, per_sample


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 `(n,)`: the negative log likelihood of `labels` (int64 `(n,)`) under float `(n, classes)`."""
    return per_sample(Softmax(), logits, labels)


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 `(n, classes)` probabilities."""
    with np.errstate(invalid="ignore"):  # of logits that are not finite nothing is known: NaN
        z: np.ndarray = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        z /= z.sum(1, keepdims=True)
    return z


def right_classes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool `(n,)`: whether a sample's largest logit is its label's. Logits that are not finite are never right."""
    right: np.ndarray = (logits.argmax(1) == labels) & decided(logits)
    return right


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples that are right."""
    return float(right_classes(logits, labels).mean())


def decided(logits: np.ndarray) -> np.ndarray:
    """bool `(n,)`: whether a row of logits names a class. A row with NaN does not, though `argmax` gives 0 for it,
    nor does one whose largest logit is infinite. Minus infinity is allowed: it rules a class out."""
    sure: np.ndarray = np.isfinite(logits.max(1))
    return sure


def named_labels(logits: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of several labels a sample: bool `(n, k)`, which are predicted, their probability being larger than
    `threshold`; and int64 `(n, 2)`, twice the number of those that are rightly predicted, and the number of those
    that are there plus that of those that are predicted. Micro F1 is the sum of the first over that of the second.
    `logits`: float `(n, k)`; `labels`: 0 or 1 `(n, k)`."""
    there, predicted = labels != 0, logits > logit(threshold)
    hits, both = 2 * (predicted & there).sum(1), predicted.sum(1) + there.sum(1)
    return predicted, np.stack([hits, both], 1)


def logit(probability: float) -> float:
    """What a sigmoid makes `probability`, between 0 and 1, of."""
    return float(np.log(probability / (1 - probability)))
