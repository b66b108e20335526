"""Whether a functional keras.Model ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a dense layer (or a convolution of 1x1 that is called so) whose numbers the model gives
as they are, or after what has no weights; a projection, as encoders end in, is none. Of what a softmax shares out,
whatever made it is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from headstart.backends.keras.copying import calls, functional, is_functional
from headstart.models.endings import Behind, Layer, classifiers_among, is_projection, is_ranking, may_precede

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
# what makes probabilities -> as core has it, or what is nearest to it
SHARES = {
    "softmax": "softmax", "logsoftmax": "log_softmax", "sigmoid": "sigmoid", "logsigmoid": "sigmoid",
}  # fmt: skip
# what gives numbers another shape or type alone, and what turns their axes
SHAPING = ("identity", "dropout", "flatten", "reshape", "squeeze", "cast", "linear")
# probabilities of several classifiers, whose mean is one of probabilities
MIXING = ("average", "add", "mean", "divide", "truedivide")
TURNING = ("permute", "transpose", "moveaxis", "swapaxes", "expanddims")
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose)


def ends_in_classifier(model: keras.Model, ending: str = "") -> bool:
    """Whether all that the model gives comes from dense layers that are no projections. `ending`: what was taken
    off at its end."""
    return bool(classifiers(model, ending))


def classifiers(model: keras.Model, ending: str = "") -> list[Any]:
    """The calls of these layers, in their order; [] where it ends otherwise."""
    made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
    walk = _Walk(made)
    ends = all(walk.is_rank(made[id(tensor)], Behind(ending)) for tensor in model.outputs)
    found = [node for node in calls(model) if id(node) in walk.found]

    def before(node: Any) -> list[Any]:
        return [made[id(tensor)] for tensor in node.input_tensors]

    def learned(node: Any) -> bool:
        return any(len(weight.shape) > 1 for weight in getattr(node.operation, "weights", None) or ())

    last = [Layer(_name(node), before(node), node, _widths(node)) for node in found]
    return [layer.made for layer in classifiers_among(last, before, learned)] if ends else []


def _name(node: Any) -> str:
    return str(getattr(node.operation, "name", ""))


def _widths(node: Any) -> tuple[int, int]:
    taken, given = (tensors[0].shape[-1] for tensors in (node.input_tensors, node.outputs))
    return taken or 0, given or 0


class _Walk:
    """From a model's end towards its classifiers."""

    def __init__(self, made: Mapping[int, Any]) -> None:
        self.made = made
        self.found: set[int] = set()
        self._seen: set[int] = set()

    def is_rank(self, node: Any, behind: Behind) -> bool:
        if id(node) in self._seen:  # of what is added to itself again and again there are very many ways to it
            return True
        self._seen.add(id(node))
        layer = node.operation
        if node.is_input:
            return False
        if _is_last(layer, behind):
            self.found.add(id(node))
            return behind.stands
        stack = _stacked(node, self.made)
        after, taken = _before(layer, behind), (stack or node).input_tensors
        may_stand = stack is not None or _may_stand(layer, behind)
        return may_stand and all(self.is_rank(self.made[id(tensor)], after) for tensor in taken)


def behind_of(model: keras.Model, call: Any) -> Behind | None:
    """What stands between a call and what the model gives; None where that is more than may stand behind a
    classifier, or nothing of the kind."""
    if len(model.outputs) != 1 or len(call.outputs) != 1:
        return None
    made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
    node, behind = made[id(model.outputs[0])], Behind()
    while node is not call:
        if node.is_input or not _may_stand(node.operation, behind) or len(node.input_tensors) != 1:
            return None
        node, behind = made[id(node.input_tensors[0])], _before(node.operation, behind)
    return behind


def _before(layer: Any, behind: Behind) -> Behind:
    """What stands between the end and what a layer or an operation takes."""
    name = _called(layer)
    return behind.then(SHARES.get(name, ""), name in (*SHAPING, *MIXING), name in TURNING)


def _stacked(node: Any, made: Mapping[int, Any]) -> Any:
    """The call that has stacked tensors for one that adds them, or takes their mean or the greatest; else None."""
    adds = type(node.operation).__name__ in ("Sum", "Mean", "Max", "Amax") and len(node.input_tensors) == 1
    if not adds or type((stack := made[id(node.input_tensors[0])]).operation).__name__ != "Stack":
        return None
    count = len(stack.outputs[0].shape)
    said = node.operation.axis if isinstance(node.operation.axis, list | tuple) else [node.operation.axis]
    same = [None if axis is None else axis % count for axis in said] == [stack.operation.axis % count]
    return stack if same else None


def _may_stand(layer: Any, behind: Behind) -> bool:
    """Whether a layer or an operation may stand between a classifier and the end."""
    name = _called(layer)
    between = may_precede(name, behind.ending) or name in SHARES
    turns = name in (*SHAPING, *TURNING) and behind.turns
    librarys = type(layer).__module__.startswith(("keras.src.ops.", "keras.src.layers.")) and (between or turns)
    if not isinstance(layer, keras.layers.Layer):
        known = type(layer).__module__.startswith("keras.src.ops.") and type(layer).__name__ in OPERATIONS
        return known or librarys
    if type(layer) is layers.Activation:
        return _passes(layer, behind)
    return isinstance(layer, PASSING) or is_temperature(layer) or librarys


def _called(layer: Any) -> str:
    """What a call computes, as core has it: of an activation, which."""
    name = _activation(layer) if type(layer) is layers.Activation else type(layer).__name__
    return name.replace("_", "").lower()


def _is_last(layer: Any, behind: Behind) -> bool:
    if is_functional(layer):  # a head of its own, of which no more has weights than a classifier
        inside = [node.operation for node in calls(functional(layer)) if getattr(node.operation, "weights", None)]
        return len(inside) == 1 and ends_in_classifier(functional(layer), behind.ending)
    name = str(getattr(layer, "name", ""))
    if type(layer) is not layers.Dense and not isinstance(layer, CONVOLUTIONS):
        return False
    made = behind.then(SHARES.get(_activation(layer).replace("_", ""), ""), False, False)
    if made.ranked:
        return _passes(layer, made)
    if type(layer) is layers.Dense:
        return _passes(layer, made) and not is_projection(name)
    if type(layer) is layers.Conv2D and tuple(layer.kernel_size) == (1, 1):
        return _passes(layer, made) and (is_ranking(name) or name == PREDICTIONS)
    return False


def is_temperature(layer: Any) -> bool:
    """Whether all that a layer learns are single numbers, which makes it no classifier."""
    weights = layer.weights if isinstance(layer, layers.Layer) else []
    return bool(weights) and all(len(weight.shape) == 0 for weight in weights)


def _activation(layer: Any) -> str:
    return str(getattr(layer.activation, "__name__", "")).removesuffix("_v2")


def _passes(layer: Any, behind: Behind) -> bool:
    """Whether what makes its numbers active leaves them those of classes."""
    name = _activation(layer)
    return name in ACTIVATIONS or may_precede(name, behind.ending)
