"""Which samples a split takes: from ids or groups, labels, share and seed alone, so that images, and features
saved without them, are split alike on every machine.

By id, the default: a sample's side is a digest of its id and the seed. Data that grow, shrink, are renamed or
relabelled never move a sample to the other side, and equal pictures stand on one side. Shares are therefore only
about what was asked for, of small classes roughly so. Two things are made sure of, and may move a sample of a
small class as the data grow: every class is in the first part, and the second part is not empty.

Where samples have groups, the group's name takes the place of the id: no group is cut, and one that is larger than
both parts is an error. (Equal pictures in two groups may then come apart; `copies` warns of them.)

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
from headstart.data.annotations import SINGLE, Annotations, Positions
from headstart.data.names import shown

WAYS = ("id", "position")
SIDES = ("first", "second")
MAX_FOLDS = 1000
SURPRISING = 6
"""standard deviations by which the share of a fair draw is never off"""

SPREADINGS = 10
"""times that classes which are in one fold alone are looked for; of one class a sample the first mends all"""

LOPSIDED = 2
"""times more samples in the second part than asked for, or fewer, that are said of data in groups"""


@dataclass(frozen=True)
class Part:
    """Which part of which split, or of which fold, a data set is."""

    by: str  # "id", "position" or "fold"
    fraction: float
    seed: int
    side: str  # "first" or "second"
    fold: int | None = None
    """of `folds`: which of them was held out, from 0"""
    folds: int | None = None
    name: str | None = None
    """what the fold is called, where the data came with folds; `seed` is then 0, and nothing was drawn"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Part:
        """The inverse of `as_dict`; ValueError, KeyError or TypeError for what is none."""
        by, side = saved["by"], saved["side"]
        if by not in (*WAYS, "fold") or side not in SIDES:
            raise ValueError(f"no part of a split: {saved!r:.200}")
        of_fold: dict[str, Any] = {}
        if by == "fold":
            of_fold = {"fold": int(saved["fold"]), "folds": int(saved["folds"])}
            of_fold["name"] = None if saved.get("name") is None else str(saved["name"])
        return cls(by, float(saved["fraction"]), int(saved["seed"]), side, **of_fold)


def sides(
    ids: Callable[[], Sequence[str]],
    annotations: Annotations,
    fraction: float,
    seed: int,
    by: str,
    name: str,
    earlier: int = 0,
) -> tuple[Positions, Positions]:
    """The positions of both parts, ascending. `ids` is called where they matter. `earlier`: how many splits the
    samples have been through; each draws anew, as parts of one draw would not split any further.

    Raises SettingError for a share, a seed or a way that is none, DataError where the second part would be empty
    and for a group that is larger than both parts; `name` is what that calls the data set.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction!r}; expected a number between 0 and 1, e.g. 0.8")
    _check_seed(seed)
    if by not in WAYS:
        raise UnknownNameError("way of splitting", by, WAYS)
    if by == "id":
        first = _by_key(_Keys(ids, annotations), float(fraction), int(seed), name, earlier)
    elif annotations.groups is not None:
        raise SettingError('by="position" would cut the groups of the data; expected by="id"')
    else:
        first = _by_position(annotations, fraction, int(seed))
    if first.all():
        raise DataError(
            f"{name} cannot be split: none of its {len(first)} samples is in a class of two or more "
            f"different {'ones' if annotations.groups is None else 'groups'}, of which one could be held out; add "
            "some, or name data to validate on (--val, hs.fit(model, train, val))"
        )
    return np.flatnonzero(first), np.flatnonzero(~first)


def folds_of(
    ids: Callable[[], Sequence[str]], annotations: Annotations, k: int, seed: int, name: str
) -> list[Positions]:
    """The positions of each fold's samples, ascending; every sample is in one of the k. See `Samples.folds`."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= MAX_FOLDS:
        raise SettingError(f"k is {k!r}; expected how many folds, a whole number from 2 to {MAX_FOLDS}")
    _check_seed(seed)
    keys = _Keys(ids, annotations)
    count = len(keys.names)
    if count < k:
        raise DataError(
            f"{name} cannot be cut into {k} folds: it has {count} different {keys.what}; expected at least {k}"
        )
    draw = np.array([_uniform(f"folds {seed} {key}") for key in keys.names])
    fold = (draw * k).astype(np.int64)
    _spread(keys, draw, fold, k)
    while (empty := np.setdiff1d(np.arange(k), fold)).size:
        fullest = int(np.bincount(fold, minlength=k).argmax())
        fold[min(np.flatnonzero(fold == fullest), key=lambda key: draw[key])] = empty[0]
    if keys.grouped:
        _warn_of_large_groups(keys, k, name)
    of_sample = fold[keys.of_sample]
    return [np.flatnonzero(of_sample == number) for number in range(k)]


def _spread(keys: _Keys, draw: NDArray[np.float64], fold: NDArray[np.int64], k: int) -> None:
    """Move keys of classes that are in one fold alone: such a class would have no sample to train on where that
    fold is held out. Of several labels, and of groups, one key is in several classes, so what helps one may leave
    another alone: a move that leaves none is taken, if there is one."""
    classes_of: dict[int, list[NDArray[np.int64]]] = {}
    if sum(map(len, keys.strata)) > len(draw):
        for members in keys.strata:
            for key in members.tolist():
                classes_of.setdefault(key, []).append(members)

    def alone(members: NDArray[np.int64]) -> bool:
        return len(members) > 1 and len(set(fold[members].tolist())) == 1

    def moved(key: int, to: int) -> bool:
        """Whether no class is alone after that; the key stays where one is."""
        before, fold[key] = fold[key], to
        if any(map(alone, classes_of.get(key, ()))):
            fold[key] = before
            return False
        return True

    for _ in range(SPREADINGS):
        lonely = [members for members in keys.strata if alone(members)]
        for members in filter(alone, lonely):
            by_draw, here = members[np.argsort(draw[members], kind="stable")].tolist(), int(fold[members[0]])
            moves = ((key, (here + step) % k) for key in by_draw for step in range(1, k))
            if not any(moved(key, to) for key, to in moves):
                fold[by_draw[0]] = (here + 1) % k
        if not lonely:
            break


def _warn_of_large_groups(keys: _Keys, k: int, name: str) -> None:
    """DataWarning for a group that is much larger than a fold is to be."""
    sizes = keys.sizes()
    total, largest = int(sizes.sum()), int(sizes.argmax())
    if sizes[largest] > LOPSIDED * total / k:
        warnings.warn(
            f"the group {shown(keys.names[largest])} has {sizes[largest]:,} of the {total:,} samples of {name}, "
            f"more than {LOPSIDED} of {k} folds are to have, and groups are not cut: where it is held out, "
            f"{total - sizes[largest]:,} are left to train on. Divide that group, leave some of it out, or take "
            "fewer folds",
            DataWarning,
            stacklevel=5,
        )


class _Keys:
    """What is drawn for: the different groups, or without any the different ids."""

    def __init__(self, ids: Callable[[], Sequence[str]], annotations: Annotations) -> None:
        groups = annotations.groups
        every = list(ids()) if groups is None else groups.tolist()
        self.names = sorted(set(every))
        place = {key: k for k, key in enumerate(self.names)}
        self.of_sample = np.fromiter((place[key] for key in every), np.int64, len(every))
        self.strata = [np.unique(self.of_sample[positions]) for positions in annotations.strata()]
        """the keys of each class's samples"""
        self.grouped = groups is not None
        self.what = "samples" if groups is None else "groups"

    def sizes(self) -> NDArray[np.int64]:
        """How many samples each key has."""
        return np.bincount(self.of_sample, minlength=len(self.names))


def _by_key(keys: _Keys, fraction: float, seed: int, name: str, earlier: int) -> NDArray[np.bool_]:
    if not keys.names:
        return np.zeros(0, bool)  # which cannot be split, as the caller says
    draw = np.array([_uniform(f"split {seed} {earlier} {key}") for key in keys.names])
    first = draw < fraction
    expected = len(draw) * fraction
    if abs(int(first.sum()) - expected) > SURPRISING * math.sqrt(expected * (1 - fraction)) + 1:
        warnings.warn(
            f"{name}: {int(first.sum())} of {len(draw)} {keys.what} are in the first part of the split, not about "
            f"{fraction:.0%}: they look like one part of another split by seed {seed}. Split with another seed",
            DataWarning,
            stacklevel=4,
        )
    for of_class in keys.strata or [np.arange(len(draw))]:
        if len(of_class) and not first[of_class].any():
            first[of_class[draw[of_class].argmin()]] = True
    if first.all():
        only = {int(of_class[0]) for of_class in keys.strata if len(of_class) == 1}
        free = [k for k in np.argsort(-draw, kind="stable").tolist() if k not in only]
        first[free[:1]] = False
    if keys.grouped:
        _check_groups(keys, first, fraction, seed, name)
    return first[keys.of_sample]


def _check_groups(keys: _Keys, first: NDArray[np.bool_], fraction: float, seed: int, name: str) -> None:
    """DataError for a group that neither part can hold; DataWarning where the second part is far from its
    share."""
    sizes = keys.sizes()
    total, largest = int(sizes.sum()), int(sizes.argmax())
    about = f"the group {shown(keys.names[largest])} has {sizes[largest]:,} of the {total:,} samples of {name}"
    if len(sizes) < 2 or sizes[largest] > max(fraction, 1 - fraction) * total:
        raise DataError(
            f"{about}, more than either part of a split at {fraction:g} is to have, and groups are not cut; "
            "divide that group, leave some of it out, or split at another share"
        )
    second, asked = int(sizes[~first].sum()), (1 - fraction) * total
    if not asked / LOPSIDED <= second <= asked * LOPSIDED:
        warnings.warn(
            f"{name}: the second part of the split has {second:,} of {total:,} samples, not about "
            f"{1 - fraction:.0%}, as groups are not cut; {about}. Another seed than {seed} splits otherwise",
            DataWarning,
            stacklevel=5,
        )


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed is {seed!r}; expected an integer of 0 or more")


def _uniform(text: str) -> float:
    """From 0 to 1, even over texts."""
    digest = blake3(text.encode("utf-8", "surrogatepass")).digest(length=8)
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _by_position(annotations: Annotations, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Of every class the share `fraction`, rounded; of two samples or more some are in each part, a single one is
    in the first. Where labels are several or numbers, of all samples together."""
    first = np.zeros(len(annotations), bool)
    strata = annotations.strata() if annotations.task == SINGLE else [np.arange(len(annotations))]
    for members in strata:
        label = int(annotations.labels[members[0]]) if annotations.task == SINGLE else 0
        n = len(members)
        take = 1 if n == 1 else min(n - 1, max(1, math.floor(n * fraction + 0.5)))
        # argsort of doubles: `permutation`'s stream may change from one numpy to the next
        shuffled = np.argsort(np.random.default_rng([seed, label]).random(n), kind="stable")
        first[members[shuffled[:take]]] = True
    return first
