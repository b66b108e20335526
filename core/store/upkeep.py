"""What a folder of features takes, and how files leave it: by eviction, or set aside by a repair.

Invariant: nothing goes that is not the store's own file in a folder of its own; links are never followed to
delete or to move what they lead to.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import SettingError, StoreError, UnknownNameError
from headstart.common.files import PARTIAL_PREFIX
from headstart.common.sizes import binary_size
from headstart.common.text import first_few, hint
from headstart.store.description import DESCRIPTION, format_of_others, read_description
from headstart.store.files import unreadable
from headstart.store.removal import delete, remove_folder
from headstart.store.shard import SUFFIX
from headstart.store.snapshot import listing, scan

LAST_USED = "last_used"
DAMAGED = "damaged"
CHECKED = "checked"
LEFTOVER_SECONDS = 24 * 3600.0
SKEW_SECONDS = 24 * 3600.0
"""by which clocks of machines that share a folder may differ: one that takes local time for the world's is up to
14 hours off"""
LIVING_SECONDS = 60.0  # an unfinished file that was written to since then is some writer's, at work

DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Described:
    """A trunk key, and what the description of its features says, as people read it."""

    key: str
    """The trunk key's digest."""
    label: dict[str, Any]
    """Hints for people; empty where trunk.json is missing or damaged."""
    spec: dict[str, Any]
    """What the features depend on; empty where trunk.json is missing or damaged."""

    def hint(self, name: str) -> str:
        """What the label says of "model", "weights" or "cut", fit for a terminal; "?" where it says nothing."""
        return hint(self.label, name)

    @property
    def view(self) -> str:
        """Which augmented view the features are of: "3 of seed 0"; "-" where nothing was augmented."""
        return view_of(self.spec)


@dataclass(frozen=True)
class FolderInfo(Described):
    """What the folder of one trunk key holds, at the moment of a listing."""

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
    shared: bool = False
    """Whether it lies in a shared cache, which is only read."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the spec."""
        return {
            **self.label,
            "key": self.key,
            "views": self.spec.get("views"),
            "rows": self.rows,
            "bytes": self.nbytes,
            "shards": self.shards,
            "last_used": self.last_used,
            "made_by": self.made_by,
            "shared": self.shared,
            "path": str(self.path),
        }


@dataclass(frozen=True)
class GcPlan:
    """What `gc` would delete. Iterates over the folders."""

    folders: tuple[FolderInfo, ...]
    """Whole folders, least recently used first."""
    leftovers: tuple[Path, ...]
    """Unfinished files of writers that died more than a day ago."""
    nbytes: int
    """Bytes that both free."""

    def __iter__(self) -> Iterator[FolderInfo]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)

    def __bool__(self) -> bool:
        return bool(self.folders or self.leftovers)


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
    shared: list[Path] = field(default_factory=list)
    """Those of the damaged files that lie in shared caches. They are never moved; their owner can mend them."""
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Files and folders that could not be read, and why. They may be sound, so they are never moved."""
    not_moved: list[tuple[Path, str]] = field(default_factory=list)
    """Those of the damaged files that repair could not move, and why: those behind a link."""

    @property
    def in_reach(self) -> int:
        """How many of the damaged files are the own cache's, which a repair can set aside."""
        return len(self.damaged) - len(self.shared)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "shards": self.shards,
            "rows": self.rows,
            "damaged": _lines(self.damaged),
            "set_aside": [str(path) for path in self.set_aside],
            "shared": [str(path) for path in self.shared],
            "unreadable": _lines(self.unreadable),
            "not_moved": _lines(self.not_moved),
        }


def _lines(files: Sequence[tuple[Path, str]]) -> list[list[str]]:
    return [[str(path), reason] for path, reason in files]


def info_of(folder: Path) -> FolderInfo | None:
    files = files_of(folder)
    problems: list[str] = []
    spec: dict[str, Any] = {}
    label: dict[str, Any] = {}
    theirs = format_of_others(folder) is not None  # nothing of it is damaged, and nothing can be read
    try:
        spec, label = read_description(folder) or (spec, label)
    except StoreError as error:
        problems += [] if theirs else [str(error)]
    snapshot = scan([] if theirs else [folder], None)
    if all(path.name == LAST_USED or path.parent.name == CHECKED for path in files):
        return None  # nothing but marks, of what is read from a shared cache
    problems.extend(str(error) for error in snapshot.damaged)
    backends = {shard.maker for shard in snapshot.shards if "backend" in shard.provenance}
    return FolderInfo(
        key=folder.name,
        label=label,
        spec=spec,
        rows=len(np.unique(snapshot.keys)),
        nbytes=sum(status.st_size for status in files.values()),
        shards=len(snapshot.shards),
        last_used=last_used(folder, files),
        made_by=", ".join(sorted(backends)),
        path=folder,
        damaged=tuple(problems),
    )


def spec_facts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says of a spec: of its graph only how many nodes there are."""
    graph = spec.get("graph")
    plain = {name: value for name, value in spec.items() if name != "graph"}
    return {**plain, "nodes": len(graph) if isinstance(graph, list) else 0}


def view_of(spec: Mapping[str, Any]) -> str:
    """Which augmented view the features of this spec are of: "3 of seed 0"; "-" where nothing was augmented."""
    views = spec.get("views")
    return f"{views.get('view', '?')} of seed {views.get('seed', '?')}" if isinstance(views, dict) else "-"


def files_of(folder: Path) -> dict[Path, os.stat_result]:
    """The store's own files in a folder of features, those set aside included; other files are left alone."""
    statuses: dict[Path, os.stat_result] = {}
    inner = [place for place in (folder / DAMAGED, folder / CHECKED) if not os.path.islink(place)]  # noqa: PTH114
    for place in [folder, *inner]:
        for entry in listing(place):
            ours = entry.name.endswith(SUFFIX) or entry.name.startswith(PARTIAL_PREFIX)
            if ours or entry.name in (DESCRIPTION, LAST_USED) or place is not folder:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise unreadable(entry.path, error) from error
                if stat.S_ISREG(status.st_mode):
                    statuses[Path(entry.path)] = status
    return statuses


def last_used(folder: Path, files: Mapping[Path, os.stat_result]) -> float:
    """Writing is use, too; being set aside is not."""
    return max((_time(status) for path, status in files.items() if path.parent == folder), default=0.0)


def _time(status: os.stat_result) -> float:
    """When a file was last written, in seconds since the epoch.

    The time of modification can be set to anything. One that lies further in the future than clocks differ is made
    up; the time of the last change of the file's entry counts instead. Where that does too, the file counts as
    old."""
    now = time.time()
    for said in (status.st_mtime, status.st_ctime):
        if said <= now + SKEW_SECONDS:  # a server's clock may be ahead, and this machine's behind
            return min(said, now)
    return 0.0


def clear_leftovers(folder: Path) -> None:
    """Delete the unfinished files of writers that died more than a day ago. What cannot be deleted stays."""
    with contextlib.suppress(StoreError):
        for path, _ in leftovers_of(folder):
            with contextlib.suppress(StoreError):
                delete(path, folder.parent.parent)


def leftovers_of(folder: Path) -> list[tuple[Path, int]]:
    old = time.time() - LEFTOVER_SECONDS
    return sorted(
        (path, status.st_size)
        for path, status in files_of(folder).items()
        if path.name.startswith(PARTIAL_PREFIX) and _time(status) < old
    )


def evict(folder: Path) -> int:
    """Delete a folder's files, and the folder and those in it where nothing else lies in them. Returns bytes.

    Unfinished files of living writers stay: an eviction costs features that are stored, never work under way.
    """
    young = time.time() - LIVING_SECONDS
    files = [
        path
        for path, status in files_of(folder).items()
        if not path.name.startswith(PARTIAL_PREFIX) or _time(status) < young
    ]
    root = folder.parent.parent
    freed = sum(delete(path, root) for path in sorted(files) if path.name != DESCRIPTION)
    # The description goes last, and not at all if a writer has added to the folder meanwhile: what is left of
    # an eviction still says what it is.
    if not any(entry.name.endswith(SUFFIX) for entry in listing(folder)):
        freed += sum(delete(path, root) for path in files if path.name == DESCRIPTION)
    for place in (folder / DAMAGED, folder / CHECKED, folder):
        remove_folder(place, root)
    return freed


def feature_folders(root: Path) -> list[Path]:
    return sorted(
        Path(entry.path)
        for entry in listing(root)
        if DIGEST.fullmatch(entry.name) and os.path.isdir(entry.path)  # noqa: PTH112 - never an error
    )


def key_beginning(prefix: str, keys: Sequence[str]) -> str:
    """The key that begins with `prefix`. UnknownNameError where none does, SettingError where several do."""
    matching = [key for key in keys if prefix and key.startswith(prefix)]
    if not matching:
        raise UnknownNameError("trunk key", prefix, keys)
    if len(matching) > 1:
        raise SettingError(
            f"trunk key {prefix!r} is the beginning of several: {', '.join(matching)}; give more digits"
        )
    return matching[0]


def keys_beginning(prefixes: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The keys that begin with each of `prefixes`, sorted, none twice; all keys where there are no prefixes.
    The errors of `key_beginning`."""
    return sorted({key_beginning(prefix, keys) for prefix in prefixes}) if prefixes else list(keys)


def listed(infos: Sequence[FolderInfo], staying: Mapping[str, str]) -> str:
    """Which folders stay, and why: for a message."""
    lines = [
        f"{info.key[:12]}, {str(info.label.get('model', '?'))[:80]} at {str(info.label.get('cut', '?'))[:80]} "
        f"({binary_size(info.nbytes)}, {staying[info.key]})"
        for info in infos
        if info.key in staying
    ]
    return f": {first_few(lines, 5, '; ')}" if lines else ""
