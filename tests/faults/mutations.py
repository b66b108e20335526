"""JSON that was edited by somebody who has not read what it means: each field dropped, of another type, in another
place, twice, out of range; drawn from a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**62, 1e308, -0.5, "", "x", "\ud800", "\x1b[31m[/x]<script>", [], [None], [[]], {},
    {"a": 1}, [1, 2, 3], "NaN",
)  # fmt: skip
TEXTS = ("NaN", "-Infinity", "1e999", "9" * 5000, "[" * 5000, '{"a":1,"a":2}', "tru", '"\\ud800"', "")


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Where there is something in it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*here, key)
            yield from paths(inner, (*here, key))


def mutations(content: Any, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(what was done, the text): every place is visited before one is a second time."""
    chance = random.Random(seed)
    places: list[Path] = []
    for i in range(count):
        if not places:
            places = list(paths(content))
            chance.shuffle(places)
        place = places.pop()
        kind = chance.choice(("drop", "retype", "renest", "double", "raw", "move"))
        changed = copy.deepcopy(content)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        last = place[-1]
        text = None
        if kind == "drop":
            del holder[last]
        elif kind == "retype":
            holder[last] = chance.choice(VALUES)
        elif kind == "renest":
            holder[last] = chance.choice(([holder[last]], {"inner": holder[last]}, [holder[last]] * 2))
        elif kind == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif kind == "move":
            other = chance.choice(list(paths(content)))
            source = content
            for key in other:
                source = source[key]
            holder[last] = copy.deepcopy(source)
        else:
            holder[last] = "\x00here"
            text = json.dumps(changed).replace('"\\u0000here"', chance.choice(TEXTS), 1)
        yield f"{i}: {kind} {place}", text if text is not None else json.dumps(changed)
