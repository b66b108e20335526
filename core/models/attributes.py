"""Attributes of classes, functions and libraries' objects that are told only where some code looks them up.

Invariant: code that puts names together as it runs (`getattr(self, f"table_{i}")`) may look up any of a class that
is the program's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Attribute(NamedTuple):
    """Of a class, a function or a library's object."""

    owner: str
    holder: Any
    name: str
    value: Any
    is_untold: bool
    """whether it is told nowhere else"""


class Attributes:
    """Those that wait for somebody to look them up."""

    def __init__(self, is_own: Callable[[Any], bool]) -> None:
        """`is_own`: whether a class is the program's."""
        self.is_own = is_own
        self.names: set[str] = set()
        """what code looks up as the module computes"""
        self.any_name = False
        """whether code puts names together"""
        self._waiting: list[Attribute] = []

    def add(
        self, owner: str, holder: Any, settings: Mapping[str, Any], untold: Collection[str] | None = None
    ) -> None:
        """These attributes may be looked up. `untold`: the names of those that are told nowhere else; None: of
        all."""
        told = settings if untold is None else untold
        self._waiting += [Attribute(owner, holder, name, value, name in told) for name, value in settings.items()]

    def taken(self) -> list[Attribute]:
        """Those whose names are looked up; they wait no longer."""
        return self._take(lambda one: one.name in self.names)

    def taken_anyway(self) -> list[Attribute]:
        """Those that may be looked up by a name that nobody can know."""
        return self._take(lambda one: self.any_name and isinstance(one.holder, type) and self.is_own(one.holder))

    def _take(self, is_wanted: Callable[[Attribute], bool]) -> list[Attribute]:
        taken = [one for one in self._waiting if is_wanted(one)]
        self._waiting = [one for one in self._waiting if not is_wanted(one)]
        return taken
