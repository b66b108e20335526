"""Whether a traced module ends in a classifier, so that a fresh one comes in its place and not behind it; and what
a module calls its classes.

Invariant: a classifier is a linear layer (or a convolution of 1x1 that is called so) whose numbers the module
gives as they are, or after what has no parameters; a projection, as encoders end in, is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch.trace import Traced
from headstart.models.endings import is_projection, is_ranking

# what may stand between the classifier and the end
PASSING = (
    "flatten", "squeeze", "view", "reshape", "softmax", "log_softmax", "sigmoid", "logsigmoid", "dropout", "relu",
    "mean", "add", "truediv", "div", "mul", "contiguous", "float", "adaptive_avg_pool2d", "avg_pool2d", "size",
    "getitem", "getattr", "clone", "alias", "stack", "clamp", "clip", "hardsigmoid", "log", "sub", "neg",
    "masked_fill",
)  # fmt: skip
LAYERS = (
    nn.Flatten, nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Unflatten, nn.Hardsigmoid,
)  # fmt: skip


def ends_in_classifier(source: nn.Module, traced: Traced) -> bool:
    """Whether all that the module gives comes from linear layers that are no projections."""
    result = traced.result
    return result is not None and _is_rank(result, source, traced, set())


def _is_rank(node: fx.Node, source: nn.Module, traced: Traced, seen: set[fx.Node]) -> bool:
    if node in seen:
        return True
    seen.add(node)
    if node.op == "call_module":
        module = source.get_submodule(str(node.target))
        if _is_last(module, str(node.target)):
            return True
        if next(module.parameters(), None) is not None or not isinstance(module, LAYERS):
            return False
    elif node.op == "call_function" and node.target is torch.nn.functional.linear:
        return not is_projection(traced.names.get(node, ""))
    elif node.op not in ("call_function", "call_method"):
        return False
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name.strip("_") not in PASSING:
            return False
    inputs = [taken for taken in node.all_input_nodes if taken in traced.names]
    return bool(inputs) and all(_is_rank(taken, source, traced, seen) for taken in inputs)


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
