"""Answers that are known without any framework: losses, gradients and update rules by hand, in numpy and
float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import headstart as hs
from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError, mean, per_sample, right
from headstart.contract.optimizers import Optimizer


def reference_update(
    optimizer: Optimizer, gradients: list[np.ndarray], rates: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The optimisers' update rules, as `headstart.contract.optimizers` states them, in float64."""
    p = start.astype(np.float64)
    if isinstance(optimizer, hs.SGD):
        velocity = np.zeros_like(p)
        for g, rate in zip(gradients, rates, strict=True):
            g = g + optimizer.weight_decay * p
            velocity = optimizer.momentum * velocity + g
            p = p - rate * (g + optimizer.momentum * velocity if optimizer.nesterov else velocity)
        return p
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = optimizer.beta1 * m + (1 - optimizer.beta1) * g
        v = optimizer.beta2 * v + (1 - optimizer.beta2) * g**2
        m_hat, v_hat = m / (1 - optimizer.beta1**step), v / (1 - optimizer.beta2**step)
        p = p - rate * (m_hat / (np.sqrt(v_hat) + optimizer.epsilon) + optimizer.weight_decay * p)
    return p


def slope(loss: Loss, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float64 `(n, k)`: the gradient of a batch's loss, the weighted mean of its samples', by its outputs."""
    z = outputs.astype(np.float64)
    match loss:
        case Softmax(smoothing):
            probability = np.exp(z - z.max(1, keepdims=True))
            probability /= probability.sum(1, keepdims=True)
            there = np.full_like(z, smoothing / z.shape[1])
            there[np.arange(len(z)), targets] += 1 - smoothing
            each = probability - there
        case Sigmoid(pos_weight):
            probability = 1 / (1 + np.exp(-z))
            weight = 1.0 if pos_weight is None else np.array(pos_weight)
            each = ((1.0 - targets) * probability - targets * weight * (1 - probability)) / z.shape[1]
        case SquaredError():
            each = 2 * (z - targets) / z.shape[1]
        case Huber(delta):
            each = (z - targets).clip(-delta, delta) / z.shape[1]
    share = np.full(len(z), 1 / len(z)) if weights is None else weights / (weights.sum(dtype=np.float64) or 1.0)
    return np.asarray(each * share[:, None])


def softmax_loss(logits: np.ndarray, y: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
    """Mean cross entropy of `logits (n, classes)`, and its gradient with respect to them."""
    loss = Softmax(smoothing)
    return mean(per_sample(loss, logits, y)), slope(loss, logits, y)


def linear_gradient(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, smoothing: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients of softmax regression on `x (n, f)`, by hand."""
    loss, error = softmax_loss(x @ weight.T + bias, y, smoothing)
    return loss, error.T @ x, error.sum(0)


def hits(logits: np.ndarray, y: np.ndarray) -> int:
    """How many samples are classified right."""
    return int((logits.argmax(1) == y).sum())


class TwoLayers:
    """`samples.two_layers`, trained by hand, with a rectifier between the layers or without."""

    def __init__(
        self,
        start: Mapping[str, np.ndarray],
        optimizer: Optimizer,
        rectified: bool = False,
        smoothing: float = 0.0,
        multiples: Mapping[str, float] | None = None,
        loss: Loss | None = None,
    ) -> None:
        """`multiples` of each step's rate by parameter; 1 where it is not named. `loss`: None for the classes'
        cross-entropy with `smoothing`."""
        self.start = {name: value.astype(np.float64) for name, value in start.items()}
        self.params = dict(self.start)
        self.optimizer, self.rectified, self.loss = optimizer, rectified, loss or Softmax(smoothing)
        self.multiples = multiples or {}
        self.gradients: dict[str, list[np.ndarray]] = {name: [] for name in start}
        self.rates: list[float] = []

    def logits(self, x: np.ndarray) -> np.ndarray:
        """float64 `(n, 4)`"""
        return self._hidden(x) @ self.params["b.weight"].T + self.params["b.bias"]

    def step(
        self, x: np.ndarray, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[float, int]:
        """The loss, and how many samples were classified right before the update."""
        hidden = self._hidden(x)
        logits = self.logits(x)
        loss = mean(per_sample(self.loss, logits, targets), weights)
        error = slope(self.loss, logits, targets, weights)
        back = error @ self.params["b.weight"]
        if self.rectified:
            back = back * (hidden > 0)
        gradients = {
            "a.weight": back.T @ x.astype(np.float64),
            "a.bias": back.sum(0),
            "b.weight": error.T @ hidden,
            "b.bias": error.sum(0),
        }
        self.rates.append(float(rate))
        for name, start in self.start.items():
            self.gradients[name].append(gradients[name])
            rates = np.array(self.rates) * self.multiples.get(name, 1.0)
            self.params[name] = reference_update(self.optimizer, self.gradients[name], rates, start)
        return loss, int(right(self.loss, logits, targets).sum())

    def _hidden(self, x: np.ndarray) -> np.ndarray:
        hidden = x.astype(np.float64) @ self.params["a.weight"].T + self.params["a.bias"]
        return np.maximum(hidden, 0) if self.rectified else hidden
