"""Which samples have features, and of those that have none, why: the samples are new, or the trunk is another one.

Nothing is computed and no framework is needed: the answer follows from the keys, the ids, and what lies in the
store. Invariant: what is called present here is what `extract` would not compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headstart.common.errors import DamagedShardError
from headstart.common.machine import cache_root
from headstart.common.objects import open_objects
from headstart.contract.registry import check_place
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.summary import say
from headstart.features.trunk_keys import FeatureKeys
from headstart.models import Model, check_model
from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import FeatureStore
from headstart.store.keys import TrunkKey, differences
from headstart.store.remote.looking import RemoteInfo, infos
from headstart.store.remote.remote_store import RemoteStore
from headstart.store.upkeep import FolderInfo

Infos = Sequence[FolderInfo | RemoteInfo]

EXAMPLES = 3  # samples that are named, of those that lack features


@dataclass(frozen=True)
class Nearest:
    """The stored trunk whose key differs least."""

    key: str
    label: dict[str, Any]
    rows: int
    differences: tuple[str, ...]
    """such as "preprocess.size: 224 != 256", what was asked for first"""

    def __str__(self) -> str:
        names = [str(self.label[name]) for name in ("model", "weights", "cut") if name in self.label]
        about = ", ".join([*names, f"{self.rows:,} rows"])
        return f"the nearest ({about}) differs in {', '.join(self.differences)}"


@dataclass(frozen=True)
class Coverage:
    """What the store has of one cut, and of one augmented view if there are several. Counts are of distinct
    samples."""

    cut: str
    view: int | None
    """None where nothing is augmented"""
    key: str
    present: int
    lacking: int
    examples: tuple[str, ...]
    """the first of those that lack features, by path"""
    other_rows: int
    """where none is present: rows of other samples"""
    nearest: Nearest | None
    """where the trunk has no features at all: another one that has"""
    damaged: str | None
    """a shard that may hold what is lacking, and what is wrong with it"""

    def __str__(self) -> str:
        total = self.present + self.lacking
        if not self.lacking:
            return f"all {total:,} samples have features"
        if self.damaged is not None:
            return f"{self.lacking:,} of {total:,} samples lack features, and a shard is damaged: {self.damaged}"
        if self.present or self.other_rows:
            more = self.lacking - len(self.examples)
            which = ", ".join(self.examples) + (f" and {more:,} more" if more else "")
            rows = "" if self.present else f" (the trunk is known, with {self.other_rows:,} other samples)"
            return (
                f"{self.lacking:,} of {total:,} samples lack features{rows}; no file with their bytes was "
                f"extracted, so they are new or were edited: {which}"
            )
        nearest = "and there are none for any other" if self.nearest is None else str(self.nearest)
        return f"no features for this trunk; {nearest}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "explanation": str(self)}


@dataclass(frozen=True)
class Explanation:
    """What the store has of a data set's features, by cut and view. Iterates over these."""

    data: str
    """the data set's name"""
    model: str
    coverages: tuple[Coverage, ...]

    def __iter__(self) -> Iterator[Coverage]:
        return iter(self.coverages)

    def __len__(self) -> int:
        return len(self.coverages)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "data": self.data,
            "model": self.model,
            "cuts": [coverage.as_dict() for coverage in self.coverages],
        }


def explain(
    model: Model,
    data: Dataset,
    cuts: str | Sequence[str] | None = None,
    *,
    precision: str = "float32",
    dtype: str = "float16",
    cache: str | Path | None = None,
    augment: str | Augment | None = None,
    views: int = 1,
    seed: int = 0,
    url: str | None = None,
) -> Explanation:
    """What `hs.extract` with these arguments would find in the cache: of samples without features, which they are;
    of a trunk without any, in what the nearest one differs. With `url`: in the store behind that URL, such as
    "s3://bucket/team", and nowhere else; nothing is fetched but what says which samples are there.

    Raises CutError and SettingError as `hs.extract` does, ImageError for a file that cannot be read, RemoteError
    for a URL that cannot be reached.
    """
    check_model(model)
    check_place("auto", precision)
    keys = FeatureKeys(model, cuts, precision=precision, dtype=dtype, augment=augment, views=views, seed=seed)
    model.preprocess.check(data)
    with _looked_into(cache, url) as (store, infos_of):
        return Explanation(data.name, model.name, _coverages(keys, data, store, infos_of))


@contextmanager
def _looked_into(cache: str | Path | None, url: str | None) -> Iterator[tuple[FeatureStore, Callable[[], Infos]]]:
    """(the store, what lists its trunks): the own cache and shared ones, or what is behind the URL."""
    if url is None:
        store = FeatureStore(cache)
        yield store, store.infos
        return
    remote = RemoteStore(open_objects(url))
    remote.keys()  # what cannot be reached is an error here, not a warning as beside an own cache
    with TemporaryDirectory(prefix="headstart-") as nothing:
        yield FeatureStore(nothing, shared=[url]), lambda: infos(remote, cache_root(cache))


def _coverages(
    keys: FeatureKeys, data: Dataset, store: FeatureStore, infos_of: Callable[[], Infos]
) -> tuple[Coverage, ...]:
    folders = keys.folders(store)
    say(data)
    total = len(set(data.ids))
    listed: Infos | None = None
    coverages: list[Coverage] = []
    for cut, node in keys.nodes.items():
        for view, folder in enumerate(folders[node]):
            lacking, damaged = _lacking(folder, data.ids)
            present = total - len(lacking)
            if lacking and not present and listed is None:
                listed = infos_of()
            others = [info for info in listed or [] if info.rows]
            same = sum(info.rows for info in others if info.key == folder.key.digest)
            coverages.append(
                Coverage(
                    # of a wrapped module as `hs.wrap` takes it
                    cut=str(folder.key.label["cut"]) if cut == node else cut,
                    view=None if keys.augment is None else view,
                    key=folder.key.digest,
                    present=present,
                    lacking=len(lacking),
                    examples=_names(data, lacking[:EXAMPLES]),
                    other_rows=0 if present else same,
                    nearest=None if present or same or not lacking else _nearest(folder.key, others),
                    damaged=damaged,
                )
            )
    return tuple(coverages)


def _lacking(folder: FeatureFolder, ids: Sequence[str]) -> tuple[list[str], str | None]:
    """The ids without features, and what is wrong with a shard that may hold them."""
    try:
        return folder.missing(ids, fetch=False), None
    except DamagedShardError as error:
        there = set(folder.ids())
        return [id for id in dict.fromkeys(ids) if id not in there], f"{error.path}: {error.reason}"


def _names(data: Dataset, ids: Sequence[str]) -> tuple[str, ...]:
    places = {id: i for i, id in reversed(list(enumerate(data.ids)))} if ids else {}
    return tuple(data.source_name(places[id]) for id in ids)


def _nearest(key: TrunkKey, others: Infos) -> Nearest | None:
    """Of the trunks that the store has features of, the one that is most like `key`; None where it has none.

    Most like is the trunk whose description differs in the fewest fields. Where two differ in equally many, it is
    the one whose differences take fewer words: a whole branch that only one side has is a single field, and a long
    one. Where that is equal too, it is the one with more rows.
    """
    candidates = [(differences(key.spec, info.spec), info) for info in others if info.spec]
    if not candidates:
        return None

    def distance(candidate: tuple[list[str], FolderInfo | RemoteInfo]) -> tuple[int, int, int]:
        fields, info = candidate
        return len(fields), len("".join(fields)), -info.rows

    fields, info = min(candidates, key=distance)
    return Nearest(info.key, info.label, info.rows, tuple(fields))
