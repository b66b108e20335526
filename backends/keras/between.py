"""What may stand in a functional keras.Model between its classifiers and its end, and what is then behind these.

Invariant: classes stay apart there, in their order: each number at the end is made of those of one class, but for
probabilities, which are made of all. A layer of somebody's own is followed where its code is made of Keras's
operations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
from keras import layers

from headstart.backends.keras.copying import is_functional
from headstart.models.endings import Behind, may_precede, squashes

# what may stand between the classifier and the end
PASSING = (
    layers.Softmax, layers.ReLU, layers.Identity, layers.Dropout, layers.Flatten, layers.Reshape, layers.Average,
    layers.Add, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.AveragePooling2D,
    layers.Rescaling, layers.ActivityRegularization,
)  # fmt: skip
OPERATIONS = (
    "Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid", "Relu", "Reshape", "Squeeze", "Cast", "Mean", "Average",
    "Add", "Divide", "TrueDivide", "Multiply", "Subtract", "Negative", "Clip", "Log", "HardSigmoid",
)  # fmt: skip
ACTIVATIONS = ("linear", "softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid")
# what makes probabilities -> as core has it, or what is nearest to it
SHARES = {
    "softmax": "softmax", "logsoftmax": "log_softmax", "sigmoid": "sigmoid", "logsigmoid": "sigmoid",
}  # fmt: skip
# what gives numbers another shape or type alone, and what turns their axes
SHAPING = (
    "identity", "dropout", "flatten", "reshape", "squeeze", "cast", "linear", "upsampling2d", "resizing", "resize",
)  # fmt: skip
# probabilities of several classifiers, whose mean is one of probabilities
MIXING = ("average", "add", "mean", "divide", "truedivide")
TURNING = ("permute", "transpose", "moveaxis", "swapaxes", "expanddims")
REDUCING = ("Sum", "Max", "Amax", "Logsumexp")
GREATEST = ("maximum", "logaddexp")
"""of what several give"""
POOLED = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
# modules of Keras's whose layers, without weights, keep the classes apart
KEEPING = tuple(f"keras.src.layers.{kind}." for kind in ("pooling", "reshaping", "regularization", "activations"))
WEIGHING = ("multiply", "dot", "matmul", "einsum", "tensordot")
PICKING = ("GetItem", "Take", "Slice", "Cropping1D", "Cropping2D", "Cropping3D")
COUNTING = ("multiply", "divide", "truedivide")
"""what may heed which tokens count, and how many do"""


def step(
    node: Any, behind: Behind, made: Mapping[int, Any], learned: Callable[[Any], bool]
) -> tuple[list[Any], Behind] | None:
    """The tensors of which a call makes what it gives, and what is behind these; None for a call that may not
    stand there. `made`: tensor, by identity -> the call that makes it; `learned`: whether a tensor is made with
    weights."""
    layer, name = node.operation, called(node.operation)
    if (stack := _stacked(node, made)) is not None:
        return stack.input_tensors, behind.then("", True, False)
    if _joins_places(node) or (name in GREATEST and not behind.ending and len(node.input_tensors) > 1):
        behind = replace(behind, named=True)
    elif not (_takes_one(node) or may_stand(layer, behind)):
        return None
    taken = node.input_tensors
    if name in COUNTING and sum(map(learned, taken)) == 1:
        taken = [*filter(learned, taken)]
    if behind.named and name in WEIGHING and len(taken) > 1:
        return None  # tokens that are weighed by others, as attention pools them
    return taken, before(layer, behind)


def before(layer: Any, behind: Behind) -> Behind:
    """What stands between the end and what a layer or an operation takes."""
    name = called(layer)
    shapes = name in (*SHAPING, *MIXING, "getitem")
    return behind.then(SHARES.get(name, ""), shapes, name in TURNING).bound(name)


def called(layer: Any) -> str:
    """What a call computes, as core has it: of an activation, which."""
    name = activation(layer) if type(layer) is layers.Activation else type(layer).__name__
    return name.replace("_", "").lower()


def activation(layer: Any) -> str:
    return str(getattr(layer.activation, "__name__", "")).removesuffix("_v2")


def passes(layer: Any, behind: Behind) -> bool:
    """Whether what makes its numbers active leaves them those of classes."""
    name = activation(layer)
    return name in ACTIVATIONS or may_precede(name, behind.ending) or squashes(name)


def may_stand(layer: Any, behind: Behind) -> bool:
    """Whether a layer or an operation may stand between a classifier and the end."""
    name, module = called(layer), type(layer).__module__
    between = may_precede(name, behind.ending) or name in SHARES or squashes(name)
    turns = name in (*SHAPING, *TURNING) and behind.turns
    librarys = module.startswith(("keras.src.ops.", "keras.src.layers.")) and (between or turns)
    if not isinstance(layer, keras.layers.Layer):
        known = module.startswith("keras.src.ops.") and type(layer).__name__ in OPERATIONS
        return known or librarys or (behind.ranked and name == "depthwiseconv")
    if type(layer) is layers.Activation:
        return passes(layer, behind)
    if behind.ranked and (smooths(layer) or (module.startswith(KEEPING) and not layer.weights)):
        return True
    return isinstance(layer, PASSING) or is_temperature(layer) or librarys


def is_temperature(layer: Any) -> bool:
    """Whether all that a layer learns are single numbers, which makes it no classifier."""
    weights = layer.weights if isinstance(layer, layers.Layer) else []
    return bool(weights) and all(len(weight.shape) == 0 for weight in weights)


def smooths(layer: Any) -> bool:
    """Whether it convolves each channel by itself, and so mixes no classes."""
    if isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
        return bool(layer.depth_multiplier == 1)
    groups = layer.groups if isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D) else 1
    return bool(groups > 1 and groups == layer.filters and layer.kernel.shape[-2] == 1)


def _stacked(node: Any, made: Mapping[int, Any]) -> Any:
    """The call that has stacked tensors for one that adds them, or takes their mean or the greatest; else None."""
    adds = type(node.operation).__name__ in (*REDUCING, "Mean", "Average") and len(node.input_tensors) == 1
    if not adds or type((stack := made[id(node.input_tensors[0])]).operation).__name__ != "Stack":
        return None
    count = len(stack.outputs[0].shape)
    return stack if _axes(node, count) == [stack.operation.axis % count] else None


def _joins_places(node: Any) -> bool:
    """Whether it takes the greatest, or the sum, of all tokens of `(n, t, c)`, or of all places of a map."""
    if isinstance(node.operation, POOLED):
        return True
    if type(node.operation).__name__ not in REDUCING or not type(node.operation).__module__.startswith("keras."):
        return False
    axes = _axes(node, count := len(node.input_tensors[0].shape))
    return bool(axes) and all(0 < axis < count - 1 for axis in axes)


def _takes_one(node: Any) -> bool:
    """Whether it takes one token, or place, of many: of `(n, t, c)` one `(n, c)`, or `(n, 1, c)`."""
    taken, given = node.input_tensors[0].shape if node.input_tensors else (), node.outputs[0].shape
    one = len(given) < len(taken) or (len(given) > 2 and set(given[1:-1]) == {1})
    return type(node.operation).__name__ in PICKING and one and (given[:1], given[-1:]) == (taken[:1], taken[-1:])


def _axes(node: Any, count: int) -> list[int]:
    """Those, of so many, that an operation says; [] where it says none."""
    said = getattr(node.operation, "axis", None)
    axes = said if isinstance(said, list | tuple) else [said]
    return [axis % count for axis in axes if isinstance(axis, int)]


# ---- layers of somebody's own


def is_own(layer: Any) -> bool:
    """Whether it holds no weights, and what it computes is code of somebody's own, as in a Lambda."""
    if not isinstance(layer, keras.layers.Layer) or is_functional(layer) or layer.weights:
        return False
    return type(layer) is layers.Lambda or not type(layer).__module__.startswith("keras.")


def followed(node: Any) -> keras.Model | None:
    """A call of such a layer as a model of Keras's operations, of inputs as the call's are; None where it is none,
    as where the code is another library's."""
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in node.input_tensors]
    named = {id(x): entry for x, entry in zip(node.input_tensors, inputs, strict=True)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args, kwargs = node.arguments.fill_in(named)
            return keras.Model(inputs, node.operation.call(*args, **kwargs))
    except Exception:
        return None
