"""The softmax that a keras.Model ends in, as all of keras.applications do by default, taken off a copy of it.

Invariant: what is left and core's function of that name behind it are the model. What is not recognised stays, and
core refuses a head that gives probabilities.
"""

from __future__ import annotations

from typing import Any

import keras

from headstart.backends.keras.copying import calls, functional, is_functional, one_or_all
from headstart.backends.keras.layers import NoSoftmax

NAMES = ("softmax", "log_softmax", "sigmoid")
# what has an activation that can be replaced
ACTIVE = (keras.layers.Activation, keras.layers.Dense, keras.layers.EinsumDense)
OPERATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}


def take_off(model: keras.Model) -> tuple[keras.Model, str]:
    """The model, which is changed, without its ending, and what that was; "" where it has none."""
    if len(model.outputs) != 1:
        return model, ""
    node = _last(model)
    operation = node.operation
    kind = type(operation)
    if kind.__module__.startswith("keras.src.ops.") and kind.__name__ in OPERATIONS:
        if _of_classes(node, getattr(operation, "axis", -1)):
            return keras.Model(one_or_all(model.inputs), node.input_tensors[0]), OPERATIONS[kind.__name__]
        return model, ""
    return model, _silenced(model)


def _silenced(model: keras.Model) -> str:
    """The ending of the last layer, replaced there by nothing; inside of a nested model if that is the last."""
    node = _last(model)
    layer = node.operation
    if len(layer._inbound_nodes) > 1:  # it is used elsewhere, too
        return ""
    if is_functional(layer) and len(layer.outputs) == 1:
        return _silenced(functional(layer))
    if type(layer) is keras.layers.Softmax and _of_classes(node, layer.axis):
        layer.__class__ = NoSoftmax
        return "softmax"
    if isinstance(layer, ACTIVE) and _of_classes(node, -1) and (name := _named(layer.activation)):
        layer.activation = keras.activations.linear
        return name
    return ""


def _named(function: Any) -> str:
    """Which ending a function is: Keras's own, or an engine's."""
    module = str(getattr(function, "__module__", "")).partition(".")[0]
    name = str(getattr(function, "__name__", "")).removesuffix("_v2")
    return name if name in NAMES and module in ("keras", "tensorflow", "jax", "torch") else ""


def _of_classes(node: Any, axis: Any) -> bool:
    return len(node.outputs[0].shape) == 2 and axis in (-1, 1)


def _last(model: keras.Model) -> Any:
    """The call that gives the output, before layers that only hand it on."""
    made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
    node = made[id(model.outputs[0])]
    while _hands_on(node.operation):
        node = made[id(node.input_tensors[0])]
    return node


def _hands_on(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return isinstance(operation, keras.layers.Identity)
