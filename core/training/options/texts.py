"""What the text of an option on a command line becomes, where that takes more than its type."""

from __future__ import annotations

from headstart.common.errors import SettingError
from headstart.common.numbers import number_of


def class_weights_of(text: str) -> str | dict[str, float]:
    """A word as it is, or "daisy=2,roses=0.5" as a dict; SettingError otherwise."""
    return _weights_of("--class-weights", text)


def pos_weight_of(text: str) -> str | dict[str, float]:
    """As `class_weights_of`."""
    return _weights_of("--pos-weight", text)


def _weights_of(flag: str, text: str) -> str | dict[str, float]:
    if "=" not in text:
        return text
    weights = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, weight = part.rpartition("=")
        try:
            weights[name.strip()] = number_of(weight if equals else "")  # of daisy=2,5 the 5 is nobody's
        except ValueError:
            raise SettingError(f"{flag} {text!r}; expected balanced, or names such as daisy=2,roses=0.5") from None
    return weights


def threshold_of(text: str) -> str | float:
    """A number where it is one, else the word."""
    try:
        return number_of(text)
    except ValueError:
        return text


def scale_of(text: str) -> float | dict[str, float]:
    """ "0.1", or "layer3=0.1,pretrained=0.01" as a dict; SettingError otherwise."""
    try:
        if "=" not in text:
            return number_of(text)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return {name.strip(): number_of(rate) for name, _, rate in (part.partition("=") for part in parts)}
    except ValueError:
        raise SettingError(
            f"--lr-scale {text!r}; expected a number such as 0.1, or modules such as layer3=0.1,pretrained=0.01"
        ) from None
