"""How code is told: what changes it, and what does not."""

from __future__ import annotations

import collections
import colorsys
import copy
import fractions
import functools
import importlib
import json
import math
import pickle
import re
import string
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.models.sources import UnknownStructure
from headstart.models.structure import Structure, digest
from headstart.models.teller import Teller

pytestmark = pytest.mark.neutral

FACTOR = 2.0


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Setting:
    width: int
    name: str = "a"


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a


def helper(x: float) -> float:
    return x * FACTOR


def uses(x: float) -> float:
    return helper(x) + 1


def other(x: float) -> float:
    return helper(x) + 2


class Base:
    def run(self, x: float) -> float:
        return helper(x)


class Derived(Base):
    def again(self, x: float) -> float:
        return self.run(x)


def closing(factor: float) -> Callable[[float], float]:
    return lambda x: x * factor


def loops(n: int) -> int:
    return n and loops(n - 1)


def told(value: Any) -> str:
    text = digest(Teller((), lambda value: None).value(value))
    assert text == digest(Teller((), lambda value: None).value(value))
    return text


def telling(value: Any) -> Callable[[Teller], Any]:
    return lambda teller: teller.value(value)


ONE, TWO = lambda x: x + 1, lambda x: x + 2


@pytest.mark.parametrize(
    "values",
    [
        [None, 0, 1, 1.0, True, "1", b"1", 1j, [1], (1,), {1}, {"1": 1}, range(1), slice(1), ...],
        [np.zeros(2), np.zeros(3), np.zeros(2, np.float32), np.float32(0)],
        [np.frombuffer(b"\0\1", ">i2"), np.frombuffer(b"\0\1", "<i2"), np.dtype(">i2"), np.dtype("<i2")],
        [math.sin, math.cos, np.sin, len, str, functools.partial(math.pow, 2), functools.partial(math.pow, 3)],
        [
            Colour.RED,
            Colour.BLUE,
            Colour,
            Setting(1),
            Setting(2),
            Setting(1, "b"),
            Setting,
            Slotted(1),
            Slotted(2),
        ],
        [
            uses,
            other,
            helper,
            closing(1.0),
            closing(2.0),
            ONE,
            TWO,
            Base,
            Derived,
            Derived().run,
            Base().run,
            loops,
        ],
        [float("nan"), float("inf"), -0.0, 0.0],
    ],
    ids=["plain", "arrays", "bytes", "library", "objects", "code", "numbers"],
)
def test_different_values_are_told_apart(values: list[Any]) -> None:
    assert len({told(value) for value in values}) == len(values)


def test_equal_values_are_told_alike() -> None:
    assert told(Setting(3)) == told(Setting(3))
    assert told(closing(1.5)) == told(closing(1.5))
    assert told({"a": (1, 2), "b": [Colour.RED]}) == told({"a": (1, 2), "b": [Colour.RED]})
    shared, apart = (1, 2), tuple(range(1, 3))
    assert told([shared, shared]) == told([shared, apart])
    json.dumps(Teller((), lambda value: None).value([uses, Derived(), loops, {"x": np.ones(2)}]))


def test_what_code_refers_to_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However far away it stands."""
    before = {name: told(value) for name, value in {"f": uses, "class": Derived, "closure": closing(1.0)}.items()}
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert told(uses) != before["f"]
    assert told(Derived) != before["class"]
    assert told(closing(1.0)) == before["closure"]


def test_a_librarys_code_is_told_by_its_name() -> None:
    told_as = Teller(("hypothesis",), lambda value: None)
    assert told_as.value(math.sin) == ["library", "math:sin"]
    import hypothesis

    assert told_as.value(hypothesis.given) == ["library", "hypothesis:given"]


def test_code_of_an_installed_package_is_told_by_its_source_alone() -> None:
    import safetensors.numpy

    kind, source, references = Teller((), lambda value: None).value(safetensors.numpy.save)
    assert (kind, references) == ("function", [])
    assert source.startswith("def save(")


def test_a_decorated_function_is_told_with_its_decorator() -> None:
    def twice(function: Callable[[float], float]) -> Callable[[float], float]:
        @functools.wraps(function)
        def inner(x: float) -> float:
            return function(function(x))

        return inner

    assert len({told(twice(uses)), told(uses), told(twice(other)), told(functools.cache(uses))}) == 4


@pytest.mark.parametrize("code", ["def f(x):\n    return x", "class f:\n    pass", "f = lambda x: x"])
def test_code_that_is_in_no_file_is_unknown(code: str) -> None:
    scope: dict[str, Any] = {}
    exec(code, scope)
    with pytest.raises(UnknownStructure, match=r"the source of .* cannot be found"):
        told(scope["f"])


def test_a_named_tuple_is_told_by_its_fields() -> None:
    """It has no text of its own."""

    def made(fields: str, name: str = "Block", **settings: Any) -> Any:
        kind = collections.namedtuple(name, fields, **settings)
        return told(lambda: kind)

    assert made("width stride") == made("width stride")
    others = made("width depth"), made("width stride", "Stage"), made("width stride", defaults=(1,))
    assert len({made("width stride"), *others}) == 4
    kind = collections.namedtuple("kind", "width")
    kind.run = lambda self, x: x * FACTOR  # type: ignore[attr-defined]
    with pytest.raises(UnknownStructure, match=r"the source of .*kind cannot be found"):
        told(kind)


def test_what_an_object_hides_is_unknown() -> None:
    with pytest.raises(UnknownStructure, match=r"what an object of .*generator holds is hidden"):
        told(x for x in ())


@pytest.mark.parametrize("name", ["Scaled", "shift", "lift"])
def test_code_whose_file_was_edited_since_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What runs is not what the file says, so its features would stand under the key of other code."""
    before = (
        "class Scaled:\n    def run(self, x):\n        return x * 2\n\n\n"
        "def shift(x):\n    return x + 2\n\n\nlift = lambda x: x - 2\n"
    )
    file = tmp_path / f"edited_{name}.py"
    file.write_text(before)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(file.stem)
    first = told(getattr(module, name))
    file.write_text(before.replace("2", "30"))
    with pytest.raises(UnknownStructure, match=r"edited_.* was edited after it was imported.*reload"):
        told(getattr(module, name))
    old = module.Scaled
    assert told(getattr(importlib.reload(module), name)) != first
    with pytest.raises(UnknownStructure):
        told(old)


# ---- what a text does not say: of each, `run(1.0)` differs with what stands for @

TEXTS = {
    "a decorator's body": """
        def scaled(function):
            @functools.wraps(function)
            def inner(self, x):
                return function(self, x) * @
            return inner
        class Net:
            @scaled
            def run(self, x):
                return x
        run = functools.partial(lambda net, x: net.run(x), Net())
    """,
    "what a decorator looks up": """
        FACTOR = @
        def scaled(function):
            @functools.wraps(function)
            def inner(self, x=1.0):
                return function(self, x) * FACTOR
            return inner
        class Net:
            @property
            @scaled
            def run(self, x=1.0):
                return x
            def get(self, x):
                return self.run
        run = functools.partial(lambda net, x: net.get(x), Net())
    """,
    "a setting that a call makes": """
        FACTOR = "@"
        class Net:
            factor = float(FACTOR)
            def run(self, x):
                return x * self.factor
        run = Net().run
    """,
    "an array of a class": """
        FACTOR = @
        class Net:
            factor = np.full(1, FACTOR)
            def run(self, x):
                return float(x * self.factor[0])
        run = Net().run
    """,
    "functions in a list of a class": """
        def scale(x):
            return x * @
        class Net:
            steps = [scale]
            def run(self, x):
                return self.steps[0](x)
        run = Net().run
    """,
    "a class in a class": """
        FACTOR = @
        class Net:
            class Scale:
                def of(self, x):
                    return x * FACTOR
            def run(self, x):
                return self.Scale().of(x)
        run = Net().run
    """,
    "a cached property": """
        FACTOR = @
        class Net:
            @functools.cached_property
            def factor(self):
                return FACTOR
            def run(self, x):
                return x * self.factor
        run = Net().run
    """,
    "a metaclass": """
        class Kind(type):
            def factor(cls):
                return @
        class Net(metaclass=Kind):
            def run(self, x):
                return x * type(self).factor()
        run = Net().run
    """,
    "a function's attribute": """
        def run(x):
            return x * run.factor
        run.factor = @
    """,
    "a dict of one's own kind": """
        class Settings(dict):
            def factor(self):
                return @
        run = functools.partial(lambda settings, x: x * settings.factor(), Settings())
    """,
    "an attribute of a list of one's own kind": """
        class Settings(list):
            pass
        settings = Settings()
        settings.factor = @
        run = functools.partial(lambda settings, x: x * settings.factor, settings)
    """,
    "what a default dict makes": """
        def factor():
            return @
        run = functools.partial(lambda d, x: x * d["any"], collections.defaultdict(factor))
    """,
    "a member's value": """
        class Factor(enum.Enum):
            FIRST = @
        run = functools.partial(lambda factor, x: x * factor.value, Factor.FIRST)
    """,
    "a member's method": """
        class Factor(enum.Enum):
            FIRST = 1
            def of(self, x):
                return x * @
        run = functools.partial(lambda factor, x: factor.of(x), Factor.FIRST)
    """,
    "what is imported as it runs": """
        def run(x):
            from helper import scale
            return scale(x)
    """,
    "a module that is imported as it runs": """
        def run(x):
            import helper as h
            return h.scale(x)
    """,
    "a module in a variable": """
        import helper
        def run(x):
            h = helper
            return getattr(h, "scale")(x)
    """,
    "what numpy keeps": """
        def scale(x):
            return x * @
        vectorized = np.vectorize(scale)
        def run(x):
            return float(vectorized(x))
    """,
    "what a library registers": """
        @functools.singledispatch
        def scale(x):
            return x
        @scale.register
        def _(x: float):
            return x * @
        def run(x):
            return scale(x)
    """,
    "a library's function that was replaced": """
        def run(x):
            return math.sqrt(x)
        math.sqrt = lambda x: x * @
    """,
    "a function that a library's own code calls": """
        import colorsys
        def run(x):
            return x * colorsys.hls_to_rgb(0.0, 0.5, 1.0)[0]
        colorsys._v = lambda *_: @
    """,
    "a global that is found by its name": """
        FACTOR = @
        def run(x):
            return x * globals()["FACTOR"]
    """,
    "a global of the module that Python knows": """
        import sys
        FACTOR = @
        def run(x):
            return x * getattr(sys.modules[__name__], "FACTOR")
    """,
    "what is found in a module's names": """
        import helper
        def run(x):
            return vars(helper)["scale"](x)
    """,
    "a name that is put together": """
        import helper
        def run(x):
            return getattr(helper, "sc" + "ale")(x)
    """,
    "what a ufunc calls": """
        def scale(x):
            return x * @
        run = functools.partial(lambda f, x: float(f(x)), np.frompyfunc(scale, 1, 1))
    """,
    "a fraction": """
        import fractions
        run = functools.partial(lambda f, x: float(x * f), fractions.Fraction(@, 1))
    """,
    "a distribution": """
        import statistics
        run = functools.partial(lambda d, x: x * d.mean, statistics.NormalDist(@))
    """,
    "the name of a file": """
        import pathlib
        run = functools.partial(lambda p, x: x * float(p.name), pathlib.Path("in", "@"))
    """,
    "the table that a method belongs to": """
        run = functools.partial(lambda get, x: x * get("a"), {"a": @}.get)
    """,
    "the function that a method belongs to": """
        reduce = {2: np.add, 3: np.maximum}[@].reduce
        run = functools.partial(lambda f, x: float(x * f([3, -1])), reduce)
    """,
    "a mask": """
        array = np.ma.array([2.0, 3.0], mask=[@ != 2, @ != 3])
        run = functools.partial(lambda a, x: float(x * a.sum()), array)
    """,
    "the names of an array's fields": """
        array = np.array([(2.0, 3.0)], [("ab"[@ != 2], "f8"), ("ab"[@ == 2], "f8")])
        run = functools.partial(lambda a, x: float(x * a["a"][0]), array)
    """,
    "an array of one's own kind": """
        class Array(np.ndarray):
            def of(self, x):
                return x * @
        run = functools.partial(lambda a, x: a.of(x), np.ones(1).view(Array))
    """,
    "a method of a library's object": """
        import string
        run = functools.partial(lambda f, x: x * float(f()), string.Template("@").substitute)
    """,
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_held_is_told_wherever_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """And nothing of where the files lie."""
    head = "import collections, enum, functools, math\nimport numpy as np\n\n"
    monkeypatch.setattr(math, "sqrt", math.sqrt)  # put back at the end
    monkeypatch.setattr(colorsys, "_v", colorsys._v)  # type: ignore[attr-defined]
    found = []
    for folder, factor in (("a", "2"), ("b", "3"), ("c", "2")):
        (tmp_path / folder).mkdir()
        text = head + textwrap.dedent(re.sub("@(?![a-z])", factor, TEXTS[name]))
        (tmp_path / folder / "own.py").write_text(text)
        (tmp_path / folder / "helper.py").write_text(f"def scale(x):\n    return x * {factor}\n")
        with monkeypatch.context() as here:
            here.syspath_prepend(tmp_path / folder)
            for module in ("own", "helper"):
                here.delitem(sys.modules, module, raising=False)
            own = importlib.import_module("own")
            structure, reason = Structure.told_by(Teller((), lambda value: None), telling(own.run), "own")
            assert structure is not None, reason
            found.append((own.run(1.0), str(structure)))
            for module in ("own", "helper"):
                sys.modules.pop(module, None)
    assert [value for value, _ in found] == [2.0, 3.0, 2.0]
    assert found[0] != found[1] and found[0][1] != found[1][1] and found[0] == found[2]


def test_what_no_code_looks_up_is_not_told() -> None:
    """A table of all that registers itself changes with the rest of a program."""

    class Net:
        known: dict[str, Any] = {"a": helper}  # noqa: RUF012 - as people write it

        def __init_subclass__(cls) -> None:
            cls.known[cls.__name__] = cls

        def run(self, x: float) -> float:
            return x

    def structure() -> Any:
        return Structure.told_by(Teller((), lambda value: None), lambda teller: teller.value(Net), "Net")[0]

    before = structure()
    Net.known["b"] = lambda: None
    assert structure() == before


class Factor:
    """Can be called, and can change."""

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self) -> float:
        return self.value


class Table:
    values = {"a": 1.0}  # noqa: RUF012

    def run(self) -> float:
        return self.values["a"]


LIST, DICT, ARRAY, SETTING, CALLED = [1.0], {"a": 1.0}, np.ones(2), Setting(1), Factor()


def looking(x: Any, own: list[float] = [1.0]) -> Any:  # noqa: B006 - people write such
    return helper(x) * LIST[0] * DICT["a"] * ARRAY * SETTING.width * own[0] * CALLED() * Table().run()


@pytest.mark.parametrize(
    "name", ["LIST", "DICT", "ARRAY", "SETTING", "looking", "code", "helper", "CALLED", "values"]
)
def test_what_changes_in_place_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As in a notebook, where a cell is run again after a module was wrapped."""
    monkeypatch.setattr(Table, "values", {"a": 1.0})
    for variable in ("LIST", "DICT", "ARRAY", "SETTING", "CALLED"):
        monkeypatch.setitem(globals(), variable, copy.deepcopy(globals()[variable]))
    monkeypatch.setattr(looking, "__defaults__", ([1.0],))
    teller = Teller((), lambda value: None)
    structure, _ = Structure.told_by(teller, lambda teller: teller.value(looking), "looking")
    assert structure is not None and structure.changed is None
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "helper", types.FunctionType(helper.__code__, globals()))
        assert structure.changed is None, "a cell that was run again as it was"
    match name:
        case "LIST" | "ARRAY":
            globals()[name][0] = 2.0
        case "DICT":
            DICT["a"] = 2.0
        case "SETTING":
            SETTING.width = 2
        case "looking":
            looking.__defaults__[0][0] = 2.0  # type: ignore[index]
        case "code":
            monkeypatch.setattr(helper, "__code__", (lambda x: x).__code__)
        case "CALLED":
            CALLED.value = 2.0
        case "values":
            Table.values["a"] = 2.0
        case "helper":
            monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert structure.changed is not None
    called = {"code": "helper", "values": "Table.values"}.get(name, name)
    assert structure.changed.difference("M").startswith(f"{called} was changed since M was")


def test_an_equal_value_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a notebook's cell is run again: objects in C, which only their text tells."""
    monkeypatch.setattr(sys.modules[__name__], "CALLED", fractions.Fraction(1, 3))
    structure, _ = Structure.told_by(Teller((), lambda value: None), telling(looking), "it")
    assert structure is not None
    monkeypatch.setattr(sys.modules[__name__], "CALLED", fractions.Fraction(1, 3))
    assert structure.changed is None
    monkeypatch.setattr(sys.modules[__name__], "CALLED", fractions.Fraction(2, 3))
    assert structure.changed is not None and structure.changed.name == "CALLED"


class Texts(string.Template):
    """Of a library's class."""

    def run(self, x: float) -> float:
        return math.sqrt(x) * float(self.substitute()) * Colour.RED.value * colorsys.hls_to_rgb(0.0, x, 1.0)[0]


@pytest.mark.parametrize(
    ("holder", "name", "changes"),
    [
        (math, "sqrt", True),
        (string.Template, "substitute", True),
        (string.Template, "safe_substitute", True),
        (Colour.RED, "_value_", True),
        (colorsys, "_v", True),
        (math, "sin", False),
        (colorsys, "yiq_to_rgb", False),
        (string.Formatter, "format", False),
    ],
)
def test_what_is_put_in_the_place_of_a_librarys_code_is_seen(
    monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, changes: bool
) -> None:
    """Where the code looks it up; whether it is put there afterwards, or taken away again."""

    def structure() -> Structure:
        made, reason = Structure.told_by(Teller((), lambda value: None), telling(Texts("2")), "it")
        assert made is not None, reason
        return made

    before = structure()
    with monkeypatch.context() as here:
        here.setattr(holder, name, lambda *_: "3")
        assert (before.changed is not None) == changes
        assert not changes or name in before.changed.difference("it") or name == "_value_"
        inside = structure()
        assert inside.changed is None
    assert before.changed is None and (inside.changed is not None) == changes


def test_what_a_library_changes_of_itself_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    structure, _ = Structure.told_by(Teller((), lambda value: None), telling(Texts("2")), "it")
    assert structure is not None
    monkeypatch.setattr(math, "sqrt", math.sin)
    assert structure.changed is None


def test_what_a_closure_holds_is_looked_at() -> None:
    function = closing(2.0)
    structure, _ = Structure.told_by(Teller((), lambda value: None), lambda teller: teller.value(function), "f")
    function.__closure__[0].cell_contents = 3.0  # type: ignore[index]
    assert structure and structure.changed and copy.deepcopy(structure).changed
    assert (sent := pickle.loads(pickle.dumps(structure))) == structure and sent.changed is None
    assert structure.changed.difference("M") == "factor was 2.0 when M was wrapped, and is 3.0 now"
