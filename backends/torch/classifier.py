"""Whether a module ends in a classifier, so that a fresh one comes in its place and not behind it; and what a
module calls its classes.

Invariant: a classifier is where rows of features meet a matrix of weights, one row of it for each class, and the
module gives the numbers of that as they are, or after what weighs and joins them: a linear layer, a product,
cosines, distances, a convolution that is called so, a convolution of 1x1 that makes the one map that the module
gives. A projection, as encoders end in, is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch.trace import ENDINGS, Traced, attribute
from headstart.models.endings import is_projection, is_ranking, is_row
from headstart.models.several import main

# what may stand between the classifier and the end
PASSING = (
    "flatten", "squeeze", "view", "reshape", "softmax", "log_softmax", "sigmoid", "logsigmoid", "dropout", "relu",
    "mean", "add", "truediv", "div", "mul", "contiguous", "float", "adaptive_avg_pool2d", "avg_pool2d", "size",
    "getitem", "getattr", "clone", "alias", "stack", "clamp", "clip", "hardsigmoid", "log", "sub", "neg",
    "masked_fill", "cat", "concat", "concatenate", "hstack",
)  # fmt: skip
RESIZING = ("interpolate", "upsample", "upsample_bilinear", "upsample_nearest")
GREATEST = ("max", "amax")
"""of the classes of all tokens, as VOLO has it of those that are called a classifier's; else that of an encoder"""
LAYERS = (
    nn.Flatten, nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Unflatten, nn.Hardsigmoid, nn.Upsample,
)  # fmt: skip
# what leaves a map a map of classes
DIRECT = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.Upsample, nn.modules.dropout._DropoutNd)
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
    ends = bool(given) and all(walk.is_rank(node, _Behind()) for node in given)
    names = [traced.names.get(node, "") for node in walk.found]
    taken = [before for node in walk.found for before in node.all_input_nodes]
    return walk.found if ends and not is_row(names, taken, walk.found, lambda node: node.all_input_nodes) else {}


def is_hidden(source: nn.Module, traced: Traced) -> bool:
    """Whether a module that was left whole, with others in it, makes the end: a classifier may be inside of it."""
    walk = _Walk(source, traced)
    return not all(walk.is_rank(node, _Behind()) for node in _ends(traced)) and walk.hidden


def _ends(traced: Traced) -> list[fx.Node]:
    """What the module gives, aside from auxiliary outputs."""
    (value,) = traced.output.args
    end = main(value) if isinstance(value, Mapping) else None
    return [end] if isinstance(end, fx.Node) else traced.output.all_input_nodes


@dataclass(frozen=True)
class _Behind:
    """What stands between a node and the module's end."""

    summed: bool = False
    """it is summed, so that a layer's own numbers would be no classes'"""
    named: bool = False
    """the greatest is taken, so that only a layer that is called so is a classifier"""
    direct: bool = True
    """nothing but what resizes maps and makes probabilities"""


class _Walk:
    """From a module's end towards its classifier."""

    def __init__(self, source: nn.Module, traced: Traced) -> None:
        self.source, self.traced = source, traced
        self.found: dict[fx.Node, Read | None] = {}
        self.seen: set[fx.Node] = set()
        self.single = len(_ends(traced)) == 1
        self.hidden = False

    def is_rank(self, node: fx.Node, behind: _Behind) -> bool:
        if node in self.seen:
            return True
        self.seen.add(node)
        if node.op == "call_module":
            module, path = self.source.get_submodule(str(node.target)), str(node.target)
            if not behind.summed and is_last(module, path, behind.named, behind.direct and self.single):
                self.found[node] = self._read(node, -1 if is_linear(module) else 1)
                return True
            self.hidden = self.hidden or next(module.children(), None) is not None
            passes = isinstance(module, LAYERS) or type(module).__name__ == "DeQuantize"
            if next(module.parameters(), None) is not None or not passes:
                return False
            direct = isinstance(module, DIRECT)
        elif node.op not in ("call_function", "call_method"):
            return False
        else:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            name = name.strip("_")
            if name in (("sub",) if behind.summed else PRODUCTS) and (weights := self._matrices(node)):
                self.found[node] = self._read(node, -1 if name == "linear" else None)
                return not any(map(is_projection, (self.traced.names.get(node, ""), *weights)))
            if name not in (*PASSING, *RESIZING, *GREATEST, *SUMMING):
                return False
            summed = name in SUMMING and not _is_sum_of_several(node)
            behind = replace(behind, summed=behind.summed or summed, named=behind.named or name in GREATEST)
            direct = name in (*RESIZING, *ENDINGS)
        behind = replace(behind, direct=behind.direct and direct)
        inputs = [taken for taken in node.all_input_nodes if taken in self.traced.names and not _is_size(taken)]
        return bool(inputs) and all(self.is_rank(taken, behind) for taken in inputs)

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


def is_last(module: nn.Module, path: str, named: bool, direct: bool) -> bool:
    """Whether a layer is a classifier by what it is, or by what it is called. `named`: it has to be called so.
    `direct`: it makes the one thing that the module gives; a convolution of 1x1 then makes a map of classes."""
    if is_linear(module):
        return is_ranking(path) if named else not is_projection(path)
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return False
    alone = set(module.kernel_size) == {1}  # each place is by itself
    return (alone or direct) if is_ranking(path) else (alone and direct and not is_projection(path))


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, of floats or quantized."""
    kind = type(module)
    quantized = kind.__name__ == "Linear" and kind.__module__.startswith("torch.ao.nn.quantized.")
    return isinstance(module, nn.Linear) or quantized


def _is_sum_of_several(node: fx.Node) -> bool:
    """Whether it adds tensors that were stacked in front of their samples for that."""
    stack = node.all_input_nodes[0] if node.all_input_nodes else node
    called = (node.args[1:], node.kwargs), (stack.args[1:], stack.kwargs)
    first = called[0] in (((0,), {}), ((), {"dim": 0})) and called[1] in (((), {}), ((0,), {}), ((), {"dim": 0}))
    return first and getattr(node.target, "__name__", node.target) == "sum" and stack.target is torch.stack


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
