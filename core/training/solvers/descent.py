"""L-BFGS for many smooth convex functions at once: each has its own steps and its own end, and what all of them
cost in one point each is asked for in one call, so that a pass over the rows serves them all.

Nocedal and Wright, Numerical Optimization, chapter 7; the inverse Hessian begins as a preconditioner, scaled by
the last step. Armijo's condition is enough to keep the curvatures positive, since the functions are convex."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Evaluate = Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]]
"""points `(a, ...)` of the functions of these numbers `(a,)` -> values `(a,)` and gradients `(a, ...)`"""

REMEMBERED = 10
"""steps whose curvature is kept; more of them saved no evaluations where it was tried"""

HALVINGS = 20


@dataclass(frozen=True)
class Minimum:
    """Where each of the functions ended."""

    points: Floats
    """`(h, ...)`"""
    values: Floats
    """`(h,)`"""
    gradients: Floats
    """`(h,)`: the largest entry of each gradient, without its sign"""


def minimised(
    evaluate: Evaluate,
    start: Floats,
    precondition: Callable[[Floats, NDArray[np.intp]], Floats],
    bar: float,
    evaluations: int,
    noise: float,
) -> Minimum:
    """Go down from `start` `(h, ...)` until no entry of a gradient is above `bar`, or so many evaluations were
    made, or no step goes down any more. `precondition`: gradients `(a, ...)` of the functions of these numbers,
    times about the inverse of their Hessians. `noise`: the share of a value that is rounding."""
    points, every = start.copy(), np.arange(len(start))
    values, gradients = evaluate(points, every)
    made = 1
    steps: list[tuple[Floats, Floats, Floats]] = []
    stuck = np.zeros(len(points), bool)
    while made < evaluations:
        active = np.flatnonzero((_largest(gradients) > bar) & ~stuck)
        if not len(active):
            break
        down = -_two_loops(gradients, steps, active, precondition)
        slope = _dot(down, gradients[active])
        length = np.ones(len(active))
        moved, turned = np.zeros_like(points), np.zeros_like(points)
        left = np.arange(len(active))
        for _ in range(HALVINGS):
            if made >= evaluations:
                break
            heads = active[left]
            move = _column(length[left], points) * down[left]
            value, gradient = evaluate(points[heads] + move, heads)
            made += 1
            allowed = values[heads] + 1e-4 * length[left] * slope[left] + noise * np.abs(values[heads])
            lower = value <= allowed
            taken = heads[lower]
            moved[taken], turned[taken] = move[lower], gradient[lower] - gradients[taken]
            values[taken], gradients[taken] = value[lower], gradient[lower]
            left = left[~lower]
            if not len(left):
                break
            length[left] /= 2
        stuck[active[left]] = True
        points += moved
        curvature = _dot(moved, turned)
        with np.errstate(divide="ignore"):
            steps.append((moved, turned, np.where(curvature > 0, 1 / curvature, 0.0)))
        del steps[:-REMEMBERED]
    return Minimum(points, values, _largest(gradients))


def _two_loops(
    gradients: Floats,
    steps: list[tuple[Floats, Floats, Floats]],
    active: NDArray[np.intp],
    precondition: Callable[[Floats, NDArray[np.intp]], Floats],
) -> Floats:
    """The inverse Hessians of the active functions, as far as they are known, times their gradients."""
    result = gradients[active]
    factors = []
    for moved, turned, inverse in reversed(steps):
        factor = inverse[active] * _dot(moved[active], result)
        result -= _column(factor, result) * turned[active]
        factors.append(factor)
    result = precondition(result, active)
    if steps:
        moved, turned, inverse = steps[-1]
        turn = turned[active]
        across = _dot(turn, precondition(turn, active))
        known = (inverse[active] > 0) & (across > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(known, 1 / (inverse[active] * across), 1.0)
        result *= _column(scale, result)
    for factor, (moved, turned, inverse) in zip(reversed(factors), steps, strict=True):
        more = factor - inverse[active] * _dot(turned[active], result)
        result += _column(more, result) * moved[active]
    return result


def _dot(a: Floats, b: Floats) -> Floats:
    """Of each function's own vectors, `(h,)`."""
    return np.asarray(np.einsum("hm,hm->h", a.reshape(len(a), -1), b.reshape(len(b), -1)))


def _column(numbers: Floats, like: Floats) -> Floats:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


def _largest(gradients: Floats) -> Floats:
    return np.asarray(np.abs(gradients).reshape(len(gradients), -1).max(1))
