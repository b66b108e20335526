"""Numbers of bytes, as people write them and read them. What `parse_nbytes` takes is what a user may write in an
option or a variable; it is the same everywhere."""

from __future__ import annotations

import math

from headstart.common.errors import SettingError
from headstart.common.numbers import number_of


def binary_size(nbytes: float) -> str:
    """A number of bytes for people: "512 B", "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"


def parse_nbytes(text: str) -> int:
    """Bytes meant by "500MB", "20 GB", "1.5GiB" or "0"; SettingError otherwise."""
    units = {"": 1, "B": 1}
    for power, letter in enumerate("KMGT", start=1):
        units |= {letter: 1000**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power}
    number = text.strip().rstrip("kKmMgGtTiIbB ")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        value = number_of(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or unit not in units:
        raise SettingError(f"{text!r} is no size; expected a number with a unit, such as 500MB or 20GB")
    return int(value * units[unit])
