"""Modules that look at the values of their batch. JAX runs a program on shapes first, and compiles it for all
values; what turns on them (an `if`, `int()`, numpy) cannot be compiled.

Invariant: such a module is told so, with the line; nobody is sent to look at what it takes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from headstart.common.errors import SettingError

LOOKS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
OTHERS = ("jax", "jaxlib", "flax", "headstart", "numpy")


@contextmanager
def compilable(called: str) -> Iterator[None]:
    """SettingError where the body runs code that looks at values which are not known yet."""
    try:
        yield
    except LOOKS as error:
        raise SettingError(
            f"{called} looks at the values of its batch{_where(error)}: an if, a loop, int() or numpy on them "
            f"({type(error).__name__}). JAX compiles it once for all values: use jnp.where, jax.lax.cond and "
            "functions of jax.numpy"
        ) from error


def _where(error: BaseException) -> str:
    """The line, of the code that is no library's."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in OTHERS:
            return f" in {frame.f_code.co_name}, {Path(frame.f_code.co_filename).name} line {line}"
    return ""
