"""Which shards to bring for the rows that are wanted: few, large ones first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from headstart.store.remote.index import ShardIndex

HALF = 8  # bytes of an id: numpy searches numbers several times faster than strings


class Wanted:
    """Ids that are looked for in indexes."""

    def __init__(self, ids: NDArray[np.uint8]) -> None:
        """`ids`: `(n, 16)`, none twice"""
        first, second = _halves(ids)
        self._order = np.argsort(first, kind="stable")
        self._first, self._second = first[self._order], second[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def hits(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of ids `(m, 16)`, the places of those that are wanted, and which they are, by their place here. Of two
        wanted ids with equal first halves, which no two images have, one is not found."""
        if not len(self):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        first, second = _halves(ids)
        place = np.minimum(np.searchsorted(self._first, first), len(self) - 1)
        there = np.flatnonzero((self._first[place] == first) & (self._second[place] == second))
        return there, self._order[place[there]]


def cover(
    indexes: Iterable[ShardIndex], wanted: NDArray[np.uint8], is_usable: Callable[[str], bool]
) -> tuple[list[tuple[str, int]], NDArray[np.bool_]]:
    """(digest and bytes of the shards to bring, `(n,)` bool: which of the ids they hold). `wanted`: `(n, 16)`,
    none twice; `is_usable`: of a shard's digest."""
    ids = Wanted(wanted)
    shards: dict[str, tuple[int, NDArray[np.intp]]] = {}
    for index in indexes:
        there, which = ids.hits(index.ids)
        owner = index.shard_of[there]
        starts = np.flatnonzero(np.diff(owner, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(owner)], strict=False):
            k = int(owner[start])
            digest = index.digests[k]
            if digest not in shards and is_usable(digest):
                shards[digest] = (int(index.nbytes[k]), np.unique(which[start:end]))
    covered = np.zeros(len(wanted), np.bool_)
    # Most of what is still lacking first; what a shard's count was before others were chosen is an upper bound.
    heap = [(-len(places), nbytes, digest) for digest, (nbytes, places) in shards.items()]
    heapq.heapify(heap)
    to_bring = []
    while heap:
        count, nbytes, digest = heapq.heappop(heap)
        places = shards[digest][1]
        now = -int(np.count_nonzero(~covered[places]))
        if now == count:
            to_bring.append((digest, nbytes))
            covered[places] = True
        elif now:
            heapq.heappush(heap, (now, nbytes, digest))
    return to_bring, covered


def _halves(ids: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    halves = np.ascontiguousarray(ids).view(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])
