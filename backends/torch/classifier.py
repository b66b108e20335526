"""Whether a module ends in a classifier, so that a fresh one comes in its place and not behind it; and what a
module calls its classes.

Invariant: a classifier is where rows of features meet a matrix of weights, one row of it for each class, and the
module gives the numbers of that as they are, or after what weighs and joins them: a linear layer (or a convolution
of 1x1 that is called so), a product, cosines, distances. A projection, as encoders end in, is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch.trace import Traced, attribute
from headstart.models.endings import is_projection, is_ranking

# what may stand between the classifier and the end
PASSING = (
    "flatten", "squeeze", "view", "reshape", "softmax", "log_softmax", "sigmoid", "logsigmoid", "dropout", "relu",
    "mean", "add", "truediv", "div", "mul", "contiguous", "float", "adaptive_avg_pool2d", "avg_pool2d", "size",
    "getitem", "getattr", "clone", "alias", "stack", "clamp", "clip", "hardsigmoid", "log", "sub", "neg",
    "masked_fill", "cat", "concat", "concatenate", "hstack",
)  # fmt: skip
LAYERS = (
    nn.Flatten, nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Unflatten, nn.Hardsigmoid,
)  # fmt: skip
# what compares features with weights
PRODUCTS = (
    "linear", "matmul", "mm", "einsum", "addmm", "cdist", "cosine_similarity", "pairwise_distance",
)  # fmt: skip
# what makes distances of the differences of all features and all weights
SUMMING = ("sum", "norm", "vector_norm", "pow", "square", "sqrt", "abs")


def ranking(source: nn.Module, traced: Traced) -> set[fx.Node]:
    """Where features meet the weights of the classifier, or classifiers, that all of what the module gives comes
    from; empty where it ends in none."""
    walk, given = _Walk(source, traced), traced.output.all_input_nodes
    return walk.found if given and all(walk.is_rank(node, False) for node in given) else set()


def is_hidden(source: nn.Module, traced: Traced) -> bool:
    """Whether a module that was left whole, with others in it, makes the end: a classifier may be inside of it."""
    walk = _Walk(source, traced)
    return not all(walk.is_rank(node, False) for node in traced.output.all_input_nodes) and walk.hidden


class _Walk:
    """From a module's end towards its classifier."""

    def __init__(self, source: nn.Module, traced: Traced) -> None:
        self.source, self.traced = source, traced
        self.found: set[fx.Node] = set()
        self.seen: set[fx.Node] = set()
        self.hidden = False

    def is_rank(self, node: fx.Node, summed: bool) -> bool:
        """`summed`: what comes of it is summed, so that a layer's own numbers would be no classes'."""
        if node in self.seen:
            return True
        self.seen.add(node)
        if node.op == "call_module":
            module = self.source.get_submodule(str(node.target))
            if _is_last(module, str(node.target)) and not summed:
                self.found.add(node)
                return True
            self.hidden = self.hidden or next(module.children(), None) is not None
            if next(module.parameters(), None) is not None or not isinstance(module, LAYERS):
                return False
        elif node.op not in ("call_function", "call_method"):
            return False
        else:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            name = name.strip("_")
            if name in (("sub",) if summed else PRODUCTS) and (weights := self._matrices(node)):
                self.found.add(node)
                return not any(map(is_projection, (self.traced.names.get(node, ""), *weights)))
            if name not in PASSING and name not in SUMMING:
                return False
            summed = summed or name in SUMMING
        inputs = [taken for taken in node.all_input_nodes if taken in self.traced.names]
        return bool(inputs) and all(self.is_rank(taken, summed) for taken in inputs)

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


def _is_last(module: nn.Module, path: str) -> bool:
    if isinstance(module, nn.Linear):
        return not is_projection(path)
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return is_ranking(path)
    return False


def labels_of(native: nn.Module) -> Sequence[Any]:
    """What transformers' and timm's classifiers call their classes, in their order; () where they say nothing."""
    settings = getattr(native, "pretrained_cfg", None)
    labels = settings.get("label_names") if isinstance(settings, Mapping) else None
    labels = labels or getattr(getattr(native, "config", None), "id2label", None)
    if isinstance(labels, Mapping):  # of numbers, which JSON has as texts
        numbered = {str(number): label for number, label in labels.items()}
        labels = [numbered.get(str(number)) for number in range(len(numbered))]
    return labels if isinstance(labels, list | tuple) else ()
