"""Writes `keywords`, the typed dictionaries of keyword arguments, from the fields in `options`:
`python -m headstart.training.write_keywords`, to be run when an option has come, gone or changed its type.

Invariant: an option stands once in the file; a function's dictionary is put together from those of the options
that the same functions take.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from headstart.training.option import FUNCTIONS
from headstart.training.options import GROUPS, OPTIONS

FILE = Path(__file__).with_name("keywords.py")
PREAMBLE = '''"""The keyword arguments of the functions that take options, for editors and type checkers.

Written from `options` by `python -m headstart.training.write_keywords`; what is changed here is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
'''


def keywords_text() -> str:
    """What the file has to hold, formatted as ruff does."""
    takers = list(dict.fromkeys(option.takers for option in OPTIONS.values()))
    parts = [part for functions in takers for part in _part(functions)]
    wholes = [line for function in FUNCTIONS for line in _whole(function, takers)]
    return "\n".join([PREAMBLE + "\n".join(_imports()), *parts, *wholes]) + "\n"


def _imports() -> Iterator[str]:
    """What the types of the options need, from where `options` has it."""
    types = [ast.walk(ast.parse(option.annotation)) for option in OPTIONS.values()]
    used = {node.id for nodes in types for node in nodes if isinstance(node, ast.Name)}
    trees = [ast.parse(inspect.getsource(import_module(group.__module__))) for group in GROUPS]
    sources: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom):
            sources.setdefault(str(node.module), set()).update(used & {alias.name for alias in node.names})
    lines = {
        module: f"    from {module} import {', '.join(sorted(names))}"
        for module, names in sources.items()
        if names
    }
    yield from (lines[module] for module in sorted(lines) if not module.startswith("headstart."))
    yield ""
    yield from (lines[module] for module in sorted(lines) if module.startswith("headstart."))


def _part(functions: tuple[str, ...]) -> Iterator[str]:
    """The options that just these functions take."""
    yield from ("", "", f"class {_name_of_part(functions)}(TypedDict, total=False):")
    yield from (f'    """Taken by {", ".join(functions)}."""', "")
    for option in OPTIONS.values():
        if option.takers == functions:
            quotes = "'''" if option.help.endswith('"') else '"""'
            yield from (f"    {option.name}: {option.annotation}", f"    {quotes}{option.help}{quotes}")


def _whole(function: str, takers: list[tuple[str, ...]]) -> Iterator[str]:
    """All options of a function."""
    parts = [_name_of_part(functions) for functions in takers if function in functions]
    yield from ("", "", f"class {_camel(function)}Options(")
    yield from (f"    {part}," for part in parts)
    yield from ("    total=False,", "):", f'    """Keyword arguments of `{function}`."""')


def _name_of_part(functions: tuple[str, ...]) -> str:
    return "_" + "".join(map(_camel, functions))


def _camel(name: str) -> str:
    return name.title().replace("_", "")


if __name__ == "__main__":
    FILE.write_text(keywords_text(), encoding="utf-8")
