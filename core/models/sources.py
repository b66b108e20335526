"""The text that classes and functions were made from.

Invariant: a text is given only where the code that runs here is the text's. A file that somebody edited after it
was imported has another text than what runs, and features would stand under a key of code that did not make them.
"""

from __future__ import annotations

import ast
import collections
import functools
import inspect
import textwrap
import types
import weakref
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from typing import Any


class UnknownStructure(Exception):  # noqa: N818 - it asks for a name, and is never shown as it is
    """What a piece of code computes cannot be told; the message says which and why."""


def source_of(code: Any) -> str:
    """The text that a class or function was made from; UnknownStructure where there is none."""
    name = f"{code.__module__}.{code.__qualname__}"
    try:
        if getattr(code, "__name__", "") == "<lambda>":
            text = _lambda_source(code)
        else:  # of the code itself: of a decorated function, inspect shows the one inside
            text = _written(getattr(code, "__code__", code))
    except (OSError, TypeError, SyntaxError, IndentationError) as error:
        raise UnknownStructure(f"the source of {name} cannot be found ({error})") from None
    if not _is_current(code):
        raise UnknownStructure(
            f"the file of {name} was edited after it was imported, and what runs here is not what it says (start "
            "Python anew, or reload the file and make the module again)"
        )
    return text


def _written(code: type | types.CodeType) -> str:
    return textwrap.dedent("".join(lines_of(code)[0])).strip()


def lines_of(code: type | types.CodeType) -> tuple[list[str], int]:
    """The lines that a class or code was made from, and the number of the first. `inspect` parses the whole file
    for each class: it is asked once. Whether that is what runs here is looked at each time."""
    place = id(code)
    if place not in _lines:
        _lines[place] = weakref.ref(code, lambda _: _lines.pop(place, None)), inspect.getsourcelines(code)
    return _lines[place][1]


_lines: dict[int, tuple[weakref.ref[Any], tuple[list[str], int]]] = {}
"""by the identity of a class or code: equal code may stand in two files, with other comments"""


def named_tuple_fields(code: type) -> list[str] | None:
    """The fields of a class that `collections.namedtuple(...)` makes, without a class statement: with its name and
    their defaults they are all that it says. None for another class."""
    fields = getattr(code, "_fields", None)
    if code.__bases__ != (tuple,) or not isinstance(fields, tuple):
        return None
    functions = [getattr(member, "__func__", member) for member in vars(code).values()]
    files = [f.__code__.co_filename for f in functions if isinstance(f, types.FunctionType)]
    plain = all(file in ("<string>", collections.__file__) for file in files) and not _is_written(code)
    return list(fields) if plain else None


def _is_written(code: type) -> bool:
    try:
        lines_of(code)
    except (OSError, TypeError):
        return False
    return True


def _is_current(code: Any) -> bool:
    """Whether a function, or each method of a class, is what its file says now. True where nobody can tell."""
    if isinstance(code, types.FunctionType):
        compiled = _compiled(code.__code__)
        at = code.__code__.co_firstlineno  # where inspect looks for its text
        return compiled is None or any(_same(code.__code__, c) for c in compiled if c.co_firstlineno == at)
    for member in vars(code).values():
        inner = getattr(getattr(member, "fget", member), "__func__", getattr(member, "fget", member))
        made = getattr(inspect.unwrap(inner) if callable(inner) else inner, "__code__", None)
        if not isinstance(made, types.CodeType) or not made.co_qualname.startswith(f"{code.__qualname__}."):
            continue  # put there from outside
        compiled = _compiled(made)
        if compiled is not None and not any(_same(made, other) for other in compiled):
            return False
    return True


def _compiled(code: types.CodeType) -> list[types.CodeType] | None:
    """All of the code of the file that this code came from, by its text of now; None where the file was not
    imported in the usual way, and code may have been rewritten."""
    module = inspect.getmodule(code)
    loader = getattr(module, "__loader__", None)
    if module is None or not isinstance(loader, SourceFileLoader):
        return None
    try:
        return _compiled_text(loader.get_data(code.co_filename), code.co_filename, loader)
    except OSError:
        return None


@functools.lru_cache(maxsize=32)
def _compiled_text(text: bytes, path: str, loader: SourceFileLoader) -> list[types.CodeType] | None:
    try:  # by its own loader, since some rewrite what they compile
        return list(within(loader.source_to_code(text, path)))
    except SyntaxError:
        return []
    except Exception:  # of a loader from outside
        return None


def within(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and that of all that is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from within(constant)


def _same(a: types.CodeType, b: types.CodeType) -> bool:
    """Whether both are one code, wherever in the file it stands."""
    return (
        a.co_qualname == b.co_qualname
        and (a.co_code, a.co_names, a.co_varnames) == (b.co_code, b.co_names, b.co_varnames)
        and len(a.co_consts) == len(b.co_consts)
        and all(
            _same(x, y) if isinstance(x, types.CodeType) and isinstance(y, types.CodeType) else _equal(x, y)
            for x, y in zip(a.co_consts, b.co_consts, strict=True)
        )
    )


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, frozenset):  # whose order is another in each process
        return bool(x == y)
    return type(x) is type(y) and repr(x) == repr(y)


def _lambda_source(function: Any) -> str:
    """A lambda alone, without the rest of its line: there may be a second one."""
    lines, _ = inspect.findsource(function)
    text = "".join(lines)
    places = set(function.__code__.co_positions())
    lambdas = _lambdas(text)
    for node in lambdas:
        body = (node.body.lineno, node.body.end_lineno, node.body.col_offset, node.body.end_col_offset)
        if body in places:
            return ast.get_source_segment(text, node) or ""
    # No step is the whole of a body such as `a if b else c`: it is the innermost lambda around all of them.
    steps = [place for place in places if None not in place and place[2:] != (0, 0)]
    around = [node for node in lambdas if all(_lies_in(step, node.body) for step in steps)]
    if steps and around:
        return ast.get_source_segment(text, min(around, key=_extent)) or ""
    raise OSError("a lambda that is not in its file")


@functools.lru_cache(maxsize=8)
def _lambdas(text: str) -> list[ast.Lambda]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]


def _lies_in(step: tuple[Any, ...], node: ast.expr) -> bool:
    begin, end = (step[0], step[2]), (step[1], step[3])
    return (node.lineno, node.col_offset) <= begin and end <= (node.end_lineno or 0, node.end_col_offset or 0)


def _extent(node: ast.Lambda) -> tuple[int, int]:
    body = node.body
    return (body.end_lineno or 0) - body.lineno, (body.end_col_offset or 0) - body.col_offset
