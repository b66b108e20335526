"""The structure of a wrapped module in the key of its features, where no graph of operations can be had: a digest
of what its code computes, as `teller` tells it.

Invariant: what was told still is so when features are made and found, or `Structure.changed` says what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from blake3 import blake3

from headstart.models.lookups import Lookup
from headstart.models.sources import UnknownStructure
from headstart.models.teller import Teller
from headstart.store.keys import canonical_json


def digest(told: Any) -> str:
    """32 hex digits of what was told."""
    return blake3(canonical_json(told).encode("ascii")).hexdigest(length=16)


class Structure(str):
    """A digest of what was told, and where the told code looks for what it does not hold."""

    lookups: list[Lookup]

    def __deepcopy__(self, _memo: dict[int, Any]) -> Structure:
        return self  # copies look in the same places

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (str(self),)

    @classmethod
    def of(cls, told: Any, lookups: Iterable[Lookup]) -> Structure:
        structure = cls(digest(told))
        structure.lookups = list(lookups)
        return structure

    @classmethod
    def told_by(cls, teller: Teller, tell: Callable[[Teller], Any], name: str) -> tuple[Structure | None, str]:
        """The structure of what `tell` tells, or None and the reason why it cannot be told. `name`: of the module,
        for that reason."""
        try:
            told = tell(teller)
            held = teller.looked_up()
            return cls.of([told, held] if held else told, teller.lookups), ""
        except UnknownStructure as error:
            return None, str(error)
        except RecursionError:
            return None, f"{name} refers to itself"

    def forget_changing(self) -> None:
        """Of values that the code itself changes as it runs, such as counters, nothing is to be said."""
        self.lookups[:] = [lookup for lookup in self.lookups if lookup.is_same]

    @property
    def changed(self) -> Lookup | None:
        """The first value that is another one since it was told."""
        return next((lookup for lookup in self.lookups if not lookup.is_same), None)


def _elsewhere(text: str) -> Structure:
    """A structure in another process, which looks in places of its own, of which nothing is known."""
    made = Structure(text)
    made.lookups = []
    return made


def structure_of(told: Any) -> Structure | None:
    """What was told of code, in what a part of a graph says of itself; None where a user's name stands for it."""
    inside = told.get("structure") if isinstance(told, dict) else None
    return inside if isinstance(inside, Structure) else None
