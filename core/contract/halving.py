"""Batches through a trunk on a device that may not have room for them: what does not fit is run in halves.

How much a batch takes is known when it runs, and what others take of the device not even then. So running out of
memory is no end: the batches that were under way are begun again, in pieces, and so are all that follow.

Invariant: a result comes for every batch, in order and with all of its rows, in however many pieces it was run.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from headstart.common.errors import DeviceMemoryError, DeviceWarning
from headstart.contract.devices import reason_of
from headstart.contract.room import Room
from headstart.contract.streams import Dtypes
from headstart.data.rows import count, pad, window

Stream = Callable[[Iterable[Any], Dtypes], Iterator[dict[str, np.ndarray]]]
"""`Trunk.stream`"""


class Halving:
    """One trunk's batches."""

    def __init__(self, room: Room) -> None:
        self.most: int | None = None
        """rows that are run at once, where a whole batch was too many"""
        self._room = room

    def stream(self, run: Stream, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        """What `run` gives for each of the batches. DeviceMemoryError where there is no room for one row."""
        source, begun = iter(batches), deque[Any]()
        while True:
            try:
                yield from self._attempt(run, source, begun, dtypes)
                return
            except Exception as error:
                if not begun or not self._room.is_out_of_memory(error):
                    raise
                reason = reason_of(error)
            self._halve(max(map(count, begun)), reason)  # here, where nobody holds what the error did

    def _attempt(
        self, run: Stream, source: Iterator[Any], begun: deque[Any], dtypes: Dtypes
    ) -> Iterator[dict[str, np.ndarray]]:
        """Those that were `begun` before, then new ones; what has no result yet is in there."""

        def pieces() -> Iterator[Any]:
            for batch in tuple(begun):
                yield from self._pieces(batch)
            for batch in source:
                begun.append(batch)
                yield from self._pieces(batch)

        parts: list[dict[str, np.ndarray]] = []
        for rows in run(pieces(), dtypes):
            parts.append(rows)
            rows_due = count(begun[0])
            if sum(map(count, parts)) >= rows_due:
                begun.popleft()
                yield _joined(parts, rows_due)
                parts = []

    def _pieces(self, batch: Any) -> Iterator[Any]:
        """All of one size, as compiled code sees one shape."""
        rows = count(batch)
        if self.most is None or rows <= self.most:
            yield batch
            return
        for start in range(0, rows, self.most):
            yield pad(window(batch, start, start + self.most), self.most)

    def _halve(self, rows: int, reason: str) -> None:
        before = rows if self.most is None else min(rows, self.most)
        if before == 1:
            raise DeviceMemoryError(
                f"device {self._room.device!r} has no room for one sample ({reason}); free some of its memory, "
                "pass precision='bfloat16' or smaller images, or device='cpu'"
            )
        self.most = -(-before // 2)
        warnings.warn(
            f"device {self._room.device!r} has no room for {before} samples at once ({reason}); it goes on with "
            f"{self.most}, and batch_size={self.most} begins with so many",
            DeviceWarning,
            stacklevel=4,
        )


def _joined(parts: list[dict[str, np.ndarray]], rows: int) -> dict[str, np.ndarray]:
    """The parts of one batch. In float32 where one of them is, as something of it is not held in less."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for node in parts[0]:
        arrays = [part[node] for part in parts]
        if len({array.dtype for array in arrays}) > 1:
            arrays = [array.astype(np.float32, copy=False) for array in arrays]
        joined[node] = np.concatenate(arrays)[:rows]
    return joined
