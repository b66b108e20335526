"""A part of a user's own model as a node of a graph: what core has to know of it, and nothing of its framework.

Invariant: a part holds no weights that count. Its parameters are numpy arrays under its names, as those of every
other node are; whoever runs it builds it from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.common.errors import BackendError, GraphError

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NativePart:
    """What a backend's `wrap` says of a trunk or a head."""

    backend: str
    """the only one that can run it"""
    native: Any = field(repr=False)
    """whatever that backend builds it from; opaque here"""
    entries: tuple[tuple[str, Shape, str], ...]
    """(name, shape of one sample, dtype) of what it takes, as `headstart.data.Arrays` has them"""
    output: Shape
    """of one sample, `(h, w, c)`, `(t, c)` or `(c,)`"""
    shapes: Mapping[str, Shape] = field(repr=False)
    """parameter -> shape, by the module's own names and in its own layout"""
    buffers: frozenset[str] = field(repr=False)
    """those of them that are kept and not trained"""
    structure: Any = field(repr=False)
    """JSON-able: what it computes, weights aside; part of the key of stored features. None: it cannot be known"""
    initial: Callable[[int], Mapping[str, np.ndarray]] = field(repr=False)
    """seed -> fresh parameters; raises SettingError where the module cannot be drawn anew"""
    fixed: frozenset[str] = field(default=frozenset(), repr=False)
    """parameters that their owner froze before wrapping; no mode but `scratch` trains them. Not in keys"""
    volatile: frozenset[str] = field(default=frozenset(), repr=False)
    """buffers that move as it runs, without a bearing on what it gives: counters"""
    rounding: float = 2.0**-23
    """the step of the coarsest numbers that it computes with, of a number around 1"""
    norms: Mapping[str, int] = field(default_factory=dict, repr=False)
    """batch norms in it that may follow the batches in training, of which that is known -> how many numbers of a
    channel one sample has there. Not in keys"""
    lone: bool = False
    """whether a single sample loses its axis in it: then a backend runs it as two equal ones
    and gives the first"""

    def __deepcopy__(self, memo: Any) -> NativePart:
        return self  # nothing in it is ever changed

    def shape(self, given: Shape) -> Shape:
        """The op table's shape rule."""
        name, mine, _ = self.entries[0]
        if name == "" and tuple(given) != mine:
            raise GraphError(f"the wrapped module was shown samples of shape {mine}, received {given}")
        return self.output

    @property
    def deep(self) -> bool:
        """Whether it holds more than one layer with a matrix of weights."""
        return sum(len(shape) > 1 for name, shape in self.shapes.items() if name not in self.buffers) > 1

    def require(self, backend: str) -> None:
        """Raise BackendError unless this is the part's own backend."""
        require_home(self.backend, backend)


def require_home(home: str | None, backend: str) -> None:
    """Raise BackendError where a module that lives in `home` is to run elsewhere."""
    if home not in (None, backend):
        raise BackendError(
            f"the model holds a module that lives in {home} only, and backend {backend!r} was asked for; use "
            f"backend={home!r}"
        )
