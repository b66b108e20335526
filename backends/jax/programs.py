"""A program of a module's run as it is walked through backwards: where its variables are made, and what of its
equations add, or take the greatest of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from headstart.backends.jax.statistics import SHAPING, inner_of
from headstart.models.endings import reached


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


def feeds(program: Any, variable: Any, others: Sequence[Any]) -> bool:
    """Whether one of some other variables of a program is computed from this one, or in one step with it."""
    makers = {id(made): equation for equation in program.eqns for made in equation.outvars}

    def before(name: int) -> list[int]:
        return [id(atom) for atom in makers[name].invars] if name in makers else []

    made = makers.get(id(variable))
    together = {id(variable)} if made is None else {*map(id, made.outvars)}
    places = reached([id(other) for other in others], before)
    return any(place in together for place in places)


def is_pointwise(scope: Scope, variable: Any) -> bool:
    """Whether a convolution of 1x1 makes it, an offset aside, which mixes channels at each place by itself."""
    if (maker := scope.makers.get(id(scope.unshaped(variable)))) is None:
        return False
    if maker.primitive.name == "add":
        taken = [atom for atom in maker.invars if of_batch(scope, atom)]
        return len(taken) == 1 and is_pointwise(scope, taken[0])
    if maker.primitive.name != "conv_general_dilated" or maker.params["feature_group_count"] != 1:
        return False
    sides = maker.params["dimension_numbers"].rhs_spec[2:]
    return all(maker.invars[1].aval.shape[side] == 1 for side in sides)


def of_batch(scope: Scope, variable: Any) -> bool:
    """Whether it is computed from the batch."""
    return any(
        maker is None and where.outside(atom) is None and id(atom) in where.inputs
        for where, atom, maker in made_of(scope, variable)
    )


def is_learned(scope: Scope, variable: Any) -> bool:
    """Whether it is computed of the batch with a matrix of weights."""
    return of_batch(scope, variable) and any(
        is_matrix((where, atom)) for where, atom, _ in made_of(scope, variable)
    )


def made_of(scope: Scope, variable: Any) -> Iterator[tuple[Scope, Any, Any]]:
    """All that it is computed from, itself too: where that is, the variable, and the equation that makes it, or
    None."""
    for where, atom in reached([] if hasattr(variable, "val") else [(scope, variable)], before):
        yield where, atom, where.makers.get(id(atom))


def before(place: tuple[Scope, Any]) -> list[tuple[Scope, Any]]:
    where, atom = place
    if (maker := where.makers.get(id(atom))) is not None:
        return [(where, taken) for taken in maker.invars if not hasattr(taken, "val")]
    there = where.outside(atom)
    return [] if there is None or hasattr(there[1], "val") else [there]


def is_matrix(place: tuple[Scope, Any]) -> bool:
    """Whether it is a matrix of weights."""
    scope, atom = place
    fixed = id(atom) not in scope.makers and scope.outside(atom) is None and id(atom) not in scope.inputs
    return fixed and sum(side > 1 for side in atom.aval.shape) > 1


def reduced(scope: Scope, equation: Any) -> tuple[Any, tuple[int, ...]] | None:
    """What an equation adds, takes the greatest of, or the logarithm of the sum of exponentials, and over which
    axes; None for others."""
    kind, atom = equation.primitive.name, next(iter(equation.invars), None)
    if kind in ("reduce_sum", "reduce_max"):
        return atom, tuple(equation.params["axes"])
    if kind in ("reduce_window_sum", "reduce_window_max"):
        return atom, tuple(at for at, side in enumerate(equation.params["window_dimensions"]) if side > 1)
    if kind != "log" or atom is None:
        return None
    kinds: tuple[str, ...] = ("reduce_sum", "exp", "sub")
    axes: tuple[int, ...] = ()
    while kinds and (maker := scope.makers.get(id(scope.unshaped(atom)))) is not None:
        if maker.primitive.name == kinds[0]:
            kinds, axes = kinds[1:], (*axes, *maker.params.get("axes", ()))
        elif maker.primitive.name != "abs":
            return None
        atom = maker.invars[0]
    return None if kinds else (atom, axes)


def is_shift(scope: Scope, atom: Any) -> bool:
    """Whether it is the greatest of numbers, which is taken off before exponentials and given back behind them."""
    maker = scope.makers.get(id(scope.unshaped(atom)))
    if maker is None or maker.primitive.name == "reduce_max":
        return maker is not None
    if maker.primitive.name in ("select_n", "max"):
        return any(is_shift(scope, taken) for taken in maker.invars)
    inner = scope.inside(maker)
    return inner is not None and is_shift(inner, inner.program.outvars[0])


def are_places(atom: Any, axes: Sequence[int]) -> bool:
    """Whether these axes of `(n, t, c)`, or of a map, are those of its tokens, or places."""
    return bool(axes) and 0 not in axes and atom.aval.ndim - 1 not in axes


def is_mean(equation: Any, atom: Any, axes: Sequence[int], divided: float) -> bool:
    """Whether it adds what is then divided by how many there are; windows are divided so by flax's pooling."""
    kind = equation.primitive.name
    return kind == "reduce_window_sum" or (
        kind == "reduce_sum" and divided == math.prod(atom.aval.shape[axis] for axis in axes)
    )


def picks_places(equation: Any) -> bool:
    """Whether it takes some tokens of all, `(n, t, c)`, or some places of a map, with all of their channels."""
    if equation.primitive.name not in ("slice", "dynamic_slice", "gather"):
        return False
    taken, given = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if equation.params.get("slice_sizes", taken)[-1] != taken[-1]:
        return False
    return len(taken) > 2 and (taken[0], taken[-1]) == (given[0], given[-1])


def smooths(equation: Any) -> bool:
    """Whether it is a convolution of each channel by itself, which mixes no classes."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    groups, numbers = equation.params["feature_group_count"], equation.params["dimension_numbers"]
    taken, given = equation.invars[0].aval.shape[numbers.lhs_spec[1]], equation.outvars[0].aval.shape
    return bool(groups == taken == given[numbers.out_spec[1]]) and groups > 1


def stacked(scope: Scope, variable: Any, axes: Sequence[int]) -> tuple[Scope, Any] | None:
    """What was stacked along these axes, and where that is."""
    while (stack := scope.makers.get(id(variable))) is None:
        if (there := scope.outside(variable)) is None:
            return None
        scope, variable = there
    along = {"stack": "axis", "concatenate": "dimension"}.get(stack.primitive.name, "")
    return (scope, stack.invars) if (stack.params.get(along),) == tuple(axes) else None
