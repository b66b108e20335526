"""The least time that a frozen trunk can take on a device with a given rate of multiplications and a given
bandwidth: each layer, fused with the sum and the activation behind it, takes the longer of its arithmetic and of
its bytes, each input read once and each output written once.

That is the roofline of https://doi.org/10.1145/1498765.1498785, summed over layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headstart.features.inference import fed, frozen
from headstart.graph.fuse import fused_steps
from headstart.models import Model

ACTIVATIONS = ("relu", "relu6", "silu", "gelu", "sigmoid", "hard_swish")


@dataclass(frozen=True)
class Roof:
    """A bound, in images a second."""

    layers: float
    """by the longer of both terms, layer by layer"""
    arithmetic: float
    """were bytes free"""
    traffic: float
    """were arithmetic free"""


def roof(
    model: Model, cut: str, *, operations: float, bandwidth: float, itemsize: int = 2, batch: int = 256
) -> Roof:
    """`operations`: floating-point operations a second, a multiply-add being two; `bandwidth`: bytes a second,
    reads and writes together; `itemsize`: bytes of a number on its way between layers."""
    graph, _ = frozen(model.graph.upto(cut), model.params, [cut])
    graph = fed(graph, model)
    shapes, macs = graph.shapes(model.input_shape), graph.macs(model.input_shape)
    steps = fused_steps(graph, [cut], {"conv": ACTIVATIONS, "linear": ACTIVATIONS}, ACTIVATIONS)
    seconds = arithmetic = traffic = 0.0
    for step in steps:
        if step.node.op == "normalize":
            continue  # the first convolution can do it as it reads pixels
        moved = sum(math.prod(shapes[name]) * (1 if name == graph.input else itemsize) for name in step.inputs)
        moved += math.prod(shapes[step.output]) * itemsize
        if step.other:
            moved += math.prod(shapes[step.other]) * itemsize
        weights = sum(math.prod(shape) for shape in step.node.param_shapes().values()) * itemsize
        of_arithmetic = 2 * macs.get(step.node.name, 0) * batch / operations
        of_traffic = (moved * batch + weights) / bandwidth
        seconds += max(of_arithmetic, of_traffic)
        arithmetic += of_arithmetic
        traffic += of_traffic
    return Roof(batch / seconds, batch / arithmetic, batch / traffic)
