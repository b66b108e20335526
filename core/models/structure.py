"""What a piece of Python computes, told as JSON: the sources of classes and functions, what they refer to, and the
settings of objects. It stands for the structure of a wrapped module in the key of its features, where no graph of
operations can be had.

* Two processes that hold the same code and settings tell the same; a changed line or number tells another story.
* A framework's own classes and functions are told by name, not by source: its next version may be written
  otherwise and compute the same. So are the standard library's and numpy's.
* What code refers to is followed: globals, closures, defaults. Code of an installed package is told by its source,
  but what it calls in turn is not followed.
* Anything that cannot be told raises `UnknownStructure`; it is never left out silently.
"""

from __future__ import annotations

import ast
import dis
import enum
import functools
import inspect
import logging
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from blake3 import blake3

from headstart.models.lookups import Lookup, is_plain
from headstart.models.sources import UnknownStructure, named_tuple_fields, source_of
from headstart.store.keys import canonical_json

LIBRARIES = frozenset(sys.stdlib_module_names) | {"numpy", "ml_dtypes", "einops", "headstart"}
INSTALLED = ("site-packages", "dist-packages")


def digest(told: Any) -> str:
    """32 hex digits of what was told."""
    return blake3(canonical_json(told).encode("ascii")).hexdigest(length=16)


def array_digest(array: np.ndarray) -> list[Any]:
    """An array by its content."""
    array = np.asarray(array)
    content = blake3(np.ascontiguousarray(array).tobytes()).hexdigest(length=16)
    return ["array", array.dtype.name, list(array.shape), content]


class Structure(str):
    """A digest of what was told, and where the told code looks for what it does not hold."""

    lookups: list[Lookup]

    def __deepcopy__(self, _memo: dict[int, Any]) -> Structure:
        return self  # copies look in the same places

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (str(self),)

    @classmethod
    def of(cls, told: Any, lookups: Iterable[Lookup]) -> Structure:
        structure = cls(digest(told))
        structure.lookups = list(lookups)
        return structure

    @classmethod
    def told_by(cls, teller: Teller, tell: Callable[[Teller], Any], name: str) -> tuple[Structure | None, str]:
        """The structure of what `tell` tells, or None and the reason why it cannot be told. `name`: of the module,
        for that reason."""
        try:
            return cls.of(tell(teller), teller.lookups), ""
        except UnknownStructure as error:
            return None, str(error)
        except RecursionError:
            return None, f"{name} refers to itself"

    def forget_changing(self) -> None:
        """Of values that the code itself changes as it runs, such as counters, nothing is to be said."""
        self.lookups[:] = [lookup for lookup in self.lookups if lookup.is_same]

    @property
    def changed(self) -> Lookup | None:
        """The first value that is another one since it was told."""
        return next((lookup for lookup in self.lookups if not lookup.is_same), None)


def _elsewhere(text: str) -> Structure:
    """A structure in another process, which looks in places of its own, of which nothing is known."""
    made = Structure(text)
    made.lookups = []
    return made


def structure_of(told: Any) -> Structure | None:
    """What was told of code, in what a part of a graph says of itself; None where a user's name stands for it."""
    inside = told.get("structure") if isinstance(told, dict) else None
    return inside if isinstance(inside, Structure) else None


class Teller:
    """Tells values, each object once; where it comes again, only which it was."""

    def __init__(self, libraries: Collection[str], special: Callable[[Any], Any]) -> None:
        """`libraries`: further top-level modules whose code is told by name. `special`: tells a framework's own
        values, or returns None for what is none of them."""
        self.libraries = LIBRARIES | frozenset(libraries)
        self.special = special
        self._told: dict[int, int] = {}
        self.lookups: list[Lookup] = []
        self._patched: dict[type, list[Any]] = {}
        self._alive: list[Any] = []  # so that no two objects have the same id

    def value(self, value: Any) -> Any:
        """Any value. Raises UnknownStructure."""
        if value is None or (isinstance(value, bool | int | str) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, float):
            return ["float", value.hex()]
        if (told := self.special(value)) is not None:
            return told
        match value:
            case enum.Enum():
                return ["enum", type(value).__name__, value.name]
            case bytes() | complex() | range() | slice() | types.EllipsisType():
                return [type(value).__name__, repr(value)]
            case np.ndarray() | np.generic():
                return array_digest(np.asarray(value))
            case np.dtype():
                return ["dtype", value.name]
            case types.ModuleType():
                return ["module", value.__name__]
            case logging.Logger():
                return ["logger"]
        if value is inspect.Parameter.empty or value is NotImplemented:
            return ["constant", repr(value)]
        if isinstance(value, tuple):  # not once only: whether two equal ones are the same is up to the interpreter
            return ["tuple", *map(self.value, value)]
        if id(value) in self._told:
            return ["again", self._told[id(value)]]
        self._told[id(value)] = len(self._told)
        self._alive.append(value)
        return self._compound(value)

    def _compound(self, value: Any) -> Any:
        if callable(value) and hasattr(value, "__name__") and self._is_library(value):
            return ["library", self._library_name(value)]
        match value:
            case dict() | types.MappingProxyType():
                return ["dict", [[self.value(key), self.value(entry)] for key, entry in value.items()]]
            case list():
                return ["list", *map(self.value, value)]
            case set() | frozenset():
                return ["set", *sorted((self.value(entry) for entry in value), key=repr)]
            case functools.partial():
                return ["partial", self.value(value.func), self.value(value.args), self.value(value.keywords)]
            case types.MethodType():
                return ["method", self.value(value.__func__), self.value(value.__self__)]
            case property():
                return ["property", *(self.value(accessor) for accessor in (value.fget, value.fset))]
            case staticmethod() | classmethod():
                return [type(value).__name__, self.value(value.__func__)]
            case type():
                return self.code(value)
            case types.FunctionType():
                return self.code(value)
            case _ if hasattr(value, "__wrapped__") and callable(value):  # jitted, cached ...
                return ["wrapped", type(value).__name__, self.value(value.__wrapped__)]
        slots = [slot for base in type(value).__mro__ for slot in _slots(base) if hasattr(value, slot)]
        if not hasattr(value, "__dict__") and not slots:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise UnknownStructure(f"what an object of {kind} holds is hidden")
        settings = {slot: getattr(value, slot) for slot in slots} | getattr(value, "__dict__", {})
        return ["object", self.code(type(value)), self.attributes(settings, self._is_library(type(value)))]

    def attributes(self, settings: dict[str, Any], library: bool) -> Any:
        """An object's settings, sorted. Of a library's object, what is private or None is left out: the next
        version may have more of both."""
        return [
            [name, self.value(setting)]
            for name, setting in sorted(settings.items())
            if not library or (setting is not None and not name.startswith("_"))
        ]

    def code(self, code: Any) -> Any:
        """A class or function: its name where it belongs to a library, else its source and what that refers to."""
        if self._is_library(code):
            return ["library", self._library_name(code), *self._patches(code)]
        self.lookups.append(Lookup(code, code.__name__, code))
        if isinstance(code, type) and (fields := named_tuple_fields(code)) is not None:
            return ["named tuple", code.__name__, fields, self.value(inspect.unwrap(code.__new__).__defaults__)]
        if isinstance(code, type):
            classes = [kind for kind in code.__mro__ if not self._is_library(kind)]
            bases = [self._library_name(kind) for kind in code.__mro__ if self._is_library(kind)]
            sources = [source_of(kind) for kind in classes]
            changed = self._settings(classes)
            if not _is_installed(code):
                members = [m for kind in classes for m in vars(kind).values() if _is_code(m)]
                references = [self._references(_function(m)) for m in members]
                return ["class", sources, bases, references, *changed, *self._patches(code)]
            return ["class", sources, bases, *changed, *self._patches(code)]
        return ["function", source_of(code), [] if _is_installed(code) else self._references(code)]

    def _settings(self, classes: list[type]) -> list[Any]:
        """The settings of classes that are not as their text says: those that were set from outside."""
        told = []
        for kind in classes:
            settings = _plain_settings(kind)
            self.lookups += [Lookup(kind, name, value) for name, value in settings.items()]
            outside = sorted(_set_from_outside(kind, settings).items())
            told += [[kind.__name__, name, self.value(value)] for name, value in outside]
        return [["set", *told]] if told else []

    def _patches(self, kind: Any) -> list[Any]:
        """What was put on a class from outside of its text, as a program that changes libraries does it."""
        if not isinstance(kind, type):
            return []
        if kind not in self._patched:
            self._patched[kind] = []  # a function may refer to its class
            self._patched[kind] = [
                [base.__name__, name, self.value(_function(member))]
                for base in kind.__mro__
                for name, member in sorted(vars(base).items())
                if _is_code(member) and self._is_foreign(_function(member), base)
            ]
        return [["patched", *self._patched[kind]]] if self._patched[kind] else []

    def _is_foreign(self, function: Any, kind: type) -> bool:
        if self._is_library(function) or function.__code__.co_filename.startswith("<"):
            return False
        if self._is_library(kind) or _is_installed(kind):
            return not _is_installed(function)
        try:
            lines, start = inspect.getsourcelines(kind)
            here = inspect.getsourcefile(kind) == inspect.getsourcefile(function)
        except (OSError, TypeError):
            return False
        return not here or not start <= function.__code__.co_firstlineno < start + len(lines)

    def _references(self, function: Any) -> Any:
        """What a function's code finds outside of itself."""
        if not isinstance(function, types.FunctionType) or self._is_library(function):
            return []
        referred: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                referred[name] = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self.lookups.append(Lookup(cell, name, referred[name]))
        for path in sorted(lookups(function.__code__)):
            if path[0] not in function.__globals__:
                continue
            holder = function.__globals__
            value = holder[path[0]]
            place = 1
            while isinstance(value, types.ModuleType) and not self._is_library(value) and place < len(path):
                holder = vars(value)
                value, place = getattr(value, path[place], None), place + 1
            self.lookups.append(Lookup(holder, path[place - 1], value))
            referred[".".join(path[:place])] = value
        # `__class__` is what super() needs; the class is told where it stands
        told = [[name, self.value(value)] for name, value in sorted(referred.items()) if name != "__class__"]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return [told, [self.value(values) for values in defaults]] if any(defaults) else [told]

    def _is_library(self, code: Any) -> bool:
        name = code.__name__ if isinstance(code, types.ModuleType) else getattr(code, "__module__", None)
        if name in (None, "builtins") and (isinstance(code, types.FunctionType) or _is_written(code)):
            return False  # made by exec, without a module
        return name is None or str(name).partition(".")[0] in self.libraries

    def _library_name(self, code: Any) -> str:
        module = str(getattr(code, "__module__", None) or "builtins").partition(".")[0]
        return f"{module}:{getattr(code, '__name__', type(code).__name__)}"


def lookups(code: types.CodeType) -> set[tuple[str, ...]]:
    """The globals that code, and the functions inside it, look up, each with the attributes taken from it at once:
    ("mymodule", "helper")."""
    looked_up: set[tuple[str, ...]] = set()
    path: tuple[str, ...] = ()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            path = (step.argval,)
        elif path and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            looked_up.discard(path)
            path = (*path, step.argval)
        elif step.opname not in ("CACHE", "EXTENDED_ARG"):
            path = ()
        if path:
            looked_up.add(path)
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return looked_up.union(*map(lookups, inner))


def _plain_settings(kind: type) -> dict[str, Any]:
    return {n: v for n, v in vars(kind).items() if is_plain(v) and not n.startswith(("__", "_abc_"))}


def _set_from_outside(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values among a class's attributes that its text does not give it: of other values, or of names
    that it does not assign. What its text computes from names is told by the values that it came to."""
    (written,) = ast.parse(source_of(kind)).body
    literals: dict[str, ast.expr | None] = {}
    for node in getattr(written, "body", ()):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                literals[target.id] = getattr(node, "value", None)
    return {name: value for name, value in plain.items() if not _is_as_written(value, name, literals)}


def _is_as_written(value: Any, name: str, literals: Mapping[str, ast.expr | None]) -> bool:
    written = literals.get(name)
    if written is None:
        return False
    try:
        literal = ast.literal_eval(written)
    except (ValueError, TypeError, SyntaxError):
        # a call, such as dataclasses.field(...), stands for itself
        return any(isinstance(node, ast.Call) for node in ast.walk(written))
    return type(literal) is type(value) and bool(literal == value)


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _is_code(member: Any) -> bool:
    return isinstance(_function(member), types.FunctionType)


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return inspect.unwrap(getattr(member, "__func__", member))


def _is_written(code: Any) -> bool:
    """Whether it is a class made by a class statement, and not in C."""
    return isinstance(code, type) and bool(code.__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE


def _is_installed(code: Any) -> bool:
    try:
        file = inspect.getfile(code)
    except (TypeError, OSError):
        return False
    return any(part in file for part in INSTALLED)
