"""Which samples a run has seen, small enough to be kept beside its weights: the first six bytes of each one's id.

Invariant: a sample that is in the set is told to be in it. Of a million others asked for of a million that are in
it, one is told to be in it by chance about once in three hundred such questions.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

NBYTES = 6
SHIFT = 8 * (8 - NBYTES)


class IdSet:
    """A set of ids, of which each is known by its first six bytes."""

    def __init__(self, prefixes: np.ndarray) -> None:
        """`prefixes`: uint64, of any order."""
        self._prefixes = np.unique(prefixes)

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdSet:
        """`ids`: 32 hex digits each."""
        return cls(_prefixes(ids))

    def __len__(self) -> int:
        return len(self._prefixes)

    def count(self, ids: Collection[str]) -> int:
        """How many of these are in the set; one that stands there twice counts twice."""
        return int(np.isin(_prefixes(ids), self._prefixes).sum())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, eight characters a sample."""
        content = (self._prefixes << np.uint64(SHIFT)).astype(">u8").view(np.uint8).reshape(-1, 8)[:, :NBYTES]
        return {"nbytes": NBYTES, "ids": base64.b64encode(content.tobytes()).decode()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> IdSet:
        """The inverse of `as_dict`; ValueError for what is none."""
        content = base64.b64decode(saved["ids"], validate=True)
        if saved["nbytes"] != NBYTES or len(content) % NBYTES:
            raise ValueError(f"ids are {len(content)} bytes, of {saved['nbytes']} each")
        wide = np.zeros((len(content) // NBYTES, 8), np.uint8)
        wide[:, :NBYTES] = np.frombuffer(content, np.uint8).reshape(-1, NBYTES)
        return cls(wide.reshape(-1).view(">u8").astype(np.uint64) >> np.uint64(SHIFT))


def _prefixes(ids: Iterable[str]) -> np.ndarray:
    return np.array([int(id[: 2 * NBYTES], 16) for id in ids], np.uint64)
