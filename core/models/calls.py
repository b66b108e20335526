"""Which functions of a program's a library's own code calls, since the program has put them in the place of the
library's: `torch.nn.functional.gelu = mine`, where `nn.GELU` computes.

Invariant: what a library has not had replaced is not told, so that keys do not change with its versions.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Any

from headstart.models.reflection import function_of, is_code, is_installed, lookups

DEEP = 3  # a class calls torch.nn.functional, and that others of its own


class Calls:
    """Looks into each library's code once."""

    def __init__(self, libraries: Collection[str]) -> None:
        """`libraries`: top-level modules; installed packages are libraries anyhow."""
        self.libraries = libraries
        self._followed: set[types.CodeType] = set()
        self._called: set[tuple[int, str]] = set()

    def by(self, code: Any) -> Iterator[tuple[dict[str, Any], str, types.FunctionType, bool]]:
        """The functions of Python's that a library's function, or the methods of a class that are a library's,
        call: what each is found in, by which name, the function, and whether it is the program's."""
        functions = [function_of(member) for member in (*_members(code), code) if is_code(member)]
        functions = [function for function in functions if not self.is_put_there(function)]
        for _ in range(DEEP):
            functions = [function for function in functions if function.__code__ not in self._followed]
            self._followed.update(function.__code__ for function in functions)
            found = [place for function in functions for place in called_by(function)]
            functions = []
            for holder, name, function in found:
                if (id(holder), name) not in self._called:
                    self._called.add((id(holder), name))
                    is_own = self.is_put_there(function)
                    functions += [] if is_own else [function]
                    yield holder, name, function, is_own

    def is_put_there(self, value: Any) -> bool:
        """Whether a function is the program's, whatever name `functools.wraps` gave it."""
        if not isinstance(value, types.FunctionType):
            return False
        home = str(value.__globals__.get("__name__"))
        made = value.__code__.co_filename.startswith("<") and home != "__main__"  # as of the standard library's
        return not (made or home.partition(".")[0] in self.libraries or is_installed(value.__code__))


def _members(code: Any) -> list[Any]:
    return [member for kind in getattr(code, "__mro__", ()) for member in vars(kind).values()]


def called_by(function: types.FunctionType) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """The functions of Python's that code finds by its globals, or in modules there: each with what it is found
    in, and by which name."""
    for path in sorted(lookups(function.__code__)):
        holder: dict[str, Any] = function.__globals__
        value, place = holder.get(path[0]), 1
        while isinstance(value, types.ModuleType) and place < len(path):
            holder = vars(value)
            value, place = holder.get(path[place]), place + 1
        if isinstance(value, types.FunctionType):
            yield holder, path[place - 1], value
