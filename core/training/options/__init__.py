"""Every option of training, said once: its type, its default, what it may be, its sentence of help, who takes it.

An option is a field of a class, a file each here. From the fields are made: `Settings`; the keyword arguments of
`fit`, `sweep`, `plan`, `compare` and `compare_modes`, and what their documentation says of them; the options of
the command line; what a run's record and the report list.

For whoever makes a command line (or a form) of them, with whatever library: `fields_for("fit")` has an `Option`
for each keyword of that function, in their order, and `flags_for("fit")` only those that have a place on a command
line. An `Option` has the flag ("--lr-scale"), the type of its text, `parse` where that text is to become something
else, the default (`default_of("compare")`), the sentence of help, what is done where it is
left out (`unset`), and the names that it may be, where they can be listed (`allowed`). What the text has become
goes to the function as it is, and the function checks it. `OPTIONS["device"]` is one option, for other commands.

Invariant: importing this needs no numpy; see `option`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from headstart.training.option import Option
from headstart.training.options.caching import Caching
from headstart.training.options.computing import Computing
from headstart.training.options.folding import Folding
from headstart.training.options.keeping import Keeping
from headstart.training.options.stopping import Stopping
from headstart.training.options.training import Training
from headstart.training.options.watching import Watching

__all__ = [
    "GROUPS",
    "OPTIONS",
    "Caching",
    "Computing",
    "Folding",
    "Keeping",
    "Stopping",
    "Training",
    "Watching",
    "fields_for",
    "flags_for",
]

GROUPS = (Training, Stopping, Folding, Computing, Caching, Watching, Keeping)

OPTIONS: Mapping[str, Option] = MappingProxyType(
    {of.name: Option.of(of, group.__doc__ or "") for group in GROUPS for of in fields(group)}
)
"""every option by its name"""


def fields_for(function: str) -> tuple[Option, ...]:
    """The options that are keyword arguments of "fit", "sweep", "plan", "compare" or "compare_modes"."""
    return tuple(entry for entry in OPTIONS.values() if function in entry.takers)


def flags_for(function: str) -> tuple[Option, ...]:
    """Those of them that have a place on a command line: not what only Python can hand over."""
    return tuple(entry for entry in fields_for(function) if entry.text is not None)
