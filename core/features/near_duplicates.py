"""Pictures that are nearly the same: re-encoded, resized or slightly cropped copies, told by their features.

Copies of the very bytes have one id and are told for nothing (`data.copies`). These have ids of their own; a
frozen trunk gives them nearly the same features, and its features are computed for the training anyway.

Invariant: every pair is compared, in blocks, so memory is bounded whatever the data; nothing is left out of the
data for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError
from headstart.common.progress import track
from headstart.common.text import printable
from headstart.data import Dataset
from headstart.data.door import as_data_set, check_data_set
from headstart.data.summary import say
from headstart.features.extract import extract
from headstart.features.feature_set import FeatureSet
from headstart.features.trunk_keys import INPUT
from headstart.models import Model, check_model

THRESHOLD = 0.95
"""Of 800 flower photographs and the ResNet-18 of this package, no two different ones are above 0.92, and all that
were saved again as JPEG of quality 60, or 10 % smaller, are above 0.98."""

PARTS = ("training", "validation", "test")
MOST_PAIRS = 1000
SHOWN = 3
ROWS_NBYTES = 64 << 20
"""of the rows that are held while all others pass by, as float32"""

AT_ONCE = 1024
"""rows that pass by"""

MOST_ROWS = 16384
TINY = np.finfo(np.float32).tiny
MANY = 0.05
"""share of all pairs from which on it is rather the trunk that tells nothing apart"""


class NearPair(NamedTuple):
    """Two pictures whose features are close."""

    first: str
    """its path, or e.g. "image 3 of arrays\""""
    second: str
    parts: tuple[str, str]
    """which data each is of: "training", "validation" or "test\""""
    cosine: float


@dataclass(frozen=True)
class NearDuplicates:
    """The pairs of different pictures whose features have a cosine of `threshold` or more."""

    threshold: float
    samples: int
    """different pictures that were compared"""
    counts: Mapping[tuple[str, str], int]
    """how many pairs there are within a part, ("training", "training"), and across two"""
    pairs: tuple[NearPair, ...]
    """the closest 1,000, the closest first"""

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def across(self) -> int:
        """How many pairs have a picture on either side of a split."""
        return sum(count for parts, count in self.counts.items() if parts[0] != parts[1])

    def lines(self) -> list[str]:
        """What there is, and of each kind the first three pairs, for people."""
        above = f"(cosine of {self.threshold:g} or more)"
        if not len(self):
            return [f"near duplicates {above}: none among {self.samples:,} different pictures"]
        kinds = sorted(self.counts, key=lambda parts: (parts[0] == parts[1], parts))  # across a split first
        each = [
            f"{count:,} within {first}" if first == second else f"{count:,} between {first} and {second}"
            for first, second in kinds
            for count in [self.counts[first, second]]
        ]
        lines = [f"near duplicates {above}: {_pairs(len(self))} of {self.samples:,} pictures, {', '.join(each)}"]
        for kind in kinds:
            for pair in [pair for pair in self.pairs if pair.parts == kind][:SHOWN]:
                names = f"{printable(pair.first)} ({kind[0]}) and {printable(pair.second)} ({kind[1]})"
                lines.append(f"cosine {pair.cosine:.4f}: {names}")
        if len(self) > MANY * self.samples * (self.samples - 1) / 2 and self.samples > 2 * SHOWN:
            lines.append(
                "near duplicates: so many that the pictures are alike, or this trunk cannot tell them apart"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "threshold": self.threshold,
            "samples": self.samples,
            "counts": [{"parts": list(parts), "pairs": count} for parts, count in sorted(self.counts.items())],
            "pairs": [pair._asdict() for pair in self.pairs],
        }


def near_duplicates(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet | None = None,
    test: Dataset | FeatureSet | None = None,
    *,
    threshold: float = THRESHOLD,
    cut: str | None = None,
    **extraction: Any,
) -> NearDuplicates:
    """Pairs of different pictures, within these data and across them, whose features at `cut` (default: what the
    classifier takes; of maps their mean) have a cosine of `threshold` or more. Copies of the same bytes are one
    picture here, of the first data that have it. Nothing is left out of the data.

    `train`, `val`, `test`: as of `fit`; of data in named parts `train` alone takes these. Or features that
    `extract` or `load_features` gave. `extraction`: further arguments of `extract`, which computes what the cache
    lacks. The time grows with the square of the number of pictures: 20,000 of 2,048 numbers each take about 15
    seconds of a core; memory stays below 300 MB at any number.

    Raises SettingError for a threshold that is none, and whatever `extract` raises.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 < threshold <= 1:
        raise SettingError(f"threshold is {threshold!r}; expected a cosine above 0, up to 1, e.g. {THRESHOLD}")
    if cut == INPUT:
        raise SettingError(f"cut is {cut!r}, which are pixels; expected a node of the trunk, or None")
    check_model(model)
    train = as_data_set(train)
    check_data_set(train, "train", (Dataset, FeatureSet))
    if val is None and test is None and train.parts:
        given = [train.parts.get(part) for part in ("train", "val", "test")]
    else:
        given = [train, as_data_set(val, train.classes), as_data_set(test, train.classes)]
    if given[0] is not None:
        say(*given)
    compared = []
    for part, data in zip(PARTS, given, strict=True):
        if data is None or not len(data):
            continue
        check_data_set(data, part, (Dataset, FeatureSet))
        features = data if isinstance(data, FeatureSet) else extract(model, data, cut, **extraction)
        compared.append(_Part(part, data, features, cut if isinstance(data, FeatureSet) else features.cuts[0]))
    keys = {part.name: part.features.key(part.cut).digest for part in compared}
    if len(set(keys.values())) > 1:
        raise SettingError(
            f"the features are of differing trunks, cuts or dtypes: {keys}; expected the same of all"
        )
    return _compared(_Different(compared), float(threshold))


class _Part(NamedTuple):
    name: str
    data: Dataset | FeatureSet
    features: FeatureSet
    cut: str | None


class _Different:
    """The different pictures of all parts: each id once, of the first part that has it, in the order in which
    rows are stored."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        place: dict[str, tuple[int, int]] = {}
        for k, part in enumerate(parts):
            for i, id in enumerate(part.data.ids):
                place.setdefault(id, (k, i))
        order = sorted(place, key=lambda id: (place[id][0], id))
        self.ids = order
        self.part = np.array([place[id][0] for id in order], np.int64)
        self._index = [place[id][1] for id in order]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        data, i = self.parts[self.part[row]].data, self._index[row]
        return data.source_name(i) if isinstance(data, Dataset) else f"sample {i} ({data.ids[i][:8]})"

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """float32 `(n, c)`, each of length 1; zeros stay zeros."""
        pieces = []
        for k in np.unique(self.part[start:stop]).tolist():
            chosen = [self.ids[row] for row in range(start, min(stop, len(self))) if self.part[row] == k]
            rows = self.parts[k].features.folder(self.parts[k].cut).read(chosen)
            if rows.ndim > 2:
                rows = rows.reshape(len(rows), -1, rows.shape[-1]).astype(np.float32).mean(1)
            pieces.append(rows.astype(np.float32, copy=False))
        units: NDArray[np.float32] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        units /= np.maximum(np.abs(units).max(1, keepdims=True, initial=0), TINY)  # else squares may overflow
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), TINY)
        return units


def _compared(samples: _Different, threshold: float) -> NearDuplicates:
    n, kinds = len(samples), len(samples.parts)
    counts = np.zeros(kinds * kinds, np.int64)
    closest: list[tuple[float, int, int]] = []
    with track("comparing features", n) as advance:
        for cosines, first, second in _close(samples, threshold, advance):
            a, b = samples.part[first], samples.part[second]
            counts += np.bincount(a * kinds + b, minlength=kinds * kinds)
            kept = np.argsort(-cosines, kind="stable")[:MOST_PAIRS]
            closest += zip(cosines[kept].tolist(), first[kept].tolist(), second[kept].tolist(), strict=True)
            closest = sorted(closest, key=lambda pair: (-pair[0], pair[1:]))[:MOST_PAIRS]
    names = [part.name for part in samples.parts]
    pairs = [
        NearPair(
            samples.name(i),
            samples.name(j),
            (names[int(samples.part[i])], names[int(samples.part[j])]),
            round(min(cosine, 1.0), 6),
        )
        for cosine, i, j in closest
    ]
    of_kind = {(names[k // kinds], names[k % kinds]): int(counts[k]) for k in np.flatnonzero(counts).tolist()}
    return NearDuplicates(threshold, n, of_kind, tuple(pairs))


def _close(
    samples: _Different, threshold: float, advance: Any
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]]:
    """(cosines, first, second) of the close pairs of rows, first before second, a block at a time."""
    n = len(samples)
    if not n:
        return
    width = samples.rows(0, 1).shape[1]
    held_rows = max(1, min(MOST_ROWS, ROWS_NBYTES // (4 * width)))
    for start in range(0, n, held_rows):
        held = samples.rows(start, start + held_rows)
        for at in range(start, n, AT_ONCE):
            inside = at + AT_ONCE <= start + len(held)
            passing = held[at - start : at - start + AT_ONCE] if inside else samples.rows(at, at + AT_ONCE)
            cosines = held @ passing.T
            first, second = np.nonzero(cosines >= threshold)
            later = first + start < second + at
            first, second = first[later], second[later]
            if len(first):
                yield cosines[first, second], first + start, second + at
        advance(len(held))


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' if count != 1 else ''}"
