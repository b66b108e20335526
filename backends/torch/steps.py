"""The classifiers at the end of a module that torch.fx cannot trace, found by autograd's graph of a run.

Invariant: as `classifier` has it of a trace. What autograd notes of a step says over which axes it sums; where it
notes nothing, the step is none behind which a classifier is looked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.classifier import (
    GREATEST,
    JOINING,
    OF_SEVERAL,
    PASSING,
    Behind,
    is_last,
    is_linear,
    is_matrix,
    smooths,
    widths,
)
from headstart.backends.torch.ending import at_end, tensors
from headstart.backends.torch.reading import distinct, shapes_among
from headstart.backends.torch.trace import Call, sharing
from headstart.data.rows import count
from headstart.models import several
from headstart.models.endings import Layer, classifiers_among, reached
from headstart.models.several import LOGITS, Entry, dotted, main

RESIZING = frozenset(
    f"upsample{kind}" for kind in ("nearest1d", "nearest2d", "linear1d", "bilinear2d", "bilinear2daa", "bicubic2d")
)
DIRECT = RESIZING | {"softmax", "logsoftmax", "sigmoid", "clone", "alias", "tocopy"}
STEPS = RESIZING | frozenset(name.replace("_", "") for name in PASSING) | {
    "tocopy", "select", "slice", "unsafeview", "index", "indexput", "rsub", "where",
}  # fmt: skip
"""what may stand behind a classifier, as autograd calls it; and what leaves a map a map of classes"""
CALLED = {
    "logsoftmax": "log_softmax", "tocopy": "to", "unsafeview": "view", "reshapealias": "view", "alias": "clone",
    "select": "getitem", "slice": "getitem",
}  # fmt: skip
"""steps -> functions, where the names differ"""
POOLING = ("maxpool1d", "maxpool2dwithindices")
POOLED = ("adaptivemaxpool2d",)


def classifiers_before_end(source: nn.Module, call: Call, example: Any) -> dict[str, torch.Tensor]:
    """The classifiers, in the order in which they run, that all of what the module gives comes from, after what
    weighs and joins them, as temperatures and means of two do, and what each of them takes; {} where it ends
    otherwise."""
    walk = _Walk(source)
    output = walk.run(call, example)
    found = {dotted(entry): tensor for entry, tensor in tensors(output)}
    alone = at_end(output, call.row) if call.row else found.get("", main(found))
    ends = [tensor for tensor in found.values() if tensor.is_floating_point()] if alone is None else [alone]
    walk.single = len(ends) == 1
    behind = Behind(scores=alone is not None and alone is found.get(LOGITS))
    if not ends or not all(
        end.grad_fn is not None and walk.is_rank(end.grad_fn, behind, end.ndim) for end in ends
    ):
        return {}
    among = walk.classifiers()
    ranks = {name: walk.takes[name].detach() for name in dict.fromkeys(walk.made.values()) if name in among}
    if len(ends) > 1 and len(distinct(ranks)) > 1:
        return {}  # several tasks, each with features of its own
    return ranks


def row_at_end(source: nn.Module, call: Call, value: Any, example: Any) -> Entry:
    """See `several.row_of`, which is said; () where a map or tokens that the module gives are made of it, as what
    a decoder gives is of a code. `value`: what the module gives for the example."""
    shapes = shapes_among(call, source, value, example)
    row = several.row_of(shapes, count(example))
    if not row:
        return ()
    # a copy, since what a module keeps of this run hangs on the gradient's graph and could not be copied
    with torch.enable_grad():
        given = dict(tensors(call(sharing(source, buffers=False), batch_of(example))))
    made = getattr(given.pop(row, None), "grad_fn", None)
    others = [x.grad_fn for x in given.values() if x.grad_fn is not None and x.ndim > 2]
    if made is None or made in reached(others, _before):
        return ()
    several.tell_row(row, shapes, type(source).__name__)
    return row


class _Walk:
    """From a run's end towards its classifiers."""

    def __init__(self, source: nn.Module) -> None:
        self.source = source
        self.made: dict[Any, str] = {}
        """the step that makes what a layer gives -> the layer"""
        self.takes: dict[str, torch.Tensor] = {}
        self.used: set[str] = set()
        self.single = True
        self._seen: set[Any] = set()

    def run(self, call: Call, example: Any) -> Any:
        """What the module gives; layers that may be classifiers are noted."""
        shell = sharing(self.source, buffers=False)

        def note(name: str) -> Any:
            def hook(module: nn.Module, args: Any, value: Any) -> None:
                ranks = len(args) == 1 and any(fits(module, args[0], value) for fits in (ranks_rows, ranks_places))
                if ranks and value.grad_fn is not None:
                    self.made[value.grad_fn], self.takes[name] = name, args[0]

            return hook

        for name, module in shell.named_modules():
            if name:
                module.register_forward_hook(note(name))
        with torch.enable_grad():
            return call(shell, batch_of(example))

    def is_rank(self, step: Any, behind: Behind, axes: int) -> bool:
        """`axes`: how many there are of what the step gives, as far as that can be told."""
        if step in self._seen:  # what is added to itself again and again has very many ways to it
            return True
        self._seen.add(step)
        if step in self.made:
            return self._ends_at(self.made[step], behind, axes)
        if hasattr(step, "variable"):
            return not is_matrix(step.variable)
        before = [following for following, _ in step.next_functions if following is not None]
        name = type(step).__name__.partition("Backward")[0].lower()
        called = CALLED.get(name, name)
        several = _is_sum_of_several(step, before)
        if name in (*GREATEST, *JOINING) and not several:
            if (over := _places_of(step, name)) is None:
                return False
            less, trailing = over
            behind, axes = replace(behind, named=True, trailing=behind.trailing or trailing), axes + less
        elif name in POOLED:
            behind, before = replace(behind, named=True), [_of_one_row(following) for following in before]
        elif name in OF_SEVERAL and not behind.ending and len(before) > 1:
            behind = replace(behind, named=True)
        elif behind.ranked and _is_smoothing(step):
            before = before[:1]
        elif not _may_stand(name, called, behind) and any(not hasattr(step, "variable") for step in before):
            return False  # of parameters alone anything may be made
        if behind.named and name == "mul" and len(before) > 1:
            return False  # tokens that are weighed by others, as attention pools them
        behind = behind.after("add" if several else called, name in DIRECT)
        return bool(before) and all(self.is_rank(following, behind, axes) for following in before)

    def _ends_at(self, name: str, behind: Behind, axes: int) -> bool:
        """Whether a layer is a classifier there."""
        self.used.add(name)
        module, axes_taken = self.source.get_submodule(name), self.takes[name].ndim
        if not behind.stands or behind.projects(name):
            return False
        if behind.trailing and is_linear(module):
            return False  # whose classes are on the last axis
        # of tokens, of which the classes of one may be taken, nobody knows here which
        fitting = axes_taken == axes if is_linear(module) else True
        if axes_taken == 2 and not behind.named:
            return not behind.doubted or behind.takes(name, widths(module))
        return (axes_taken == 2 or fitting) and is_last(module, name, behind, self.single)

    def classifiers(self) -> set[str]:
        """Those of the layers that are."""
        steps = {name: step for step, name in self.made.items()}
        layers = []
        for name in self.used:
            taken = self.takes[name].grad_fn
            sides = widths(self.source.get_submodule(name))
            layers.append(Layer(name, [] if taken is None else [taken], steps[name], sides))
        found = classifiers_among(
            layers, _before, lambda step: hasattr(step, "variable") and is_matrix(step.variable)
        )
        return {layer.name for layer in found}


def _before(step: Any) -> list[Any]:
    """In autograd's graph, where what needs no gradient has no step."""
    return [following for following, _ in step.next_functions if following is not None]


def _may_stand(name: str, called: str, behind: Behind) -> bool:
    return name in (*STEPS, *JOINING) or behind.passes(called) or (behind.ranked and name in POOLING)


def _sizes(step: Any) -> tuple[int, ...] | None:
    """Of what a step takes, where autograd notes it."""
    sizes = getattr(step, "_saved_self_sym_sizes", None)
    if sizes is None and (taken := getattr(step, "_saved_self", None)) is not None:
        sizes = taken.shape
    return None if sizes is None else tuple(map(int, sizes))


def _axes(step: Any, count: int) -> list[int]:
    """Those, of so many, that a step says."""
    said = getattr(step, "_saved_dim", None)
    axes = said if isinstance(said, tuple) else (said,)
    # autograd has negative ones as unsigned
    return [(axis - 2**64 if axis >= 2**63 else axis) % count for axis in axes if isinstance(axis, int)]


def _is_sum_of_several(step: Any, before: list[Any]) -> bool:
    """Whether it adds tensors that were stacked for that, or takes the logarithm of the sum of exponentials."""
    stacks = len(before) == 1 and type(before[0]).__name__.startswith("Stack")
    if not type(step).__name__.startswith(("Sum", "Logsumexp")) or not stacks or (sizes := _sizes(step)) is None:
        return False
    axes = _axes(step, len(sizes))
    return len(axes) == 1 and axes == _axes(before[0], len(sizes))


def _places_of(step: Any, name: str) -> tuple[int, bool] | None:
    """How many axes fewer a step gives than it takes, which is the greatest, or the sum, of all tokens of
    `(n, t, c)`, or of all places of `(n, c, t)` or of a map, and whether it is the sum of the latter; None where
    it is over other axes, or nobody knows."""
    if (sizes := _sizes(step)) is None or (count := len(sizes)) < 3:
        return None
    axes = _axes(step, count)
    last = bool(axes) and count - 1 in axes and min(axes) > 1
    if len(axes) != 1 and not last:
        return None
    if name in JOINING and not last and axes != [count - 2]:
        return None
    return (0 if getattr(step, "_saved_keepdim", False) else len(axes)), last and name in JOINING


def _of_one_row(step: Any) -> Any:
    """What is pooled in one dimension, which torch does in two."""
    inserted = type(step).__name__.startswith("Unsqueeze")
    return step.next_functions[0][0] if inserted else step


def _is_smoothing(step: Any) -> bool:
    """Whether it is a convolution of each channel by itself, which mixes no classes."""
    if not type(step).__name__.startswith("Convolution"):
        return False
    weight, groups = step._saved_weight, step._saved_groups
    return bool(groups > 1 and tuple(weight.shape[:2]) == (groups, 1))


def ranks_rows(module: nn.Module, taken: Any, given: Any) -> bool:
    """Whether it may be a classifier: features meet a matrix of its own, and no other layer is in it."""
    rows = isinstance(taken, torch.Tensor) and taken.ndim == 2 and taken.is_floating_point()
    weights = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    alone = next(module.children(), None) is None and any(map(is_matrix, weights))
    return rows and isinstance(given, torch.Tensor) and (alone or is_linear(module))


def ranks_places(module: nn.Module, taken: Any, given: Any) -> bool:
    """Whether it may be a classifier of each place of a map, or of each token."""
    places = isinstance(taken, torch.Tensor) and taken.ndim in (3, 4) and isinstance(given, torch.Tensor)
    axes = {nn.Conv1d: 3, nn.Conv2d: 4, nn.ConvTranspose1d: 3, nn.ConvTranspose2d: 4}.get(type(module))
    return places and (is_linear(module) or (taken.ndim == axes and not smooths(module)))
