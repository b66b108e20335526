"""Matrix products on a CPU, by the library that is faster on it.

torch's own float32 products go to Intel's MKL. On AMD's processors that takes twice the time of oneDNN, which it
has as well, for convolutions and for compiled code; so there oneDNN is used, where products are large enough for
its longer way in. By the processor's name and not by a measurement: a run repeated must round alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from headstart.common.machine import machine_facts

LEAST = 1 << 20  # multiplications; below, a call costs more than its arithmetic


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x @ weight.T + bias`, as `torch.nn.functional.linear`: `(n, in)`, `(out, in)`, `(out,)` -> `(n, out)`."""
    if not is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    product: torch.Tensor = Product.apply(x, weight, bias) if torch.is_grad_enabled() else onednn(x, weight, bias)
    return product


def weight_gradient(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Of `linear`'s weight, by the gradient of what it gave, `(n, out)`."""
    return onednn(gradient.T, x.T) if is_for_onednn(x, weight) else gradient.T @ x


def is_for_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.ndim == 2
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) * weight.numel() >= LEAST
        and not torch.is_autocast_enabled("cpu")
        and prefers_onednn()
    )


class Product(torch.autograd.Function):
    """Forward and backward by oneDNN. The operator is there for what torch's compiler makes of a linear layer, and
    has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            onednn(gradient, weight.T) if of_x else None,
            onednn(gradient.T, x.T) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias`"""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@cache
def prefers_onednn() -> bool:
    """Whether this processor does better with it, and this build of torch has it."""
    if "AMD" not in machine_facts()["cpu"] or not torch.backends.mkl.is_available():
        return False
    try:  # the operator is not among those that torch promises to keep
        with torch.no_grad():
            return onednn(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)).tolist() == [[4.0] * 4] * 2
    except (AttributeError, RuntimeError, TypeError):
        return False
