"""Features on their way to other programs: tensors, data sets, Arrow, `.npy`.

* What leaves has the stored bits in the data set's order, and was verified on this very reading. Where the other
  side has no name for the dtype, that is an error which says what holds the same numbers; bits are never
  relabelled.
* Arrays are read into memory that begins at a multiple of 64 bytes: what JAX and TensorFlow ask of memory that
  they take over. So the reading is the only copy.
* A data set for training holds ids and labels, and reads features when they are asked for.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import ExportError, MissingAbilityError, SettingError
from headstart.common.files import PARTIAL_PREFIX, replace_whole, sync_folder
from headstart.common.memory import aligned_empty
from headstart.common.outputs import writing_into
from headstart.common.places import expanded
from headstart.contract import registry
from headstart.data.annotations import SINGLE
from headstart.data.order import epoch_order
from headstart.features.rows import ReadableFeatures
from headstart.features.saving import saving
from headstart.store.feature_folder import FeatureFolder
from headstart.store.files import make_folder
from headstart.store.ids import ids_to_array

PIECE_NBYTES = 16 << 20

FEATURES, LABELS, IDS, CLASSES = "features.npy", "labels.npy", "ids.npy", "classes.npy"


class FeatureRows:
    """Features and labels by position: one cut and view of a feature set. Pickles, without any features."""

    def __init__(self, features: ReadableFeatures, cut: str | None, view: int) -> None:
        self.folder: FeatureFolder = features.folder(cut, view)
        self.shape = features.shape(cut)
        # (n,) int64; of several labels or targets float32 (n, k), as the frameworks' losses take them
        labels = features.labels
        self.labels = labels if labels.ndim == 1 else labels.astype(np.float32)
        # As bytes: a million strings would be pickled for every worker, and counted references to.
        self.ids = ids_to_array(features.ids)  # (n, 16) uint8
        self._passes = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.folder.dtype

    @property
    def piece(self) -> int:
        """As many rows as are read at once where nobody asked for a number."""
        return max(1, PIECE_NBYTES // max(1, math.prod(self.shape) * self.dtype.itemsize))

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": 0}  # a copy begins at the first pass

    def read(self, positions: Sequence[int] | NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features `(k, *shape)` and labels. IndexError for a position that is none, and what
        `FeatureFolder.read` raises."""
        chosen = np.asarray(positions, np.intp)
        if chosen.size and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(
                f"positions reach from {chosen.min()} to {chosen.max()}; there are {len(self)} samples"
            )
        out = aligned_empty((len(chosen), *self.shape), self.dtype)
        return self.folder.read(self.ids[chosen], out), self.labels[chosen]

    def batches(
        self, size: int, shuffle: bool = False, seed: int = 0, drop_remainder: bool = False
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """One pass over all of them. With `shuffle`, pass k has the order that epoch k of a training with this
        seed has."""
        number = self._passes
        self._passes += 1
        order = (
            epoch_order(len(self), 1, seed, number).reshape(-1) if shuffle and len(self) else np.arange(len(self))
        )
        stop = len(self) // size * size if drop_remainder else len(self)
        for start in range(0, stop, size):
            yield self.read(order[start : start + size])


def tensor(features: ReadableFeatures, target: str, cut: str | None, view: int) -> Any:
    """See `FeatureSet.to`."""
    exports = registry.exporting(target)[1]  # first: it may be missing
    return exports.tensor(all_rows(features, cut, view))


def dataset(features: ReadableFeatures, target: str, cut: str | None, view: int, **options: Any) -> Any:
    """See `FeatureSet.to_dataset`; `options` are those of the framework's kind."""
    for name, least in (("batch_size", 1), ("seed", 0)):
        if options.get(name) is not None:
            _check_integer(name, options[name], least)
    rows = FeatureRows(features, cut, view)
    backend, exports = registry.exporting(target)
    make = getattr(exports, "dataset", None)
    if make is None:
        raise MissingAbilityError(
            backend, "make data sets of features", f"take them as tensors: features.to({target!r})"
        )
    return make(rows, **options)


def arrow(features: ReadableFeatures, cut: str | None, view: int, dtype: str | None) -> Any:
    """See `FeatureSet.arrow`."""
    try:
        pa = import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ExportError(
            "Arrow tables need pyarrow, which is not installed: pip install 'headstart[arrow]'"
        ) from error
    wanted = _dtype_for("Arrow", "arrow", features, cut, dtype)
    rows = all_rows(features, cut, view).astype(wanted, copy=False)
    if not rows.size:
        raise SettingError(f"{features!r} has nothing to make a table of")
    ids = ids_to_array(features.ids)
    columns = {
        "id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(ids.shape[1]), len(ids), [None, pa.py_buffer(ids)]),
        **_label_columns(pa, features),
        "features": pa.FixedShapeTensorArray.from_numpy_ndarray(rows),
    }
    key = features.key(cut, view)
    about = {"headstart.name": features.name, "headstart.trunk": key.digest, "headstart.view": str(view)}
    about |= {f"headstart.{field}": str(value) for field, value in key.label.items()}
    if features.task != SINGLE:  # of one class a sample a column has the names
        about |= {"headstart.task": features.task, "headstart.classes": json.dumps(list(features.classes))}
    return pa.table(columns, metadata=about)


def _label_columns(pa: Any, features: ReadableFeatures) -> dict[str, Any]:
    """What is known of the samples, as columns: label, and where there are such class, group, fold and weight."""
    about, columns = features.annotations, {}
    if about.task == SINGLE:
        columns["label"] = pa.array(about.labels)
        columns["class"] = pa.DictionaryArray.from_arrays(
            pa.array(about.labels.astype(np.int32)), pa.array(about.classes, pa.string())
        )
    else:
        flat = pa.array(np.ascontiguousarray(about.labels).reshape(-1))
        columns["label"] = pa.FixedSizeListArray.from_arrays(flat, about.labels.shape[1])
    if about.groups is not None:
        columns["group"] = pa.array(about.groups.tolist(), pa.string())
    if about.folds is not None:
        columns["fold"] = pa.array(about.folds.tolist(), pa.string())
    if about.weights is not None:
        columns["weight"] = pa.array(about.weights)
    return columns


def save_npy(
    features: ReadableFeatures, folder: str | os.PathLike[str], cut: str | None, view: int, dtype: str | None
) -> Path:
    """See `FeatureSet.save_npy`."""
    target = expanded(folder).absolute()
    wanted = _dtype_for(".npy", "save_npy", features, cut, dtype)
    rows = FeatureRows(features, cut, view)
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise SettingError(f"{target} exists already; expected a folder that is empty or does not exist")
    with saving(target):
        make_folder(target.parent)
        with writing_into(target.parent):  # whoever clears away what killed writers left sees that this one lives
            _make_whole(target, rows, features, wanted)
    return target


def _make_whole(target: Path, rows: FeatureRows, features: ReadableFeatures, dtype: np.dtype[Any]) -> None:
    """The folder appears with all four files in it."""
    partial = target.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        for name, array in ((LABELS, features.labels), (IDS, rows.ids), (CLASSES, _text(features.classes))):
            replace_whole(partial / name, [_npy_header(array.dtype, array.shape), array])
        replace_whole(partial / FEATURES, _npy(rows, dtype))
        os.replace(partial, target)  # noqa: PTH105 - as in `files`
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(target.parent)


def all_rows(features: ReadableFeatures, cut: str | None, view: int) -> NDArray[Any]:
    """All features of a cut and view, read into memory that frameworks can share instead of copying it."""
    folder = features.folder(cut, view)
    return folder.read(features.ids, aligned_empty((len(features), *features.shape(cut)), folder.dtype))


def _dtype_for(
    form: str, method: str, features: ReadableFeatures, cut: str | None, dtype: str | None
) -> np.dtype[Any]:
    """The dtype to hand over: the stored one, or float32, which holds every number of the others."""
    stored = features.folder(cut).dtype
    if dtype not in (None, "float32", stored.name):
        raise SettingError(f"dtype={dtype!r}; expected {stored.name!r}, as stored, or 'float32'")
    wanted = stored if dtype is None else np.dtype(np.float32) if dtype == "float32" else stored
    if wanted == ml_dtypes.bfloat16:
        raise ExportError(
            f"{form} has no bfloat16; {method}(dtype='float32') holds the same numbers in twice the bytes"
        )
    return wanted


def _npy(rows: FeatureRows, dtype: np.dtype[Any]) -> Iterator[bytes | NDArray[Any]]:
    yield _npy_header(dtype, (len(rows), *rows.shape))
    for piece, _ in rows.batches(rows.piece):
        yield piece.astype(dtype, copy=False)


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue()


def _text(names: Sequence[str]) -> NDArray[np.str_]:
    return np.array(names, np.str_)


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise SettingError(f"{name} is {value!r}; expected an integer of {least} or more")
