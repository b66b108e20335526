"""JSON as text, of which no value is lost: of a key that stands twice in one object Python's reader keeps the last
value, and says nothing."""

from __future__ import annotations

import json
from typing import Any


class AtOdds(dict[str, Any]):
    """An object in which keys stand twice, with differing values; as a dict it has the last of each."""

    def __init__(self, members: dict[str, Any], keys: list[str]) -> None:
        super().__init__(members)
        self.keys_at_odds = keys


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    keys = [key for key, value in pairs if members[key] is not value and members[key] != value]
    return AtOdds(members, list(dict.fromkeys(keys))) if keys else members


_decoder = json.JSONDecoder(object_pairs_hook=_object)  # one, as json.loads makes one a call where there is a hook


def parsed(text: str) -> Any:
    """What the text says, with `AtOdds` for an object that says two things. ValueError and RecursionError where it
    is no JSON."""
    return _decoder.decode(text)


def at_odds(value: Any, key: str | None = None) -> str | None:
    """A key that stands twice in the object `value`, with two values; with `key`, only that one, or one within
    what it has. None where there is none."""
    if key is not None and isinstance(value, dict):
        if isinstance(value, AtOdds) and key in value.keys_at_odds:
            return key
        return at_odds(value.get(key))
    return value.keys_at_odds[0] if isinstance(value, AtOdds) else None
