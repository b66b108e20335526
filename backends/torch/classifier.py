"""Whether a module ends in a classifier, so that a fresh one comes in its place and not behind it; and what a
module calls its classes.

Invariant: a classifier is where rows of features meet a matrix of weights, one row of it for each class, and the
module gives the numbers of that as they are, or after what weighs and joins them: a linear layer, a product,
cosines, distances, a convolution that is called so, a convolution of 1x1 that makes the one map that the module
gives. A projection, as encoders end in, is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch.operations import ENDINGS, RESHAPING, function_name
from headstart.backends.torch.trace import Traced, attribute
from headstart.models import endings
from headstart.models.endings import (
    Layer,
    classifiers_among,
    is_ranking,
    is_scoring,
    may_precede,
    squashes,
)
from headstart.models.several import main

# what may stand between the classifier and the end
PASSING = (
    "flatten", "squeeze", "view", "reshape", "softmax", "log_softmax", "sigmoid", "logsigmoid", "dropout", "relu",
    "mean", "add", "truediv", "div", "mul", "contiguous", "float", "adaptive_avg_pool2d", "avg_pool2d", "size",
    "getitem", "getattr", "clone", "alias", "stack", "clamp", "clip", "hardsigmoid", "log", "sub", "neg",
    "masked_fill", "cat", "concat", "concatenate", "hstack", "dequantize",
    "select", "index_select", "narrow",
)  # fmt: skip
RESIZING = ("interpolate", "upsample", "upsample_bilinear", "upsample_nearest")
GREATEST = ("max", "amax", "adaptive_max_pool1d", "adaptive_max_pool2d")
"""of the classes of all tokens, as VOLO has it of those that are called a classifier's; else that of an encoder"""
JOINING = ("sum", "logsumexp")
"""the same, or of several that were stacked"""
OF_SEVERAL = ("maximum", "logaddexp")
POOLED = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
POOLING = ("max_pool1d", "max_pool2d", "avg_pool1d", "adaptive_avg_pool1d")
CONVOLUTIONS = ("conv1d", "conv2d")
COUNTING = ("mul", "truediv", "div", "masked_fill")
"""what may heed which tokens count, and how many do"""
LAYERS = (
    nn.Flatten, nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Unflatten, nn.Hardsigmoid, nn.Upsample,
)  # fmt: skip
# what leaves a map a map of classes
DIRECT = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.Upsample, nn.modules.dropout._DropoutNd)
SHARES = {**ENDINGS, "LogSigmoid": "sigmoid", "logsigmoid": "sigmoid"}
"""what makes probabilities, or their logarithms -> as core has it, or what is nearest to it"""
TURNING = ("transpose", "permute", "movedim", "swapaxes", "t", "unsqueeze", "expand")
MIXING = ("stack", "add", "mean", "div", "truediv")
"""probabilities of several classifiers, whose mean is one of probabilities"""
# what compares features with weights
PRODUCTS = (
    "linear", "matmul", "mm", "einsum", "addmm", "cdist", "cosine_similarity", "pairwise_distance",
)  # fmt: skip
# what makes distances of the differences of all features and all weights
SUMMING = ("sum", "norm", "vector_norm", "pow", "square", "sqrt", "abs")


Read = tuple[fx.Node, int | None]
"""what a classifier reads, and which axis of it holds the channels; None where that is not known"""


def ranking(source: nn.Module, traced: Traced) -> dict[fx.Node, Read | None]:
    """Where features meet the weights of the classifier, or classifiers, that all of what the module gives comes
    from, and what each reads, if that is one array; empty where it ends in none."""
    walk, given = _Walk(source, traced), _ends(traced)
    if not given or not all(walk.is_rank(node, Behind(scores=traced.scores)) for node in given):
        return {}

    called = {str(node.target): node for node in walk.found if node.op == "call_module"}

    def before(node: fx.Node) -> list[fx.Node]:
        """A layer that is called again gives numbers of the same kind there."""
        taken = node.all_input_nodes
        return [called.get(str(other.target), other) if other.op == "call_module" else other for other in taken]

    def learned(node: fx.Node) -> bool:
        if node.op == "call_module":
            return any(map(is_matrix, source.get_submodule(str(node.target)).parameters()))
        return node.op == "get_attr" and is_matrix(attribute(source, str(node.target)))

    layers = []
    for node in walk.found:
        taken = [other for other in before(node) if other.op != "get_attr"]
        layers.append(Layer(traced.names.get(node, ""), taken, node, _widths(source, node)))
    return {layer.made: walk.found[layer.made] for layer in classifiers_among(layers, before, learned)}


def _widths(source: nn.Module, node: fx.Node) -> tuple[int, int]:
    return widths(source.get_submodule(str(node.target))) if node.op == "call_module" else (0, 0)


def widths(module: nn.Module) -> tuple[int, int]:
    """How many numbers a linear layer reads of a place, and how many it gives; 0 for others."""
    taken, given = (getattr(module, name, 0) for name in ("in_features", "out_features"))
    return (taken, given) if isinstance(taken, int) and isinstance(given, int) else (0, 0)


def is_hidden(source: nn.Module, traced: Traced) -> bool:
    """Whether a module that was left whole, with others in it, makes the end: a classifier may be inside of it."""
    walk = _Walk(source, traced)
    return not all(walk.is_rank(node, Behind(scores=traced.scores)) for node in _ends(traced)) and walk.hidden


def _ends(traced: Traced) -> list[fx.Node]:
    """What the module gives, aside from auxiliary outputs."""
    (value,) = traced.output.args
    end = main(value) if isinstance(value, Mapping) else None
    return [end] if isinstance(end, fx.Node) else traced.output.all_input_nodes


@dataclass(frozen=True)
class Behind(endings.Behind):
    """What stands between a place and the module's end."""

    summed: bool = False
    """it is summed, so that a layer's own numbers would be no classes'"""
    trailing: bool = False
    """over the last axes, on which a convolution has its places"""
    direct: bool = True
    """nothing but what resizes maps and makes probabilities; or what stands before these"""

    def after(self, name: str, direct: bool) -> Behind:
        """The same of what is before a step that is called so. `direct`: it leaves a map a map of classes."""
        made = self.then(SHARES.get(name, ""), direct or name in (*RESHAPING, *MIXING), name in TURNING)
        return replace(made, direct=bool(made.ending) or (self.direct and direct)).bound(name)

    def passes(self, name: str) -> bool:
        """Whether a function may stand there, aside from those that may in any case."""
        turns = name in (*TURNING, *RESHAPING) and self.turns
        return turns or name in SHARES or may_precede(name, self.ending) or squashes(name)

    def allows(self, names: Collection[str]) -> bool:
        """Whether a product with what is called so is a classifier."""
        called = any(map(is_ranking, names)) or not self.named or self.summed
        called = called and (not self.squashed or any(map(is_scoring, names)))
        return self.ranked or (self.stands and called and not any(map(self.projects, names)))


class _Walk:
    """From a module's end towards its classifier."""

    def __init__(self, source: nn.Module, traced: Traced) -> None:
        self.source, self.traced = source, traced
        self.found: dict[fx.Node, Read | None] = {}
        self.seen: set[fx.Node] = set()
        self.single = len(_ends(traced)) == 1
        self.hidden = False

    def is_rank(self, node: fx.Node, behind: Behind) -> bool:
        if node in self.seen:
            return True
        self.seen.add(node)
        if node.op == "call_module":
            module, path = self.source.get_submodule(str(node.target)), str(node.target)
            name = type(module).__name__
            may_be = not behind.summed or (behind.trailing and not is_linear(module))
            if may_be and is_last(module, path, behind, self.single):
                self.found[node] = self._read(node, -1 if is_linear(module) else 1)
                return behind.stands
            self.hidden = self.hidden or next(module.children(), None) is not None
            passes = isinstance(module, (*LAYERS, *POOLED, nn.Tanh)) or name == "DeQuantize"
            if not (passes and next(module.parameters(), None) is None) and not _is_single(module, behind):
                return False
            behind = replace(behind, named=behind.named or isinstance(module, POOLED))
            behind = behind.after(name, isinstance(module, DIRECT))
        elif node.op not in ("call_function", "call_method"):
            return False
        else:
            name = function_name(node).strip("_")
            if name in (("sub",) if behind.summed else PRODUCTS) and (weights := self._matrices(node)):
                self.found[node] = self._read(node, -1 if name == "linear" else None)
                return behind.allows((self.traced.names.get(node, ""), *weights))
            if (further := self._through(node, name, behind)) is None:
                return False
            behind = further.after("add" if _is_sum_of_several(node) else name, name in (*RESIZING, *ENDINGS))
        inputs = [taken for taken in node.all_input_nodes if taken in self.traced.names and not _is_size(taken)]
        if name in COUNTING and sum(map(self._is_learned, inputs)) == 1:
            inputs = [*filter(self._is_learned, inputs)]
        if behind.named and name == "mul" and len(inputs) > 1:
            return False  # tokens that are weighed by others, as attention pools them
        inputs = inputs[:1] if name in CONVOLUTIONS else inputs
        return bool(inputs) and all(self.is_rank(taken, behind) for taken in inputs)

    def _is_learned(self, node: fx.Node) -> bool:
        """Whether parameters are used to compute it."""

        def holds(made: fx.Node) -> bool:
            if made.op != "call_module":
                return made.op == "get_attr"
            return next(self.source.get_submodule(str(made.target)).parameters(), None) is not None

        return any(map(holds, endings.reached([node], lambda made: made.all_input_nodes)))

    def _through(self, node: fx.Node, name: str, behind: Behind) -> Behind | None:
        """What is behind a function or method that is called so, once more is said of it; None where it may not
        stand there."""
        if name in GREATEST or _is_of_tokens(node):
            return replace(behind, named=True)
        if _is_of_last_axes(node):
            return replace(behind, named=True, summed=True, trailing=True)
        if name in OF_SEVERAL and not behind.ending:
            return replace(behind, named=behind.named or len(node.all_input_nodes) > 1)
        if name in SUMMING and not _is_sum_of_several(node):
            alone = may_precede(name, behind.ending) and not behind.named
            return replace(behind, summed=behind.summed or not alone)
        if name in CONVOLUTIONS:
            return behind if behind.ranked and _argument(node, 6, "groups", 1) != 1 else None
        known = name in (*PASSING, *RESIZING) or (behind.ranked and name in POOLING)
        return behind if known or _is_sum_of_several(node) or behind.passes(name) else None

    def _read(self, node: fx.Node, axis: int | None) -> Read | None:
        inputs = [taken for taken in node.all_input_nodes if taken in self.traced.names]
        return (inputs[0], axis) if len(inputs) == 1 else None

    def _matrices(self, node: fx.Node) -> list[str]:
        """The names of the matrices that it takes, as they are or after what was done to them alone."""
        names: list[str] = []
        for taken in node.all_input_nodes:
            if taken.op == "get_attr":
                value = attribute(self.source, str(taken.target))
                names += [str(taken.target)] if is_matrix(value) else []
            elif taken not in self.traced.names and taken not in self.traced.inputs:
                names += self._matrices(taken)
        return names


def is_matrix(value: Any) -> bool:
    """Whether it is more than a number for each class, or for each channel of a map."""
    return isinstance(value, torch.Tensor) and sum(side > 1 for side in value.shape) > 1


def is_last(module: nn.Module, path: str, behind: Behind, single: bool) -> bool:
    """Whether a layer is a classifier by what it is, by what it is called, or by what its numbers become.
    `single`: the module gives one thing; a convolution of 1x1 that makes it makes a map of classes."""
    if smooths(module):
        return False
    if behind.ranked:
        return is_linear(module) or isinstance(module, nn.modules.conv._ConvNd)
    if is_linear(module):
        return behind.takes(path, widths(module))
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return False
    alone, direct = set(module.kernel_size) == {1}, behind.direct and single  # alone: each place is by itself
    return (alone or direct) if is_ranking(path) else (alone and direct and not behind.projects(path))


def _is_single(module: nn.Module, behind: Behind) -> bool:
    """Whether it is a layer of torch's that may stand before probabilities: an activation, and of those that are
    shared out among classes all that has no matrix of weights, as a norm or a pooling."""
    kind = type(module).__module__
    fits = behind.ranked or (behind.ending and kind == "torch.nn.modules.activation")
    single = smooths(module) or not any(map(is_matrix, _tensors(module)))
    alone = next(module.children(), None) is None and single
    return bool(fits) and kind.startswith("torch.nn.modules.") and alone


def smooths(module: nn.Module) -> bool:
    """Whether it convolves each channel by itself, and so mixes no classes."""
    return (
        isinstance(module, nn.modules.conv._ConvNd)
        and 1 < module.groups == module.in_channels == module.out_channels
    )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, of floats or quantized."""
    kind = type(module)
    quantized = kind.__name__ == "Linear" and kind.__module__.startswith("torch.ao.nn.quantized.")
    return isinstance(module, nn.Linear) or quantized


def _is_sum_of_several(node: fx.Node) -> bool:
    """Whether it adds tensors that were stacked for that, or takes the logarithm of the sum of exponentials."""
    stack = node.all_input_nodes[0] if node.all_input_nodes else node
    axes = _axis(node, None), _axis(stack, 0)
    if not _is_joining(node) or stack.target is not torch.stack or not all(isinstance(a, int) for a in axes):
        return False
    return axes[0] == axes[1] or (axes[0] < 0) != (axes[1] < 0)  # how many there are is not known here


def _is_of_tokens(node: fx.Node) -> bool:
    """Whether it adds what there is of all tokens, `(n, t, c)`, or of all rows of a map."""
    return _is_joining(node) and not _is_sum_of_several(node) and _axis(node, None) in (1, -2)


def _is_of_last_axes(node: fx.Node) -> bool:
    """Whether it adds over the last axes, as of all places of `(n, c, t)`, or of a map."""
    if not _is_joining(node) or _is_sum_of_several(node):
        return False
    said = _axis(node, None)
    axes = {*said} if isinstance(said, list | tuple) else {said}
    return axes <= {2, 3, -1} or axes in ({-1, -2}, {-1, -2, -3})


def _is_joining(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) in JOINING


def _axis(node: fx.Node, default: int | None) -> Any:
    """The one axis that is said in a call, `default` where none is; several as they are."""
    said = _argument(node, 1, "dim", node.kwargs.get("axis", default))
    return said[0] if isinstance(said, list | tuple) and len(said) == 1 else said


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _is_size(node: fx.Node) -> bool:
    """Whether it is a size, or was made of sizes alone."""
    if node.op == "call_method" and node.target in ("size", "dim", "numel"):
        return True
    if node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim"):
        return True
    return node.op == "call_function" and bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))


def labels_of(native: nn.Module) -> Sequence[Any]:
    """What transformers' and timm's classifiers call their classes, in their order; () where they say nothing."""
    settings = getattr(native, "pretrained_cfg", None)
    labels = settings.get("label_names") if isinstance(settings, Mapping) else None
    labels = labels or getattr(getattr(native, "config", None), "id2label", None)
    if isinstance(labels, Mapping):  # of numbers, which JSON has as texts
        numbered = {str(number): label for number, label in labels.items()}
        labels = [numbered.get(str(number)) for number in range(len(numbered))]
    return labels if isinstance(labels, list | tuple) else ()
