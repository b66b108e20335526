"""Which of several arrays that a module gives is taken: a dict, a tuple, an object with fields, nested. And how it
is given several: each by its name, or a dict of them.

Invariant: whatever the framework, the same outputs are chosen from in the same way, and what cannot be told apart
is listed and asked for.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from headstart.common.errors import CutError
from headstart.common.log import LOG
from headstart.graph.cuts import listed

Entry = tuple[str | int, ...]
"""where an array is: keys, places and fields"""

EMBEDDED = ("image_embeds", "text_embeds", "audio_embeds", "video_embeds", "sentence_embedding")
"""of transformers and sentence-transformers"""
HUBS_POOLED, HUBS_TOKENS = "pooled_output", "sequence_output"  # as KerasHub calls them
POOLED, TOKENS, LOGITS = "pooler_output", "last_hidden_state", "logits"
MAP, AUXILIARY = "out", "aux"  # of torchvision's networks for segmentation
NAMED = (POOLED, HUBS_POOLED, *EMBEDDED, TOKENS, HUBS_TOKENS, LOGITS)
"""what libraries give for features; of several the first"""
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
STATES = (
    "Recurrent layers give their last states so, (layers, samples, units): let the module end in states[-1], or "
    "turn the axes"
)


def by_name(arguments: Mapping[str, inspect.Parameter], names: Collection[str]) -> bool:
    """Whether a function of these arguments takes arrays of these names one by one; else it takes a dict of
    them."""
    if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        return set(names) <= arguments.keys()
    anything = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [argument for argument in arguments.values() if argument.kind not in anything]
    return all(argument.name in names for argument in needed if argument.default is argument.empty)


def arrays(value: Any, kind: type[Any], before: Entry = ()) -> Iterator[tuple[Entry, Any]]:
    """Where arrays of a `kind` are in what a module gave."""
    if isinstance(value, kind):
        yield before, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from arrays(entry, kind, (*before, key))
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", range(len(value)))
        for key, entry in zip(names, value, strict=True):
            yield from arrays(entry, kind, (*before, key))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name), kind, (*before, field.name))


def entry_of(value: Any, entry: Entry) -> Any:
    """What is at `entry` in nested dicts, tuples and objects."""
    for key in entry:
        value = getattr(value, key) if isinstance(key, str) and not isinstance(value, Mapping) else value[key]
    return value


def main(given: Mapping[Any, Any]) -> Any:
    """Of what a module gives by names, what the others stand beside: its logits, or the map of a network that has
    learned with an auxiliary one, as torchvision calls them; None where nothing tells."""
    if LOGITS in given:
        return given[LOGITS]
    return given[MAP] if MAP in given and given.keys() <= {MAP, AUXILIARY} else None


def following(
    shapes: Mapping[Entry, tuple[int, ...]], samples: int, shapes_of_one_more: Callable[[], Mapping[Entry, Any]]
) -> Mapping[Entry, tuple[int, ...]]:
    """The shapes, with () for what has as many rows whatever the number of samples, such as a table, or the states
    of two layers. `shapes_of_one_more`: the same of what is given for one sample more, which is asked for where
    several seem to have a row for each sample."""
    if sum(len(shape) > 1 and shape[0] == samples for shape in shapes.values()) < 2:
        return shapes
    try:
        more = shapes_of_one_more()
    except Exception:  # it may be made for so many samples as there are in the example
        return shapes
    if more.keys() != shapes.keys():
        return shapes
    return {entry: shape if more[entry][:1] == (samples + 1,) else () for entry, shape in shapes.items()}


def row_of(shapes: Mapping[Entry, tuple[int, ...]], samples: int) -> Entry:
    """Of arrays of which no name tells what they are: the only one that is a row `(n, c)` for each sample, which
    the others stand beside, as tokens and maps stand beside logits; () where there is none.

    A number for each sample is no features, and a number for each place of what stands beside it, such as the
    weights that tokens were pooled by, says nothing without that. `shapes`: see `entry_in`."""
    fitting = {entry: shape for entry, shape in shapes.items() if len(shape) > 1 and shape[0] == samples}
    rows = [entry for entry, shape in fitting.items() if len(shape) == 2]
    named = {entry[0] for entry in shapes if entry} & {*NAMED, MAP}
    if len(shapes) < 2 or len(rows) != 1 or named:
        return ()
    width = fitting[rows[0]][1]
    counted = any(width in _places(shape[1:]) for entry, shape in fitting.items() if entry != rows[0])
    return () if width == 1 or counted else rows[0]


def _places(shape: tuple[int, ...]) -> set[int]:
    """How many places a map of this shape a sample has, or how many tokens there are: whatever the order of its
    axes, in a map; of tokens, the channels last."""
    return {shape[0]} if len(shape) == 2 else {math.prod(shape[:-1]), math.prod(shape[1:])}


def tell_row(entry: Entry, shapes: Mapping[Entry, tuple[int, ...]], called: str) -> None:
    """Say that `row_of` has chosen among what the module `called` so gives."""
    others = [f"{dotted(other)!r} {shape[1:]}" for other, shape in shapes.items() if len(shape) > 2]
    LOG.info(
        "%s gives several arrays, and %r, the only one that is a row for each sample, is taken as its end%s",
        called,
        dotted(entry),
        f"; cut= takes another: {listed(others)} (shapes of a sample)" if others else "",
    )


def at_end(value: Any, kind: type[Any], row: Entry = ()) -> Any:
    """What a module gives at its end, where that is one array of the `kind`, or logits among other things, or what
    `row_of` has chosen; else None."""
    if row:
        return entry_of(value, row)
    if isinstance(value, Mapping) and LOGITS in value:
        value = value[LOGITS]
    elif dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        value = getattr(value, LOGITS, None)
    return value if isinstance(value, kind) and value.ndim > 1 else None


def dotted(entry: Entry) -> str:
    """An entry as it is said in `cut=`."""
    return ".".join(map(str, entry))


def entry_in(
    shapes: Mapping[Entry, tuple[int, ...]],
    entry_name: str,
    samples: int,
    where: str,
    given: str,
    what: str = "tensor",
    row: Entry = (),
) -> Entry:
    """The entry that `entry_name` names; without a name the only one, what libraries give for features, or `row`.
    Raises CutError that lists what there is.

    `shapes`: of the arrays there; () for those that can be no features. `where`, `given`, `what`: what gives them,
    the type that holds them, and what one of them is called, for that error. `row`: what `row_of` has chosen."""
    there = {dotted(entry): entry for entry in shapes}
    fitting = {dotted(entry): shape for entry, shape in shapes.items() if len(shape) > 1 and shape[0] == samples}
    if entry_name:
        if entry_name in there:
            return there[entry_name]
        matching = [name for name in fitting if name.startswith(f"{entry_name}.")]
        if len(matching) == 1:
            return there[matching[0]]
    elif len(fitting) == 1:
        return there[next(iter(fitting))]
    else:
        for name in NAMED:
            if name in fitting:
                return there[name]
        if row:
            return row
    if not fitting:
        raise CutError(
            f"{where} gives a {given} without a {what} that has a row for each sample; cut it elsewhere, or wrap "
            f"a module of yours that calls it and returns one {what}"
        )
    said = f"no {entry_name!r} is in it; " if entry_name else "which of them are the features? "
    raise CutError(
        f"{where} gives a {given} and not one {what}; {said}choose with cut=: "
        f"{listed([f'{name!r} {shape[1:]}' for name, shape in fitting.items()])} (shapes of a sample). Behind the "
        "name of a submodule it stands with a dot before it"
    )


def is_class_token(path: str) -> bool:
    """Whether a parameter is called like the token that stands for a class."""
    return path.rpartition(".")[2] in CLASS_TOKENS
