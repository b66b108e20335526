"""Whether a functional keras.Model ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a dense layer (or a convolution of 1x1 that is called so) whose numbers the model gives
as they are, or after what has no weights; a projection, as encoders end in, is none.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from headstart.backends.keras.copying import calls, functional, is_functional
from headstart.models.endings import is_projection, is_ranking, is_row

# what may stand between the classifier and the end
PASSING = (
    layers.Softmax, layers.ReLU, layers.Identity, layers.Dropout, layers.Flatten, layers.Reshape, layers.Average,
    layers.Add, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.AveragePooling2D,
    layers.Rescaling, layers.ActivityRegularization,
)  # fmt: skip
OPERATIONS = (
    "Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid", "Relu", "Reshape", "Squeeze", "Cast", "Mean", "Add",
    "Divide", "TrueDivide", "Multiply", "Subtract", "Negative", "Clip", "Log", "HardSigmoid",
)  # fmt: skip
PREDICTIONS = "conv_preds"  # of MobileNet
ACTIVATIONS = ("linear", "softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid")


def ends_in_classifier(model: keras.Model) -> bool:
    """Whether all that the model gives comes from dense layers that are no projections."""
    return bool(classifiers(model))


def classifiers(model: keras.Model) -> list[Any]:
    """The calls of these layers; [] where it ends otherwise."""
    made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
    seen: dict[int, Any] = {}
    ends = all(_is_rank(made[id(tensor)], made, seen) for tensor in model.outputs)
    found = [node for node in seen.values() if _is_last(node.operation)]

    def before(node: Any) -> list[Any]:
        return [made[id(tensor)] for tensor in node.input_tensors]

    names = [str(getattr(node.operation, "name", "")) for node in found]
    taken = [node for end in found for node in before(end)]
    return found if ends and not is_row(names, taken, found, before) else []


def _is_rank(node: Any, made: dict[int, Any], seen: dict[int, Any]) -> bool:
    if id(node) in seen:  # of what is added to itself again and again there are very many ways to it
        return True
    seen[id(node)] = node
    layer = node.operation
    if node.is_input:
        return False
    if _is_last(layer):
        return True
    if isinstance(layer, keras.layers.Layer):
        passing = isinstance(layer, PASSING) or (type(layer) is layers.Activation and _passes(layer.activation))
        passing = passing or is_temperature(layer)
    else:
        passing = type(layer).__module__.startswith("keras.src.ops.") and type(layer).__name__ in OPERATIONS
    return passing and all(_is_rank(made[id(tensor)], made, seen) for tensor in node.input_tensors)


def _is_last(layer: Any) -> bool:
    if is_functional(layer):  # a head of its own, of which no more has weights than a classifier
        inside = [node.operation for node in calls(functional(layer)) if getattr(node.operation, "weights", None)]
        return len(inside) == 1 and ends_in_classifier(functional(layer))
    name = str(getattr(layer, "name", ""))
    if type(layer) is layers.Dense:
        return _passes(layer.activation) and not is_projection(name)
    if type(layer) is layers.Conv2D and tuple(layer.kernel_size) == (1, 1):
        return _passes(layer.activation) and (is_ranking(name) or name == PREDICTIONS)
    return False


def is_temperature(layer: Any) -> bool:
    """Whether all that a layer learns are single numbers, which makes it no classifier."""
    weights = layer.weights if isinstance(layer, layers.Layer) else []
    return bool(weights) and all(len(weight.shape) == 0 for weight in weights)


def _passes(function: Any) -> bool:
    return str(getattr(function, "__name__", "")).removesuffix("_v2") in ACTIVATIONS
