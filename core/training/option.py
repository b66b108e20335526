"""What an option of training is: a field of a frozen dataclass, and beside its type and default what it may be,
its sentence of help, who takes it, and how a command line's text becomes its value. `options` has them all.

Invariant: importing this needs no numpy, so that a command's help comes at once; which names an option may be is
read from their table when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field
from numbers import Integral, Real
from os import PathLike
from typing import Any

from headstart.common.errors import SettingError

FUNCTIONS = ("fit", "sweep", "plan", "compare", "compare_modes")
"""that take options"""
ANY_MODE = ("fit", "compare", "compare_modes")
"""those that train in any mode"""
THAT_TRAIN = (*ANY_MODE, "sweep")
"""those that train"""
BY_ITSELF = ("fit", "sweep")
"""those whose trainings may end by themselves; a comparison has a number of epochs, alike for all modes"""
IN_PROCESS = ("fit", "sweep", "plan", "compare_modes")
"""those that compute in the process that calls them"""

Names = Callable[[], Iterable[str]]


# ---- what an option may be


@dataclass(frozen=True)
class Rule:
    """What the value of an option must be."""

    words: str
    """what stands behind "expected" in an error: "an integer of 1 or more"; {name} and {names} are filled in"""
    holds: Callable[[Any], bool] = lambda value: True
    """whether a value keeps the rule; a rule that always holds is checked elsewhere, with other options"""
    kept: Callable[[Any], Any] = lambda value: value
    """a value that holds -> as it is kept"""
    names: Names | None = None
    """the names that it may be, where those can be listed"""


def whole(least: int, bits: int | None = None) -> Rule:
    """Whole numbers, below 2**`bits`. numpy's are taken, and kept as Python's, as they are none to JSON."""

    def holds(value: Any) -> bool:
        number = isinstance(value, Integral) and not isinstance(value, bool)
        return number and value >= least and (bits is None or value < 2**bits)

    return Rule(f"an integer of {least} or more" + ("" if bits is None else f", below 2**{bits}"), holds, int)


def one_of(names: Names) -> Rule:
    """One of these names."""
    return Rule("one of {names}", lambda value: isinstance(value, str) and value in names(), names=names)


def one_known(names: Names, words: str = "one of {names}") -> Rule:
    """One of these names, or what else the words say; that is checked where it is looked up."""
    return Rule(words, names=names)


def _is_positive(value: object) -> bool:
    return value is not True and isinstance(value, Real) and 0 < float(value) < float("inf")


def _is_not_negative(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < float("inf")


POSITIVE = Rule("a positive number", _is_positive, float)
NOT_NEGATIVE = Rule("a number of 0 or more", _is_not_negative, float)
SHARE = Rule("0 <= {name} < 1", lambda value: isinstance(value, Real) and 0 <= float(value) < 1, float)
NAME = Rule("a name", lambda value: isinstance(value, str) and bool(value))
SWITCH = Rule("True or False", lambda value: isinstance(value, bool))
FOLDER = Rule("the path of a folder", lambda value: isinstance(value, str | PathLike))
FUNCTION = Rule("a function", callable)


# ---- an option


@dataclass(frozen=True)
class Option:
    """One option, as a signature, a command or a saved record wants to know it."""

    name: str
    annotation: str
    """its type in Python, as text: "str | Optimizer | None\""""
    default: Any
    """of most functions; see `default_of`"""
    help: str
    """its sentence, which the command line shows"""
    more: str
    """what Python's documentation says beyond it; may be empty"""
    unset: str
    """what is done where it is left out and None: "half of what is free"; may be empty"""
    group: str
    """the first line of the class that its field stands in: "What is trained, and how.\""""
    takers: tuple[str, ...]
    """which of FUNCTIONS take it"""
    rule: Rule
    text: type | None
    """the type of its text on a command line: str, int, float, Path, or bool for a flag; None: it has no place
    there"""
    parse: Callable[[str], Any] | None
    """text -> value, where that is more than `text` does; raises SettingError"""
    recorded: str | None
    """the name under which a run's record has it; None: it is not there, or within another entry"""
    defaults: Mapping[str, Any]
    """function -> its default, where that is another one"""

    @classmethod
    def of(cls, of: Field[Any], group: str) -> Option:
        """What a field says that `option` made."""
        about = dict(of.metadata)
        recorded = about.pop("recorded")
        name = {True: of.name, False: None}.get(recorded, recorded)
        return cls(of.name, str(of.type), of.default, group=group, recorded=name, **about)

    @property
    def flag(self) -> str:
        """ "--lr-scale"."""
        return "--" + self.name.replace("_", "-")

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """The names it may be, where those can be listed. Reading them may import numpy."""
        return None if self.rule.names is None else tuple(self.rule.names())

    @property
    def expects(self) -> str:
        """What it may be, in words."""
        return self.rule.words.format(name=self.name, names=", ".join(self.allowed or ()))

    def default_of(self, function: str) -> Any:
        """The default of a function, and of the command of its name."""
        return self.defaults.get(function, self.default)

    def checked(self, value: Any) -> Any:
        """The value as it is kept; SettingError where it can be none, whatever the other options are."""
        if value is None and self.default is None:
            return None
        if not self.rule.holds(value):
            raise SettingError(f"{self.name}={value!r}; expected {self.expects}")
        return self.rule.kept(value)


def option(
    default: Any,
    help: str,
    rule: Rule,
    *,
    takers: tuple[str, ...] = ANY_MODE,
    more: str = "",
    unset: str = "",
    text: type | None = str,
    parse: Callable[[str], Any] | None = None,
    recorded: bool | str = True,
    defaults: Mapping[str, Any] | None = None,
) -> Any:
    """A field of a class of options; see `Option`. `recorded`: a name, where the record's is not the option's.
    `defaults`: function -> its default, where that is another one."""
    about = {
        "help": help,
        "more": more,
        "unset": unset,
        "takers": takers,
        "rule": rule,
        "text": text,
        "parse": parse,
        "recorded": recorded,
        "defaults": defaults or {},
    }
    return field(default=default, metadata=about)
