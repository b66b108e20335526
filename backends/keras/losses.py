"""What is minimised, in Keras's operations, for outputs `(..., n, k)`: of samples, with whatever there is
several of before them."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError


def native_targets(targets: np.ndarray) -> np.ndarray:
    """Numbers of classes as they are, whatever else in float32."""
    return targets if targets.dtype == np.int64 else targets.astype(np.float32, copy=False)


# No `match` here: TensorFlow cannot turn one into its own code, and says so to the user in ten lines.
def per_sample(loss: Loss, outputs: Any, targets: Any) -> Any:
    """`(..., n)`"""
    if isinstance(loss, Softmax):
        classes = outputs.shape[-1]
        shares = ops.one_hot(targets, classes) * (1 - loss.smoothing) + loss.smoothing / classes
        shares = ops.broadcast_to(shares, ops.shape(outputs))
        return ops.categorical_crossentropy(shares, outputs, from_logits=True)
    return ops.mean(_of_each_output(loss, outputs, targets), -1)


def _of_each_output(loss: Sigmoid | SquaredError | Huber, outputs: Any, targets: Any) -> Any:
    """`(..., n, k)`"""
    if isinstance(loss, Sigmoid):
        weight = 1.0 if loss.pos_weight is None else ops.convert_to_tensor(loss.pos_weight, "float32")
        return targets * weight * ops.softplus(-outputs) + (1 - targets) * ops.softplus(outputs)
    if isinstance(loss, SquaredError):
        return ops.square(outputs - targets)
    off = ops.abs(outputs - targets)
    return ops.where(off <= loss.delta, ops.square(off) / 2, loss.delta * (off - loss.delta / 2))


def mean(losses: Any, weights: Any) -> Any:
    """`(..., n)` -> `(...)`; weights `(n,)`, or of the losses' own shape; None: all alike."""
    if weights is None:
        return ops.mean(losses, -1)
    total = ops.sum(weights, -1)
    return ops.sum(losses * weights, -1) / ops.where(total > 0, total, ops.ones_like(total))


def right(loss: Loss, outputs: Any, targets: Any) -> Any:
    """`(..., n)`: 1 where a sample is classified right, else 0. What NaN is taken for counts here."""
    if isinstance(loss, Softmax):
        hit = ops.equal(ops.argmax(outputs, -1), ops.cast(targets, "int32"))
    elif isinstance(loss, Sigmoid):
        hit = ops.all(ops.equal(outputs > 0, targets > 0), -1)
    else:
        hit = ops.zeros_like(outputs[..., 0])
    return ops.cast(hit, "float32")
