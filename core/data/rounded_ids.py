"""Ids that went through floats: a number of 17 digits has no room in 64 bits with a point, and two ids become one.
Nobody can bring them back, so it is said where they are taken for names of classes or groups.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from headstart.common.errors import DataWarning

OF_64_BITS, OF_32_BITS = 2.0**53, 2.0**24  # from here on not every whole number is one
AS_FLOAT = re.compile(r"[+-]?(?:\d{16,}\.0+|\d(?:\.\d+)?[eE]\+\d{2,3})")
"""how programs write such: 9007199254740992.0, 1.23457E+17 of spreadsheets, which keep six digits of it"""


def warn_of_rounded(values: Iterable[Any], column: str, what: str) -> None:
    """DataWarning where names, of `what` ("class", "group"), are numbers of which a float, or a spreadsheet, has
    kept the first digits."""
    values = list(dict.fromkeys(value for value in values if isinstance(value, str | float | np.floating)))
    numbers = [float(value) for value in values if isinstance(value, float | np.floating)]
    written = [value for value in values if isinstance(value, str) and AS_FLOAT.fullmatch(value.strip())]
    large = [number for number in numbers if OF_64_BITS <= abs(number) < np.inf]
    if not large and all(number == float(np.float32(number)) for number in numbers):
        large = [number for number in numbers if OF_32_BITS <= abs(number) < np.inf]  # a column of 32 bits
    rounded = [value for value in written if abs(float(value)) >= (1e11 if "e" in value.lower() else OF_64_BITS)]
    if large or rounded:
        shown = rounded[0] if rounded else f"{large[0]:.1f}"
        warnings.warn(
            f"a {what} in column {column!r} is {shown:.40}, a number with a point that has not all digits of so "
            "large a whole one, so two ids may have become one: keep them as text or whole numbers where the "
            "table is made (dtype=str of pandas.read_csv, columns of text in spreadsheets)",
            DataWarning,
            stacklevel=6,
        )
