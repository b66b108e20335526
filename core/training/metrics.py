"""What loss and accuracy mean, for every backend alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SLICE_NBYTES = 16 << 20


def slices(count: int, nbytes: int) -> Iterator[slice]:
    """Slices of `count` items of `nbytes` each, as many in a slice as SLICE_NBYTES hold, at least one."""
    step = max(1, SLICE_NBYTES // max(1, nbytes))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 `(n,)`: the negative log likelihood of `labels` (int64 `(n,)`) under float `(n, classes)`."""
    losses = np.empty(len(logits))
    for part in slices(len(logits), 8 * logits.shape[1]):
        z = logits[part].astype(np.float64)
        with np.errstate(invalid="ignore"):
            z -= z.max(1, keepdims=True)
            losses[part] = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels[part]]
    return losses


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 `(n, classes)` probabilities."""
    with np.errstate(invalid="ignore"):  # of logits that are not finite nothing is known: NaN
        z: np.ndarray = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        z /= z.sum(1, keepdims=True)
    return z


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples whose largest logit is their label's. Logits that are not finite are never right."""
    return float(((logits.argmax(1) == labels) & decided(logits)).mean())


def decided(logits: np.ndarray) -> np.ndarray:
    """bool `(n,)`: whether a row of logits names a class. A row with NaN does not, though `argmax` gives 0 for it,
    nor does one whose largest logit is infinite. Minus infinity is allowed: it rules a class out."""
    sure: np.ndarray = np.isfinite(logits.max(1))
    return sure
