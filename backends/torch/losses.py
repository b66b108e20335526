"""What is minimised, for outputs `(n, k)`."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F

from headstart.backends.torch.arrays import from_numpy
from headstart.contract.devices import CPU
from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError

NEGLIGIBLE = 1e-30


def without_denormals(slopes: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Derivatives of a loss by its outputs, those below 1e-30 as 0; in `out` if that is given.

    A sure head gives the classes that it rules out probabilities of 1e-40, which a CPU multiplies up to thirty
    times slower than others. XLA and TensorFlow have the CPU take them for 0, in all of their threads. torch can
    ask for that in the thread that calls it alone, and these are the numbers that all others are made of."""
    return torch.hardshrink(slopes, NEGLIGIBLE, out=out)


def _learning(outputs: torch.Tensor) -> torch.Tensor:
    """The outputs themselves, whose derivatives are going to be without denormals where those cost anything."""
    if outputs.requires_grad and outputs.device.type == CPU:
        outputs.register_hook(without_denormals)
    return outputs


def per_sample(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`(n,)`; a softmax's also of outputs `(n, k, h)` and targets `(n, h)`, `(n, h)`."""
    match loss:
        case Softmax():
            return _cross_entropy(loss, outputs, targets, "none")
        case Sigmoid(pos_weight):
            weight = None if pos_weight is None else _there(tuple(pos_weight), outputs.device)
            outputs = _learning(outputs)
            each = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction="none")
        case SquaredError():
            each = F.mse_loss(outputs, targets, reduction="none")
        case Huber(delta):
            each = F.huber_loss(outputs, targets, reduction="none", delta=delta)
    return each.mean(1)


def _cross_entropy(loss: Softmax, outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    outputs = _learning(outputs)
    if not is_narrow(outputs):
        return F.cross_entropy(outputs, targets, reduction=reduction, label_smoothing=loss.smoothing)
    across, known = outputs.T.unsqueeze(0), targets.unsqueeze(0)
    losses = F.cross_entropy(across, known, reduction=reduction, label_smoothing=loss.smoothing)
    return losses if reduction == "mean" else losses.squeeze(0)


def is_narrow(outputs: torch.Tensor) -> bool:
    """Whether a softmax of outputs `(n, k)` is computed faster over their transpose. A CPU computes a row that
    fills none of its vectors number by number, and the transpose in vectors of samples: up to six times as fast,
    and the same numbers."""
    is_there = outputs.numel() >= LEAST and outputs.ndim == 2 and outputs.device.type == CPU
    return is_there and outputs.shape[1] < vector_width()


LEAST = 1024  # numbers; of fewer, what is done for it takes as long as it saves


@functools.cache
def vector_width() -> int:
    """How many numbers of float32 torch's kernels for this CPU compute at a time; 0 where that is not known to
    matter."""
    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 0)


@functools.lru_cache(64)
def _there(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Sent to a device once: not in every step, nor in one that is being recorded, which forbids it."""
    return torch.tensor(values, device=device)


def mean_loss(
    loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Of a batch."""
    if weights is None and isinstance(loss, Softmax):  # in one call
        return _cross_entropy(loss, outputs, targets, "mean")
    return mean(per_sample(loss, outputs, targets), weights)


def mean(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """`(n, ...)` -> `(...)`; weights `(n,)`, or of the losses' own shape."""
    if weights is None:
        return losses.mean(0)
    total = weights.sum(0)
    weighted = torch.tensordot(weights, losses, 1) if weights.ndim == 1 else (weights * losses).sum(0)
    return weighted / torch.where(total > 0, total, 1)


def by_step(
    values: np.ndarray, order: torch.Tensor | None, steps: int, size: int, device: str | torch.device
) -> torch.Tensor:
    """What there is of each sample `(n, ...)`, as the steps of an epoch take it: `(steps, size, ...)`. `order`: on
    the device, which is quicker than the host at bringing values into it."""
    there = from_numpy(values, device)
    ordered = there if order is None else there.index_select(0, order.flatten())
    return ordered[: steps * size].unflatten(0, (steps, size))


def native_targets(targets: torch.Tensor) -> torch.Tensor:
    """Numbers of classes as they are, whatever else in float32."""
    return targets if targets.dtype == torch.int64 else targets.float()


def predictions(loss: Loss, outputs: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Of outputs `(..., n, k)` the classes `(..., n)`, which labels there are `(..., n, k)`, or the outputs
    themselves; in `out` if that is given."""
    match loss:
        case Softmax():
            return _largest(outputs, out)
        case Sigmoid():
            return torch.gt(outputs, 0, out=out)
        case _:
            return outputs if out is None else out.copy_(outputs)


def _largest(outputs: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """A CPU finds the largest of many numbers one by one in torch, and in vectors in numpy."""
    if outputs.numel() < LEAST or outputs.device.type != CPU:
        return torch.argmax(outputs, -1, out=out)
    return torch.from_numpy(np.argmax(outputs.numpy(), -1, out=None if out is None else out.numpy()))


def count_right(loss: Loss, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`(...)`: how many samples are classified right."""
    return right(loss, predicted, targets).sum(-1)


def right(loss: Loss, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """bool `(..., n)` of predictions and targets `(..., n)` or `(..., n, k)`: whether a sample is classified
    right."""
    match loss:
        case Softmax():
            return predicted == targets
        case Sigmoid():
            return (predicted == targets).all(-1)
        case _:
            return predicted.new_zeros(predicted.shape[:-1], dtype=torch.bool)
