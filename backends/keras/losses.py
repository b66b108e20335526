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


def per_sample(loss: Loss, outputs: Any, targets: Any) -> Any:
    """`(..., n)`"""
    match loss:
        case Softmax(smoothing):
            shares = ops.one_hot(targets, outputs.shape[-1]) * (1 - smoothing) + smoothing / outputs.shape[-1]
            return ops.categorical_crossentropy(
                ops.broadcast_to(shares, ops.shape(outputs)), outputs, from_logits=True
            )
        case Sigmoid(pos_weight):
            weight = 1.0 if pos_weight is None else np.array(pos_weight, np.float32)
            each = targets * weight * ops.softplus(-outputs) + (1 - targets) * ops.softplus(outputs)
        case SquaredError():
            each = ops.square(outputs - targets)
        case Huber(delta):
            off = ops.abs(outputs - targets)
            each = ops.where(off <= delta, ops.square(off) / 2, delta * (off - delta / 2))
    return ops.mean(each, -1)


def mean(losses: Any, weights: Any) -> Any:
    """`(..., n)` -> `(...)`; weights None: all alike."""
    if weights is None:
        return ops.mean(losses, -1)
    total = ops.sum(weights)
    return ops.sum(losses * weights, -1) / ops.where(total > 0, total, ops.ones_like(total))


def right(loss: Loss, outputs: Any, targets: Any) -> Any:
    """`(..., n)`: 1 where a sample is classified right, else 0. What NaN is taken for counts here."""
    match loss:
        case Softmax():
            hit = ops.equal(ops.argmax(outputs, -1), ops.cast(targets, "int32"))
        case Sigmoid():
            hit = ops.all(ops.equal(outputs > 0, targets > 0), -1)
        case _:
            hit = ops.zeros_like(outputs[..., 0])
    return ops.cast(hit, "float32")
