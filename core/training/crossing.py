"""Settings of `hs.fit` as JSON, in which they cross into another process. An object crosses as its fields, and is
made of them again there.

Invariant: a value that cannot cross is refused here, before anything is started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headstart.common.errors import SettingError
from headstart.contract.optimizers import OPTIMIZERS, Optimizer, Schedule, as_dict
from headstart.data.augment import Augment


def packed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able settings. SettingError for a value that lives in this process only."""
    return {name: _plain(name, value) for name, value in settings.items()}


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
        return {str(key): _plain(name, entry) for key, entry in value.items()}
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
