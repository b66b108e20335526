"""What a piece of Python computes, told as JSON: the sources of classes and functions, what they refer to, and the
settings of objects. It stands for what a wrapped module computes (see `structure`).

* Two processes that hold the same code and settings tell the same; a changed line or number tells another story.
* A framework's own classes and functions are told by name, not by source: its next version may be written
  otherwise and compute the same. So are the standard library's and numpy's.
* What code refers to is followed: globals, closures, defaults. Code of an installed package is told by its source,
  but what it calls in turn is not followed.
* Anything that cannot be told raises `UnknownStructure`; it is never left out silently.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
import logging
import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from headstart.models.attributes import Attributes
from headstart.models.calls import Calls
from headstart.models.hidden import (
    OTHERWISE,
    array_digest,
    dtype_name,
    inside_of,
    is_pythons,
    looks_into_globals,
    owner_of,
    path_of,
)
from headstart.models.lookups import Inside, Lookup, Replaceable
from headstart.models.reflection import (
    OF_CLASSES,
    contents_of,
    data_within,
    filled_slots,
    function_of,
    imports,
    in_libraries,
    is_code,
    is_installed,
    is_made_by,
    is_written,
    kept_by,
    layers_of,
    library_name,
    lookups,
    names_of,
    other_settings,
    plain_settings,
    puts_names_together,
    set_from_outside,
)
from headstart.models.sources import UnknownStructure, lines_of, named_tuple_fields, source_of

LIBRARIES = frozenset(sys.stdlib_module_names) | {"numpy", "ml_dtypes", "einops", "headstart"}
PLAIN = (bool, int, str)
DEPTH = 8  # of wrappers around a function: libraries make six


class Teller:
    """Tells values, each object once; where it comes again, only which it was."""

    def __init__(
        self,
        libraries: Collection[str],
        special: Callable[[Any], Any],
        inside: Inside = lambda value: None,
        is_registered: Callable[[Any], bool] = lambda value: False,
        registered: Callable[[Collection[str]], Mapping[str, Any]] = lambda names: {},
    ) -> None:
        """`libraries`: further top-level modules whose code is told by name. `special`: tells a framework's own
        values, or returns None for what is none of them. `inside`: what a framework's module or array holds that
        may be changed in place, by name; None for what is neither. `is_registered`: whether a value that is looked
        up in a library is the program's, which it has registered there. `registered`: such values by their names,
        that code may find which spells these."""
        self.libraries = LIBRARIES | frozenset(libraries)
        self.special = special
        self.inside, self.is_registered, self.registered = inside, is_registered, registered
        self._told: dict[int, int] = {}
        self.lookups: list[Lookup] = []
        self._patched: dict[type, list[Any]] = {}
        self._replaceable: set[type] = set()
        self._called = Calls(self.libraries)
        self._alive: list[Any] = []  # so that no two objects have the same id
        self._attributes = Attributes(self._is_own)
        self.may_look_up = self._attributes.add

    def value(self, value: Any) -> Any:
        """Any value. Raises UnknownStructure."""
        if value is None or type(value) in PLAIN:
            return value
        if type(value) is float:
            return ["float", value.hex()]
        if (told := self.special(value)) is not None:
            return told
        if isinstance(value, enum.Enum):
            return self._member(value)
        match value:
            case bool() | int() | str():
                return self._of_own_kind(value, value)
            case float():
                return self._of_own_kind(value, ["float", value.hex()])
            case bytes() | complex() | range() | slice() | types.EllipsisType():
                return self._of_own_kind(value, [type(value).__name__, repr(value)])
            case np.ndarray() | np.generic():
                return self._of_own_kind(value, self._array(value))
            case np.dtype():
                return ["dtype", dtype_name(value)]
            case types.ModuleType():
                return ["module", value.__name__]
            case logging.Logger():
                return ["logger"]
        if value is inspect.Parameter.empty or value is NotImplemented:
            return ["constant", repr(value)]
        if isinstance(value, tuple):  # not once only: whether two equal ones are the same is up to the interpreter
            return self._of_own_kind(value, ["tuple", *map(self.value, value)])
        if id(value) in self._told:
            return ["again", self._told[id(value)]]
        self._told[id(value)] = len(self._told)
        self._alive.append(value)
        return self._compound(value)

    def _array(self, value: Any) -> Any:
        array = np.asarray(value)
        told = ["objects", self.value(array.tolist())] if array.dtype.hasobject else array_digest(array)
        if isinstance(value, OTHERWISE):
            told = [type(value).__name__, told, array_digest(np.ma.getmaskarray(value))]
        return told

    def _member(self, value: enum.Enum) -> Any:
        """Of an enumeration: of the user's own with its value, and with what else its class says."""
        kind = type(value)
        told = ["enum", kind.__name__, value.name]
        if not self._is_own(kind):
            return told
        try:
            about = self.value(kind)
        except UnknownStructure:  # made by a call, without a text
            about = [member.name for member in kind]
        return [*told, self.value(value.value), about]

    def _of_own_kind(self, value: Any, told: Any) -> Any:
        """What was told of a number, a text or a container; with its class, where that is the user's own."""
        kind = type(value)
        if not self._is_own(kind):
            return told
        settings = filled_slots(value) | getattr(value, "__dict__", {})
        return ["of", self.value(kind), self.attributes(settings, False), told]

    def _is_own(self, kind: type) -> bool:
        """Whether a class is the user's own: of no library, and of no installed package."""
        return (
            not self._is_library(kind)
            and not is_installed(kind)
            and not is_installed(sys.modules.get(kind.__module__))
        )

    def _compound(self, value: Any) -> Any:
        bound = isinstance(value, types.MethodType) and (
            not isinstance(value.__self__, type) or self._is_own(value.__self__)
        )
        if callable(value) and hasattr(value, "__name__") and not bound and self._is_library(value):
            if (owner := owner_of(value, self._is_own)) is not None:
                return ["method", library_name(value), self.value(owner)]
            if isinstance(value, np.ufunc) and (inside := [*filter(self._holds_own, inside_of(value))]):
                return ["ufunc", *map(self.value, inside)]
            return ["library", library_name(value), *self._held(value)]
        match value:
            case dict() | types.MappingProxyType():
                told = ["dict", [[self.value(key), self.value(entry)] for key, entry in value.items()]]
                if isinstance(value, collections.defaultdict) and self._holds_own(value.default_factory):
                    told.append(["default", self.value(value.default_factory)])
                return self._of_own_kind(value, told)
            case list():
                return self._of_own_kind(value, ["list", *map(self.value, value)])
            case set() | frozenset():
                told = ["set", *sorted((self.value(entry) for entry in value), key=repr)]
                return self._of_own_kind(value, told)
            case functools.partial():
                return ["partial", self.value(value.func), self.value(value.args), self.value(value.keywords)]
            case types.MethodType():
                return ["method", self.value(value.__func__), self.value(value.__self__)]
            case functools.cached_property():
                return ["cached property", self.value(value.func)]
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
        if (path := path_of(value)) is not None:
            return self._of_own_kind(value, ["path", path])
        slots = filled_slots(value)
        if not hasattr(value, "__dict__") and not slots:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise UnknownStructure(f"what an object of {kind} holds is hidden")
        settings, library = slots | getattr(value, "__dict__", {}), self._is_library(type(value))
        held = self._held(value, "_") if library else []
        kind, told = self.code(type(value)), self.attributes(settings, library)
        if not told and library and is_pythons(type(value)):  # as fractions are
            told = self._private(settings)
        return ["object", kind, told, *held]

    def _private(self, settings: dict[str, Any]) -> Any:
        """All of an object's settings; [] where they cannot be told, as those of locks, which compute nothing."""
        return self._if_told(
            {n: v for n, v in settings.items() if v is not None}, lambda s: self.attributes(s, False)
        )

    def _if_told(self, value: Any, tell: Callable[[Any], Any] | None = None) -> Any:
        """A value, or what `tell` tells of it; [] where that cannot be told."""
        before = dict(self._told)
        try:
            return (tell or self.value)(value)
        except UnknownStructure:
            self._told = before
            return []

    def attributes(self, settings: dict[str, Any], library: bool) -> Any:
        """An object's settings, sorted. Of a library's object, what is private or None is left out: the next
        version may have more of both."""
        self._hold(*settings.values())
        return [
            [name, self.value(setting)]
            for name, setting in sorted(settings.items())
            if not library or (setting is not None and not name.startswith("_"))
        ]

    def _hold(self, *values: Any) -> None:
        """What is in modules of the program's may be looked up by whatever holds these."""
        for name, holder, data in data_within(values, self.libraries):
            self.may_look_up(name, holder, data)

    def code(self, code: Any) -> Any:
        """A class or function: its name where it belongs to a library, else its source and what that refers to."""
        if self._is_library(code):
            return ["library", library_name(code), *self._patches(code), *self._held(code)]
        self._look_up(code, code.__name__, code)
        if isinstance(code, type) and (fields := named_tuple_fields(code)) is not None:
            return ["named tuple", code.__name__, fields, self.value(inspect.unwrap(code.__new__).__defaults__)]
        if isinstance(code, type):
            classes = [kind for kind in code.__mro__ if not self._is_library(kind)]
            bases = [library_name(kind) for kind in code.__mro__ if self._is_library(kind)]
            sources = [source_of(kind) for kind in classes]
            changed = self._settings(classes)
            if not is_installed(code):
                members = [(name, m) for kind in classes for name, m in vars(kind).items() if is_code(m)]
                references = [self._references(function_of(m), name not in OF_CLASSES) for name, m in members]
                layers = self._layers(classes)
                if not self._is_library(type(code)):
                    layers.append(["metaclass", self.value(type(code))])
                return ["class", sources, bases, references, *changed, *self._patches(code), *layers]
            return ["class", sources, bases, *changed, *self._patches(code)]
        if is_installed(code):
            try:
                return ["function", source_of(code), [], *self._held(code)]
            except UnknownStructure:
                if not is_made_by(code, self.libraries):
                    raise
                return ["library", str(code.__globals__.get("__name__")), *self._held(code)]
        self.may_look_up(code.__qualname__, code, vars(code))
        return ["function", source_of(code), self._references(code)]

    def _layers(self, classes: list[type]) -> list[Any]:
        """What decorators of the user's own made around methods, of which only the inside is told elsewhere."""
        return [
            ["decorated", kind.__name__, name, source_of(layer), self._references(layer)]
            for kind in classes
            if not is_installed(kind)
            for name, member in vars(kind).items()
            for layer in layers_of(member)
            if not is_made_by(layer, self.libraries) and not is_installed(layer)
        ]

    # ---- what is told only where some code looks it up

    def looked_up(self) -> list[Any]:
        """The attributes of classes and functions, beside numbers and text, that some of the code looks up; to be
        called when all else is told."""
        told: list[Any] = []
        while found := self._attributes.taken():
            for one in found:
                if isinstance(one.holder, type):
                    self._look_up(one.holder, one.name, one.value)
                tell = self._if_told if isinstance(one.holder, types.ModuleType) else self.value
                told += [[one.owner, one.name, tell(one.value)]] if one.is_untold else []
        for one in self._attributes.taken_anyway():
            self._look_up(one.holder, one.name, one.value)
            told += [[one.owner, one.name, self._if_told(one.value)]] if one.is_untold else []
        return told

    def ran(self, function: types.FunctionType) -> Any:
        """A function that ran, though no code that is told says that it would: as much of it as can be told."""
        about = self._if_told(function)
        if about == []:  # of which there is no text
            self._look_up(function, function.__name__, function)
            return ["code", function.__qualname__, Lookup(function, "", function).then.hex()]
        return about

    # ---- the user's code in what libraries made of it

    def _held(self, value: Any, prefix: str = "") -> list[Any]:
        """The user's own code that a library's function closes over, or that its object keeps, under names that
        begin with `prefix`."""
        kept = {name: entry for name, entry in kept_by(value).items() if name.startswith(prefix)}
        inside = [[name, self.value(entry)] for name, entry in kept.items() if self._holds_own(entry)]
        return [["holds", *inside]] if inside else []

    def _holds_own(self, value: Any) -> bool:
        """Whether code or objects of the user's own are in a value, as deep as libraries put them."""
        seen: set[int] = set()
        level = {id(value): value}
        for _ in range(DEPTH):
            if any(map(self._is_owns, level.values())):
                return True
            seen |= level.keys()
            inside = (inner for entry in level.values() for inner in contents_of(entry))
            level = {id(inner): inner for inner in inside if id(inner) not in seen}
        return False

    def is_programs(self, value: Any) -> bool:
        """Whether a function or method is code of the program's, in place of a library's."""
        return self._holds_own(function_of(value))

    def _is_owns(self, value: Any) -> bool:
        if isinstance(value, types.FunctionType):
            return not self._is_library(value) and not is_installed(value)
        kinds = value.__mro__ if isinstance(value, type) else (type(value),)
        return any(map(self._is_own, kinds))

    def _settings(self, classes: list[type]) -> list[Any]:
        """The settings of classes that are not as their text says: those that were set from outside."""
        told = []
        for kind in classes:
            settings = plain_settings(kind)
            if not is_installed(kind):
                others = other_settings(kind)
                self.may_look_up(kind.__name__, kind, others, set_from_outside(kind, others) if others else {})
            if issubclass(kind, enum.Enum):
                for name, value in kind._member_map_.items():
                    self._look_up(kind._member_map_, name, value)
            else:
                for name, value in settings.items():
                    self._look_up(kind, name, value)
            outside = sorted(set_from_outside(kind, settings).items())
            told += [[kind.__name__, name, self.value(value)] for name, value in outside]
        return [["set", *told]] if told else []

    def _patches(self, kind: Any) -> list[Any]:
        """What was put on a class from outside of its text, as a program that changes libraries does it."""
        if not isinstance(kind, type):
            return self._calls(kind)
        if kind not in self._patched:
            self._patched[kind] = []  # a function may refer to its class
            self._patched[kind] = [
                [base.__name__, name, self.value(function_of(member))]
                for base in kind.__mro__
                for name, member in sorted(vars(base).items())
                if is_code(member) and self._is_foreign(function_of(member), base)
            ]
            for base in kind.__mro__:
                if base not in self._replaceable and (self._is_library(base) or is_installed(base)):
                    self._replaceable.add(base)
                    # those that it inherits as well, which one put on it would stand before
                    methods = [n for c in base.__mro__ for n, member in vars(c).items() if is_code(member)]
                    self.lookups.append(Replaceable(base, methods, self.is_programs))
        patched = [["patched", *self._patched[kind]]] if self._patched[kind] else []
        return [*patched, *self._calls(kind)]

    def _calls(self, code: Any) -> list[Any]:
        """Functions of the program's that a library's class or function calls in place of its own."""
        told = []
        for holder, name, function, is_own in self._called.by(code):
            if is_own:
                self._look_up(holder, name, function)
                told.append([name, source_of(function), self._references(function)])
            else:
                self.lookups.append(Replaceable(holder, [name], self._called.is_put_there))
        return [["calls", *told]] if told else []

    def _is_foreign(self, function: Any, kind: type) -> bool:
        if self._is_library(function) or function.__code__.co_filename.startswith("<"):
            return False
        if self._is_library(kind) or is_installed(kind):
            return not is_installed(function)
        try:
            lines, start = lines_of(kind)
            here = inspect.getsourcefile(kind) == inspect.getsourcefile(function)
        except (OSError, TypeError):
            return False
        return not here or not start <= function.__code__.co_firstlineno < start + len(lines)

    def _references(self, function: Any, looks_up: bool = True) -> Any:
        """What a function's code finds outside of itself. `looks_up`: whether attributes that it names are used as
        the module computes."""
        if not isinstance(function, types.FunctionType):
            return []
        if self._is_library(function) and is_made_by(
            function, self.libraries
        ):  # and not called so by functools.wraps
            return []
        referred: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                referred[name] = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._look_up(cell, name, referred[name])
        names = names_of(function.__code__)
        if looks_up:
            self._attributes.names |= names
        together = looks_up and puts_names_together(function)
        self._attributes.any_name |= together
        for path in sorted(lookups(function.__code__)):
            if path[0] in function.__globals__:
                self._refer(path, function.__globals__, names, referred)
        if looks_into_globals(names):
            for name in sorted(names & function.__globals__.keys() - {"__name__"}):
                self._refer((name,), function.__globals__, names, referred)
        for module, name in imports(function, self.libraries):
            self._refer((name or module.__name__,), vars(module) if name else sys.modules, names, referred)
        for holder, name in in_libraries(function, names, self.libraries):
            if not self._holds_own(holder[name]):  # the program may put code of its own there
                self.lookups.append(Replaceable(holder, [name], self.is_programs))
            elif all(holder[name] is not value for value in referred.values()):
                self._look_up(holder, name, holder[name])
                referred[f"{holder['__name__']}.{name}"] = holder[name]
        self._hold(*referred.values())
        referred |= self.registered(names)  # in whatever way the code comes to them
        # `__class__` is what super() needs; the class is told where it stands
        told = [[name, self.value(value)] for name, value in sorted(referred.items()) if name != "__class__"]
        if together:  # it may look up any number of the program's modules, which may have some that change
            for name, _, data in data_within(referred.values(), self.libraries):
                told += [[f"{name}.{entry}", self._if_told(value)] for entry, value in data.items()]
            libraries = [m for m in referred.values() if isinstance(m, types.ModuleType) and self._is_library(m)]
            self.lookups += [Replaceable(vars(m), [*vars(m)], self.is_programs) for m in libraries]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return [told, [self.value(values) for values in defaults]] if any(defaults) else [told]

    def _refer(
        self, path: tuple[str, ...], holder: dict[str, Any], names: set[str], referred: dict[str, Any]
    ) -> None:
        """Note in `referred` what code finds by a path that begins in `holder`, globals or what is in a module.
        `names`: all that the code names."""
        value, place = holder.get(path[0]), 1
        while isinstance(value, types.ModuleType) and not self._is_library(value) and place < len(path):
            holder = vars(value)
            value, place = getattr(value, path[place], None), place + 1
        self._look_up(holder, path[place - 1], value)
        referred[".".join(path[:place])] = value
        if not isinstance(value, types.ModuleType):
            return
        if not self._is_library(value):
            if not is_installed(value):  # it is used whole: of what is in it, whatever the code may mean
                for name in sorted(names & vars(value).keys() - {*path, value.__name__}):
                    self._look_up(vars(value), name, vars(value)[name])
                    referred[".".join((*path[:place], name))] = vars(value)[name]
            return
        while isinstance(value, types.ModuleType) and place < len(path):
            holder = vars(value)
            value, place = getattr(value, path[place], None), place + 1
        own = isinstance(value, types.FunctionType) and self._holds_own(value)
        if own or self.is_registered(value):  # put there by the program
            self._look_up(holder, path[place - 1], value)
            referred[".".join(path[:place])] = value
        elif holder.get(path[place - 1]) is value:  # and may be later
            self.lookups.append(Replaceable(holder, [path[place - 1]], self.is_programs))
            if calls := self._calls(value):
                referred[f"{'.'.join(path[:place])}()"] = calls

    def _look_up(self, holder: Any, name: str, value: Any) -> None:
        self.lookups.append(Lookup(holder, name, value, self._parts))

    def _parts(self, value: Any) -> Mapping[str, Any] | None:
        """What an object holds that may be changed in place, where it is a framework's or can be called; of others
        that is looked at anyhow."""
        parts = self.inside(value)
        if parts is None and callable(value) and not isinstance(value, type) and self._is_own(type(value)):
            return getattr(value, "__dict__", None)
        return parts

    def _is_library(self, code: Any) -> bool:
        name = code.__name__ if isinstance(code, types.ModuleType) else getattr(code, "__module__", None)
        if name in (None, "builtins") and (isinstance(code, types.FunctionType) or is_written(code)):
            return False  # made by exec, without a module
        return name is None or str(name).partition(".")[0] in self.libraries
