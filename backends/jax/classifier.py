"""Whether an NNX module ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a linear layer (flax's, one that is written by hand, or a convolution of 1x1 that is
called so) whose numbers the module gives as they are, or after what has no parameters; a projection, as encoders
end in, is none. Of what a softmax shares out, whatever made it is one.
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
from headstart.models.endings import (
    APART,
    Behind,
    Layer,
    classifiers_among,
    is_projection,
    is_ranking,
    may_precede,
    reached,
)
from headstart.models.several import at_end

# what may stand between the classifier and the end: functions, and what programs of them are made of
FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "relu", "hard_sigmoid", "clip")
PRIMITIVES = (
    "reduce_max", "max", "broadcast_in_dim", "stop_gradient", "sub", "exp", "reduce_sum", "div", "log", "logistic",
    "reshape", "squeeze", "convert_element_type", "copy", "mul", "add", "neg", "min",
    "clamp",
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
    return labelled(path, linear, module.kernel_size if type(module) is nnx.Conv else None)


def labelled(path: str, linear: bool, kernel_size: Any) -> str:
    """The same by what a layer is. `kernel_size`: of a convolution; None: it is none."""
    alone = kernel_size is not None and set(_sides(kernel_size)) == {1}
    if (linear and not is_projection(path)) or (alone and is_ranking(path)):
        return KNOWN
    return LAYER if linear or kernel_size is not None else MADE


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
    """The classifier at a module's end."""

    path: str | None = None
    """of the submodule that it is; None where there is none"""
    inside: bool = False
    """whether it is run inside of what JAX transforms as one thing"""
    matrices: Sequence[jax.Array] = ()
    """where there is none: what the module multiplies by at its end, in no submodule"""


def classifier_of(watching: Callable[[Any], Any], example: Any, ending: str = "") -> Found:
    """Told by a program of a module's run. CutError for several that read arrays of their own. `watching`: runs it
    on a batch and notes its layers; `ending`: what was taken off its end."""

    def run(x: Any) -> Any:
        return at_end(watching(x), jax.Array)

    closed = jax.make_jaxpr(run)(jax.tree.map(jax.numpy.asarray, example))
    program, constants = closed.jaxpr, dict(zip(map(id, closed.jaxpr.constvars), closed.consts, strict=True))
    if len(program.outvars) != 1:
        return Found()
    walk = Walk()
    whole = Scope(program)
    if not walk.is_rank(whole, program.outvars[0], (), Behind(ending)):
        return Found(matrices=[constants[key] for key in walk.multiplied if key in constants])
    walk.keep_classifiers()
    if not walk.reached:
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

    def unshaped(self, variable: Any) -> Any:
        """What it is in this program, but for another shape or type."""
        maker = self.makers.get(id(variable))
        return (
            self.unshaped(maker.invars[0]) if maker is not None and maker.primitive.name in SHAPING else variable
        )

    def origin(self, variable: Any) -> int:
        """The identity of what it is in the outermost program, but for another shape or type."""
        variable = self.unshaped(variable)
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
        if kind == NAME and (name.startswith(KNOWN) or (name.startswith(LAYER) and behind.ranked)):
            path = name.removeprefix(KNOWN).removeprefix(LAYER)
            self.reached[path] = scope, _taken(scope, path)
            return behind.stands and len(self.reached) <= MOST
        if kind == NAME and name.startswith((MADE, LAYER)):
            before, seen = dict(self.reached), set(self._seen)
            path = name.removeprefix(MADE).removeprefix(LAYER)
            if self.is_rank(scope, maker.invars[0], (*within, path), behind):
                return True
            product, fits = Product(path), behind.ranked or (behind.stands and not is_projection(path))
            if not fits or not product.is_linear(scope, maker.invars[0]) or not product.takes:
                return False
            self.reached, self._seen = {**before, path: (scope, _taken(scope, path))}, seen
            return True
        if kind == NAME and within and name == TAKEN + within[-1]:
            within = within[:-1]
        if kind == "dot_general" and not within and not scope.is_input(maker.invars[0]):
            self.multiplied += [scope.origin(atom) for atom in maker.invars if not of_batch(scope, atom)]
        if kind not in (*PRIMITIVES, NAME) and name not in FUNCTIONS and not _may_stand(kind, behind):
            inner = scope.inside(maker)
            at = next(at for at, made in enumerate(maker.outvars) if made is variable)
            return inner is not None and self.is_rank(inner, inner.program.outvars[at], within, behind)
        mixes = kind in MIXING or _stacked(scope, maker) is not None
        behind = behind.then(_ending(scope, maker), mixes or kind in (*SHAPING, NAME), kind in TURNING)
        # Last made, first seen: of what is added to a long row of layers, the layer says sooner that it is none.
        where, atoms = _stacked(scope, maker) or (scope, maker.invars)
        latest = sorted(atoms, key=lambda atom: -where.order.get(id(atom), -1))
        return all(self.is_rank(where, atom, within, behind) for atom in latest)

    def keep_classifiers(self) -> None:
        """Of what was reached, those that are."""
        layers = []
        for path, (scope, taken) in self.reached.items():
            made = next(made.outvars[0] for made in scope.program.eqns if _gives(made, path))
            reads = [] if taken is None or hasattr(taken, "val") else [(scope, taken)]
            widths = (taken.aval.shape[-1], made.aval.shape[-1]) if reads else (0, 0)
            layers.append(Layer(path, reads, (scope, made), widths))
        names = {layer.name for layer in classifiers_among(layers, _before, _is_matrix)}
        self.reached = {path: where for path, where in self.reached.items() if path in names}


def _gives(equation: Any, path: str) -> bool:
    """Whether it notes what a layer gives."""
    return equation.primitive.name == NAME and equation.params["name"] in (MADE + path, KNOWN + path, LAYER + path)


def _is_matrix(place: tuple[Scope, Any]) -> bool:
    """Whether it is a matrix of weights."""
    scope, atom = place
    fixed = id(atom) not in scope.makers and scope.outside(atom) is None and id(atom) not in scope.inputs
    return fixed and sum(side > 1 for side in atom.aval.shape) > 1


def _stacked(scope: Scope, equation: Any) -> tuple[Scope, Any] | None:
    """What was stacked for an equation that adds it, or takes the greatest of it, and where that is."""
    if equation.primitive.name not in ("reduce_sum", "reduce_max"):
        return None
    variable = equation.invars[0]
    while (stack := scope.makers.get(id(variable))) is None:
        if (there := scope.outside(variable)) is None:
            return None
        scope, variable = there
    along = {"stack": "axis", "concatenate": "dimension"}.get(stack.primitive.name, "")
    return (scope, stack.invars) if (stack.params.get(along),) == tuple(equation.params["axes"]) else None


def _may_stand(kind: str, behind: Behind) -> bool:
    """Whether a primitive may stand between a classifier and the end, of those that may not in any case. Norms
    take roots."""
    if kind in ("sqrt", "rsqrt") and not behind.ranked:
        return False
    turns = kind in (*SHAPING, *TURNING) and behind.turns
    return turns or may_precede(kind, behind.ending) or (bool(behind.ending) and kind in MASKS)


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


def of_batch(scope: Scope, variable: Any) -> bool:
    """Whether it is computed from the batch."""
    return any(
        maker is None and where.outside(atom) is None and id(atom) in where.inputs
        for where, atom, maker in behind(scope, variable)
    )


def behind(scope: Scope, variable: Any) -> Iterator[tuple[Scope, Any, Any]]:
    """All that it is computed from, itself too: where that is, the variable, and the equation that makes it, or
    None."""
    for where, atom in reached([] if hasattr(variable, "val") else [(scope, variable)], _before):
        yield where, atom, where.makers.get(id(atom))


def _before(place: tuple[Scope, Any]) -> list[tuple[Scope, Any]]:
    where, atom = place
    if (maker := where.makers.get(id(atom))) is not None:
        return [(where, taken) for taken in maker.invars if not hasattr(taken, "val")]
    there = where.outside(atom)
    return [] if there is None or hasattr(there[1], "val") else [there]


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
