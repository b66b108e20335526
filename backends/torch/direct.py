"""A step of a head that is one linear layer under a softmax, with dropout before it or none, on a CPU, with its
derivatives written out: autograd, which records the operators and goes through them again, takes as long for
itself as a small layer's arithmetic.

Invariant: the operators are those that autograd calls, so the numbers are the same to the bit.
"""

from __future__ import annotations

import torch
from torch import nn

from headstart.backends.torch.emit import LastLinear
from headstart.backends.torch.losses import is_narrow, without_denormals
from headstart.backends.torch.masks import Dropped
from headstart.backends.torch.products import weight_gradient
from headstart.contract.devices import CPU
from headstart.contract.losses import Softmax
from headstart.contract.recipe import FLOAT32, TF32, Place, Recipe
from headstart.graph import Graph

MEAN = 1  # the operators' number for it
NO_CLASS = -100  # the class that they leave out


class DirectLayer:
    def __init__(self, layer: LastLinear, dropped: Dropped | None) -> None:
        self.layer, self.dropped = layer, dropped
        self.one = torch.ones(())

    @torch.no_grad()
    def backward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows float32 `(n, in)` and classes int64 `(n,)` -> the mean loss and the logits `(n, out)`, with the
        gradients put where autograd would."""
        aten, layer = torch.ops.aten, self.layer
        x = x if self.dropped is None else self.dropped(x)
        logits = layer.product(x, layer.weight, layer.bias)
        if is_narrow(logits):
            scores = aten._log_softmax(logits.T.contiguous()[None, :, None], 1, False)
            y, forward, backward = y[None, None], aten.nll_loss2d_forward, aten.nll_loss2d_backward
        else:
            scores = aten._log_softmax(logits, 1, False)
            forward, backward = aten.nll_loss_forward, aten.nll_loss_backward
        loss, total = forward(scores, y, None, MEAN, NO_CLASS)
        of_scores = backward(self.one, scores, y, None, MEAN, NO_CLASS, total)
        gradient = aten._log_softmax_backward_data(of_scores, scores, 1, torch.float32)
        gradient = without_denormals(gradient, out=gradient)
        gradient = gradient[0, :, 0].T if gradient.ndim == 4 else gradient
        layer.weight.grad = weight_gradient(gradient, x, layer.weight)
        if layer.bias is not None:
            layer.bias.grad = gradient.sum(0)
        return loss, logits


def direct_layer(graph: Graph, network: nn.Module, recipe: Recipe, place: Place) -> DirectLayer | None:
    """None where it has to be autograd."""
    first, *rest = graph.nodes
    is_linear = [node.op for node in rest] in (["linear"], ["dropout", "linear"])
    is_of_rows = len(first.attrs["shape"] or ()) == 1
    is_plain = recipe.loss == Softmax() and place.kind == CPU and place.arithmetic in (FLOAT32, TF32)
    if not (is_linear and is_of_rows and is_plain):
        return None
    layer = network.get_submodule(graph.output)
    assert isinstance(layer, LastLinear)
    is_trained = all(parameter.requires_grad for parameter in layer.parameters())
    dropped = next((module for module in network.modules() if isinstance(module, Dropped)), None)
    return DirectLayer(layer, dropped) if is_trained else None
