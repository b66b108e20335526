"""Spans of time, as people write them: the same in every option."""

from __future__ import annotations

import math

from headstart.common.errors import SettingError
from headstart.common.numbers import number_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def parse_seconds(text: str) -> float:
    """Seconds meant by "7d", "12h", "30m", "1.5 w", "45s" or "0"; SettingError otherwise."""
    stripped = text.strip()
    unit = stripped[-1:].lower()
    number, factor = (stripped[:-1], UNITS[unit]) if unit in UNITS else (stripped, None)
    try:
        value = number_of(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (factor is None and value):
        raise SettingError(f"{text!r} is no span of time; expected a number with a unit, such as 7d, 12h or 30m")
    return value * (factor or 1)
