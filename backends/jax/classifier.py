"""Whether an NNX module ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a linear layer (or a convolution of 1x1 that is called so) whose numbers the module
gives as they are, or after what has no parameters; a projection, as encoders end in, is none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from headstart.models.endings import is_projection, is_ranking
from headstart.models.several import at_end

# what may stand between the classifier and the end: functions, and what programs of them are made of
FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid", "clip")
PRIMITIVES = (
    "reduce_max", "max", "broadcast_in_dim", "stop_gradient", "sub", "exp", "reduce_sum", "div", "log", "logistic",
    "reshape", "squeeze", "convert_element_type", "copy", "mul", "add", "neg", "min",
    "clamp",
)  # fmt: skip


MISSING = object()


def ends_in_classifier(layers: list[Any]) -> bool:
    """Whether layers in a row end in one."""
    *_, last = layers
    if isinstance(last, functools.partial):
        last = last.func
    if is_last(last, ""):
        return True
    if type(last) is nnx.Sequential:
        learned = [layer for layer in last.layers if isinstance(layer, nnx.Module) and nnx.state(layer, nnx.Param)]
        return len(learned) == 1 and ends_in_classifier(list(last.layers))
    return len(layers) > 1 and _passes(last) and ends_in_classifier(layers[:-1])


def _passes(layer: Any) -> bool:
    library = str(getattr(layer, "__module__", "")).partition(".")[0] in ("jax", "flax")
    return isinstance(layer, nnx.Dropout) or (library and getattr(layer, "__name__", "") in FUNCTIONS)


def is_last(module: Any, path: str) -> bool:
    if type(module) in (nnx.Linear, nnx.LoRALinear, nnx.LoRA) or _is_linear(module):
        return not is_projection(path)
    if type(module) is nnx.Conv and set(_sides(module.kernel_size)) == {1}:
        return is_ranking(path)
    return False


def _is_linear(module: Any) -> bool:
    """Whether it is a general layer that does what a linear one does."""
    return type(module) is nnx.LinearGeneral and len(module.out_features) == 1 and module.axis == (-1,)


def _sides(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


Made = list[tuple[str, Any, Any]]
"""for each linear layer, as it ran: its path, what it gave, what it took"""


def watched(module: nnx.Module, call: Callable[[nnx.Module], Any], made: Made) -> Any:
    """What `call` gives of a copy of the module, whose linear layers are noted in `made`."""
    clone = nnx.clone(module)
    for steps, part in list(nnx.iter_modules(clone)):
        if steps and is_last(part, path := ".".join(map(str, steps))):
            watch(part, path, made)
    return call(clone)


def classifier_of(watching: Callable[[Any, Made], Any], example: Any) -> str | None:
    """The path of the submodule that is the classifier at a module's end, told by a program of its run; None
    where there is none, or more than one. `watching`: runs the module on a batch and notes its linear layers."""
    paths: list[str] = []

    def run(x: Any) -> Any:
        made: Made = []
        end = at_end(watching(x, made), jax.Array)
        if end is None:
            return None, [], []
        paths[:] = [path for path, *_ in made]
        return end, [value for _, value, _ in made], [taken for *_, taken in made]

    try:
        program = jax.make_jaxpr(run)(jax.tree.map(jax.numpy.asarray, example)).jaxpr
    except jax.errors.UnexpectedTracerError:  # it is run inside of a scan, or of a function that is compiled
        return None
    if not paths:
        return None
    end, *others = program.outvars
    given = {id(value): path for value, path in zip(others[: len(paths)], paths, strict=True)}
    taken = dict(zip(paths, others[len(paths) :], strict=True))
    makers = {id(variable): equation for equation in program.eqns for variable in equation.outvars}
    found: set[str] = set()
    for constant in program.constvars:  # a temperature, an offset: not of the batch
        makers[id(constant)] = None
    if not _is_rank(end, given, makers, found) or len(found) != 1:
        return None
    path = found.pop()
    first = any(taken[path] is variable for variable in program.invars)  # nothing would be left before it
    return path if paths.count(path) == 1 and not first else None


def watch(part: Any, path: str, made: Made) -> None:
    """Note what the submodule gives and takes."""
    kind: Any = type(part)

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = kind.__call__(self, *args, **kwargs)
        made.append((path, value, next(iter((*args, *kwargs.values())))))
        return value

    changed = type(kind)(kind.__name__, (kind,), {"__call__": noted, "__module__": kind.__module__})
    object.__setattr__(part, "__class__", changed)


def _is_rank(variable: Any, ends: dict[int, str], makers: dict[int, Any], reached: set[str]) -> bool:
    if id(variable) in ends:
        reached.add(ends[id(variable)])
        return True
    if (maker := makers.get(id(variable), MISSING)) is None:
        return True
    if maker is MISSING or not _is_passing(maker):
        return False
    # A second way to it says no more, and of what is added to itself again and again there are very many.
    makers[id(variable)] = None
    inputs = [atom for atom in maker.invars if not hasattr(atom, "val")]  # literals aside
    return all(_is_rank(atom, ends, makers, reached) for atom in inputs)


def _is_passing(equation: Any) -> bool:
    if equation.params.get("name") in FUNCTIONS:
        return True
    inner = equation.params.get("call_jaxpr") or equation.params.get("jaxpr")
    if inner is not None:
        return all(map(_is_passing, inner.eqns))
    return equation.primitive.name in PRIMITIVES
