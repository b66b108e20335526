"""A framework's settings hold for a whole program, and callers change them. A backend's methods run behind a door:
a context in which the framework has its own settings, and after which it has the caller's again.

Invariant: what a backend's method gives depends on its arguments alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Door = Callable[[], AbstractContextManager[Any]]
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Kind = TypeVar("Kind", bound=type)


def settled(door: Door, method: Decorated) -> Decorated:
    """The method behind the door."""

    @functools.wraps(method)
    def behind(*args: Any, **kwargs: Any) -> Any:
        with door():
            return method(*args, **kwargs)

    return behind  # type: ignore[return-value]


def behind(door: Door, *names: str) -> Callable[[Kind], Kind]:
    """A class whose methods called so are behind the door."""

    def change(kind: Kind) -> Kind:
        for name in names:
            setattr(kind, name, settled(door, vars(kind)[name]))
        return kind

    return change
