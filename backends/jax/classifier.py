"""Whether an NNX module ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a linear layer (flax's, one that is written by hand, or a convolution of 1x1 that is
called so) whose numbers the module gives as they are, or after what has no parameters; a projection, as encoders
end in, is none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from headstart.backends.jax.parts import called_by
from headstart.backends.jax.statistics import SHAPING, inner_of
from headstart.common.errors import CutError
from headstart.models.endings import APART, is_projection, is_ranking, reached
from headstart.models.several import at_end

# what may stand between the classifier and the end: functions, and what programs of them are made of
FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid", "clip")
PRIMITIVES = (
    "reduce_max", "max", "broadcast_in_dim", "stop_gradient", "sub", "exp", "reduce_sum", "div", "log", "logistic",
    "reshape", "squeeze", "convert_element_type", "copy", "mul", "add", "neg", "min",
    "clamp",
)  # fmt: skip


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
    single = type(module) is nnx.Einsum and is_product(module.einsum_str)
    if single or type(module) in (nnx.Linear, nnx.LoRALinear, nnx.LoRA) or _is_linear(module):
        return not is_projection(path)
    if type(module) is nnx.Conv and set(_sides(module.kernel_size)) == {1}:
        return is_ranking(path)
    return False


def _is_linear(module: Any) -> bool:
    """Whether it is a general layer that does what a linear one does."""
    return type(module) is nnx.LinearGeneral and len(module.out_features) == 1 and module.axis == (-1,)


def is_product(einsum: Any) -> bool:
    """Whether it is said to multiply the last axis by a matrix."""
    if not isinstance(einsum, str) or "->" not in einsum or einsum.count(",") != 1:
        return False
    taken, matrix, given = einsum.replace(" ", "").replace("->", ",").split(",")
    plain = bool(taken and given) and taken[:-1] == given[:-1] and len(matrix) == 2
    return plain and taken[-1] != given[-1] and {taken[-1], given[-1]} == {*matrix}


def _sides(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


MADE, KNOWN, TAKEN = "headstart:made:", "headstart:known:", "headstart:taken:"
"""before a layer's path, in a program: what it gave, the same of one that is linear by its kind, what it took"""


def noted(
    path: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], known: bool
) -> Any:
    """What a layer gives for the first of its arguments, both with names that are seen in a program, inside of
    whatever JAX transforms, too. `known`: that it is linear, by its kind."""
    arguments: dict[Any, Any] = dict([*enumerate(args), *kwargs.items()])
    first, taken = next(iter(arguments.items()), (0, None))
    if not isinstance(taken, jax.Array):
        return call(*args, **kwargs)
    arguments[first] = checkpoint_name(taken, TAKEN + path)
    value = call(*(arguments[at] for at in range(len(args))), **{name: arguments[name] for name in kwargs})
    return checkpoint_name(value, (KNOWN if known else MADE) + path) if isinstance(value, jax.Array) else value


def watched(module: nnx.Module, call: Callable[[nnx.Module], Any]) -> Any:
    """What `call` gives of a copy of the module, whose layers are noted."""
    clone = nnx.clone(module)
    for steps, part in list(nnx.iter_modules(clone)):
        if steps and callable(part):
            path = ".".join(map(str, steps))
            watch(part, path, is_last(part, path))
    return call(clone)


def watch(part: Any, path: str, known: bool) -> None:
    kind: Any = type(part)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return noted(path, functools.partial(kind.__call__, self), args, kwargs, known)

    object.__setattr__(part, "__class__", called_by(kind, call))


class Found(NamedTuple):
    """The classifier at a module's end."""

    path: str | None = None
    """of the submodule that it is; None where there is none"""
    inside: bool = False
    """whether it is run inside of what JAX transforms as one thing"""
    matrices: Sequence[jax.Array] = ()
    """where there is none: what the module multiplies by at its end, in no submodule"""


def classifier_of(watching: Callable[[Any], Any], example: Any) -> Found:
    """Told by a program of a module's run. CutError for several that read arrays of their own. `watching`: runs it
    on a batch and notes its linear layers."""

    def run(x: Any) -> Any:
        return at_end(watching(x), jax.Array)

    closed = jax.make_jaxpr(run)(jax.tree.map(jax.numpy.asarray, example))
    program, constants = closed.jaxpr, dict(zip(map(id, closed.jaxpr.constvars), closed.consts, strict=True))
    if len(program.outvars) != 1:
        return Found()
    walk = Walk()
    whole = Scope(program)
    if not walk.is_rank(whole, program.outvars[0]):
        return Found(matrices=[constants[key] for key in walk.multiplied if key in constants])
    if not walk.reached or walk.is_row():
        return Found()
    if len({(id(scope), id(taken)) for scope, taken in walk.reached.values()}) > 1:
        names = ", ".join(map(repr, sorted(walk.reached)))
        raise CutError(APART.format(called="the module", names=names))
    path, (scope, taken) = next(iter(walk.reached.items()))
    if len(walk.reached) > 1:  # which read the same: that which runs first
        called = [str(made.params.get("name", "")) for made in scope.program.eqns]
        path = min(walk.reached, key=lambda path: called.index(TAKEN + path))
    return Found() if taken is None or scope.is_input(taken) else Found(path, scope.around is not None)


class Scope:
    """A program, or one that an equation of another runs."""

    def __init__(self, program: Any, around: Scope | None = None, equation: Any = None) -> None:
        self.program, self.around, self.equation = program, around, equation
        self.makers = {id(variable): made for made in program.eqns for variable in made.outvars}
        self.order = {id(variable): at for at, made in enumerate(program.eqns) for variable in made.outvars}
        self.inputs = {id(variable): at for at, variable in enumerate(program.invars)}
        self._inner: dict[int, Scope] = {}

    def inside(self, equation: Any) -> Scope | None:
        inner = inner_of(equation)
        if inner is not None and id(equation) not in self._inner:
            self._inner[id(equation)] = Scope(inner, self, equation)
        return self._inner.get(id(equation))

    def outside(self, variable: Any) -> tuple[Scope, Any] | None:
        """What an input of the program is in the one around it."""
        if self.around is None or id(variable) not in self.inputs:
            return None
        return self.around, self.equation.invars[self.inputs[id(variable)]]

    def origin(self, variable: Any) -> int:
        """The identity of what it is in the outermost program, but for another shape or type."""
        if (maker := self.makers.get(id(variable))) is not None and maker.primitive.name in SHAPING:
            return self.origin(maker.invars[0])
        there = self.outside(variable)
        return id(variable) if there is None else there[0].origin(there[1])

    def is_input(self, variable: Any) -> bool:
        """Whether it is the batch itself."""
        if (there := self.outside(variable)) is not None:
            return there[0].is_input(there[1])
        return id(variable) in self.inputs


class Walk:
    """From a program's end back to the classifiers whose numbers it gives."""

    def __init__(self) -> None:
        self.reached: dict[str, tuple[Scope, Any]] = {}
        """path -> where it is run, and what it takes there: None where it is run more than once"""
        self.multiplied: list[int] = []
        """what the module multiplies by where no submodule does, by the identity of the variable"""
        self._seen: set[tuple[int, int]] = set()

    def is_rank(self, scope: Scope, variable: Any, within: tuple[str, ...] = ()) -> bool:
        """`within`: the submodules whose result it is a part of, or of whose result it was made."""
        # A second way to it says no more, and of what is added to itself again and again there are very many.
        if hasattr(variable, "val") or (id(scope), id(variable)) in self._seen:
            return True
        self._seen.add((id(scope), id(variable)))
        if (maker := scope.makers.get(id(variable))) is None:
            if (there := scope.outside(variable)) is not None:
                return self.is_rank(*there, within)
            return id(variable) not in scope.inputs  # a temperature, an offset: not of the batch
        kind, name = maker.primitive.name, str(maker.params.get("name", ""))
        if kind == NAME and name.startswith(KNOWN):
            path = name.removeprefix(KNOWN)
            self.reached[path] = scope, _taken(scope, path)
            return len(self.reached) <= MOST
        if kind == NAME and name.startswith(MADE):
            before, seen, path = dict(self.reached), set(self._seen), name.removeprefix(MADE)
            if self.is_rank(scope, maker.invars[0], (*within, path)):
                return True
            product = Product(path)
            if is_projection(path) or not product.is_linear(scope, maker.invars[0]) or not product.takes:
                return False
            self.reached, self._seen = {**before, path: (scope, _taken(scope, path))}, seen
            return True
        if kind == NAME and within and name == TAKEN + within[-1]:
            within = within[:-1]
        if kind == "dot_general" and not within and not scope.is_input(maker.invars[0]):
            self.multiplied += [scope.origin(atom) for atom in maker.invars if not of_batch(scope, atom)]
        if kind not in (*PRIMITIVES, NAME) and name not in FUNCTIONS:
            inner = scope.inside(maker)
            at = next(at for at, made in enumerate(maker.outvars) if made is variable)
            return inner is not None and self.is_rank(inner, inner.program.outvars[at], within)
        # Last made, first seen: of what is added to a long row of layers, the layer says sooner that it is none.
        latest = sorted(maker.invars, key=lambda atom: -scope.order.get(id(atom), -1))
        return all(self.is_rank(scope, atom, within) for atom in latest)

    def is_row(self) -> bool:
        """Whether one of them reads what is made of another's numbers, as in a row of residual blocks. Where they
        are called classifiers, numbers of classes are refined."""
        if any(map(is_ranking, self.reached)):
            return False
        ends = {prefix + path for path in self.reached for prefix in (MADE, KNOWN)}
        return any(
            maker is not None and maker.primitive.name == NAME and maker.params["name"] in ends
            for scope, taken in self.reached.values()
            if taken is not None
            for _, _, maker in behind(scope, taken)
        )


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


def of_batch(scope: Scope, variable: Any) -> bool:
    """Whether it is computed from the batch."""
    return any(
        maker is None and where.outside(atom) is None and id(atom) in where.inputs
        for where, atom, maker in behind(scope, variable)
    )


def behind(scope: Scope, variable: Any) -> Iterator[tuple[Scope, Any, Any]]:
    """All that it is computed from, itself too: where that is, the variable, and the equation that makes it, or
    None."""

    def before(place: tuple[Scope, Any]) -> list[tuple[Scope, Any]]:
        where, atom = place
        if (maker := where.makers.get(id(atom))) is not None:
            return [(where, taken) for taken in maker.invars if not hasattr(taken, "val")]
        there = where.outside(atom)
        return [] if there is None or hasattr(there[1], "val") else [there]

    for where, atom in reached([] if hasattr(variable, "val") else [(scope, variable)], before):
        yield where, atom, where.makers.get(id(atom))


NAME = "name"
MOST = 8
"""classifiers at one end; more are the last layers of a row of residual blocks, which may be very long"""


def _taken(scope: Scope, path: str) -> Any:
    taken = [
        made.invars[0]
        for made in scope.program.eqns
        if made.primitive.name == NAME and made.params["name"] == TAKEN + path
    ]
    return taken[0] if len(taken) == 1 else None
