"""Functions of libraries that a program has put in the place of other functions of libraries
(`torch.nn.functional.relu = torch.nn.functional.leaky_relu`).

Code that calls them says their place, not what stands there; so it is told where both have other names. What a
library itself calls otherwise is no matter: its own text says so.
"""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from headstart.models.reflection import library_name

OURS = "headstart"
DEPTH = 6
"""modules that take a name from one another"""


def renamed(
    ran: Iterable[tuple[types.CodeType, dict[str, Any], Iterable[Any]]],
    is_library: Callable[[types.ModuleType], bool],
) -> list[list[str]]:
    """(module, name there, what it is) of the functions of libraries that code looks up under the names of others,
    sorted. `ran`: code, its globals, and what it closes over. `is_library`: whether a module is of a library."""
    found: set[tuple[str, str, str]] = set()
    libraries: dict[int, bool] = {}
    for code, looks_into, held in ran:
        if str(looks_into.get("__name__")).partition(".")[0] == OURS:
            continue
        for module in _modules(code, looks_into, held):
            if id(module) not in libraries:
                standard = module.__name__.partition(".")[0] in sys.stdlib_module_names
                libraries[id(module)] = is_library(module) and not standard
            if not libraries[id(module)]:
                continue
            for name in code.co_names:
                value = vars(module).get(name)
                if _is_anothers(name, value) and not _is_said(module, name, value):
                    found.add((module.__name__, name, library_name(value)))
    return [list(place) for place in sorted(found)]


def _modules(code: types.CodeType, looks_into: dict[str, Any], held: Iterable[Any]) -> Iterator[types.ModuleType]:
    """Those in which code looks up names."""
    here = sys.modules.get(str(looks_into.get("__name__")))
    level = [here] if here is not None and vars(here) is looks_into else []
    level += [value for name in code.co_names if isinstance(value := looks_into.get(name), types.ModuleType)]
    level += [sys.modules[name] for name in code.co_names if name in sys.modules]
    level += [value for value in held if isinstance(value, types.ModuleType)]
    seen: set[int] = set()
    while level:
        module = level.pop()
        if id(module) in seen or not isinstance(module, types.ModuleType):
            continue
        seen.add(id(module))
        yield module
        if module is not here:
            level += [v for n in code.co_names if isinstance(v := vars(module).get(n), types.ModuleType)]


def _is_anothers(name: str, value: Any) -> bool:
    """Whether a value is a function that a library has under another name. What one keeps to itself is no matter:
    it may be registered there."""
    own = getattr(value, "__name__", name)
    if own == name or not callable(value) or isinstance(value, type) or not isinstance(own, str):
        return False
    if name.startswith("_") or own.startswith("_"):
        return False
    if isinstance(value, types.BuiltinFunctionType):
        return True
    home = sys.modules.get(str(getattr(value, "__module__", None)))
    return vars(home).get(own) is value if home is not None else False


def _is_said(module: types.ModuleType, name: str, value: Any, depth: int = 0) -> bool:
    """Whether the text of a module, or of those that it takes the name from, says itself that this name means the
    function."""
    bindings = _bindings(getattr(module, "__file__", None) or "")
    if not bindings or depth > DEPTH:  # nobody knows
        return True
    if any(value.__name__ in words for words in bindings.get(name, ()) if isinstance(words, set)):
        return True
    taken = [entry for place in (name, "*") for entry in bindings.get(place, ()) if isinstance(entry, tuple)]
    for level, source, original in taken:
        there = original if original != "*" else name
        if there == value.__name__:
            return True
        package = getattr(module, "__package__", None) or module.__name__
        home = sys.modules.get(".".join(filter(None, [*package.split(".")[: -level + 1 or None], source])))
        home = sys.modules.get(source) if not level else home
        if home is not None and vars(home).get(there) is value and _is_said(home, there, value, depth + 1):
            return True
    return False


@functools.cache
def _bindings(file: str) -> dict[str, list[Any]]:
    """What the text of a module makes of each name: the words of an expression, or the level, the module and the
    name there of what is imported. Nothing where there is no text. A name that it does not bind comes from a loop
    over another module's, and is called as it is there."""
    try:
        tree = ast.parse(Path(file).read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, list[Any]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=aliases, level=level, module=source):
                for alias in aliases:
                    found.setdefault(alias.asname or alias.name, []).append((level, source or "", alias.name))
            case ast.FunctionDef(name=name):
                found.setdefault(name, []).append({name})
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
                for name in names:
                    found.setdefault(name, []).append(_words(value))
    return found


def _words(expression: ast.expr) -> set[str]:
    """The names in an expression, and the texts that may be names."""
    return {
        str(getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None))
        for node in ast.walk(expression)
        if isinstance(node, ast.Name | ast.Attribute | ast.Constant)
    }
