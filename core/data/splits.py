"""Which samples a split takes: from labels, share and seed alone, so that images, and features saved without them,
are split alike on every machine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError, SettingError


def stratified(
    labels: NDArray[np.int64], fraction: float, seed: int, name: str
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions of both parts, ascending. Of every class the share `fraction`, rounded, is in the first; a
    class of two samples or more is in both, a single sample in the first.

    Raises SettingError for a share or a seed that is none, DataError where the second part would be empty; `name`
    is what that calls the data set.
    """
    if not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction!r}; expected a number between 0 and 1, e.g. 0.8")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed is {seed!r}; expected an integer of 0 or more")
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        n = len(members)
        take = 1 if n == 1 else min(n - 1, max(1, math.floor(n * fraction + 0.5)))
        # argsort of doubles: `permutation`'s stream may change from one numpy to the next
        shuffled = np.argsort(np.random.default_rng([int(seed), label]).random(n), kind="stable")
        first[members[shuffled[:take]]] = True
    if first.all():
        raise DataError(
            f"{name} cannot be split: none of its {len(labels)} samples is in a class of two or more; add some"
        )
    return np.flatnonzero(first), np.flatnonzero(~first)
