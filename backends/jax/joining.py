"""What the classifiers at a module's end read, which a fresh one is to read in their place.

Several may read arrays of their own, as those of a distilled transformer do. These then stand side by side, as
`headstart.backends.torch.reading` has it: a linear layer on them can be what all of the classifiers are together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from headstart.backends.jax.parts import INSIDE, Stop, called_by, current_program
from headstart.common.errors import CutError
from headstart.models.endings import APART
from headstart.models.feature_layout import mask_of


class Reading:
    """What several submodules take in one run, which the last of them ends. The others give zeros, as nothing is
    to be computed with their parameters."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = dict(given)
        """submodule, in the order in which they run -> shapes and types of what it gives for some samples"""
        self._taken: list[Any] = []
        self._program: Any = None

    def instead(self, path: str, taken: Any) -> Any:
        """What a call of a submodule gives. Stop from the last one. `taken`: what it takes."""
        if path == next(iter(self.given)):
            self._taken, self._program = [], current_program()  # also of a run that did not come to its end
        if self._program != current_program():
            raise CutError(INSIDE)
        self._taken.append(taken)
        if len(self._taken) < len(self.given):
            return jax.tree.map(lambda x: jnp.zeros((len(taken), *x.shape[1:]), x.dtype), self.given[path])
        arrays, self._taken = self._taken, []
        raise Stop(side_by_side(arrays))


def side_by_side(arrays: Sequence[jax.Array]) -> jax.Array:
    """`(n, c)` of rows `(n, c1)`, `(n, c2)` ... side by side; of maps and tokens, whose channels come last, the
    means."""
    return jnp.concatenate([x if x.ndim == 2 else x.mean(tuple(range(1, x.ndim - 1))) for x in arrays], 1)


def reading_of(calls: Sequence[tuple[str, Any, Any]], paths: Sequence[str], called: str, example: Any) -> Reading:
    """Of the submodules at these paths, by the calls of a run: path, what is taken, and given. CutError unless
    what they take can stand side by side. `called`: the module."""
    seen = {path: (taken, given) for path, taken, given in calls if path in paths}
    if silent := [path for path in paths if path not in seen]:
        raise CutError(f"{silent[0]!r} is not called when {called} runs")
    masks = {} if not isinstance(example, dict) else {key: tuple(x.shape[1:]) for key, x in example.items()}
    shapes: list[tuple[int, ...]] = [getattr(taken, "shape", ()) for taken, _ in seen.values()]
    if any(len(shape) not in (2, 3, 4) or (len(shape) == 3 and mask_of(masks, shape[1])) for shape in shapes):
        raise CutError(APART.format(called=called, names=", ".join(map(repr, seen))))

    def shaped(value: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), value)

    return Reading({path: shaped(given) for path, (_, given) in seen.items()})


def read_by(submodules: Mapping[str, nnx.Module], reading: Reading) -> None:
    """Let calls of these modules, which are copies, be noted, and the last one of them end the run."""
    for path, module in submodules.items():
        kind: Any = type(module)

        def call(_module: Any, *args: Any, path: str = path, **kwargs: Any) -> Any:
            return reading.instead(path, next(iter((*args, *kwargs.values()))))

        object.__setattr__(module, "__class__", called_by(kind, call))


def noting(submodules: Mapping[str, nnx.Module], note: Callable[[str, Any, Any], None]) -> None:
    """Let calls of these modules, which are copies, tell what they take and give."""
    for path, module in submodules.items():
        kind: Any = type(module)

        def call(self: Any, *args: Any, path: str = path, kind: Any = kind, **kwargs: Any) -> Any:
            value = kind.__call__(self, *args, **kwargs)
            note(path, next(iter((*args, *kwargs.values())), None), value)
            return value

        object.__setattr__(module, "__class__", called_by(kind, call))
