"""The store: a folder a trunk key, in it immutable shards. That is all the state there is.

    <root>/features/<digest>/trunk.json, <digest of shard>.safetensors ..., last_used

* A listing is a snapshot: other writers' shards may appear, and evicted ones vanish, at any time. What has
  gone is a miss, never an error.
* The index from ids to rows is derived from the shards whenever they change, and lives in memory only.
* No row is handed out that has not been verified on this very reading.
* Nothing is deleted but by `gc`, and there only what its preview listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.errors import DamagedShardError, DiskSpaceError, SettingError, StoreError, UnknownNameError
from headstart.features.files import (
    PARTIAL_PREFIX,
    binary_size,
    free_space,
    make_folder,
    probe_folder,
    storage_errors,
    write_atomically,
)
from headstart.features.ids import array_to_ids, ids_to_array, sort_keys
from headstart.features.keys import TrunkKey, canonical_json, spec_digest, stored_dtype
from headstart.features.shard import SUFFIX, Shard, damaged_rows, open_shard, raise_unreadable
from headstart.features.writer import ShardWriter
from headstart.progress import track

DESCRIPTION = "trunk.json"
LAST_USED = "last_used"
DAMAGED = "damaged"
CHECKED = "checked"
LEFTOVER_SECONDS = 24 * 3600.0

_DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class TrunkInfo:
    """One trunk's folder, as a listing found it."""

    key: str
    """The trunk key's digest."""
    label: dict[str, Any]
    """Hints for people; empty where trunk.json is missing or damaged."""
    spec: dict[str, Any]
    """What the features depend on; empty where trunk.json is missing or damaged."""
    rows: int
    """Samples with features in an intact shard."""
    nbytes: int
    """Bytes of all the folder's files."""
    shards: int
    """Intact shards."""
    last_used: float
    """Seconds since the epoch."""
    made_by: str
    """The backends that extracted, joined by ", "."""
    path: Path
    damaged: tuple[str, ...]
    """A line for each file that cannot be used."""


@dataclass(frozen=True)
class GcPlan:
    """What `gc` would delete. Iterates over the trunks."""

    trunks: tuple[TrunkInfo, ...]
    """Whole trunks, least recently used first."""
    leftovers: tuple[Path, ...]
    """Unfinished files of writers that died more than a day ago."""
    nbytes: int
    """Bytes that both free."""

    def __iter__(self) -> Iterator[TrunkInfo]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    def __bool__(self) -> bool:
        return bool(self.trunks or self.leftovers)


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of reading every byte of every shard."""

    shards: int
    """Intact shards."""
    rows: int
    """Rows in them."""
    damaged: list[tuple[Path, str]]
    """Damaged files and what is wrong with each."""
    set_aside: list[Path]
    """Where repair has moved them."""


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """The shards of one moment, and the index over their ids."""

    shards: tuple[Shard, ...]
    damaged: tuple[DamagedShardError, ...]
    keys: NDArray[np.bytes_]
    """`(rows,)` ids, sorted. An id stands once for every shard that holds it."""
    shard_of: NDArray[np.int32]
    """`(rows,)` place in `shards`"""
    row_of: NDArray[np.intp]
    """`(rows,)` row within that shard"""

    def first(self, wanted: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Where in `keys` each wanted id stands first, if it does."""
        return np.searchsorted(self.keys, wanted)

    def stands_at(self, places: NDArray[np.intp], wanted: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Whether the wanted ids stand at those places of `keys`."""
        inside = places < len(self.keys)
        result = np.zeros(len(places), np.bool_)
        result[inside] = self.keys[places[inside]] == wanted[inside]
        return result


class FeatureStore:
    """All features under one root: that given, else HEADSTART_CACHE, else the user's cache folder.

    Opening it creates nothing, and reading never needs permission to write.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        if root is None:
            root = os.environ.get("HEADSTART_CACHE") or None
        if root is None:
            from platformdirs import user_cache_path  # only here: importing headstart should cost nothing

            root = user_cache_path("headstart")
        self.root = Path(root).expanduser().absolute()
        self.folder = self.root / "features"

    def trunk(self, key: TrunkKey) -> TrunkFolder:
        """The folder of one trunk key, which need not exist yet."""
        return TrunkFolder(self.folder / key.digest, key)

    def trunks(self) -> list[TrunkInfo]:
        """All trunks with anything stored, by key. Damage is listed, not raised."""
        return [info for folder in self._folders() if (info := _info(folder)) is not None]

    def info(self, prefix: str) -> TrunkInfo:
        """The one trunk whose key begins so. UnknownNameError for none, SettingError for several."""
        found = _info(self._folder(prefix))
        if found is None:
            raise UnknownNameError("trunk key", prefix, [])
        return found

    def verify(self, repair: bool = False, prefix: str | None = None) -> VerifyReport:
        """Read every byte of every shard, or of one trunk's. With `repair`, damaged files are moved to the
        folder `damaged` beside them, where nothing reads them: the next extraction computes just their rows.

        Raises CacheNotWritableError or StoreError where a file cannot be moved; `info`'s errors for a prefix.
        """
        report = VerifyReport(0, 0, [], [])
        shards = rows = 0
        for folder in self._folders() if prefix is None else [self._folder(prefix)]:
            try:
                _read_description(folder)
            except StoreError as error:
                report.damaged.append((folder / DESCRIPTION, str(error)))
            snapshot = _scan(folder, None)
            report.damaged.extend((error.path, error.reason) for error in snapshot.damaged)
            with track(f"verifying {folder.name[:8]}", len(snapshot.shards)) as advance:
                for shard in snapshot.shards:
                    advance()
                    try:
                        if bad := damaged_rows(shard):
                            reason = f"{bad} of {len(shard)} rows differ from their checksums"
                            raise DamagedShardError(shard.path, reason)
                    except FileNotFoundError:
                        continue
                    except DamagedShardError as error:
                        report.damaged.append((error.path, error.reason))
                    else:
                        shards, rows = shards + 1, rows + len(shard)
        if repair:
            report.set_aside.extend(_set_aside(path) for path, _ in report.damaged if path.exists())
        return VerifyReport(shards, rows, report.damaged, report.set_aside)

    def gc_plan(self, max_nbytes: int) -> GcPlan:
        """What to delete so that the features take at most `max_nbytes`: whole trunks, least recently used
        first, and unfinished files older than a day in those that stay. Deletes nothing."""
        if max_nbytes < 0:
            raise SettingError(f"the store cannot shrink to {max_nbytes} bytes; expected 0 or more")
        infos = sorted(self.trunks(), key=lambda info: (info.last_used, info.key))
        leftovers = {info.path: _leftovers(info.path) for info in infos}
        freed = sum(size for files in leftovers.values() for _, size in files)
        excess = sum(info.nbytes for info in infos) - freed - max_nbytes
        evicted: list[TrunkInfo] = []
        for info in infos:
            if excess <= 0:
                break
            gain = info.nbytes - sum(size for _, size in leftovers[info.path])
            evicted.append(info)
            excess -= gain
            freed += gain
        gone = {info.path for info in evicted}
        kept = tuple(path for folder, files in leftovers.items() if folder not in gone for path, _ in files)
        return GcPlan(tuple(evicted), kept, freed)

    def gc(self, plan: GcPlan | Iterable[TrunkInfo]) -> int:
        """Delete what the plan lists, and return the bytes freed. A trunk used since the plan stays."""
        freed = 0
        for info in plan:
            if info.path.parent != self.folder or not _DIGEST.fullmatch(info.path.name):
                raise SettingError(
                    f"{info.path} is no trunk of the store at {self.root}; nothing of it was deleted"
                )
            if _last_used(info.path, _files(info.path)) > info.last_used:
                continue
            freed += _evict(info.path)
        for path in plan.leftovers if isinstance(plan, GcPlan) else ():
            freed += _delete(path)
        return freed

    def _folders(self) -> list[Path]:
        return sorted(
            Path(entry.path) for entry in _listing(self.folder) if _DIGEST.fullmatch(entry.name) and entry.is_dir()
        )

    def _folder(self, prefix: str) -> Path:
        folders = self._folders()
        found = [folder for folder in folders if prefix and folder.name.startswith(prefix)]
        if not found:
            raise UnknownNameError("trunk key", prefix, [folder.name for folder in folders])
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise SettingError(f"trunk key {prefix!r} is the beginning of several: {names}; give more digits")
        return found[0]


class TrunkFolder:
    """The features of one trunk: which samples have them, and the rows themselves."""

    def __init__(self, path: Path, key: TrunkKey) -> None:
        self.path = path
        self.key = key
        self.dtype_name: str = key.spec["dtype"]
        self.dtype = stored_dtype(self.dtype_name)
        self._snapshot: _Snapshot | None = None
        self._touched = False

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of one row, or None while there are none."""
        snapshot = self._snapshot
        if snapshot is None or not snapshot.shards:  # rows may have come since
            snapshot = self._refresh()
        return snapshot.shards[0].row_shape if snapshot.shards else None

    def ids(self) -> list[str]:
        """The samples that have features in an intact shard, sorted."""
        unique = np.unique(self._refresh().keys)
        return array_to_ids(unique.view(np.uint8))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no features yet, each once, in the order of their first occurrence.

        Raises DamagedShardError where some are missing and a shard that may hold them is damaged: whether to
        compute them again is the user's decision. StoreError where trunk.json describes another trunk.
        """
        wanted = sort_keys(ids_to_array(ids))
        snapshot = self._refresh()
        unique, places = np.unique(wanted, return_index=True)
        absent = np.sort(places[~snapshot.stands_at(snapshot.first(unique), unique)])
        if len(absent) and snapshot.damaged:
            raise snapshot.damaged[0]
        return [ids[place] for place in absent]

    def read(self, ids: Sequence[str]) -> NDArray[Any]:
        """The rows of these samples, `(n, *row_shape)` in the stored dtype, in the order of the ids, which
        may come twice.

        Every row is verified. Where one is damaged, another shard's copy is taken, if there is one. Raises
        DamagedShardError where there is none, StoreError where a sample has no features.
        """
        wanted = sort_keys(ids_to_array(ids))
        if not self._touched:
            self._touched = True
            self.touch()
        if self._snapshot is not None:
            # Rows may have come, gone or been repaired since that listing: on failure, look again.
            with contextlib.suppress(StoreError):
                return _gather(self._snapshot, wanted, self.dtype, self.path)
        return _gather(self._refresh(), wanted, self.dtype, self.path)

    def writer(self, row_shape: Sequence[int], dtype: str, provenance: Mapping[str, Any]) -> ShardWriter:
        """A writer of rows of this shape; `dtype` must be the key's. Its first shard creates the folder."""
        if dtype != self.dtype_name:
            raise SettingError(f"received feature dtype {dtype!r}; this trunk key says {self.dtype_name!r}")
        present = self.row_shape
        if present is not None and present != tuple(row_shape):
            raise SettingError(f"received rows of shape {tuple(row_shape)}; {self.path} holds rows of {present}")
        return ShardWriter(self.path, self.key.digest, row_shape, dtype, provenance, self._prepare)

    def provenances(self) -> list[dict[str, Any]]:
        """The different provenances of the intact shards: backend, device, versions."""
        found = {canonical_json(shard.provenance): shard.provenance for shard in self._refresh().shards}
        return [found[text] for text in sorted(found)]

    def sources(self, ids: Sequence[str]) -> list[tuple[str, dict[str, Any], NDArray[np.intp]]]:
        """The shards that these samples are read from: name, provenance, and the places in `ids` of its
        samples. Samples without features are in none."""
        wanted = sort_keys(ids_to_array(ids))
        snapshot = self._refresh()
        place = snapshot.first(wanted)
        there = np.flatnonzero(snapshot.stands_at(place, wanted))
        owner = snapshot.shard_of[place[there]]
        return [
            (snapshot.shards[k].path.stem, snapshot.shards[k].provenance, there[owner == k])
            for k in np.unique(owner).tolist()
        ]

    def is_checked(self, shard: str, by: str) -> bool:
        """Whether `mark_checked` was called with the same arguments."""
        return (self.path / CHECKED / f"{shard}-{by}").exists()

    def mark_checked(self, shard: str, by: str) -> None:
        """Note that a shard's rows were compared with those that `by` computes. Failure is ignored: a
        read-only store is compared anew each time."""
        with contextlib.suppress(OSError):
            (self.path / CHECKED).mkdir(exist_ok=True)
            (self.path / CHECKED / f"{shard}-{by}").touch()

    def touch(self) -> None:
        """Record that the features are in use. Failure is ignored: read-only stores must work."""
        with contextlib.suppress(OSError):
            (self.path / LAST_USED).touch()

    def require_space(self, nbytes: int) -> None:
        """Raise DiskSpaceError unless so many bytes are free where the features go."""
        free = free_space(self.path)
        if nbytes > free:
            raise DiskSpaceError(
                f"the features need {binary_size(nbytes)}, and {binary_size(free)} are free at {self.path}; "
                "free some space (`headstart cache gc --max-size` shows what could go), set HEADSTART_CACHE "
                "to another disk, or cut later in the model, where features are smaller"
            )

    def require_writable(self) -> None:
        """Raise CacheNotWritableError unless files can be created in the folder; creates it if need be."""
        make_folder(self.path)
        probe_folder(self.path)

    def _prepare(self) -> None:
        """Before every shard, as an eviction may have removed the folder since the last one."""
        make_folder(self.path)
        if _read_description(self.path) is None:
            write_atomically(self.path / DESCRIPTION, [_description(self.key.spec, self.key.label)])

    def _refresh(self) -> _Snapshot:
        _read_description(self.path)
        self._snapshot = _scan(self.path, self._snapshot, self.dtype_name)
        return self._snapshot


def _scan(folder: Path, last: _Snapshot | None, dtype_name: str | None = None) -> _Snapshot:
    """The shards in a folder now. Those of the last snapshot that have not changed are not read again."""
    known = {(shard.path.name, shard.stamp): shard for shard in last.shards} if last else {}
    shards: list[Shard] = []
    damaged: list[DamagedShardError] = []
    for entry in sorted(_listing(folder), key=lambda entry: entry.name):
        if not entry.name.endswith(SUFFIX) or not entry.is_file():
            continue
        try:
            status = os.stat(entry.path)  # noqa: PTH116 - not the entry's own, which Windows leaves without inode
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            shard = known.get((entry.name, stamp)) or open_shard(Path(entry.path))
            if shard.trunk != folder.name:
                raise DamagedShardError(shard.path, f"it belongs to the trunk {shard.trunk}")
            if dtype_name is not None and shard.dtype_name != dtype_name:
                raise DamagedShardError(
                    shard.path, f"it holds {shard.dtype_name}, its trunk key says {dtype_name}"
                )
            if shards and shard.row_shape != shards[0].row_shape:
                raise DamagedShardError(
                    shard.path,
                    f"its rows are {shard.row_shape}, those of {shards[0].path.name} {shards[0].row_shape}",
                )
        except FileNotFoundError:
            continue
        except DamagedShardError as error:
            damaged.append(error)
        else:
            shards.append(shard)
    if last is not None and tuple(shards) == last.shards:  # shards compare by identity
        return _Snapshot(last.shards, tuple(damaged), last.keys, last.shard_of, last.row_of)
    ids = np.concatenate([np.empty((0, 16), np.uint8), *(shard.ids for shard in shards)])
    sizes = [len(shard) for shard in shards]
    keys = sort_keys(ids)
    order = np.argsort(keys, kind="stable")
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    row_of = np.concatenate([np.empty(0, np.intp), *(np.arange(size, dtype=np.intp) for size in sizes)])
    return _Snapshot(tuple(shards), tuple(damaged), keys[order], shard_of[order], row_of[order])


def _gather(snapshot: _Snapshot, wanted: NDArray[np.bytes_], dtype: np.dtype[Any], folder: Path) -> NDArray[Any]:
    row_shape = snapshot.shards[0].row_shape if snapshot.shards else ()
    out = np.empty((len(wanted), *row_shape), dtype)
    left = np.arange(len(wanted))
    place = snapshot.first(wanted)
    damage: DamagedShardError | None = snapshot.damaged[0] if snapshot.damaged else None
    while len(left):
        found = snapshot.stands_at(place[left], wanted[left])
        if not found.all():
            if damage is not None:
                raise damage
            first = array_to_ids(wanted[left[~found]][:1].view(np.uint8))[0]
            raise StoreError(
                f"{np.count_nonzero(~found)} of {len(wanted)} samples have no features in {folder}, "
                f"{first} among them; extract them first"
            )
        intact = np.zeros(len(left), np.bool_)
        owner = snapshot.shard_of[place[left]]
        row = snapshot.row_of[place[left]]
        # By shard, then by row: the disk is read forwards.
        order = np.lexsort((row, owner))
        bounds = np.flatnonzero(np.diff(owner[order])) + 1
        for part in np.split(order, bounds):
            shard = snapshot.shards[owner[part[0]]]
            try:
                intact[part] = shard.read_into(out, left[part], row[part])
            except FileNotFoundError:
                continue
            except DamagedShardError as error:
                damage = error
                continue
            bad = len(part) - np.count_nonzero(intact[part])
            if bad:
                damage = DamagedShardError(
                    shard.path, f"{bad} of {len(part)} rows read differ from their checksums"
                )
        left = left[~intact]
        place[left] += 1  # the next shard's copy of the same sample, if there is one
    return out


def _description(spec: Mapping[str, Any], label: Mapping[str, Any]) -> bytes:
    """The bytes of trunk.json. Its checksum covers the label, which the digest leaves out."""
    content = {"digest": spec_digest(spec), "label": label, "spec": spec}
    checksum = blake3(canonical_json(content).encode("ascii")).hexdigest(length=16)
    return (json.dumps(content | {"checksum": checksum}, indent=2, sort_keys=True) + "\n").encode("ascii")


def _read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Spec and label from a folder's trunk.json; None where there is none. StoreError for a wrong one."""
    path = folder / DESCRIPTION
    cure = (
        "no features were used. `headstart cache verify --repair` sets it aside, and the next extraction "
        "writes it anew"
    )
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise_unreadable(path, error)
    try:
        content = json.loads(data.decode("ascii"))
        spec, label = dict(content["spec"]), dict(content["label"])
        same = _description(spec, label) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise StoreError(f"{path} is not as it was written: damaged, or edited; {cure}")
    if content["digest"] != folder.name:
        raise StoreError(f"{path} describes the trunk {content['digest']}, its folder is {folder.name}; {cure}")
    return spec, label


def _info(folder: Path) -> TrunkInfo | None:
    files = _files(folder)
    problems: list[str] = []
    spec: dict[str, Any] = {}
    label: dict[str, Any] = {}
    try:
        spec, label = _read_description(folder) or (spec, label)
    except StoreError as error:
        problems.append(str(error))
    snapshot = _scan(folder, None)
    if not files:
        return None
    problems.extend(str(error) for error in snapshot.damaged)
    backends = {str(shard.provenance["backend"]) for shard in snapshot.shards if "backend" in shard.provenance}
    return TrunkInfo(
        key=folder.name,
        label=label,
        spec=spec,
        rows=len(np.unique(snapshot.keys)),
        nbytes=sum(status.st_size for status in files.values()),
        shards=len(snapshot.shards),
        last_used=_last_used(folder, files),
        made_by=", ".join(sorted(backends)),
        path=folder,
        damaged=tuple(problems),
    )


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The store's own files in a trunk's folder, those set aside included; other files are left alone."""
    found: dict[Path, os.stat_result] = {}
    for place in (folder, folder / DAMAGED, folder / CHECKED):
        for entry in _listing(place):
            ours = entry.name.endswith(SUFFIX) or entry.name.startswith(PARTIAL_PREFIX)
            ours = ours or entry.name in (DESCRIPTION, LAST_USED) or place.name in (DAMAGED, CHECKED)
            with contextlib.suppress(FileNotFoundError):
                if ours and entry.is_file(follow_symlinks=False):
                    found[Path(entry.path)] = entry.stat(follow_symlinks=False)
    return found


def _last_used(folder: Path, files: Mapping[Path, os.stat_result]) -> float:
    """Writing is use, too; being set aside is not."""
    return max((status.st_mtime for path, status in files.items() if path.parent == folder), default=0.0)


def _leftovers(folder: Path) -> list[tuple[Path, int]]:
    old = time.time() - LEFTOVER_SECONDS
    return sorted(
        (path, status.st_size)
        for path, status in _files(folder).items()
        if path.name.startswith(PARTIAL_PREFIX) and status.st_mtime < old
    )


def _evict(folder: Path) -> int:
    """Delete a trunk's files, and its folders where nothing else lies in them. Returns bytes."""
    # The description goes last: an eviction that is cut short leaves a folder that still says what it is.
    files = sorted(_files(folder), key=lambda path: (path.name == DESCRIPTION, path))
    freed = sum(_delete(path) for path in files)
    for place in (folder / DAMAGED, folder / CHECKED, folder):
        with contextlib.suppress(OSError):
            place.rmdir()
    return freed


def _delete(path: Path) -> int:
    with storage_errors(path, "delete"):
        try:
            nbytes = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return nbytes


def _set_aside(path: Path) -> Path:
    """Move a file into `damaged` beside it, under a free name. What was set aside earlier is kept."""
    folder = path.parent / DAMAGED
    make_folder(folder)
    target = next(
        target for i in range(1_000_000) if not (target := folder / f"{path.name}{f'.{i}' if i else ''}").exists()
    )
    with storage_errors(path, "set aside"):
        path.replace(target)
    return target


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries; none where it does not exist. StoreError where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise_unreadable(folder, error)
