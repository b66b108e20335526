"""What an NNX module or a function computes, told as JSON for the keys of features.

Sources and settings are told, and no jaxpr: its text and primitives change from one version of JAX to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from headstart.backends.jax.linen import Bridged
from headstart.models.hidden import array_digest
from headstart.models.structure import Structure
from headstart.models.teller import Teller

LIBRARIES = ("jax", "jaxlib", "flax", "optax")


def told(tell: Callable[[Teller], Any], *modules: Any) -> tuple[Structure | None, str]:
    """A digest of what is told, or None and the reason. `modules`: those whose variables are in the key as
    parameters; of any other the numbers are told."""
    inside = {id(node) for module in modules for _, node in nnx.iter_graph(module)}
    known: dict[int, int] = {}  # variables that were told, by number

    def variable(value: nnx.Variable[Any]) -> Any:
        about = ["variable", type(value).__name__]
        if id(value) in known:  # one that stands elsewhere, too: in the key's weights it has one name
            return [*about, "again", known[id(value)]]
        known[id(value)] = len(known)
        if id(value) in inside or isinstance(value, nnx.RngState):
            return about
        return [*about, array_digest(np.asarray(value[...]))]

    def special(value: Any) -> Any:
        if isinstance(value, nnx.Rngs | nnx.RngStream):
            return ["random stream"]
        if isinstance(value, nnx.Variable):
            return variable(value)
        if isinstance(value, nnx.List):
            return ["list", *map(teller.value, value)]
        if isinstance(value, nnx.Dict):
            return ["dict", [[name, teller.value(entry)] for name, entry in sorted(value.items())]]
        if isinstance(value, Bridged):
            return ["linen", teller.value(value.module)]
        if isinstance(value, linen.Module):
            fields = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
            settings = {name: getattr(value, name) for name in fields}
            return ["module", teller.code(type(value)), teller.attributes(settings, False)]
        if isinstance(value, nnx.Module):
            settings = {name: setting for name, setting in vars(value).items() if not name.startswith(INTERNAL)}
            library = type(value).__module__.partition(".")[0] in LIBRARIES
            return ["module", teller.code(type(value)), teller.attributes(settings, library)]
        if isinstance(value, jax.Array):
            return array_digest(np.asarray(value))
        return None

    teller = Teller(LIBRARIES, special, _inside)
    return Structure.told_by(teller, tell, "the module")


def _inside(value: Any) -> dict[str, Any] | None:
    """What of a module or a variable may be changed in place."""
    if isinstance(value, nnx.Variable):
        return {} if isinstance(value, nnx.RngState) else {"": np.asarray(value[...])}
    if not isinstance(value, nnx.Module):
        return None
    return {name: setting for name, setting in vars(value).items() if not name.startswith(INTERNAL)}


# what NNX keeps in a module for itself
INTERNAL = ("_pytree__", "_object__")
