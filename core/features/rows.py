"""A feature set as its readers see it: the exports to other programs, and the writer of saved sets."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from headstart.data.annotations import Annotations
from headstart.data.splits import Part
from headstart.store.feature_folder import FeatureFolder
from headstart.store.keys import TrunkKey


class ReadableFeatures(Protocol):
    """Features, labels and ids of the same samples; see `headstart.features.feature_set.FeatureSet`."""

    name: str
    annotations: Annotations
    splits: tuple[Part, ...]

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def task(self) -> str: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def named_classes(self) -> bool: ...

    @property
    def cuts(self) -> tuple[str, ...]: ...

    @property
    def views(self) -> int: ...

    def __len__(self) -> int: ...

    def folder(self, cut: str | None = None, view: int = 0) -> FeatureFolder: ...

    def key(self, cut: str | None = None, view: int = 0) -> TrunkKey: ...

    def shape(self, cut: str | None = None) -> tuple[int, ...]: ...
