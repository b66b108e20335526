"""Which functions of Python's run as a module computes, whatever way its code comes to them: by names that it puts
together then (`getattr(blocks, f"block_{kind}")`), from registries, or since somebody has put them in the place of
a library's, however deep.

Invariant: what runs beside the module (finalizers, handlers of logs and warnings) is not taken for its own.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from headstart.models.lookups import Lookup, Replaceable, is_plain
from headstart.models.reflection import function_of, is_installed, layers_of
from headstart.models.sources import within

BESIDE = ("logging", "warnings")
"""modules that call what a program has given them to say something"""
MADE_ANEW = "__autograph_generated_file"  # TensorFlow's, of functions that it rewrites


class Ran:
    """The code that ran: of the program's and of libraries."""

    def __init__(self, libraries: Collection[str]) -> None:
        """`libraries`: top-level modules whose code is not the program's; installed packages are none anyhow."""
        self.libraries = frozenset(libraries)
        self.seen: dict[int, tuple[types.CodeType, dict[str, Any]]] = {}
        """with the globals that it looks into"""
        self.closed: dict[int, list[tuple[Any, ...]]] = {}
        """what closures found in their cells, of the program's code"""

    def note(self, frame: types.FrameType, event: str, _: Any) -> None:
        """As `sys.setprofile` calls it."""
        if event != "call":
            return
        code = frame.f_code
        if id(code) in self.seen:
            if not code.co_freevars or id(code) not in self.closed:
                return
        elif _is_beside(frame):
            return
        else:
            self.seen[id(code)] = code, frame.f_globals
            if not self._is_own(code, frame.f_globals):
                return
        held = frame.f_locals if code.co_freevars else {}
        kept = tuple(held.get(name) for name in code.co_freevars)
        before = self.closed.setdefault(id(code), [])
        if not any(_are_one(kept, other) for other in before):
            before.append(kept)

    def own(self) -> list[tuple[types.CodeType, dict[str, Any]]]:
        """Of the program's."""
        return [self.seen[number] for number in self.closed if self._is_own(*self.seen[number])]

    def functions(self, code: types.CodeType) -> list[types.FunctionType]:
        """Those of this code that ran: of equal ones, of which only what they close over tells them apart, one."""
        looks_into = self.seen[id(code)][1]
        places = [looks_into.get(code.co_name), *gc.get_referrers(code)]  # frozen objects are not among these
        found = [f for f in places if type(f) is types.FunctionType and f.__code__ is code]
        found = [f for f in found if f.__globals__ is looks_into]
        found.sort(key=lambda function: repr(_plain(function.__defaults__)))
        functions: list[types.FunctionType] = []
        for kept in self.closed[id(code)]:
            alike = [f for f in found if _are_one(_closed_over(f), kept)]
            cells = tuple(types.CellType(value) for value in kept)
            alike = alike or [types.FunctionType(code, looks_into, code.co_name, None, cells)]
            functions += {repr(_plain(f.__defaults__)): f for f in alike}.values()
        return functions

    def _is_own(self, code: types.CodeType, found: dict[str, Any]) -> bool:
        home = str(found.get("__name__"))
        made = code.co_filename.startswith("<") and home != "__main__"
        library = home.partition(".")[0] in self.libraries or is_installed(code)
        return not (made or library or MADE_ANEW in code.co_filename or code.co_name in ("<module>", "__del__"))

    def looking(self) -> Iterator[tuple[types.CodeType, dict[str, Any], list[Any]]]:
        """Code, its globals and what it closes over."""
        for number, (code, looks_into) in self.seen.items():
            yield code, looks_into, [value for kept in self.closed.get(number, ()) for value in kept]

    def is_library(self, module: types.ModuleType) -> bool:
        """Whether a module is none of the program's."""
        return module.__name__.partition(".")[0] in self.libraries or is_installed(module)

    def replaceable(self, is_own: Callable[[Any], bool]) -> Iterator[Replaceable]:
        """The places in libraries that the functions of theirs which ran stand in."""
        for code, found in self.seen.values():
            owner, _, name = code.co_qualname.rpartition(".")
            holder: Any = found.get(owner) if owner else found
            members = vars(holder) if isinstance(holder, type) else {} if owner else found
            function = getattr(members.get(name), "__func__", members.get(name))
            if getattr(function, "__code__", None) is code and not self._is_own(code, found):
                yield Replaceable(holder, [name], is_own)


def _closed_over(function: types.FunctionType) -> tuple[Any, ...]:
    kept = []
    for cell in function.__closure__ or ():
        try:
            kept.append(cell.cell_contents)
        except ValueError:  # not filled yet
            kept.append(None)
    return tuple(kept)


def _plain(values: Any) -> Any:
    return values if is_plain(values) else None


def _are_one(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _is_beside(frame: types.FrameType) -> bool:
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") != __name__:
        if caller.f_globals.get("__name__") in BESIDE:
            return True
        caller = caller.f_back
    return False


@contextmanager
def watched(libraries: Collection[str]) -> Iterator[Ran]:
    """What runs in this thread meanwhile."""
    ran, before, collects = Ran(libraries), sys.getprofile(), gc.isenabled()
    gc.disable()  # whose finalizers run at any time
    sys.setprofile(ran.note)
    try:
        yield ran
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


Place = tuple[str, str, int]
"""a file, a qualified name there, and a line"""


def unknown(ran: Ran, lookups: Iterable[Lookup]) -> list[types.FunctionType]:
    """The functions of the program's that ran, and that are not among what was told. `lookups`: what was, each
    function and class of it as its own holder."""
    own = ran.own()
    if not own:
        return []
    exact, around = told_places(lookup.value for lookup in lookups)
    found: list[types.FunctionType] = []
    for code, _ in own:
        names = code.co_qualname.split(".")
        inside = {(code.co_filename, ".".join(names[:end])) for end in range(1, len(names))} & around
        if place_of(code) not in exact and not inside:
            found += ran.functions(code)
    return sorted(found, key=lambda function: place_of(function.__code__))


def places_of(ran: Ran) -> Iterator[tuple[dict[str, Any], str, types.FunctionType]]:
    """The contents of modules that hold functions of the program's which ran, the name there, and the function."""
    wanted = {id(code) for code, _ in ran.own()}
    for module in [*sys.modules.values()] if wanted else ():
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if type(value) is types.FunctionType and id(value.__code__) in wanted:
                yield vars(module), name, value


def place_of(code: types.CodeType) -> Place:
    """Where code stands."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def told_places(values: Iterable[Any]) -> tuple[set[Place], set[tuple[str, str]]]:
    """Where the code of functions and classes stands; and the functions and classes whose text says all that is
    written inside of them."""
    exact: set[Place] = set()
    around: set[tuple[str, str]] = set()
    for value in values:
        for kind in value.__mro__ if isinstance(value, type) else ():
            for member in vars(kind).values():
                layers = (getattr(member, "__func__", member), function_of(member), *layers_of(member))
                codes = {getattr(layer, "__code__", None) for layer in layers}
                for code in [code for code in codes if isinstance(code, types.CodeType)]:
                    exact |= {*map(place_of, within(code))}
                    if code.co_qualname.startswith(f"{kind.__qualname__}."):
                        around.add((code.co_filename, kind.__qualname__))
        if isinstance(value, types.FunctionType):
            exact |= {*map(place_of, within(value.__code__))}
            if value.__name__ != "<lambda>":
                around.add((value.__code__.co_filename, value.__code__.co_qualname))
    return exact, around
