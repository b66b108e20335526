"""How many threads read and decode samples, and how many samples each takes at a time."""

from __future__ import annotations

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.machine import cpus

CHUNK = 16  # samples a task: small enough to balance, large enough that the queue costs nothing


def default_workers() -> int:
    """As many threads as this process may use CPUs, at most 8."""
    return min(8, cpus())


def check_counts(**settings: object) -> None:
    """SettingError for a setting, name=value, that is no integer of 1 or more."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise SettingError(f"{name} is {value!r}; expected an integer of 1 or more")
