"""What training reads: the features of one data set at one or more cuts, joined with its labels by sample id.

Invariant: row i of every array that comes from here belongs to sample i, and was verified on this very reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.table import Table
from headstart.common.text import shape_text
from headstart.data.annotations import Annotations
from headstart.data.samples import Samples
from headstart.data.splits import Part
from headstart.features import exports, packed
from headstart.store.feature_folder import FeatureFolder
from headstart.store.keys import TrunkKey


@dataclass(frozen=True)
class ExtractionStats:
    """What an extraction did. Counts are of distinct images; with several cuts or views, of those that any of them
    lacked."""

    extracted: int
    reused: int
    seconds: float
    """wall time of the whole call: hashing, decoding, trunk, writing"""
    made_by: tuple[str, ...]
    """the backends that the stored features come from"""


def merged(stats: Iterable[ExtractionStats]) -> ExtractionStats:
    """Of several extractions together."""
    every = list(stats)
    return ExtractionStats(
        sum(extraction.extracted for extraction in every),
        sum(extraction.reused for extraction in every),
        sum(extraction.seconds for extraction in every),
        tuple(sorted({maker for extraction in every for maker in extraction.made_by})),
    )


class FeatureSet(Samples):
    """Features, labels and ids of the same samples. Made by `extract` and `load_features`; never changed."""

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        annotations: Annotations,
        folders: Mapping[str, Sequence[FeatureFolder]],
        stats: ExtractionStats,
        splits: Sequence[Part] = (),
    ) -> None:
        """`annotations`, `splits`: as of the data set. `folders`: cut -> where its features are, one folder a
        view."""
        super().__init__(name, annotations, splits)
        self._ids = tuple(ids)
        assert len(self._ids) == len(annotations)
        self.stats = stats
        self._folders = {cut: tuple(views) for cut, views in folders.items()}

    @property
    def ids(self) -> tuple[str, ...]:
        """Each sample's id, 32 hex digits."""
        return self._ids

    @property
    def cuts(self) -> tuple[str, ...]:
        return tuple(self._folders)

    @property
    def views(self) -> int:
        """How many augmented views there are of every sample; 1 where nothing was augmented."""
        return len(next(iter(self._folders.values())))

    def __repr__(self) -> str:
        views = f", {self.views} views" if self.views > 1 else ""
        return f"FeatureSet({len(self)} samples at {', '.join(self.cuts)}{views})"

    def key(self, cut: str | None = None, view: int = 0) -> TrunkKey:
        """The trunk key of a cut's features; `key().digest` names their folder in the store."""
        return self.folder(cut, view).key

    def folder(self, cut: str | None = None, view: int = 0) -> FeatureFolder:
        """Where the features of a cut and a view are. SettingError for one that is not there."""
        views = self._folders[self._cut(cut)]
        if isinstance(view, bool) or not isinstance(view, int | np.integer) or not 0 <= view < len(views):
            raise SettingError(f"view is {view!r}; there are {len(views)}, counted from 0")
        return views[view]

    def at(self, cut: str, name: str | None = None) -> FeatureSet:
        """The same samples with the features of one cut only, which is then called `name`."""
        folders = {name or cut: self._folders[self._cut(cut)]}
        return FeatureSet(self.name, self.ids, self.annotations, folders, self.stats, self.splits)

    def shape(self, cut: str | None = None) -> tuple[int, ...]:
        """Of one sample's features, `(h, w, c)` or `(c,)`."""
        return self.folder(cut).row_shape or ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the data set's name, the cuts with their shapes and keys, and what the extraction did."""
        cuts = [{"cut": cut, "shape": list(self.shape(cut)), "key": self.key(cut).digest} for cut in self.cuts]
        return {"data": self.name, "cuts": cuts, **vars(self.stats)}

    def as_table(self) -> Table:
        """Its cuts, for a terminal."""
        rows = [(cut, shape_text(self.shape(cut)), self.key(cut).digest) for cut in self.cuts]
        return Table(("cut", "shape", "key"), rows, right=(1,))

    def nbytes(self, cut: str | None = None) -> int:
        """Bytes of one view's features."""
        folder = self.folder(cut)
        return len(self) * int(np.prod(self.shape(cut), dtype=np.int64)) * folder.dtype.itemsize

    def numpy(self, cut: str | None = None, view: int = 0) -> np.ndarray:
        """The features at `cut` (it may be left out where there is one only), `(n, h, w, c)` or `(n, c)` in
        the stored dtype, in the data set's order. Every row's checksum is verified: DamagedShardError."""
        return self.folder(cut, view).read(self.ids)

    def _derived(self, rows: np.ndarray, annotations: Annotations, splits: Sequence[Part]) -> FeatureSet:
        ids = [self._ids[i] for i in rows]
        return FeatureSet(self.name, ids, annotations, self._folders, self.stats, splits)

    # --- for other programs. Rows are verified as they are read, here as in `numpy`, and come in the stored dtype.

    def to(self, target: str, cut: str | None = None, view: int = 0) -> Any:
        """A tensor on the CPU, `(n, h, w, c)` or `(n, c)`, of the framework that a backend's name, or one of its
        exports ("torch", "tf", "jax"), means. It is the memory that the rows were read into; nothing is copied.

        Raises UnknownNameError for another name, MissingAbilityError for a backend that exports nothing,
        BackendError where the framework is not installed.
        """
        return exports.tensor(self, target, cut, view)

    def to_dataset(self, target: str, cut: str | None = None, view: int = 0, **options: Any) -> Any:
        """The data set of a framework's own kind, named as in `to`, which reads rows when they are asked for; see
        `torch_dataset` and `tf_dataset`, whose options these are. Raises as `to`; MissingAbilityError where the
        framework has no such thing."""
        return exports.dataset(self, target, cut, view, **options)

    def torch(self, cut: str | None = None, view: int = 0) -> Any:
        """A `torch.Tensor` on the CPU, `(n, h, w, c)` or `(n, c)`. It is the memory that the rows were read into;
        nothing is copied. BackendError without torch."""
        return self.to("torch", cut, view)

    def jax(self, cut: str | None = None, view: int = 0) -> Any:
        """A `jax.Array` on the CPU (`jax.device_put` moves it), shaped as `numpy`'s. It is the memory that the
        rows were read into; nothing is copied. BackendError without JAX."""
        return self.to("jax", cut, view)

    def tf(self, cut: str | None = None, view: int = 0) -> Any:
        """A `tf.Tensor` on the CPU, shaped as `numpy`'s, whichever engine Keras runs on. It is the memory that the
        rows were read into; nothing is copied. BackendError without TensorFlow."""
        return self.to("tf", cut, view)

    def torch_dataset(self, cut: str | None = None, view: int = 0) -> Any:
        """A map-style `torch.utils.data.Dataset` of `(features, label)`: a tensor `(h, w, c)` or `(c,)`, and an
        int.

        It holds no features: rows are read from the store when they are asked for, by a DataLoader a whole batch
        at a time, in as many workers as it has, forked or spawned. BackendError without torch; in iterating, what
        `numpy` raises.
        """
        return self.to_dataset("torch", cut, view)

    def tf_dataset(
        self,
        cut: str | None = None,
        view: int = 0,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_remainder: bool = False,
    ) -> Any:
        """A `tf.data.Dataset` of `(features, label)`, the label int64; of batches where `batch_size` is given, the
        last of them smaller or, with `drop_remainder`, left out. Its length and `element_spec` are known.

        Rows are read while it is iterated, copied once on the way into TensorFlow, and never all held. With
        `shuffle` every pass has an order of its own over all samples, pass k that of epoch k of a training with
        this seed. BackendError without TensorFlow; damage comes as a `tf.errors.OpError` with the store's text.
        """
        return self.to_dataset(
            "tf", cut, view, batch_size=batch_size, shuffle=shuffle, seed=seed, drop_remainder=drop_remainder
        )

    def arrow(self, cut: str | None = None, view: int = 0, *, dtype: str | None = None) -> Any:
        """A `pyarrow.Table` of the columns `id` (fixed_size_binary[16]), `label` (int64), `class` (dictionary of
        strings) and `features` (arrow.fixed_shape_tensor `(h, w, c)` or `(c,)`, stored as fixed_size_list), whose
        metadata name the trunk. Of several labels or targets `label` is a list of all of them, and the metadata's
        `headstart.classes` (JSON) has their names in its order. The features are the memory that the rows were
        read into, and so are the ids.

        `dtype="float32"` converts, which no number suffers from. ExportError without pyarrow, and for bfloat16,
        which Arrow does not have, unless it is converted.
        """
        return exports.arrow(self, cut, view, dtype)

    def save_npy(
        self, folder: str | PathLike[str], cut: str | None = None, view: int = 0, *, dtype: str | None = None
    ) -> Path:
        """Write `features.npy`, `labels.npy` (int64), `ids.npy` (`(n, 16)` uint8) and `classes.npy` (strings) into
        a new folder, which is there with all four or not at all.
        Takes some tens of MB of memory, however many rows.

        `dtype="float32"` converts. Raises ExportError for bfloat16, which `.npy` does not have, unless it is
        converted; SettingError for a folder that holds something; DiskSpaceError, CacheNotWritableError.
        """
        return exports.save_npy(self, folder, cut, view, dtype)

    def save(self, folder: str | PathLike[str], *, replace: bool = False) -> Path:
        """Write all that training needs into a folder, to be opened by `headstart.load_features` where the images
        are not: rows of every cut and view, ids, labels, names of the classes, and the keys of the trunk.

        Rows are verified on the way. Takes some hundred MB of memory, however many rows. A save that was killed
        leaves no saved set, and the same call again goes on where it ended. With `replace` a saved set that is
        there gives way, when the new one is complete.

        Raises SettingError where a saved set is there, DamagedShardError, DiskSpaceError, CacheNotWritableError.
        """
        return packed.save(self, folder, replace)

    def _cut(self, cut: str | None) -> str:
        if cut is None and len(self._folders) == 1:
            return next(iter(self._folders))
        if cut not in self._folders:
            raise SettingError(f"no features at cut {cut!r}; expected one of {', '.join(self._folders)}")
        return cut
