"""What objects of the standard library and of numpy hold where no attribute shows it: under private names, in C.

Invariant: what is not hidden is told as ever, so that it has the keys that it had.
"""

from __future__ import annotations

import gc
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from blake3 import blake3

BOUND = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, np.ndarray, np.generic)
OTHERWISE = (np.ma.MaskedArray, np.matrix)
"""arrays that compute otherwise than plain ones of the same numbers"""


def array_digest(array: np.ndarray) -> list[Any]:
    """An array by its content."""
    array = np.asarray(array)
    content = blake3(np.ascontiguousarray(array).tobytes()).hexdigest(length=16)
    return ["array", dtype_name(array.dtype), list(array.shape), content]


def path_of(value: Any) -> str | None:
    """The name that a path has; what is in the file is out of reach. None for what is none."""
    return value.as_posix() if isinstance(value, pathlib.PurePath) else None


def is_pythons(kind: type) -> bool:
    """Whether a class is of the standard library or of numpy."""
    package = kind.__module__.partition(".")[0]
    return package == "numpy" or package in sys.stdlib_module_names


def owner_of(function: Any, is_own: Callable[[type], bool]) -> Any:
    """What a method that is written in C belongs to, where that is data, a ufunc, or a class of the program's:
    `table` of `table.get`, `np.add` of `np.add.reduce`, `Mine` of `Mine.apply`. None for others. `is_own`: whether
    a class is the program's."""
    if not isinstance(function, types.BuiltinMethodType | types.MethodWrapperType):
        return None
    owner = getattr(function, "__self__", None)
    known = isinstance(owner, (*BOUND, np.ufunc)) or (isinstance(owner, type) and is_own(owner))
    return owner if known else None


def inside_of(ufunc: np.ufunc) -> list[Any]:
    """The functions of Python that a ufunc calls, as `np.frompyfunc` makes it: no attribute leads to them."""
    return [inner for inner in gc.get_referents(ufunc) if callable(inner)]


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Its name; with its fields, and the order of its bytes, where these are not the usual ones."""
    usual = dtype.names is None and dtype.subdtype is None and dtype.isnative
    return dtype.name if usual else str(dtype)


def looks_into_globals(names: set[str]) -> bool:
    """Whether code that spells these names may find a global by a text: `globals()["x"]`, or the same by
    `sys.modules[__name__]`."""
    return "globals" in names or {"modules", "__name__"} <= names
