"""Products with weights at the end of a module that ends in no classifier, as far as can be seen: what a fresh
head takes for features may be numbers of classes all the same, which is said.

Invariant: nothing is decided here.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.classifier import is_linear, is_matrix
from headstart.backends.torch.ending import at_end
from headstart.backends.torch.trace import Call
from headstart.data.rows import each
from headstart.models.endings import doubted, reached, tell_of_doubted

PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "linear", "mv", "addmv", "trilinear")
SHAPING = (
    "t", "transpose", "permute", "view", "unsafeview", "reshapealias", "expand", "unsqueeze", "squeeze", "alias",
    "clone", "tocopy", "repeat", "stack", "cat", "select", "slice",
)  # fmt: skip
PASSING = (
    *SHAPING, "mean", "sum", "amax", "max", "logsumexp", "add", "sub", "mul", "div", "neg", "clamp", "tanh",
    "nativebatchnorm", "softmax", "logsoftmax", "sigmoid",
)  # fmt: skip
"""what may stand behind numbers of classes, as autograd calls it; a rectifier makes features of them"""
MADE = (*SHAPING, "mul", "div", "linalgvectornorm", "clampmin", "pow", "sum", "sqrt", "add")
"""of weights alone, before they are multiplied by"""


def tell(source: nn.Module, call: Call, example: Any) -> None:
    """Say it where all that the module gives is a product of fewer numbers than it is made of."""
    walk = _Walk(source)
    try:
        end = at_end(walk.run(call, example), call.row)
    except Exception:  # of code that takes no gradients
        return
    if end is None or end.ndim != 2 or end.grad_fn is None or not walk.is_product(end.grad_fn, False):
        return
    steps = {step for step, _ in walk.found}
    before = (following for step in steps for following, _ in step.next_functions if following is not None)
    if not steps or not steps.isdisjoint(reached(before, _before)):  # rows of residual blocks
        return
    for _, name in walk.found:
        sides = source.get_parameter(name).shape
        is_layer = is_linear(source.get_submodule(name.rpartition(".")[0]))
        if (what := doubted(name, is_layer)) and end.shape[1] in sides and end.shape[1] < max(sides):
            tell_of_doubted(type(source).__name__, end.shape[1], what, is_layer and walk.plain)
            return


class _Walk:
    """From a run's end towards the products that it is made of."""

    def __init__(self, source: nn.Module) -> None:
        # the same numbers, of which what is frozen has a gradient, too
        shared = {id(p): nn.Parameter(p.detach(), p.is_floating_point()) for p in source.parameters()}
        self.shell = copy.deepcopy(source, {**shared})
        self.names = {id(p): name for name, p in self.shell.named_parameters()}
        self.found: list[tuple[Any, str]] = []
        """a step, and the parameter that it multiplies by"""
        self.plain = True
        """nothing stands behind them that stands behind no classifier"""
        self._seen: set[Any] = set()

    def run(self, call: Call, example: Any) -> Any:
        with torch.enable_grad(), warnings.catch_warnings(action="ignore"):
            batch = each(lambda x: x.requires_grad_().clone() if x.is_floating_point() else x, batch_of(example))
            return call(self.shell, batch)

    def is_product(self, step: Any, summed: bool) -> bool:
        """`summed`: over some axis, on the way to the end."""
        if step in self._seen:
            return True
        self._seen.add(step)
        name, before = _name(step), _before(step)
        learned = {following: self._parameters(following) for following in before}
        data = [following for following in before if not learned[following]]
        matrices = [name for names in learned.values() for name in names if is_matrix(self._parameter(name))]
        if name in PRODUCTS or (name in ("mul", "sub") and summed and matrices):
            self.found += [(step, matrices[0])] if matrices else []
            return bool(matrices) and bool(data)
        if name == "mul" and len(data) > 1:  # shares of experts; else a gate, as hidden layers have it
            data = [following for following in data if not self._is_share(following)]
            self.plain = False
        self.plain = self.plain and name != "nativebatchnorm"
        if name not in PASSING or not data or (name == "mul" and len(data) > 1):
            return False
        return all(self.is_product(following, summed or name == "sum") for following in data)

    def _is_share(self, step: Any) -> bool:
        while _name(step) in SHAPING and len(_before(step)) == 1:
            (step,) = _before(step)
        return _name(step) == "softmax"

    def _parameter(self, name: str) -> torch.Tensor:
        return self.shell.get_parameter(name)

    def _parameters(self, step: Any) -> list[str]:
        """The parameters that a step is made of, if it is made of nothing else."""
        names = []
        for made in reached([step], _before):
            if hasattr(made, "variable"):
                names.append(self.names.get(id(made.variable), ""))
            elif _name(made) not in MADE:
                return []
        return [] if "" in names else names


def _name(step: Any) -> str:
    return type(step).__name__.partition("Backward")[0].lower()


def _before(step: Any) -> list[Any]:
    return [following for following, _ in step.next_functions if following is not None]
