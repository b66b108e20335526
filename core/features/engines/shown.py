"""What the store shows of a task that was done, and where a task's samples stand in a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import StoreError
from headstart.features.engines.planning import Task, tasks_of
from headstart.store.feature_folder import FeatureFolder
from headstart.store.ids import ID_NBYTES, array_to_ids, ids_to_array, sort_keys
from headstart.store.shard import open_shard

Shards = Mapping[str, Sequence[str]]
"""names of shards' files by node"""


def left_of(task: Task, shards: Shards, folders: Mapping[str, Sequence[FeatureFolder]]) -> list[Task]:
    """What of a task the store does not show. It is looked for in these shards first, and in all others only where
    they do not hold it: a store of ten million rows is not looked through after every task. `folders`: node -> the
    features of each view. Raises what `FeatureFolder.missing` does."""
    lacking: dict[str, list[str]] = {}
    for node in task.nodes:
        folder, keys = folders[node][task.view], sort_keys(task.ids)
        for name in shards.get(node, ()):
            with suppress(FileNotFoundError, StoreError):  # `missing` has the words for what is damaged
                keys = keys[~np.isin(keys, sort_keys(open_shard(folder.path / name).ids))]
        ids = array_to_ids(keys.view(np.uint8).reshape(-1, ID_NBYTES))
        lacking[node] = folder.missing(ids) if ids else []
    views: list[Mapping[str, Sequence[str]]] = [{} for _ in range(task.view)]
    return tasks_of([*views, lacking], max(1, len(task)))


class Places:
    """Where samples stand in a data set of these ids, of which equal ones are the same sample."""

    def __init__(self, ids: Sequence[str]) -> None:
        keys = sort_keys(ids_to_array(ids))
        self._by_id = np.argsort(keys, kind="stable")
        self._keys = keys[self._by_id]

    def of(self, ids: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The first place of each of these ids `(n, 16)`, which all are there."""
        return self._by_id[np.searchsorted(self._keys, sort_keys(ids))].astype(np.int64)
