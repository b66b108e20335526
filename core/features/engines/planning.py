"""Cutting what an extraction lacks into tasks, lists of sample ids of about a shard.

Invariant: every id that is lacking at a node is in exactly one task with that node, and in no task is there
anything else. Ten million ids are planned in seconds: they are handled as arrays of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.store.ids import ID_NBYTES, ids_to_array, sort_keys

TASKS = 4
"""a worker, at least, where there are several: so that they end at about the same time"""


@dataclass(frozen=True, eq=False)
class Task:
    """Samples whose features at some nodes are to be computed in one go. Pickles to little more than the ids."""

    view: int
    nodes: tuple[str, ...]
    """at which all of the samples lack features"""
    ids: NDArray[np.uint8]
    """`(n, 16)`, in their order"""

    def __len__(self) -> int:
        return len(self.ids)


def task_size(total: int, workers: int, shard_rows: int, batch_size: int) -> int:
    """Samples a task: as many as a shard has rows, or fewer where each of several workers would have less than
    `TASKS` of them; whole batches."""
    most = max(1, shard_rows // batch_size) * batch_size
    if workers == 1:
        return most
    share = -(-total // (workers * TASKS))
    return min(most, max(1, -(-share // batch_size)) * batch_size)


def tasks_of(lacking: Sequence[Mapping[str, Sequence[str] | NDArray[np.uint8]]], size: int) -> list[Task]:
    """What each view lacks by node, ids as 32 hex digits or `(n, 16)` bytes, each once a node, as tasks of `size`
    samples."""
    return [task for view, by_node in enumerate(lacking) for task in _of_view(view, by_node, size)]


def _of_view(view: int, by_node: Mapping[str, Sequence[str] | NDArray[np.uint8]], size: int) -> Iterable[Task]:
    keys = {node: np.sort(sort_keys(ids_to_array(ids))) for node, ids in by_node.items() if len(ids)}
    for nodes, ids in _alike(keys):
        raw = ids.view(np.uint8).reshape(-1, ID_NBYTES)
        for start in range(0, len(raw), size):
            yield Task(view, nodes, raw[start : start + size])


def _alike(keys: Mapping[str, NDArray[np.bytes_]]) -> Iterable[tuple[tuple[str, ...], NDArray[np.bytes_]]]:
    """The ids that are lacking at the same nodes, with these; mostly all of them are lacking at all nodes."""
    names = tuple(keys)
    if not names:
        return
    first = keys[names[0]]
    if all(len(other) == len(first) and np.array_equal(other, first) for other in keys.values()):
        yield names, first
        return
    everything = np.unique(np.concatenate(list(keys.values())))
    lacks = np.zeros((len(everything), len(names)), np.bool_)
    for column, name in enumerate(names):
        lacks[np.searchsorted(everything, keys[name]), column] = True
    kinds, kind_of = np.unique(lacks, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        nodes = tuple(name for name, is_lacking in zip(names, kind, strict=True) if is_lacking)
        yield nodes, everything[kind_of.reshape(-1) == number]
