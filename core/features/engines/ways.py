"""How shards come from the workers into the store of the process that asks: by a folder that all see, or by a URL.

Invariant: a shard that a task's answer names is in the store when `bring` returns, and one that came by a URL has
been verified. Neither way is the engine's: no feature goes through it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.common.errors import StoreError
from headstart.common.machine import cache_root
from headstart.common.objects import open_objects
from headstart.data import Dataset
from headstart.features.engines.planning import Task
from headstart.features.engines.shown import Places, Shards
from headstart.features.engines.work import Extracting
from headstart.models import Model
from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import MAX_VARIABLE, SHARED_VARIABLE, FeatureStore
from headstart.store.files import make_folder, probe_folder
from headstart.store.ids import array_to_ids
from headstart.store.moving.pusher import Pusher, StrictPusher
from headstart.store.remote.requests import at_once
from headstart.store.remote.transfer import receive_shard

Folders = Mapping[str, Sequence[FeatureFolder]]
"""node -> the features of each view"""


@dataclass(frozen=True)
class ByFolder:
    """Workers write into the store itself, a folder that all nodes see."""

    make: Callable[..., Extracting]
    root: Path
    folders: Folders
    pusher: Pusher | None
    """where shards are pushed on to as well"""
    nodes_own: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"the folder {self.root}"

    @property
    def doubt(self) -> str:
        """What may be wrong where the store does not show a shard."""
        return f"is {self.root} the same folder there?"

    def bring(self, task: Task, shards: Shards) -> None:
        """They are there. Have them pushed on, if that was asked for."""
        if self.pusher is not None:
            for folder, name in _named(self.folders, task, shards):
                self.pusher(folder.key, folder.path / name)

    def look_for(self, task: Task) -> None:
        """What is left is there, too."""


@dataclass(frozen=True)
class ByUrl:
    """Workers write into caches of their nodes and push to a URL, from where shards come into the store."""

    make: Callable[..., Extracting]
    """a `UrlWorker`"""
    root: Path
    folders: Folders
    url: str
    pusher: Pusher
    """which writes the index objects in the end"""
    nodes_own: tuple[str, ...] = ("HEADSTART_CACHE", SHARED_VARIABLE, MAX_VARIABLE)
    """a cache is a matter of its node"""

    def __str__(self) -> str:
        return self.pusher.url

    @property
    def doubt(self) -> str:
        """What may be wrong where the store does not show a shard."""
        return f"was it deleted at {self.pusher.url}?"

    def bring(self, task: Task, shards: Shards) -> None:
        """Fetch them. RemoteError; DiskSpaceError, CacheNotWritableError or StoreError where the store cannot be
        written."""
        at_once(self._fetch, _named(self.folders, task, shards))

    def _fetch(self, shard: tuple[FeatureFolder, str]) -> None:
        folder, name = shard
        path = folder.path / name
        if not path.exists():  # on the node of this process the worker may have written it here
            objects = self.pusher.remote.objects
            there = self.pusher.remote.folder(folder.key.digest).shard_name(path.stem)
            receive_shard(
                objects,
                there,
                objects.entry(there).nbytes,
                folder.path,
                prepare=folder.prepare,
                dtype_name=folder.dtype_name,
                row_shape=folder.row_shape,
            )
        self.pusher.was_pushed(folder.key, path)

    def look_for(self, task: Task) -> None:
        """List what is at the URL, and fetch what holds the task's samples. It is trusted as a shared cache is:
        anybody may have written it."""
        store = FeatureStore(self.root, shared=[self.url])
        for node in task.nodes:
            own = self.folders[node][task.view]
            store.folder(own.key, own.row_shape).missing(array_to_ids(task.ids))


def _named(folders: Folders, task: Task, shards: Shards) -> list[tuple[FeatureFolder, str]]:
    """Shards with their folders."""
    return [(folders[node][task.view], name) for node, names in shards.items() for name in names]


class UrlWorker:
    """An extraction on a node that does not see the store: into a cache of the node's own, and to a URL."""

    def __init__(self, model: Model, *, make: Callable[..., Extracting], url: str, device: str) -> None:
        """`make(model, device=..., cache=..., written=...)` makes the extraction. RemoteError where the URL
        cannot be opened here."""
        self._pusher = StrictPusher(open_objects(url))
        self._root, self._is_passing = _nodes_cache()
        self._extraction = make(model, device=device, cache=self._root, written=self._pusher)

    def get_ready(self) -> str:
        """Build the trunk; returns the device."""
        return self._extraction.get_ready()

    def digests(self) -> list[str]:
        """Of all trunk keys."""
        return self._extraction.digests()

    def make_room(self, task: Task) -> None:
        """In the node's cache, within what its HEADSTART_CACHE_MAX allows."""
        self._extraction.make_room(task)

    def work_on(
        self, data: Dataset, places: Places, task: Task, ended: Callable[[], bool]
    ) -> Generator[int, None, dict[str, list[str]]]:
        """Compute and push a task's features; returns when all of its shards are at the URL. RemoteError."""
        try:
            self.make_room(task)
            with self._pusher:
                return (yield from self._extraction.work_on(data, places, task, ended))
        finally:
            if self._is_passing:
                shutil.rmtree(self._root / "features", ignore_errors=True)


def _nodes_cache() -> tuple[Path, bool]:
    """The cache that this node's environment names, or a folder for the time being where it cannot be written; and
    whether it is that."""
    root = cache_root()
    try:
        make_folder(root)
        probe_folder(root)
    except StoreError:
        return Path(tempfile.mkdtemp(prefix="headstart-")), True
    return root, False
