"""Products with weights at the end of a module that ends in no classifier, as far as can be seen: what a fresh
head takes for features may be numbers of classes all the same, which is said.

Invariant: nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from headstart.backends.jax.programs import Scope, before, is_matrix, made_of, of_batch
from headstart.backends.jax.statistics import SHAPING
from headstart.models.endings import reached
from headstart.models.several import at_end

PASSING = (
    *SHAPING, "name", "reduce_sum", "reduce_max", "add", "sub", "mul", "div", "neg", "exp", "log", "tanh",
    "logistic", "stop_gradient", "slice", "stack", "concatenate", "max",
)  # fmt: skip
"""what may stand behind numbers of classes; a rectifier makes features of them"""
PRODUCTS = ("dot_general", "mul", "sub")
RECTIFIERS = ("relu", "relu6", "gelu", "silu", "elu", "leaky_relu")


def product_of(watching: Callable[[Any], Any], example: Any) -> tuple[list[jax.Array], int]:
    """The matrices that all of what a module gives is made with, if that is a product of fewer numbers than it is
    made of, and how many numbers; () otherwise. `watching`: runs it on a batch."""
    closed = jax.make_jaxpr(lambda x: [at_end(watching(x), jax.Array)])(jax.tree.map(jax.numpy.asarray, example))
    scope, ends = Scope(closed.jaxpr), closed.jaxpr.outvars
    walk = _Walk()
    if len(ends) != 1 or ends[0].aval.ndim != 2 or not walk.is_product(scope, ends[0], False):
        return [], 0
    made = {id(atom) for _, atom in walk.found}
    data = (place for _, maker_data in walk.reads for place in maker_data)
    if any(id(atom) in made for _, atom in reached(data, before)):  # rows of residual blocks
        return [], 0
    constants = dict(zip(map(id, closed.jaxpr.constvars), closed.consts, strict=True))
    count = ends[0].aval.shape[1]
    matrices = [constants[key] for key in walk.matrices if key in constants]
    fit = all(count in matrix.shape and count < max(matrix.shape) for matrix in matrices)
    return (matrices, count) if fit else ([], 0)


class _Walk:
    """From a program's end towards the products that it is made of."""

    def __init__(self) -> None:
        self.found: list[tuple[Scope, Any]] = []
        self.reads: list[tuple[Any, list[tuple[Scope, Any]]]] = []
        self.matrices: list[int] = []
        """what is multiplied by, by the identity of the variable"""
        self._seen: set[tuple[int, int]] = set()

    def is_product(self, scope: Scope, variable: Any, summed: bool) -> bool:
        """`summed`: over some axis, on the way to the end."""
        if (id(scope), id(variable)) in self._seen:
            return True
        self._seen.add((id(scope), id(variable)))
        if (maker := scope.makers.get(id(variable))) is None:
            there = scope.outside(variable)
            return there is not None and self.is_product(*there, summed)
        kind = maker.primitive.name
        data = [atom for atom in maker.invars if not hasattr(atom, "val") and of_batch(scope, atom)]
        weights = [atom for atom in maker.invars if not hasattr(atom, "val") and atom not in data]
        if kind in PRODUCTS and (kind == "dot_general" or summed):
            matrices = [
                id(atom)
                for weight in weights
                for where, atom, _ in made_of(scope, weight)
                if is_matrix((where, atom))
            ]
            if matrices and data:
                self.found.append((scope, variable))
                self.reads.append((maker, [(scope, atom) for atom in data]))
                self.matrices += matrices[:1]
                return True
        if str(maker.params.get("name", "")) in RECTIFIERS or (kind == "mul" and len(data) > 1):
            return False
        inner = scope.inside(maker)
        if inner is not None:
            at = next(at for at, made in enumerate(maker.outvars) if made is variable)
            return self.is_product(inner, inner.program.outvars[at], summed)
        if kind not in PASSING or not data or (kind == "max" and len(data) < 2):
            return False
        return all(self.is_product(scope, atom, summed or kind == "reduce_sum") for atom in data)
