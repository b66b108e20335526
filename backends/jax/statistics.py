"""Which of the arrays that a function takes as its parameters are none: running statistics.

A gradient makes nonsense of these: a variance becomes negative, and its root NaN. JAX has no word for them, so
they are told by what they are called and by what is computed of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

PARAMS = "params"
COLLECTIONS = ("batch_stats", "stats", "statistics", "buffers")
BESIDE = ("state", "states")
"""what stands beside all parameters is called so; further down, a parameter may be"""
RUNNING = re.compile(r"^(running|moving|ema|batch)_(mean|var|std|av|stat)|_(ema|avg)$")
MOMENTS = ("mean", "var", "variance", "std")
# what changes an array's shape or type alone
SHAPING = ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims", "transpose", "copy")
ROOTS = (0.5, -0.5)


def names_what_is_trained(params: Any) -> bool:
    """Whether it says itself which arrays are parameters: as a flax.linen module's variables do, those of the
    collection `params` alone."""
    return isinstance(params, Mapping) and PARAMS in params


def is_statistic(path: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Whether an array at such a path is called like one. What is called `mean` is one number a channel; a matrix
    of that name is a layer's weights."""
    *_, last = steps = [str(step).lower() for step in path] or [""]
    if steps[0] in BESIDE or any(step in COLLECTIONS or RUNNING.search(step) for step in steps):
        return True
    return last in MOMENTS and sum(side > 1 for side in shape) < 2


def rooted(program: Any) -> set[int]:
    """Which of a jaxpr's inputs its square root is taken of, apart from an epsilon, as of a variance."""
    found: set[int] = set()
    _follow(program, list(range(len(program.invars))), found)
    return found


def _follow(program: Any, given: Sequence[int | None], found: set[int]) -> list[int | None]:
    """`given`: which input each of the program's own is, where it is one as it came. The same of its outputs."""
    known = {id(v): which for v, which in zip(program.invars, given, strict=True) if which is not None}

    def which(atom: Any) -> int | None:
        return known.get(id(atom))

    for equation in program.eqns:
        first, kind = which(equation.invars[0]) if equation.invars else None, equation.primitive.name
        literals = [atom.val for atom in equation.invars if hasattr(atom, "val")]
        if (inner := inner_of(equation)) is not None:
            made = _follow(inner, [which(atom) for atom in equation.invars], found)
        elif kind in ("sqrt", "rsqrt") or (kind == "pow" and literals and float(literals[0]) in ROOTS):
            found |= {first} - {None}  # type: ignore[arg-type]
            continue
        elif kind in SHAPING:
            made = [first]
        elif kind in ("add", "max", "min") and literals:
            made = [next((which(atom) for atom in equation.invars if not hasattr(atom, "val")), None)]
        else:
            continue
        known.update((id(v), it) for v, it in zip(equation.outvars, made, strict=True) if it is not None)
    return [which(v) for v in program.outvars]


def stopped(program: Any) -> set[int]:
    """Which of a jaxpr's inputs reach its output through `stop_gradient` alone, so that nothing trains them but
    weight decay."""
    used = {id(atom) for equation in program.eqns for atom in equation.invars}
    learning = _reaching(program, [True] * len(program.outvars))
    return {at for at, v in enumerate(program.invars) if id(v) in used and not learning[at]}


def _reaching(program: Any, wanted: Sequence[bool], gradients: bool = True, without: Any = None) -> list[bool]:
    """Of the program's inputs, whether the outputs that are wanted are made of them; where it is `gradients`, in a
    way that these come back. `without`: an equation that nothing is followed through."""
    live = {id(v) for v, is_wanted in zip(program.outvars, wanted, strict=True) if is_wanted}
    for equation in reversed(program.eqns):
        outputs = [id(v) in live for v in equation.outvars]
        ends = equation is without or (gradients and equation.primitive.name == "stop_gradient")
        if not any(outputs) or ends:
            continue
        inner = inner_of(equation)
        passing = [True] * len(equation.invars) if inner is None else _reaching(inner, outputs, gradients)
        live |= {id(atom) for atom, passes in zip(equation.invars, passing, strict=True) if passes}
    return [id(v) in live for v in program.invars]


def reaching(program: Any, without: Any = None) -> list[bool]:
    """Of a jaxpr's inputs, whether its outputs are made of them. `without`: an equation that nothing is followed
    through."""
    return _reaching(program, [True] * len(program.outvars), False, without)


def living(program: Any) -> str:
    """The text of the equations of a jaxpr that its outputs are made of."""
    live = {id(v) for v in program.outvars}
    texts = []
    for equation in reversed(program.eqns):
        if any(id(v) in live for v in equation.outvars):
            live |= {id(atom) for atom in equation.invars}
            texts.append(str(equation))
    return "\n".join(reversed(texts))


DRAWING = ("random_bits", "random_gamma", "rng_bit_generator", "rng_uniform")


def drawn(run: Callable[[], Any]) -> int:
    """How often random numbers are drawn in a run, of which nothing is computed."""

    def arrays() -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(run()) if isinstance(leaf, jax.Array)]

    return _drawing(jax.make_jaxpr(arrays)().jaxpr)


def _drawing(program: Any) -> int:
    count = 0
    for equation in program.eqns:
        held = [
            entry for value in equation.params.values() for entry in jax.tree.leaves(value, is_leaf=_is_program)
        ]
        inner = [getattr(entry, "jaxpr", entry) for entry in held if _is_program(entry)]
        count += (equation.primitive.name in DRAWING) + sum(map(_drawing, inner))
    return count


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def inner_of(equation: Any) -> Any:
    """The program that an equation runs with its own inputs, once, as jit does; None where it is no such."""
    if equation.primitive.name in ("while", "scan", "cond", "shard_map"):
        return None
    inner = equation.params.get("call_jaxpr") or equation.params.get("jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    fits = inner is not None and [len(inner.invars), len(inner.outvars)] == [
        len(equation.invars),
        len(equation.outvars),
    ]
    return inner if fits else None
