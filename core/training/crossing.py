"""Settings of `hs.fit` as they cross into another process, which is JSON: what an object says of itself goes, and
becomes the same object there.

Invariant: what cannot cross, or is no setting, is refused here, before anything is started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from headstart.common.errors import SettingError, UnknownNameError
from headstart.contract.optimizers import OPTIMIZERS, Optimizer, Schedule, as_dict
from headstart.data.augment import Augment
from headstart.training.settings import Settings

OWN = ("mode", "cut", "seed")  # of the comparison itself
BESIDE = ("cache", "tensorboard", "profile", "debug_nans")


def packed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able settings. UnknownNameError for a name that `hs.fit` has not, SettingError for what lives in this
    process only."""
    allowed = [field.name for field in fields(Settings) if field.name not in OWN] + list(BESIDE)
    crossing = {}
    for name, value in settings.items():
        if name == "on_epoch":
            raise SettingError("on_epoch= cannot be called from the backends' own processes; pass listener=")
        if name not in allowed:
            raise UnknownNameError("setting", name, allowed)
        crossing[name] = _plain(name, value)
    return crossing


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Optimizer):
        return as_dict(value)
    if isinstance(value, Schedule):
        return asdict(value)
    if isinstance(value, Augment):
        return value.as_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy's numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(name, one) for key, one in value.items()}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise SettingError(
            f"{name}={value!r} cannot be handed to the processes that the backends run in; expected a number, a "
            "text, or an object of headstart's such as hs.SGD(...)"
        ) from None
    return value


def unpacked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `packed`."""
    made = dict(settings)
    if isinstance(optimizer := made.get("optimizer"), Mapping):
        made["optimizer"] = OPTIMIZERS[optimizer["name"]](**{k: v for k, v in optimizer.items() if k != "name"})
    if isinstance(schedule := made.get("schedule"), Mapping):
        made["schedule"] = Schedule(**schedule)
    if isinstance(augment := made.get("augment"), Mapping):
        made["augment"] = Augment(**augment)
    return made
