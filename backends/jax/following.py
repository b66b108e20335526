"""Which batch norms of a module follow the batches in training, and how many numbers they have of each channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from headstart.backends.jax import parts
from headstart.backends.jax.linen import Bridged, path_of
from headstart.backends.jax.modes import switch
from headstart.backends.jax.norms import COLLECTION, keeps_statistics
from headstart.backends.jax.parts import called_by, joined
from headstart.contract.wrapping import WrapRequest
from headstart.data.rows import count
from headstart.graph import NativePart

MEAN = "mean"


def part_of(
    request: WrapRequest,
    module: nnx.Module,
    names: Mapping[parts.Path, str],
    example: Any,
    structure: Any,
    fresh: Callable[[int], nnx.Module],
) -> tuple[NativePart, dict[str, np.ndarray]]:
    """`parts.part_of`, with the norms that it has."""
    part, params = parts.part_of(request, module, names, example, structure, fresh)
    return replace(part, norms=norms_of(module, names, example)), params


def norms_of(module: nnx.Module, names: Mapping[parts.Path, str], example: Any) -> Mapping[str, int]:
    """flax's batch norms that move their statistics in training -> how many numbers of a channel one sample has
    there; {} where the module cannot be run so. `names`: of its variables, by their paths."""
    if not _may_follow(module):
        return {}
    found: dict[str, int] = {}
    samples = count(example)

    def note(name: str, x: Any, channels: int) -> None:
        size = x.size // (channels * samples)
        found[name] = min(size, found.get(name, size))

    def run(x: Any) -> None:
        learning = nnx.clone(module)
        switch(learning, True)
        for path, norm in list(nnx.iter_modules(learning)):
            if isinstance(norm, nnx.BatchNorm):
                _watch(norm, names.get((*path, MEAN), joined(path)).removesuffix(f".{MEAN}"), note)
        with nn.intercept_methods(_noting(note)):
            learning(x)

    try:
        jax.eval_shape(run, jax.tree.map(jnp.asarray, example))
    except Exception:  # in training it may want what the example does not hold
        return {}
    return found


def _may_follow(module: nnx.Module) -> bool:
    inside = [part for _, part in nnx.iter_modules(module)]
    held = [part.others if isinstance(part, Bridged) else () for part in inside]
    return any(COLLECTION in names for names in held) or any(map(keeps_statistics, inside))


def _watch(norm: Any, name: str, note: Callable[[str, Any, int], None]) -> None:
    kind: Any = type(norm)

    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.mean.get_value()
        value = kind.__call__(self, x, *args, **kwargs)
        if self.mean.get_value() is not before:
            note(name, x, before.size)
        return value

    object.__setattr__(norm, "__class__", called_by(kind, call))


def _noting(note: Callable[[str, Any, int], None]) -> Any:
    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
            return method(*args, **kwargs)
        before = module.get_variable(COLLECTION, MEAN)
        value = method(*args, **kwargs)
        if before is not None and module.get_variable(COLLECTION, MEAN) is not before:
            note(path_of(module), next(iter((*args, *kwargs.values()))), before.size)
        return value

    return intercept
