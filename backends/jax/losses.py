"""What is minimised, for outputs `(..., n, k)`: of samples, with whatever there is several of before them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError


def native_targets(targets: np.ndarray) -> np.ndarray:
    """Numbers of classes as int32, whatever else in float32."""
    return targets.astype(np.int32 if targets.dtype == np.int64 else np.float32, copy=False)


def per_sample(loss: Loss, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`(..., n)`"""
    match loss:
        case Softmax(smoothing):
            shares = optax.smooth_labels(jax.nn.one_hot(targets, outputs.shape[-1]), smoothing)
            return optax.softmax_cross_entropy(outputs, jnp.broadcast_to(shares, outputs.shape))
        case Sigmoid(pos_weight):
            weight = 1.0 if pos_weight is None else np.array(pos_weight, np.float32)
            there, absent = jax.nn.softplus(-outputs), jax.nn.softplus(outputs)
            return (targets * weight * there + (1 - targets) * absent).mean(-1)
        case SquaredError():
            return ((outputs - targets) ** 2).mean(-1)
        case Huber(delta):
            return optax.huber_loss(outputs, jnp.broadcast_to(targets, outputs.shape), delta=delta).mean(-1)


def mean(losses: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`(..., n)` -> `(...)`; weights `(n,)`, or of the losses' own shape."""
    if weights is None:
        return losses.mean(-1)
    total = weights.sum(-1)
    return (losses * weights).sum(-1) / jnp.where(total > 0, total, 1)


def count_right(loss: Loss, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`(...)`: how many samples are classified right. What NaN is taken for counts here."""
    return right(loss, outputs, targets).sum(-1)


def right(loss: Loss, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """bool `(..., n)`: whether a sample is classified right. What NaN is taken for counts here."""
    match loss:
        case Softmax():
            return outputs.argmax(-1) == targets
        case Sigmoid():
            return ((outputs > 0) == (targets > 0)).all(-1)
        case _:
            return jnp.zeros(outputs.shape[:-1], bool)
