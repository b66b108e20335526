"""What code of a wrapped module finds outside of itself whenever it runs, and whether that is still what it was.

A module is copied as it is wrapped; globals, closures, settings of classes and code itself are not. In a notebook
a cell that is run again changes them, and the module computes something else than the key of its features says.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from blake3 import blake3

DEPTH = 6  # of what is held in what is held; below that only which object it is
VALUES = (decimal.Decimal, fractions.Fraction, pathlib.PurePath, datetime.date, datetime.timedelta, re.Pattern)
"""of the standard library, whose text says all of them"""
Inside = Callable[[Any], "Mapping[str, Any] | None"]
"""what a framework's module or array holds that may be changed in place, by name; None for what is neither"""


class Lookup:
    """A value that code finds outside of itself: a global, what a closure holds, a setting of a class; or a
    function or class itself, which may be given other code."""

    def __init__(self, holder: Any, name: str, value: Any, inside: Inside = lambda value: None) -> None:
        """`holder`: a dict of globals, a class, a closure's cell; or the function or class itself."""
        self.holder = holder
        self.name = name
        self.value = value
        self.inside = inside
        self.then = _state(value, inside)

    @property
    def now(self) -> Any:
        match self.holder:
            case dict():
                return self.holder.get(self.name, "nothing")
            case types.CellType():
                try:
                    return self.holder.cell_contents
                except ValueError:  # emptied
                    return "nothing"
            case type() if self.holder is not self.value:
                return vars(self.holder).get(self.name, "nothing")
        return self.value

    @property
    def is_same(self) -> bool:
        return _state(self.now, self.inside) == self.then

    def difference(self, model: str) -> str:
        """What is to be said of one that is not the same: "SCALE was 2.0 when M was wrapped, and is 3.0 now"."""
        of_class = isinstance(self.holder, type) and self.holder is not self.value
        name = f"{self.holder.__name__}.{self.name}" if of_class else self.name
        if is_plain(self.value) and (now := self.now) is not self.value:
            return f"{name} was {self.value!r} when {model} was wrapped, and is {now!r} now"
        return f"{name} was changed since {model} was wrapped"


class Replaceable(Lookup):
    """What a library's module or class has under some names, which a program may put code of its own in place of.
    What libraries themselves change there, as they are loaded, is no matter."""

    def __init__(self, holder: Any, names: Iterable[str], is_own: Callable[[Any], bool]) -> None:
        """`holder`: a dict of globals or a class. `is_own`: whether code of the program's is in a value."""
        self.holder, self.is_own = holder, is_own
        self.members = {name: self._members.get(name) for name in names}
        self.name = ""
        """the first that is another, once that was looked at"""
        self.value = None

    @property
    def _members(self) -> Mapping[str, Any]:
        return vars(self.holder) if isinstance(self.holder, type) else self.holder

    @property
    def is_same(self) -> bool:
        now = self._members
        others = ((name, then, now.get(name)) for name, then in self.members.items() if now.get(name) is not then)
        self.name = next((name for name, *both in others if any(map(self.is_own, both))), "")
        return not self.name

    def difference(self, model: str) -> str:
        """As of others."""
        name = f"{self.holder.__name__}.{self.name}" if isinstance(self.holder, type) else self.name
        return f"{name} was replaced since {model} was wrapped"


def is_plain(value: Any) -> bool:
    """Whether a value is a number or text, or a list or tuple of such."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _state(value: Any, inside: Inside) -> bytes:
    return blake3(repr(_told(value, 0, inside)).encode()).digest()


def _told(value: Any, depth: int, inside: Inside) -> Any:
    """A value by its content, as far as that can be changed in place; else by which object it is."""

    def inner(entry: Any) -> Any:
        return _told(entry, depth + 1, inside)

    if depth > DEPTH:
        return id(value)
    try:
        parts = inside(value)
    except Exception:  # of what it holds nothing can be read
        return id(value)
    if parts is not None:
        return type(value).__qualname__, *((name, inner(part)) for name, part in parts.items())
    match value:
        case enum.Enum():
            return type(value).__name__, value.name, inner(value.value)
        case None | bool() | int() | float() | complex() | str() | bytes():
            return type(value).__name__, repr(value)
        case _ if isinstance(value, VALUES):
            return type(value).__name__, repr(value)
        case tuple() | list():
            return type(value).__name__, *map(inner, value)
        case dict() | types.MappingProxyType():
            return "dict", *((inner(key), inner(entry)) for key, entry in value.items())
        case set() | frozenset():
            return "set", *sorted((inner(entry) for entry in value), key=repr)
        case types.CodeType():
            told = value.co_code, value.co_names, value.co_varnames
            return "code", value.co_qualname, *map(inner, told), inner(value.co_consts)
        case types.FunctionType():
            settings = {name: setting for name, setting in vars(value).items() if is_plain(setting)}
            about = value.__code__, value.__defaults__, value.__kwdefaults__
            return "function", *map(inner, (*about, settings) if settings else about)
        case types.MethodType():
            return "method", inner(value.__func__), inner(value.__self__)
        case functools.partial():
            return "partial", *map(inner, (value.func, value.args, value.keywords))
        case type():
            # a class that is made again of the same text is the same
            methods = [(n, m) for n, m in vars(value).items() if isinstance(m, types.FunctionType)]
            return ("class", value.__qualname__, *((n, inner(m)) for n, m in methods)) if methods else id(value)
    if hasattr(value, "__array__") and not isinstance(value, np.ndarray | np.generic):
        try:
            value = np.asarray(value)
        except Exception:  # it is on another device, or no array yet
            return id(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return "objects", *map(inner, array.ravel().tolist())
        return "array", array.dtype.name, array.shape, blake3(np.ascontiguousarray(array).tobytes()).hexdigest()
    if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, types.ModuleType):
        return "object", type(value).__qualname__, inner(vars(value))
    return id(value)
