"""What a piece of Python's code says of itself: the names that it looks up, what it imports as it runs, and which
settings a class has that its text does not say.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import dis
import enum
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from headstart.models.lookups import is_plain
from headstart.models.sources import UnknownStructure, source_of, within

INSTALLED = ("site-packages", "dist-packages")
OF_CLASSES = ("__init__", "__new__", "__init_subclass__", "__set_name__")
"""functions that run as objects and classes are made, and not as a module computes"""
UNTOLD = ("__", "_abc_")
_Pair = collections.namedtuple("_Pair", "first second")
MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType, type(vars(_Pair)["first"]))
"""what stands in a class for what its objects hold"""


@functools.cache
def lookups(code: types.CodeType) -> frozenset[tuple[str, ...]]:
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
    return frozenset(looked_up.union(*map(lookups, inner)))


def names_of(code: types.CodeType) -> set[str]:
    """All names that code, and the functions inside it, may look up: those that it spells, and those that stand in
    it as text, for `getattr`."""
    codes = [*within(code)]
    texts = {text for some in codes for text in some.co_consts if isinstance(text, str) and text.isidentifier()}
    return texts.union(*(some.co_names for some in codes))


NAMED = ("getattr", "attrgetter", "vars", "__dict__", "__getattribute__", "import_module")
"""what finds an attribute, or a module, by a text"""


def puts_names_together(function: types.FunctionType) -> bool:
    """Whether code may look up what none of its own texts names: `getattr(blocks, f"block_{kind}")`."""
    if not any(name in code.co_names for code in within(function.__code__) for name in NAMED):
        return False
    try:
        return _is_any_name(source_of(function))
    except (UnknownStructure, SyntaxError):
        return True


@functools.lru_cache(maxsize=256)
def _is_any_name(text: str) -> bool:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr == "__dict__":
            return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            name = node.args[1 if called == "getattr" else 0 : 2][:1]
            if called == "vars" or (called in NAMED and not all(isinstance(text, ast.Constant) for text in name)):
                return True
    return False


def data_within(
    values: Iterable[Any], libraries: Collection[str]
) -> list[tuple[str, types.ModuleType, dict[str, Any]]]:
    """The program's modules among some values, by name: each with what it holds beside functions, classes and
    modules: numbers, text and arrays, and what keeps results of a function (jitted, cached), which may not run
    again."""
    modules = {value.__name__: value for value in values if isinstance(value, types.ModuleType)}
    modules = {name: vars(module).get("__wrapped__", module) for name, module in modules.items()}
    own = {n: m for n, m in modules.items() if n.partition(".")[0] not in libraries and not is_installed(m)}
    return [(n, m, {k: v for k, v in sorted(vars(m).items()) if _is_data(k, v)}) for n, m in sorted(own.items())]


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("__") or isinstance(value, types.FunctionType | types.ModuleType | type):
        return False
    kept = callable(value) and inspect.getattr_static(value, "__wrapped__", None) is not None
    return kept or is_plain(value) or isinstance(value, np.ndarray | np.generic | dict)


def imports(function: types.FunctionType, libraries: Collection[str]) -> list[tuple[types.ModuleType, str]]:
    """What a function imports as it runs: modules, each with the name that is taken from it, or "" where it is the
    module itself. Without those of `libraries` and of installed packages."""
    found: list[tuple[types.ModuleType, str]] = []
    for code in within(function.__code__):
        steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG")]
        for place, step in enumerate(steps):
            if step.opname != "IMPORT_NAME":
                continue
            level, names = steps[place - 2].argval, steps[place - 1].argval
            module = _imported(step.argval, level, function, libraries)
            for name in names or ("",):
                if module is not None and (not name or name in vars(module)):
                    found.append((module, name))
                elif (inner := _imported(f"{step.argval}.{name}", level, function, libraries)) is not None:
                    found.append((inner, ""))
    return found


def in_libraries(
    function: types.FunctionType, names: Collection[str], libraries: Collection[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """What code may find in libraries which spells some names, in whatever way it comes to these: by globals, or
    as it imports them. The contents of the module that something is in, and its name there. Functions and classes
    of Python's."""
    waiting: list[Any] = [value for name, value in function.__globals__.items() if name in names]
    for code in within(function.__code__):
        steps = [step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"]
        waiting += [sys.modules[name] for name in steps if name in sys.modules]
    seen: set[int] = set()
    while waiting:
        module = waiting.pop()
        known = isinstance(module, types.ModuleType) and module.__name__.partition(".")[0] in libraries
        if not known or id(module) in seen:
            continue
        seen.add(id(module))
        for name in sorted(vars(module).keys() & names):
            value = vars(module)[name]
            waiting.append(value)
            if isinstance(value, types.FunctionType | type):
                yield vars(module), name


def _imported(
    name: str, level: int, function: types.FunctionType, libraries: Collection[str]
) -> types.ModuleType | None:
    """The module; None for one of `libraries` or of an installed package, or that cannot be imported. It is
    imported here, as what is told must not depend on which of the program's other parts have run."""
    try:
        if level:
            name = importlib.util.resolve_name("." * level + name, function.__globals__.get("__package__"))
        package = name.partition(".")[0]
        if package in libraries:
            return None
        found = sys.modules[package].__spec__ if package in sys.modules else importlib.util.find_spec(package)
        places = [found.origin or "", *(found.submodule_search_locations or ())] if found is not None else []
        if any(part in place for place in places for part in INSTALLED):
            return None
        return importlib.import_module(name)
    except Exception:  # of code that is the user's
        return None


def layers_of(member: Any) -> Iterator[types.FunctionType]:
    """What decorators made around a method, the outermost first."""
    layer: Any = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    while hasattr(layer, "__wrapped__"):
        if isinstance(layer, types.FunctionType):
            yield layer
        layer = layer.__wrapped__


def kept_by(value: Any) -> dict[str, Any]:
    """What a function closes over, the attributes of an object, the classes that a class derives from; nothing of
    modules."""
    if isinstance(value, types.ModuleType):
        return {}
    if isinstance(value, type):
        return {kind.__name__: kind for kind in value.__mro__[1:]}
    if not isinstance(value, types.FunctionType):
        wrapped = {"__wrapped__": value.__wrapped__} if hasattr(value, "__wrapped__") else {}
        return wrapped | filled_slots(value) | getattr(value, "__dict__", {})
    kept = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not filled yet
            kept[name] = cell.cell_contents
    return kept


def contents_of(value: Any) -> Iterable[Any]:
    """What is held in a container, or by what can be called."""
    match value:
        case dict() | types.MappingProxyType():
            return value.values()
        case list() | tuple() | set() | frozenset():
            return value
        case functools.partial():
            return (value.func, value.args, value.keywords)
        case types.MethodType():
            return (value.__func__, value.__self__)
    return kept_by(value).values() if callable(value) else ()


def plain_settings(kind: type) -> dict[str, Any]:
    """The numbers and texts among a class's attributes; of an enumeration, of its members' values."""
    if issubclass(kind, enum.Enum):
        return {name: member.value for name, member in kind.__members__.items() if is_plain(member.value)}
    return {n: v for n, v in vars(kind).items() if is_plain(v) and not n.startswith(UNTOLD)}


def other_settings(kind: type) -> dict[str, Any]:
    """The other attributes of a class that are no methods."""
    if issubclass(kind, enum.Enum):
        return {}
    return {
        name: value
        for name, value in vars(kind).items()
        if not (name.startswith(UNTOLD) or is_plain(value) or is_code(value) or isinstance(value, MEMBERS))
    }


def set_from_outside(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values among a class's attributes that its text does not give it: of other values, or of names
    that it does not assign. What its text computes from names is told by the values that it came to."""
    literals = _assigned(source_of(kind)) if plain else {}
    return {name: value for name, value in plain.items() if not is_as_written(value, name, literals)}


@functools.lru_cache(maxsize=256)
def _assigned(text: str) -> Mapping[str, ast.expr | None]:
    """What the text of a class gives its attributes."""
    (written,) = ast.parse(text).body
    literals: dict[str, ast.expr | None] = {}
    for node in getattr(written, "body", ()):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                literals[target.id] = getattr(node, "value", None)
    return literals


def is_as_written(value: Any, name: str, literals: Mapping[str, ast.expr | None]) -> bool:
    written = literals.get(name)
    if written is None:
        return False
    try:
        literal = ast.literal_eval(written)
    except (ValueError, TypeError, SyntaxError):
        # `width: int = dataclasses.field(default=3)`
        defaults = [given.value for given in getattr(written, "keywords", ()) if given.arg == "default"]
        return len(defaults) == 1 and is_as_written(value, name, {name: defaults[0]})
    return type(literal) is type(value) and bool(literal == value)


def filled_slots(value: Any) -> dict[str, Any]:
    """The slots of an object that hold something."""
    slots = [slot for base in type(value).__mro__ for slot in slots_of(base) if hasattr(value, slot)]
    return {slot: getattr(value, slot) for slot in slots}


def slots_of(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def is_code(member: Any) -> bool:
    return isinstance(function_of(member), types.FunctionType)


def function_of(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return inspect.unwrap(getattr(member, "__func__", member))


def is_made_by(function: types.FunctionType, libraries: Collection[str]) -> bool:
    """Whether a library made it, whatever name `functools.wraps` gave it."""
    return str(function.__globals__.get("__name__")).partition(".")[0] in libraries


def library_name(code: Any) -> str:
    """By which a class or function of a library's is told."""
    module = str(getattr(code, "__module__", None) or "builtins").partition(".")[0]
    return f"{module}:{getattr(code, '__name__', type(code).__name__)}"


def is_written(code: Any) -> bool:
    """Whether it is a class made by a class statement, and not in C."""
    return isinstance(code, type) and bool(code.__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE


def is_installed(code: Any) -> bool:
    try:
        file = inspect.getfile(code)
    except (TypeError, OSError):
        return False
    return any(part in file for part in INSTALLED)
