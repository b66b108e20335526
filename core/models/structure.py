"""The structure of a wrapped module in the key of its features, where no graph of operations can be had: a digest
of what its code computes, as `teller` tells it.

Invariant: what was told still is so when features are made and found, or `Structure.changed` says what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from blake3 import blake3

from headstart.models.lookups import Lookup
from headstart.models.renamed import renamed
from headstart.models.running import Ran, places_of, unknown
from headstart.models.sources import UnknownStructure
from headstart.models.teller import Teller
from headstart.store.keys import canonical_json


def digest(told: Any) -> str:
    """32 hex digits of what was told."""
    return blake3(canonical_json(told).encode("ascii")).hexdigest(length=16)


class Structure(str):
    """A digest of what was told, and where the told code looks for what it does not hold."""

    lookups: list[Lookup]
    teller: Teller | None = None
    """who told it, until all is told"""

    def __deepcopy__(self, _memo: dict[int, Any]) -> Structure:
        return self  # copies look in the same places

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (str(self),)

    @classmethod
    def of(cls, told: Any, lookups: Iterable[Lookup], teller: Teller | None = None) -> Structure:
        structure = cls(digest(told))
        structure.lookups = list(lookups)
        structure.teller = teller
        return structure

    def extended(self, said: Any) -> Structure:
        """One of which more is told."""
        return Structure.of([self, said], self.lookups, self.teller)

    def with_what_ran(self, ran: Ran) -> Structure:
        """The same, and of the functions of the program's that ran those that it does not tell, since no text says
        which they are."""
        teller = self.teller
        if teller is None:
            return self
        ran.libraries |= teller.libraries
        told = [teller.ran(function) for function in unknown(ran, self.lookups)]
        structure = Structure.of([self, "ran", told, teller.looked_up()], teller.lookups) if told else self
        if replaced := renamed(ran.looking(), ran.is_library):
            structure = structure.extended(["renamed", replaced])
        structure.lookups += [Lookup(*place, teller.inside) for place in places_of(ran)]
        structure.lookups += ran.replaceable(teller.is_programs)
        structure.teller = None
        return structure

    @classmethod
    def told_by(cls, teller: Teller, tell: Callable[[Teller], Any], name: str) -> tuple[Structure | None, str]:
        """The structure of what `tell` tells, or None and the reason why it cannot be told. `name`: of the module,
        for that reason."""
        try:
            told = tell(teller)
            held = teller.looked_up()
            return cls.of([told, held] if held else told, teller.lookups, teller), ""
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


def with_what_ran(told: Any, ran: Ran) -> Any:
    """What was told of a part, with what ran of it; see `Structure.with_what_ran`."""
    if isinstance(told, Structure):
        return told.with_what_ran(ran)
    structure = structure_of(told)
    return told if structure is None else {**told, "structure": structure.with_what_ran(ran)}


def _elsewhere(text: str) -> Structure:
    """A structure in another process, which looks in places of its own, of which nothing is known."""
    made = Structure(text)
    made.lookups = []
    return made


def structure_of(told: Any) -> Structure | None:
    """What was told of code, in what a part of a graph says of itself; None where a user's name stands for it."""
    inside = told.get("structure") if isinstance(told, dict) else None
    return inside if isinstance(inside, Structure) else None
