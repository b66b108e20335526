"""Rows on their way into shards: cast to the stored dtype, tested, collected, written.

Invariant: only finite rows of the stated shape and dtype are ever stored, each with its own id beside it. A
row that the stored dtype cannot hold is refused, never clipped. What a killed writer loses is at most the
rows since its last shard: `SHARD_NBYTES` or `SHARD_SECONDS` worth of work. What an eviction takes away under a
living writer's hands is written again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import FeatureOverflowError, SettingError, StoreError
from headstart.common.sizes import binary_size
from headstart.store.files import despite_evictions
from headstart.store.ids import ids_to_array
from headstart.store.keys import canonical_json, stored_dtype
from headstart.store.shard import (
    MAX_DIMENSIONS,
    MAX_FEATURES_NBYTES,
    MAX_PROVENANCE_NBYTES,
    MAX_ROWS,
    row_checksums,
    write_shard,
)
from headstart.store.underflow import Underflow

SHARD_NBYTES = 64 << 20
SHARD_SECONDS = 60.0


def rows_per_shard(row_nbytes: int) -> int:
    """As many rows as a full shard has."""
    return max(1, min(MAX_ROWS, SHARD_NBYTES // row_nbytes))


class ShardWriter:
    """Collects rows, and writes a shard whenever enough of them are there. A context manager.

    For one thread; any number of writers, in any processes and machines, may fill one folder at once. Leaving
    the `with` body writes the remaining rows, also by an exception: rows that were added are valid.
    """

    def __init__(
        self,
        folder: Path,
        key_digest: str,
        row_shape: Sequence[int],
        dtype: str,
        provenance: Mapping[str, Any],
        prepare: Callable[[], None],
        written: Callable[[Path], object] | None = None,
    ) -> None:
        """`prepare` is called before and after each shard; it creates the folder and its description where there
        are none. `written`: is told of each shard that is there for good."""
        self.row_shape = tuple(int(side) for side in row_shape)
        if len(self.row_shape) >= MAX_DIMENSIONS or any(side < 1 for side in self.row_shape):
            raise SettingError(f"a row of features cannot have the shape {self.row_shape}; expected sizes above 0")
        about = canonical_json(dict(provenance))
        if len(about) > MAX_PROVENANCE_NBYTES:
            raise SettingError(
                f"provenance is {binary_size(len(about))} of JSON, at most {binary_size(MAX_PROVENANCE_NBYTES)} "
                "can be stored; it is meant for names and versions"
            )
        self.dtype = stored_dtype(dtype)
        self.rows_written = 0
        """Rows that are durably in the store."""
        self.shards: list[str] = []
        """the files that hold them"""
        self._folder, self._key_digest, self._prepare = folder, key_digest, prepare
        self._written = written
        self._provenance = json.loads(about)  # as it will be read: keys are strings, tuples lists
        self._row_nbytes = math.prod(self.row_shape) * self.dtype.itemsize
        if self._row_nbytes > MAX_FEATURES_NBYTES:
            raise SettingError(
                f"a row of features of shape {self.row_shape} takes {binary_size(self._row_nbytes)}, at most "
                f"{binary_size(MAX_FEATURES_NBYTES)} can be stored; cut where the model's features are smaller"
            )
        self._rows_per_shard = rows_per_shard(self._row_nbytes)
        self._pending: list[tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]] = []
        self._pending_rows = 0
        self._first_added = 0.0
        self._underflow = Underflow()

    def add(self, ids: Sequence[str], rows: NDArray[Any], computed: bool = True) -> None:
        """Take rows `(n, *row_shape)` in float32 or the stored dtype, row i being that of sample `ids[i]`.
        `computed`: whether they come from a trunk, and were not stored before, when what their dtype has cost was
        told.

        The rows are copied. Raises SettingError for ids, shape or dtype that do not fit, FeatureOverflowError
        for values that are not finite or would not be, and what `close` raises when a shard is full.
        """
        keys = ids_to_array(ids)
        rows = np.asarray(rows)
        if rows.shape != (len(keys), *self.row_shape):
            expected = (len(keys), *self.row_shape)
            raise SettingError(f"received {len(keys)} ids and rows of shape {rows.shape}; expected {expected}")
        stored = self._cast(ids, rows, computed)
        start = 0
        while start < len(keys):
            if self._pending_rows >= self._rows_per_shard:  # the disk has not taken them before
                self._flush()
            piece = slice(start, start + self._rows_per_shard - self._pending_rows)
            taken = stored[piece]
            checksums = row_checksums(taken.reshape(len(taken), -1).view(np.uint8))
            if not self._pending:
                self._first_added = time.monotonic()
            self._pending.append((keys[piece], taken, checksums))
            self._pending_rows += len(taken)
            start += len(taken)
            late = time.monotonic() - self._first_added >= SHARD_SECONDS
            if late or self._pending_rows >= self._rows_per_shard:
                self._flush()

    def close(self) -> None:
        """Write the rows that are not in a shard yet. May be called again after an error, once it is mended.

        Raises DiskSpaceError, CacheNotWritableError or StoreError; what was stored before is intact.
        FeatureUnderflowError where most of what was added is too small for the stored dtype.
        """
        if self._pending:
            self._flush()
            self._underflow.tell()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StoreError as second:
            if error is None:
                raise
            # The first error is the cause; this one only says what else was lost.
            error.add_note(f"{self._pending_rows} finished rows could not be stored either: {second}")

    def _flush(self) -> None:
        self._underflow.check()
        despite_evictions(self._store)
        # Forgotten only now that they are stored: `close` can try again.
        self.rows_written += self._pending_rows
        self._pending, self._pending_rows = [], 0

    def _store(self) -> None:
        self._prepare()
        path = write_shard(
            self._folder,
            key_digest=self._key_digest,
            ids=np.concatenate([ids for ids, _, _ in self._pending]),
            checksums=np.concatenate([checksums for _, _, checksums in self._pending]),
            blocks=[rows for _, rows, _ in self._pending],
            provenance=self._provenance,
        )
        if path.name not in self.shards:
            self.shards.append(path.name)
        # Once more: an eviction may have gone by in between, and left the shard without its description.
        self._prepare()
        if self._written is not None:
            self._written(path)

    def _cast(self, ids: Sequence[str], rows: NDArray[Any], computed: bool) -> NDArray[Any]:
        """A contiguous copy in the stored dtype, all of it finite."""
        kinds = (np.float32, np.float16, ml_dtypes.bfloat16)
        if rows.dtype != self.dtype and (self.dtype == np.uint8 or rows.dtype not in kinds):
            wanted = {self.dtype.name} if self.dtype == np.uint8 else {"float32", self.dtype.name}
            raise SettingError(f"received features in {rows.dtype.name}; expected {' or '.join(sorted(wanted))}")
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.array(rows, self.dtype, order="C", copy=True)
        if self.dtype == np.uint8 or not stored.size:
            return stored
        # Finite or not is read off the exponent's bits: several times faster than isfinite on 16-bit floats.
        unsigned = np.dtype(f"u{self.dtype.itemsize}")
        infinity = np.array(np.inf, self.dtype).view(unsigned)
        magnitude = stored.view(unsigned) & np.array((1 << (8 * self.dtype.itemsize - 1)) - 1, unsigned)
        if magnitude.max() >= infinity:
            row = int(np.argmax((magnitude >= infinity).reshape(len(rows), -1).any(axis=1)))
            self._refuse(ids[row], rows[row].astype(np.float32))
        if self.dtype == np.float16 and computed and rows.dtype in (np.float32, np.float16):
            self._underflow.see(rows, magnitude)
        return stored

    def _refuse(self, sample: str, row: NDArray[np.float32]) -> None:
        if not np.isfinite(row).all():
            raise FeatureOverflowError(
                f"the trunk's features of sample {sample} hold NaN or infinity as it computed them; "
                "compute in a higher precision (float32), and look at the weights and at that image"
            )
        largest = float(np.nextafter(self.dtype.type(np.inf), self.dtype.type(0)))
        raise FeatureOverflowError(
            f"a feature of sample {sample} is {np.abs(row).max():.6g}, more than {self.dtype.name} holds "
            f"({largest:.6g}); store as bfloat16 or float32"
        )
