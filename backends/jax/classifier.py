"""Whether an NNX module ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a linear layer (flax's, one that is written by hand, or a convolution of 1x1 that is
called so, or makes the map that the module gives) whose numbers the module gives as they are, or after what has no
parameters; a projection, as encoders end in, is none. Of what a softmax shares out, whatever made it is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from headstart.backends.jax.parts import called_by
from headstart.backends.jax.programs import (
    Scope,
    are_places,
    before,
    is_learned,
    is_matrix,
    is_mean,
    is_pointwise,
    is_shift,
    of_batch,
    picks_places,
    reduced,
    smooths,
    stacked,
)
from headstart.backends.jax.statistics import SHAPING
from headstart.common.errors import CutError
from headstart.models import endings
from headstart.models.endings import (
    APART,
    Layer,
    classifiers_among,
    is_product,
    is_projection,
    is_ranking,
    may_precede,
    squashes,
)
from headstart.models.several import NAMED, arrays, at_end

# what may stand between the classifier and the end: functions, and what programs of them are made of
FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid", "clip")
GATED = ("silu", "swish", "hard_silu", "hard_swish")
"""hidden layers end so: each number is multiplied by what a sigmoid makes of it"""
PRIMITIVES = (
    "reduce_max", "max", "broadcast_in_dim", "stop_gradient", "sub", "exp", "reduce_sum", "div", "log", "logistic",
    "reshape", "squeeze", "convert_element_type", "copy", "mul", "add", "neg", "min",
    "clamp", "stack",
)  # fmt: skip

# what stands before an ending, besides what core knows of: masks of numbers
MASKS = ("gt", "ge", "lt", "le", "eq", "ne", "and", "or", "not", "is_finite")
SHARES = {
    "softmax": "softmax", "log_softmax": "log_softmax", "sigmoid": "sigmoid", "logistic": "sigmoid",
    "log_sigmoid": "sigmoid",
}  # fmt: skip
"""what makes probabilities -> as core has it, or what is nearest to it"""
TURNING = ("transpose",)
MIXING = ("add", "div")
"""probabilities of several classifiers, whose mean is one of probabilities"""


@dataclass(frozen=True)
class Behind(endings.Behind):
    """What stands between a place and the module's end."""

    divided: float = 1.0
    """the number by which it is divided there: a sum of so many is their mean"""


def classifier_place(layers: list[Any], behind: Behind) -> int | None:
    """Which of layers in a row is the classifier that they end in; None where they end in none."""
    *_, last = layers
    if isinstance(last, functools.partial):
        last = last.func
    if is_last(last, "", behind):
        return len(layers) - 1
    if type(last) is nnx.Sequential:
        learned = [layer for layer in last.layers if isinstance(layer, nnx.Module) and nnx.state(layer, nnx.Param)]
        ends = len(learned) == 1 and classifier_place(list(last.layers), behind) is not None
        return len(layers) - 1 if ends else None
    if len(layers) < 2 or not _passes(last, behind):
        return None
    ending = SHARES.get(_called(last), "") if _is_librarys(last) else ""
    return classifier_place(layers[:-1], behind.then(ending, isinstance(last, nnx.Dropout), False))


def _passes(layer: Any, behind: Behind) -> bool:
    known = _called(layer) in FUNCTIONS or may_precede(_called(layer), behind.ending)
    return isinstance(layer, nnx.Dropout) or (_is_librarys(layer) and known)


def _called(layer: Any) -> str:
    return str(getattr(layer, "__name__", type(layer).__name__))


def _is_librarys(layer: Any) -> bool:
    return str(getattr(layer, "__module__", "")).partition(".")[0] in ("jax", "flax")


def is_last(module: Any, path: str, behind: Behind) -> bool:
    label = label_of(module, path)
    return label == KNOWN or (label == LAYER and behind.ranked)


def label_of(module: Any, path: str) -> str:
    """Under what a layer is noted."""
    single = type(module) is nnx.Einsum and is_product(module.einsum_str)
    linear = single or type(module) in (nnx.Linear, nnx.LoRALinear, nnx.LoRA) or _is_linear(module)
    convolves = type(module) is nnx.Conv and not _is_apart(module)
    return labelled(path, linear, module.kernel_size if convolves else None)


def labelled(path: str, linear: bool, kernel_size: Any) -> str:
    """The same by what a layer is. `kernel_size`: of a convolution; None: it is none."""
    alone = kernel_size is not None and set(_sides(kernel_size)) == {1}
    if (linear and not is_projection(path)) or (alone and is_ranking(path)):
        return KNOWN
    return LAYER if linear or kernel_size is not None else MADE


def _is_apart(convolution: Any) -> bool:
    """Whether it convolves each channel by itself, and so mixes no classes."""
    return bool(convolution.in_features == convolution.out_features == convolution.feature_group_count)


def _is_linear(module: Any) -> bool:
    """Whether it is a general layer that does what a linear one does."""
    return type(module) is nnx.LinearGeneral and len(module.out_features) == 1 and module.axis == (-1,)


def _sides(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


MADE, KNOWN, LAYER, TAKEN = "headstart:made:", "headstart:known:", "headstart:layer:", "headstart:taken:"
"""before a layer's path, in a program: what it gave; the same of one that is a classifier at an end, by its kind
and its name; of one that is if probabilities of classes are made of it; what it took"""


def noted(
    path: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], label: str
) -> Any:
    """What a layer gives for the first of its arguments, both with names that are seen in a program, inside of
    whatever JAX transforms, too. `label`: that of what it gives."""
    arguments: dict[Any, Any] = dict([*enumerate(args), *kwargs.items()])
    first, taken = next(iter(arguments.items()), (0, None))
    if not isinstance(taken, jax.Array):
        return call(*args, **kwargs)
    arguments[first] = checkpoint_name(taken, TAKEN + path)
    value = call(*(arguments[at] for at in range(len(args))), **{name: arguments[name] for name in kwargs})
    return checkpoint_name(value, label + path) if isinstance(value, jax.Array) else value


def watched(module: nnx.Module, call: Callable[[nnx.Module], Any]) -> Any:
    """What `call` gives of a copy of the module, whose layers are noted."""
    clone = nnx.clone(module)
    for steps, part in list(nnx.iter_modules(clone)):
        if steps and callable(part):
            path = ".".join(map(str, steps))
            watch(part, path, label_of(part, path))
    return call(clone)


def watch(part: Any, path: str, label: str) -> None:
    kind: Any = type(part)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return noted(path, functools.partial(kind.__call__, self), args, kwargs, label)

    object.__setattr__(part, "__class__", called_by(kind, call))


class Found(NamedTuple):
    """The classifiers at a module's end."""

    paths: Sequence[str] = ()
    """of the submodules that they are, in the order in which they run: of one if all read the same, and none where
    there is none"""
    inside: bool = False
    """whether one of them is run inside of what JAX transforms as one thing"""
    matrices: Sequence[jax.Array] = ()
    """where there is none: what the module multiplies by at its end, in no submodule"""


def classifier_of(watching: Callable[[Any], Any], example: Any, ending: str = "") -> Found:
    """Told by a program of a module's run; of several arrays of which no name tells, for several tasks, all have
    to be made of what one classifier reads. CutError for several of which one reads the batch itself. `watching`:
    runs it on a batch and notes its layers; `ending`: what was taken off its end."""

    def run(x: Any) -> Any:
        value = watching(x)
        if (end := at_end(value, jax.Array)) is not None:
            return end
        found = dict(arrays(value, jax.Array))
        named = {entry[0] for entry in found if entry} & {*NAMED}
        return [] if named else [array for array in found.values() if jnp.issubdtype(array.dtype, jnp.floating)]

    closed = jax.make_jaxpr(run)(jax.tree.map(jax.numpy.asarray, example))
    program, constants = closed.jaxpr, dict(zip(map(id, closed.jaxpr.constvars), closed.consts, strict=True))
    ends, whole = program.outvars, Scope(program)
    walk = Walk(len(ends) == 1 and ends[0].aval.ndim == 4)
    ranks = bool(ends) and all(walk.is_rank(whole, end, (), Behind(ending)) for end in ends)
    if not ranks and len(ends) != 1:
        return Found()
    if not ranks:
        return Found(matrices=[constants[key] for key in walk.multiplied if key in constants])
    walk.keep_classifiers()
    if not walk.reached:
        return Found()
    inside = any(scope.around is not None for scope, _ in walk.reached.values())
    if len(ends) > 1 and (inside or len({id(taken) for _, taken in walk.reached.values()} - {id(None)}) != 1):
        return Found()
    if inside or any(taken is None for _, taken in walk.reached.values()):  # run more than once, as will be told
        return Found([*walk.reached], inside)
    reads = {(id(scope), id(taken)): (scope, taken) for scope, taken in walk.reached.values()}
    if any(scope.is_input(taken) for scope, taken in reads.values()):
        if len(reads) == 1:
            return Found()
        raise CutError(APART.format(called="the module", names=", ".join(map(repr, sorted(walk.reached)))))
    called = [str(made.params.get("name", "")) for made in program.eqns]
    paths = sorted(walk.reached, key=lambda path: called.index(TAKEN + path))
    return Found(paths if len(reads) > 1 else paths[:1])


class Walk:
    """From a program's end back to the classifiers whose numbers it gives."""

    def __init__(self, gives_map: bool = False) -> None:
        """`gives_map`: whether it is a map that the program gives."""
        self.gives_map = gives_map
        self.reached: dict[str, tuple[Scope, Any]] = {}
        """path -> where it is run, and what it takes there: None where it is run more than once"""
        self.multiplied: list[int] = []
        """what the module multiplies by where no submodule does, by the identity of the variable"""
        self._seen: set[tuple[int, int]] = set()

    def is_rank(self, scope: Scope, variable: Any, within: tuple[str, ...], behind: Behind) -> bool:
        """`within`: the submodules whose result it is a part of, or of whose result it was made."""
        # A second way to it says no more, and of what is added to itself again and again there are very many.
        if hasattr(variable, "val") or (id(scope), id(variable)) in self._seen:
            return True
        self._seen.add((id(scope), id(variable)))
        if (maker := scope.makers.get(id(variable))) is None:
            if (there := scope.outside(variable)) is not None:
                return self.is_rank(*there, within, behind)
            return id(variable) not in scope.inputs  # a temperature, an offset: not of the batch
        kind, name = maker.primitive.name, str(maker.params.get("name", ""))
        if name in GATED and kind != NAME and not behind.ending:
            return False
        if kind == NAME and (name.startswith(KNOWN) or (name.startswith(LAYER) and behind.ranked)):
            path = name.removeprefix(KNOWN).removeprefix(LAYER)
            taken = _taken(scope, path)
            if behind.doubted and not behind.takes(path, _widths(taken, variable)):
                return False
            self.reached[path] = scope, taken
            return behind.stands and len(self.reached) <= MOST
        if kind == NAME and name.startswith(LAYER) and self.gives_map and behind.plain:
            path = name.removeprefix(LAYER)
            if is_pointwise(scope, maker.invars[0]) and not is_projection(path):
                self.reached[path] = scope, _taken(scope, path)
                return behind.stands
        if kind == NAME and name.startswith((MADE, LAYER)):
            before, seen = dict(self.reached), set(self._seen)
            path = name.removeprefix(MADE).removeprefix(LAYER)
            if self.is_rank(scope, maker.invars[0], (*within, path), behind):
                return True
            taken = _taken(scope, path)
            fits = behind.ranked or (behind.stands and behind.takes(path, _widths(taken, variable)))
            product = Product(path)
            if not fits or not product.is_linear(scope, maker.invars[0]) or not product.takes:
                return False
            self.reached, self._seen = {**before, path: (scope, taken)}, seen
            return True
        if kind == NAME and within and name == TAKEN + within[-1]:
            within = within[:-1]
        if kind == "dot_general" and not within and not scope.is_input(maker.invars[0]):
            self.multiplied += [scope.origin(atom) for atom in maker.invars if not of_batch(scope, atom)]
        if kind == "stop_gradient" and is_shift(scope, maker.invars[0]):
            return True  # of what the rest of it is made of, too
        where, atoms = scope, list(maker.invars)
        joins = reduced(scope, maker)
        stack = None if joins is None else stacked(scope, *joins)
        if stack is not None:
            where, atoms = stack
        elif joins is not None and are_places(*joins):
            atoms = [joins[0]]
            behind = behind if is_mean(maker, *joins, behind.divided) else replace(behind, named=True)
        elif picks_places(maker) or (behind.ranked and smooths(maker)):
            atoms = atoms[:1]
        elif kind not in (*PRIMITIVES, NAME) and name not in FUNCTIONS and not _may_stand(kind, behind):
            inner = scope.inside(maker)
            at = next(at for at, made in enumerate(maker.outvars) if made is variable)
            return inner is not None and self.is_rank(inner, inner.program.outvars[at], within, behind)
        if kind in ("mul", "div") and len(learned := [atom for atom in atoms if is_learned(scope, atom)]) == 1:
            atoms = learned  # the rest says which tokens count, or how many do
        if behind.named and kind == "mul" and sum(of_batch(scope, atom) for atom in atoms) > 1:
            return False  # tokens that are weighed by others, as attention pools them
        mixes = kind in MIXING or stack is not None
        behind = behind.then(_ending(scope, maker), mixes or kind in (*SHAPING, NAME), kind in TURNING)
        behind = behind.bound(name if name in FUNCTIONS else kind)
        if kind == "div" and hasattr(maker.invars[1], "val"):
            behind = replace(behind, divided=float(maker.invars[1].val))
        # Last made, first seen: of what is added to a long row of layers, the layer says sooner that it is none.
        latest = sorted(atoms, key=lambda atom: -where.order.get(id(atom), -1))
        return all(self.is_rank(where, atom, within, behind) for atom in latest)

    def keep_classifiers(self) -> None:
        """Of what was reached, those that are."""
        layers = []
        for path, (scope, taken) in self.reached.items():
            made = next(made.outvars[0] for made in scope.program.eqns if _gives(made, path))
            reads = [] if taken is None or hasattr(taken, "val") else [(scope, taken)]
            layers.append(Layer(path, reads, (scope, made), _widths(taken, made)))
        names = {layer.name for layer in classifiers_among(layers, before, is_matrix)}
        self.reached = {path: where for path, where in self.reached.items() if path in names}


def _gives(equation: Any, path: str) -> bool:
    """Whether it notes what a layer gives."""
    return equation.primitive.name == NAME and equation.params["name"] in (MADE + path, KNOWN + path, LAYER + path)


def _may_stand(kind: str, behind: Behind) -> bool:
    """Whether a primitive may stand between a classifier and the end, of those that may not in any case. Norms
    take roots."""
    if kind in ("sqrt", "rsqrt") and not behind.ranked:
        return False
    turns = kind in (*SHAPING, *TURNING) and behind.turns
    return turns or squashes(kind) or may_precede(kind, behind.ending) or (bool(behind.ending) and kind in MASKS)


def _ending(scope: Scope, equation: Any) -> str:
    """What makes probabilities, if an equation does: a softmax by what is divided there."""
    kind, name = equation.primitive.name, str(equation.params.get("name", ""))
    if kind == "div":
        powers, total = equation.invars
        summed = scope.makers.get(id(scope.unshaped(total)))
        made = scope.makers.get(id(powers))
        kinds = [step.primitive.name for step in (made, summed) if step is not None]
        return "softmax" if kinds == ["exp", "reduce_sum"] else ""
    return SHARES.get(kind, SHARES.get(name, "") if kind != NAME else "")


class Product:
    """Whether a layer of somebody's own gives a product of what it takes and a matrix, and maybe an offset."""

    def __init__(self, path: str) -> None:
        self.path, self.takes = path, 0
        self._known: dict[tuple[int, int, bool], bool] = {}

    def is_linear(self, scope: Scope, variable: Any, multiplied: bool = False) -> bool:
        """`multiplied`: whether a product stands behind it already; what is added to one as it came is none."""
        key = id(scope), id(variable), multiplied
        if key not in self._known:
            self._known[key] = not of_batch(scope, variable) or self._is_made_so(scope, variable, multiplied)
        return self._known[key]

    def _is_made_so(self, scope: Scope, variable: Any, multiplied: bool) -> bool:
        if (maker := scope.makers.get(id(variable))) is None:
            there = scope.outside(variable)
            return there is not None and self.is_linear(*there, multiplied)
        kind, atoms = maker.primitive.name, maker.invars
        if kind == NAME and maker.params["name"] == TAKEN + self.path:
            self.takes += 1
            return multiplied
        if kind == "dot_general":
            (over, _), (alike, _) = maker.params["dimension_numbers"]
            last = tuple(over) == (atoms[0].aval.ndim - 1,) and not alike
            return last and not of_batch(scope, atoms[1]) and self.is_linear(scope, atoms[0], True)
        if kind in (NAME, "add", "convert_element_type", "reshape"):
            return all(self.is_linear(scope, atom, multiplied) for atom in atoms)
        inner = scope.inside(maker)
        at = next(at for at, made in enumerate(maker.outvars) if made is variable)
        return inner is not None and self.is_linear(inner, inner.program.outvars[at], multiplied)


NAME = "name"
MOST = 8
"""classifiers at one end; more are the last layers of a row of residual blocks, which may be very long"""


def _widths(taken: Any, made: Any) -> tuple[int, int]:
    """How many numbers a layer reads of a place, and how many it gives; 0 where it is run more than once."""
    is_known = taken is not None and not hasattr(taken, "val")
    return (taken.aval.shape[-1], made.aval.shape[-1]) if is_known else (0, 0)


def _taken(scope: Scope, path: str) -> Any:
    taken = [
        made.invars[0]
        for made in scope.program.eqns
        if made.primitive.name == NAME and made.params["name"] == TAKEN + path
    ]
    return taken[0] if len(taken) == 1 else None
