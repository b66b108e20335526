"""What is known of a backend before its framework is imported: what an entry point of the group
`headstart.backends` leads to.

    [project.entry-points."headstart.backends"]
    mlx = "headstart_mlx:DESCRIPTION"

Invariant: nothing in a description, and nothing that it takes to import it, imports a framework. So a command that
only lists backends, or names one that is not installed, is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from headstart.common.errors import MissingAbilityError
from headstart.contract.programs import FileFormat

EXPORT, FACTS, HEADS, MEMORY = "export", "facts", "heads", "memory"
PROFILE, RANK, STATE, WRAP = "profile", "rank", "state", "wrap"


class Ability(NamedTuple):
    """Something that a backend may lack."""

    methods: tuple[str, ...]
    """of `Backend`, that it takes; none where its trainers have them"""
    what: str
    """what a backend without it cannot do"""
    instead: str = ""
    """what the user can do without; "" where core has another way"""


ABILITIES: Mapping[str, Ability] = {
    EXPORT: Ability(("write",), "write files of its framework's own", "export to .onnx"),
    FACTS: Ability(("device_facts",), "tell about its device"),
    HEADS: Ability(("heads",), "train many heads side by side"),
    MEMORY: Ability(
        ("memory", "is_out_of_memory"), "say how much memory its device has left, and that there is none"
    ),
    PROFILE: Ability(("profile",), "record a profile", "leave out profile="),
    RANK: Ability(("rank",), "tell which of several processes this is", "name it: --part 3/8"),
    STATE: Ability((), "give the state of a training", "leave out checkpoint= and resume="),
    WRAP: Ability(
        ("owns", "inputs", "wrap", "attempt"),
        "wrap modules of users' own",
        "name a model of headstart's own: hs.model(...)",
    ),
}


@dataclass(frozen=True)
class Description:
    """A backend in a few lines. Its name is that of its entry point."""

    module: str
    """whose `BACKEND` is the backend (`headstart.contract.protocol.Backend`); it imports the framework"""
    modules: tuple[str, ...]
    """what must be importable, the framework itself first"""
    distributions: tuple[str, ...]
    """whose versions are reported beside figures"""
    install: str
    """the command that installs what must be importable"""
    devices: tuple[str, ...] = ("cpu",)
    """the kinds of devices (`headstart.contract.devices`) that `device=` may name beside "auto"; whether one is
    there, and how many, `Backend.place` says"""
    abilities: frozenset[str] = frozenset()
    """those of `ABILITIES` that it has. Where there is another way without one, core takes it (heads are trained
    one after the other); else the user gets `MissingAbilityError`"""
    exports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """the names by which features can be handed to the framework's own programs (`features.to("torch")`) -> the
    further modules that this takes. Without any, the backend has no method `exports`"""
    formats: tuple[FileFormat, ...] = ()
    """the kinds of files that it writes models to; with the ability "export" at least one"""
    onnx: tuple[str, ...] | None = None
    """what must be importable for it to write programs that hold a part of a user's module as ONNX, too, of which
    core makes none. None: neither does it"""
    onnx_install: str = ""
    """the command that installs these, and what core writes ONNX with; "": the one that core names"""
    wraps: str = ""
    """of a backend that can wrap: what `hs.wrap` takes of this framework, such as "a torch.nn.Module\""""
    asked_before: tuple[str, ...] = ()
    """names of backends that the modules of this one may look like, as it can run upon their frameworks: of whose
    a module is, this one is asked first"""
    quiet: Mapping[str, str] = field(default_factory=dict)
    """variables of the environment, and what a command sets them to, where they are not set, before the framework
    is imported: against lines on standard error that no setting of it can still stop"""
    in_one_heap: bool = False
    """whether a process of ours that trains whole networks with it keeps memory, see `headstart.common.heap`"""
    order: int = 1000
    """its place among the names of all backends; equal ones stand by name"""

    def __post_init__(self) -> None:
        if unknown := self.abilities - ABILITIES.keys():
            raise ValueError(f"unknown ability {min(unknown)!r}; expected some of {', '.join(ABILITIES)}")

    def require(self, name: str, ability: str) -> None:
        """MissingAbilityError unless the backend, which is called `name`, has the ability."""
        if ability not in self.abilities:
            raise MissingAbilityError(name, ABILITIES[ability].what, ABILITIES[ability].instead)
