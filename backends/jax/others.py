"""Modules of JAX libraries that are not flax's. What they compute is a function of arrays, so each is wrapped as a
pair of functions; how, is told to whoever passes one as it is.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax

from headstart.common.errors import SettingError

CALL = "hs.wrap(({}, None), params=({}, None), head='linear', classes=..., name='mine')"
EQUINOX = CALL.format("lambda p, x: jax.vmap({})(x)", "params")
"""of a module that takes one sample"""
STATELESS, STATEFUL = "eqx.combine(p, static)", "lambda x: eqx.combine(p, static)(x, state)[0]"


def is_pytree(native: Any) -> bool:
    """Whether it is a module as Equinox and penzai have it: a dataclass of arrays that can be called."""
    if isinstance(native, type) or not dataclasses.is_dataclass(native) or not callable(native):
        return False
    return not jax.tree_util.treedef_is_leaf(jax.tree.structure(native))


def is_transformed(native: Any) -> bool:
    """Whether it is the `init` and `apply` that Haiku makes of a function."""
    return {"init", "apply"} <= {*getattr(native, "_fields", ())}


def refuse(native: Any) -> None:
    """SettingError with the pair of functions to pass in the place of a module of another library."""
    if is_transformed(native):
        raise SettingError(
            f"init and apply are no trunk and head: with it = the two, pass {_transformed(native.apply)}"
        )
    if not is_pytree(native):
        return
    called, libraries = type(native).__name__, {kind.__module__.partition(".")[0] for kind in type(native).__mro__}
    if "equinox" in libraries:
        stateful = any(map(_is_index, jax.tree.leaves(native, is_leaf=_is_index)))
        raise SettingError(
            f"{called} is an Equinox module and no flax one: with params, static = "
            "eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array), pass "
            f"{EQUINOX.format(STATEFUL if stateful else STATELESS)}; pictures come as (n, h, w, c): "
            "jnp.moveaxis(x, -1, 1) if it takes a sample as (c, h, w)"
        )
    raise SettingError(
        f"{called} is a pytree and no flax module: make a function of (params, x) of it, of a pytree of plain "
        f"arrays and a batch, and pass {CALL.format('function', 'params')}"
    )


def _is_index(value: Any) -> bool:
    return type(value).__name__ == "StateIndex"


def _transformed(apply: Any) -> str:
    """With what `init` made, as `apply` takes it."""
    arguments = inspect.signature(apply).parameters
    stream = "None, " if "rng" in arguments else ""
    if "state" not in arguments:
        return CALL.format(f"lambda p, x: it.apply(p, {stream}x)", "params") + ", with params = what init made"
    call = f"lambda p, x: it.apply(p['params'], p['state'], {stream}x)[0]"
    return CALL.format(call, "{'params': params, 'state': state}") + ", with params, state = what init made"
