"""Learning rates that differ by part of the network: what was pretrained usually wants smaller steps than what is
fresh (Howard & Ruder 2018, arXiv:1801.06146). A scale is a multiple of each step's learning rate, so that the
schedule stays one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from headstart.errors import SettingError

PRETRAINED = "pretrained"
Scale = float | Mapping[str, float] | None


def checked_scale(scale: Scale) -> Scale:
    """`scale` as None, a float or a dict of floats; SettingError for anything else."""
    if scale is None:
        return None
    if isinstance(scale, Mapping):
        return {str(name): _positive(f"lr_scale[{name!r}]", value) for name, value in scale.items()}
    return _positive("lr_scale", scale)


def _positive(name: str, value: object) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
        raise SettingError(
            f"{name}={value!r}; expected a positive number, or a dict from modules to such. To train nothing of a "
            "part, put the cut behind it"
        )
    return float(value)  # type: ignore[arg-type]


def check_modules(params: Iterable[str], scale: Scale) -> None:
    """SettingError for a module that has no parameters; names near ones."""
    if not isinstance(scale, Mapping):
        return
    modules = {PRETRAINED}
    for name in params:
        parts = name.split(".")
        modules.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    for name in scale:
        if name not in modules:
            near = difflib.get_close_matches(name, sorted(modules), n=3)
            raise SettingError(
                f"lr_scale names {name!r}, which has no parameters; expected {PRETRAINED!r}, a module or parameter"
                + (f", such as {', '.join(near)}" if near else "")
            )


def rate_multiples(params: Iterable[str], fresh: Collection[str], scale: Scale) -> dict[str, float]:
    """Parameter -> multiple, of those whose multiple is not 1. The innermost module that `scale` names counts;
    "pretrained", or a plain number, is for those that are not in `fresh` and that no module is named for."""
    if scale is None:
        return {}
    table = scale if isinstance(scale, Mapping) else {PRETRAINED: scale}
    found = {}
    for name in params:
        parts = name.split(".")
        inner = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
        named = next((module for module in inner if module in table), None)
        if named is None and name not in fresh:
            named = PRETRAINED if PRETRAINED in table else None
        if named is not None and table[named] != 1:
            found[name] = table[named]
    return found
