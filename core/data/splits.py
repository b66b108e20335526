"""Which samples a split takes: from ids, labels, share and seed alone, so that images, and features saved without
them, are split alike on every machine.

By id, the default: a sample's side is a digest of its id and the seed. Data that grow, shrink, are renamed or
relabelled never move a sample to the other side, and equal pictures stand on one side. Shares are therefore only
about what was asked for, of small classes roughly so. Two things are made sure of, and may move a sample of a
small class as the data grow: every class is in the first part, and the second part is not empty.

By position, the way of earlier versions: exact shares of every class, drawn by place in the data set. One sample
more moves many across.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.common.errors import DataError, DataWarning, SettingError, UnknownNameError

WAYS = ("id", "position")
SURPRISING = 6
"""standard deviations by which the share of a fair draw is never off"""

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """Which part of which split a data set is."""

    by: str
    fraction: float
    seed: int
    side: str  # "first" or "second"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Part:
        """The inverse of `as_dict`; ValueError, KeyError or TypeError for what is none."""
        if saved["by"] not in WAYS or saved["side"] not in ("first", "second"):
            raise ValueError(f"no part of a split: {saved!r:.200}")
        return cls(saved["by"], float(saved["fraction"]), int(saved["seed"]), saved["side"])


def sides(
    ids: Callable[[], Sequence[str]],
    labels: NDArray[np.int64],
    fraction: float,
    seed: int,
    by: str,
    name: str,
    earlier: int = 0,
) -> tuple[Positions, Positions]:
    """The positions of both parts, ascending. `ids` is called where they matter. `earlier`: how many splits the
    samples have been through; each draws anew, as parts of one draw would not split any further.

    Raises SettingError for a share, a seed or a way that is none, DataError where the second part would be empty;
    `name` is what that calls the data set.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction!r}; expected a number between 0 and 1, e.g. 0.8")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed is {seed!r}; expected an integer of 0 or more")
    if by not in WAYS:
        raise UnknownNameError("way of splitting", by, WAYS)
    if by == "id":
        first = _by_id(ids(), labels, float(fraction), int(seed), name, earlier)
    else:
        first = _by_position(labels, fraction, int(seed))
    if first.all():
        raise DataError(
            f"{name} cannot be split: none of its {len(labels)} samples is in a class of two or more "
            "different ones; add some"
        )
    return np.flatnonzero(first), np.flatnonzero(~first)


def _by_id(
    ids: Sequence[str], labels: NDArray[np.int64], fraction: float, seed: int, name: str, earlier: int
) -> NDArray[np.bool_]:
    different, sample = np.unique(np.array(ids, "U32"), return_inverse=True)
    draw = np.array([_draw(id, seed, earlier) for id in different.tolist()])
    first = draw < fraction
    expected = len(draw) * fraction
    if abs(int(first.sum()) - expected) > SURPRISING * math.sqrt(expected * (1 - fraction)) + 1:
        warnings.warn(
            f"{name}: {int(first.sum())} of {len(draw)} samples are in the first part of the split, not about "
            f"{fraction:.0%}: they look like one part of another split by seed {seed}. Split with another seed",
            DataWarning,
            stacklevel=4,
        )
    members = [np.unique(sample[labels == label]) for label in np.unique(labels).tolist()]
    for of_class in members:
        if not first[of_class].any():
            first[of_class[draw[of_class].argmin()]] = True
    if first.all():
        only = {int(of_class[0]) for of_class in members if len(of_class) == 1}
        free = [k for k in np.argsort(-draw, kind="stable").tolist() if k not in only]
        first[free[:1]] = False
    return first[sample]


def _draw(id: str, seed: int, earlier: int) -> float:
    """From 0 to 1, even over ids and seeds."""
    digest = blake3(f"split {seed} {earlier} {id}".encode()).digest(length=8)
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _by_position(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Of every class the share `fraction`, rounded; of two samples or more some are in each part, a single one is
    in the first."""
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        n = len(members)
        take = 1 if n == 1 else min(n - 1, max(1, math.floor(n * fraction + 0.5)))
        # argsort of doubles: `permutation`'s stream may change from one numpy to the next
        shuffled = np.argsort(np.random.default_rng([seed, label]).random(n), kind="stable")
        first[members[shuffled[:take]]] = True
    return first
