"""Numbers, as people write them: the same in every option and every list of them.

Invariant: a text that could have been meant as another number is none. Python takes "01", "1_0" and digits of any
script; the first is what a decimal comma leaves of 0,01 in a list, and the others are nobody's spelling.
"""

from __future__ import annotations

import re

# Of float32, in which rates and weights are kept: 1.2e-38, below which there are fewer digits, and 3.4e38.
FLOAT32_LEAST = 2.0**-126
FLOAT32_LARGEST = (2 - 2.0**-23) * 2.0**127

_NUMBER = r"((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?"
# The words for what is not finite are refused by the rules of options, in words of their own.
_WRITTEN = re.compile(rf"[+-]?({_NUMBER}|nan|inf(inity)?)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_AFTER_COMMA = re.compile(r"0[0-9]+")


def number_of(text: str) -> float:
    """The number that a text is; ValueError for others, which says what is wrong with it."""
    if not _WRITTEN.fullmatch(text.strip()):
        point = text.replace(",", ".", 1)
        mend = f"; did you mean {point}?" if text.count(",") == 1 and _WRITTEN.fullmatch(point.strip()) else ""
        raise ValueError(f"expected a number, received {text!r}{mend}")
    return float(text)


def whole_of(text: str) -> int:
    """The whole number that a text is, which may be padded: 007 is 7. ValueError for others, such as 1.5."""
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"expected a whole number, received {text!r}")
    return int(text)


def numbers_in(text: str, whole: bool = False) -> list[float]:
    """The numbers that stand in a text with commas between them; ValueError, which says what is wrong, for what is
    none. `whole`: whole numbers, as int."""
    numbers: list[float] = []
    for part in text.split(","):
        if not part.strip():
            raise ValueError("nothing stands beside a comma; expected numbers with commas between them")
        if _AFTER_COMMA.fullmatch(part.strip()):  # seeds, too: nobody can say what 0,01 are
            raise ValueError(
                f"{part.strip()} is no number; expected numbers with commas between them, and points in them: "
                "0.01, not 0,01"
            )
        try:
            numbers.append(whole_of(part) if whole else number_of(part))
        except ValueError:
            kind = "whole number" if whole else "number"
            raise ValueError(f"{part.strip()!r} is no {kind}; expected {kind}s with commas between them") from None
    return numbers
